"""Which worlds are searched: the configurations that must be clean, and the mutants that must not.

A mutant is a configuration with one rule changed. `twin` is the same configuration without the change, and
must be clean: so it is the rule that makes the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.model.state import DISPATCHED, PROCESSING, QUEUED, SCHEDULED, Scenario

D, Q = DISPATCHED, QUEUED
OURS = ("ours",)
POLLER = ("poller",)
BOTH = ("ours", "poller")


def _with(scenario: Scenario, **rules: Any) -> Scenario:
    return replace(scenario, rules=replace(scenario.rules, **rules))


CONFIGURATIONS: Mapping[str, Scenario] = {
    # one task, every kind of death
    "kills": Scenario(begin=D, budget={"kill": 1, "freeze": 1, "lose": 1, "kill_sweeper": 1}),
    "like workers": Scenario(begin=D, workers=("ours", "ours"), budget={"kill": 1, "freeze": 1}),
    "users": Scenario(budget={"kill": 1, "cancel": 1, "fail": 1}),
    "loss": Scenario(budget={"lose": 1, "kill": 1, "cancel": 1}),
    "retries": Scenario(max_retries=1, delayed_retry=True, budget={"fail": 2, "retry": 1, "quarantine": 1}),
    "parked": Scenario(parks=True, begin=D, budget={"kill": 1, "freeze": 1, "retry": 1}),
    "restore": Scenario(begin=D, budget={"save": 1, "restore": 1, "kill": 1}),
    "hash": Scenario(begin=D, budget={"hash_expires": 1, "kill": 1, "lose": 1}),
    "answers": Scenario(begin=D, workers=OURS, budget={"lost_answer": 2, "turn_fails": 1, "kill": 1}),
    "sweepers": Scenario(begin=D, sweepers=2, budget={"kill": 1}),
    "tidy": Scenario(
        begin=D, tidies=True, workers=OURS, budget={"kill": 1, "lose": 1, "cancel": 1, "retry": 1}
    ),
    # batches
    "batch": Scenario(tasks=2, begin=D, workers=OURS, budget={"kill": 1}),
    "cut": Scenario(tasks=2, begin=D, workers=OURS, budget={"cut": 1}),
    "frozen batch": Scenario(
        tasks=2, begin=Q, workers=POLLER, tracks=(Q,), budget={"freeze": 1, "cancel": 1, "kill": 1}
    ),
    "burials": Scenario(
        tasks=2, begin=Q, workers=POLLER, tracks=(Q,), budget={"kill": 2, "cut": 1, "fail": 1}
    ),
    "rivals": Scenario(
        tasks=2, begin=Q, workers=("poller", "poller"), tracks=(Q,), budget={"kill": 1, "cut": 1}
    ),
    # the window, and statements that take one row at a time
    "window": Scenario(tasks=3, begin=D, workers=("stock",), window=1, batch=1, budget={"kill": 1}),
    "window lost": Scenario(tasks=2, workers=("stock",), window=1, batch=1, budget={"lose": 1, "cancel": 1}),
    "bounded": Scenario(tasks=3, begin=D, workers=("stock",), look_limit=1, batch=1, budget={"kill": 1}),
    # tracks
    "fallback": Scenario(workers=BOTH, budget={"down": 1, "kill": 1, "freeze": 1}),
    "flip": Scenario(workers=BOTH, tracks=(Q,), budget={"flip": 2, "kill": 1, "freeze": 1}),
    "two flips": Scenario(tasks=2, begin=Q, workers=("stock", "poller"), tracks=(Q,), budget={"flip": 2}),
    "priorities": Scenario(queues=2, tracks=(D, Q), workers=BOTH, budget={"reprioritise": 2, "flip": 1}),
    "pause": Scenario(queues=2, tracks=(D, D), begin=D, budget={"pause": 1, "reprioritise": 1}),
    "hold": Scenario(
        queues=2, tracks=(D, D), workers=OURS, budget={"hold": 1, "cancel": 1, "retry": 1, "reprioritise": 1}
    ),
    "held": Scenario(
        tracks=(Q,),
        workers=POLLER,
        max_retries=0,
        budget={"hold": 2, "fail": 1, "retry": 1, "quarantine": 1, "cancel": 1},
    ),
    "database": Scenario(
        queues=2,
        tracks=(Q, Q),
        workers=POLLER,
        max_retries=1,
        budget={"fail": 2, "retry": 1, "cancel": 1, "quarantine": 1, "reprioritise": 1, "kill": 1},
    ),
}
# Few enough states for every test run.
SMALL = ("hash", "restore", "frozen batch", "two flips", "rivals")
# What the table allows and no configuration takes, and why.
NOT_TAKEN = {
    **dict.fromkeys(
        [
            ("reprioritise", SCHEDULED, QUEUED),
            ("reprioritise", SCHEDULED, DISPATCHED),
            ("reprioritise", QUEUED, SCHEDULED),
            ("reprioritise", DISPATCHED, SCHEDULED),
        ],
        "SCHEDULED stays SCHEDULED, and nothing else becomes it",
    ),
    **dict.fromkeys(
        [
            ("set aside", QUEUED, SCHEDULED),
            ("set aside", DISPATCHED, SCHEDULED),
            ("let in", SCHEDULED, QUEUED),
            ("let in", SCHEDULED, DISPATCHED),
        ],
        "users and their limit of running tasks are not modelled",
    ),
    ("wait for children", PROCESSING, SCHEDULED): "parents and children are not modelled",
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule that somebody might think needless. `caught_by` begins the verdict that must come."""

    twin: Scenario
    rules: Mapping[str, Any]
    caught_by: str
    beside: Mapping[str, Any] = field(default_factory=dict)  # changed in the twin as well

    def clean(self) -> Scenario:
        return _with(self.twin, **self.beside)

    def scenario(self) -> Scenario:
        return _with(self.twin, **self.beside, **self.rules)


