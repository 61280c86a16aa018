"""The command behind `python -m app.handlers.describe`: alt texts for every picture below a folder.

It is a client: it speaks to the task API alone, from any machine that sees the folder under the same
path as the workers do.

    pictures   which files
    api        the task API, as far as it is needed
    journal    what is known already, and the file that says so
    run        submit, wait, write
    screen     what a person sees meanwhile
    command    the command line
"""
