"""The proof of a move: what the rows say, what Redis says, and whether they agree.

Shares no statement and no reading of Redis with what moves tasks, so that a mistake there cannot hide here.
Changes nothing. Fault classes are in `faults`; one walk over the rows (`rows`) meets the tickets
(`tickets`) and the baseline (`against_baseline`); whatever looks wrong is looked at again until it holds
still (`suspects`), because the system is alive.
"""
