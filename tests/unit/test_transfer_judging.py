"""The verdict on one task: which faults its row and its tickets make, and when it is too early to say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.transfer.verification.faults import Fault
from app.transfer.verification.judging import Circumstances, judge
from app.transfer.verification.rows import RowState
from app.transfer.verification.tickets import Envelope, Reference, Seen, envelope_faults, reference_of

ROW = RowState(7, "DISPATCHED", 3, 2, 0, 60, waiting_at=0.0, waited=1000.0)
TICKET = Seen(rank=2, epoch=3, timeout="60", faults=())
NOW = Circumstances(grace_seconds=30)


def row(**columns: Any) -> RowState:
    return replace(ROW, **columns)


def ticket(**columns: Any) -> Seen:
    return TICKET._replace(**columns)


@pytest.mark.parametrize(
    ("of_row", "tickets", "faults"),
    [
        (ROW, [TICKET], ()),
        (ROW, [], (Fault.MISSING_TICKET,)),
        (ROW, [TICKET, TICKET], (Fault.DOUBLED_TICKET,)),
        (ROW, [ticket(rank=1)], (Fault.WRONG_QUEUE,)),
        (ROW, [ticket(rank=1), TICKET], (Fault.WRONG_QUEUE, Fault.DOUBLED_TICKET)),
        (ROW, [ticket(epoch=2)], (Fault.WRONG_EPOCH,)),
        (ROW, [ticket(epoch=4)], (Fault.WRONG_EPOCH,)),
        (ROW, [ticket(epoch=2), TICKET], (Fault.STALE_TICKET,)),
        (ROW, [ticket(timeout="61")], (Fault.WRONG_TIMEOUT,)),
        (ROW, [ticket(faults=(Fault.HOLLOW_TICKET,), timeout="")], (Fault.HOLLOW_TICKET,)),
        (ROW, [ticket(faults=(Fault.WRONG_FUNCTION,))], (Fault.WRONG_FUNCTION,)),
        (row(status="QUEUED"), [TICKET], (Fault.TICKET_OF_QUEUED_ROW,)),
        (row(status="QUEUED"), [], ()),
        (row(status="COMPLETED"), [TICKET], (Fault.TICKET_OF_ENDED_ROW,)),
        (row(status="CANCELLED"), [TICKET], (Fault.TICKET_OF_ENDED_ROW,)),
        (row(status="PROCESSING"), [TICKET], (Fault.STALE_TICKET,)),
        (row(status="SCHEDULED"), [TICKET], (Fault.STALE_TICKET,)),
        (None, [TICKET], (Fault.ORPHAN_TICKET,)),
        (None, [], ()),
    ],
)
def test_a_row_with_its_tickets_makes_these_faults(
    of_row: RowState | None, tickets: list[Seen], faults: tuple[Fault, ...]
) -> None:
    verdict = judge(of_row, tickets, NOW)

    assert (verdict.faults, verdict.pending) == (faults, "")


@pytest.mark.parametrize(
    ("of_row", "now"),
    [
        (row(waited=29.9), NOW),
        (ROW, replace(NOW, in_hand=frozenset({7}))),
        (ROW, replace(NOW, closed_ranks=frozenset({2}))),
    ],
)
def test_a_ticket_that_may_be_on_its_way_is_pending_and_neither_missing_nor_clean(
    of_row: RowState, now: Circumstances
) -> None:
    verdict = judge(of_row, [], now)

    assert verdict.pending
    assert not verdict.faults
    assert not verdict.clean


def test_a_row_beyond_the_window_needs_no_ticket_and_may_have_one() -> None:
    beyond = replace(NOW, window_starts={2: 7})

    assert judge(ROW, [], beyond).clean
    assert judge(ROW, [TICKET], beyond).clean
    assert judge(ROW, [ticket(epoch=2)], beyond).faults == (Fault.STALE_TICKET,)
    assert judge(ROW, [], replace(NOW, window_starts={2: 8})).faults == (Fault.MISSING_TICKET,)


def test_a_row_on_the_track_that_was_to_be_left_is_left_behind() -> None:
    from_database = replace(NOW, left_status="QUEUED", left_ranks=frozenset({2}))
    from_redis = replace(NOW, left_status="DISPATCHED", left_ranks=frozenset({2}))

    assert judge(row(status="QUEUED"), [], from_database).faults == (Fault.LEFT_BEHIND,)
    assert judge(row(status="QUEUED", rank=1), [], from_database).clean
    assert judge(ROW, [TICKET], from_redis).faults == (Fault.LEFT_BEHIND,)


def test_rows_alone_are_not_judged_by_tickets_that_nobody_looked_for() -> None:
    assert judge(ROW, [], replace(NOW, tickets_asked=False)).clean


@pytest.mark.parametrize(
    "entry",
    [
        *(b"", b"7", b"t7", b"t7-e", b"t-e1", b"t07-e1", b"t7-e01", b"t7-e1 ", b"T7-e1", b"t7-e1-e2"),
        *(b"\xff", b"t9223372036854775808-e1", b"0e6bb2a1-7d2c-4b57-9a55-e1"),
    ],
)
def test_what_is_no_ticket_of_ours_is_foreign(entry: bytes) -> None:
    assert reference_of(entry) is None


def test_our_tickets_are_read() -> None:
    assert reference_of(b"t9223372036854775807-e2147483647") == (2**63 - 1, 2**31 - 1)
    assert reference_of(b"t0-e1") == (0, 1)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"\x80\x04K\x01.", Fault.WRONG_SERIALIZER),
        (b"", Fault.WRONG_SERIALIZER),
        (b"\x01\xc1", Fault.WRONG_SERIALIZER),
        (b"\x01\x93\xa1x\xc0\x90", Fault.WRONG_FUNCTION),
        (b"\x01\x07", Fault.WRONG_FUNCTION),
        (b"\x01\x94\xb3app.jobs.run_ticket\xc0\x92\x07\x04\x80", Fault.WRONG_ARGUMENTS),
        (b"\x01\x94\xb3app.jobs.run_ticket\xc0\x93\x07\x03\x03\x80", Fault.WRONG_ARGUMENTS),
    ],
)
def test_the_call_in_an_envelope_is_told_by_what_is_wrong_with_it(data: bytes, fault: Fault) -> None:
    envelope = Envelope(data, b"normal", b"60", b"1.0")

    assert envelope_faults(Reference(7, 3), envelope, b"normal") == (fault,)


def test_a_right_envelope_has_no_fault_and_one_of_another_queue_has() -> None:
    data = b"\x01\x94\xb3app.jobs.run_ticket\xc0\x92\x07\x03\x80"
    right = Envelope(data, b"normal", b"60", b"1.0")

    assert envelope_faults(Reference(7, 3), right, b"normal") == ()
    assert envelope_faults(Reference(7, 3), right, b"low") == (Fault.WRONG_QUEUE,)
