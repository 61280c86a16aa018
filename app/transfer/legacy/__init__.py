"""The import: rows of any legacy task table, named by a mapping file, become tasks.

mapping      the file, read strictly
table        what the mapping means for the table as it is: columns, statements, the word `moved`
finding      the keys of rows that wait, far ahead, in the order of their making
verdicts     the reason classes of rows that cannot become tasks, and who has such a row then
judging      from a picked row to a new task, or to a reason
importing    what the mover moves: pick, judge, mark and insert in one transaction
guard        the trigger that stops blind updates by old workers
giving_back  the rollback: tasks that never started become legacy rows again
"""
