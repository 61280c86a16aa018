"""The whole move of a live system, phase by phase with gates, from the database to Redis only; and back.

`plan` says what is to be done, `records` what was, `phases` which gates there are, `runner` walks along them.
"""