_ONE = Scenario(begin=D, workers=("stock", "stock"), budget={"freeze": 1})
_LOST = Scenario(begin=D, workers=OURS, budget={"lose": 1})
_POLLERS = Scenario(tasks=2, begin=Q, tracks=(Q,), workers=("poller", "poller"), budget={"cut": 1})
_FROZEN = Scenario(tasks=2, begin=Q, tracks=(Q,), workers=POLLER, budget={"freeze": 1, "cancel": 1})
_QUEUES = Scenario(queues=2, tracks=(D, D), workers=OURS, budget={"reprioritise": 1})
_WINDOW = Scenario(tasks=2, begin=D, workers=("stock",), window=1, batch=1)

MUTANTS: Mapping[str, Mutant] = {
    "push before commit": Mutant(Scenario(), {"commit_first": False}, "T1"),
    "insert without the routing's version": Mutant(
        Scenario(workers=BOTH, budget={"flip": 1}), {"submit_guard": False}, "ROUTE"
    ),
    "settle by id alone": Mutant(_ONE, {"settle_guard": "id"}, "P2"),
    "settle by id and status": Mutant(_ONE, {"settle_guard": "status"}, "P2"),
    "claim a ticket's row in any status": Mutant(_ONE, {"claim_needs_status": False}, "P1"),
    "claim with a ticket of any epoch": Mutant(_QUEUES, {"claim_needs_epoch": False}, "T2"),
    "reclaim without the token that was read": Mutant(
        Scenario(begin=D, sweepers=2, workers=("stock",), budget={"kill": 1}),
        {"reclaim_needs_token": False},
        "P3",
    ),
    "reclaim without a second look at the lease": Mutant(
        Scenario(begin=D, workers=("stock",), budget={"freeze": 1}), {"reclaim_needs_expiry": False}, "P3"
    ),
    "a renewal is believed without its rows": Mutant(_FROZEN, {"renewal_counts_rows": False}, "P5"),
    "renew all claims of the holder": Mutant(
        Scenario(begin=D, workers=OURS, budget={"lost_answer": 1}),
        {"renews_all_of_holder": True},
        "P4: stuck",
    ),
    "start without a look at the lease": Mutant(_FROZEN, {"deadline_checked": False}, "P5"),
    "start before it is published": Mutant(
        Scenario(begin=Q, tracks=(Q,), workers=POLLER, budget={"kill": 1}), {"publish_first": False}, "P3"
    ),
    "read the index before the limit is lowered": Mutant(_POLLERS, {"limit_before_index": False}, "P3"),
    "a page forgets what a cut has not settled": Mutant(
        Scenario(tasks=2, begin=Q, tracks=(Q,), workers=POLLER, budget={"cut": 1, "kill": 1, "fail": 1}),
        {"page_keeps_unsettled": False},
        "P3",
    ),
    "bury without the page": Mutant(
        Scenario(begin=Q, tracks=(Q,), workers=POLLER, budget={"kill": 1}),
        {"page_tells_started": False},
        "P3",
    ),
    "a page names tasks, not claims": Mutant(
        Scenario(begin=Q, tracks=(Q,), workers=POLLER, budget={"kill": 1, "fail": 1}),
        {"page_names_claims": False},
        "COST",
    ),
    "bury without the token": Mutant(
        Scenario(begin=Q, tracks=(Q,), workers=POLLER, sweepers=2, budget={"kill": 1}),
        {"burial_needs_token": False},
        "P3",
    ),
    "a reclaim forgets the cancel": Mutant(
        Scenario(begin=D, budget={"cancel": 1, "kill": 1}), {"wish_heeded": False}, "P5"
    ),
    "a new priority keeps the track": Mutant(
        Scenario(queues=2, tracks=(D, Q), workers=BOTH, budget={"reprioritise": 1}),
        {"reprioritise_routes": False},
        "ROUTE",
    ),
    "move rows by a routing read before": Mutant(
        Scenario(begin=Q, tracks=(Q,), workers=BOTH, budget={"flip": 2}),
        {"move_reads_routing": False},
        "ROUTE",
    ),
    "recall what is being run": Mutant(
        Scenario(begin=D, workers=BOTH, budget={"flip": 1}), {"recall_waiting_only": False}, "TABLE"
    ),
    "sweep with a new epoch": Mutant(Scenario(begin=D), {"push_keeps_epoch": False}, "TABLE"),
    "no second look": Mutant(Scenario(begin=D, budget={"kill": 1}), {"second_look": False}, "P4: stuck"),
    "confirm whatever the epoch": Mutant(_QUEUES, {"confirm_needs_epoch": False}, "T3"),
    "do not compare the incarnation": Mutant(
        _LOST, {"incarnation_compared": False}, "P4: stuck", beside={"second_look": False}
    ),
    "tickets in flight count as present": Mutant(
        Scenario(begin=D, workers=OURS, budget={"kill": 1}), {"in_flight_counts": True}, "P4: stuck"
    ),
    "a window that nobody refills": Mutant(_WINDOW, {"refills": False}, "P4: stuck"),
    "a window that counts what is in flight": Mutant(
        replace(_WINDOW, workers=OURS, budget={"kill": 1}), {"window_counts_in_flight": True}, "P4: stuck"
    ),
    "no fallback": Mutant(
        Scenario(workers=BOTH, budget={"down": 1}), {"fallback_recorded": False}, "P4: stuck"
    ),
    "no dormant poller": Mutant(
        Scenario(workers=OURS, budget={"down": 1}), {"dormant_poller": False}, "P4: stuck"
    ),
}
