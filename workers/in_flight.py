"""Tickets in flight that nobody has in hand: to the head of their queues, as far as they are worth it."""

from __future__ import annotations

from collections.abc import Collection

from app.tasks.store import Store
from app.tasks.tickets import RQQueueManager


def put_back(tickets: RQQueueManager, store: Store, holder: str, *, settled: Collection[int] = ()) -> int:
    """Empty the holder's in-flight list. Returns how many tickets were pushed.

    What it names and what still waits goes to the head. Of the rows that the holder has `settled`, those that
    wait again may never have got their tickets: the ones that Redis does not know are pushed. Killed on the
    way, it leaves the list for the next try. Raises `RedisUnavailable`, `DatabaseUnavailable`.
    """
    popped = set(tickets.in_flight(holder))
    waiting = store.dispatched.among([*{*settled, *(task_id for task_id, _ in popped)}])
    back = [ticket for ticket in waiting if (ticket.task_id, ticket.epoch) in popped]
    rest = [ticket for ticket in waiting if (ticket.task_id, ticket.epoch) not in popped]
    pushed = tickets.push(back, front=True) + tickets.push(rest, missing_only=True)
    tickets.leave(holder)
    return pushed
