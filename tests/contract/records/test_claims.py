"""Records come in, are claimed, and are lost. A test of a feature row begins with its number."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from app.distributed import DistributedProcessor
from app.distributed.lost import LostRecords
from app.tasks.errors import DatabaseUnavailable, InvalidTask
from app.tasks.reclaims import Reclaims
from tests.contract.records.parts import LEASE_SECONDS, MakeProcessor, expire, numbers
from tests.contract.rows import Rows

# --- coming in --------------------------------------------------------------------------------


def test_001_09_the_count_returned_is_the_count_of_rows(processor: DistributedProcessor, rows: Rows) -> None:
    assert processor.add_records_to_queue("survey", numbers(7)) == 7
    wrapped: list[Any] = [{"payload": {"n": 7}}, {"payload": [8], "key": "eight"}]
    assert processor.add_records_to_queue("survey", wrapped) == 2
    found = rows.execute("SELECT flow_name, payload, status, retry_count FROM processing_queue ORDER BY id")
    payloads = [f'{{"n":{n}}}' for n in range(8)] + ["[8]"]
    assert [tuple(row) for row in found] == [("survey", payload, "pending", 0) for payload in payloads]


def test_000_06_the_same_keys_add_nothing_again(processor: DistributedProcessor) -> None:
    assert processor.add_records_to_queue("survey", numbers(5), key="n") == 5
    assert processor.add_records_to_queue("survey", numbers(8), key="n") == 3
    assert processor.add_records_to_queue("other", numbers(2), key="n") == 2
    assert processor.add_records_to_queue("survey", [{"a": 1}, {"a": 1}], key=lambda record: "x") == 1
    assert processor.get_queue_status("survey")["total_records"] == 9


def test_two_who_add_the_same_keys_at_once_add_them_once(make_processor: MakeProcessor) -> None:
    added: list[int] = []
    parties = [make_processor() for _ in range(3)]
    threads = [
        threading.Thread(
            target=lambda p=party: added.append(p.add_records_to_queue("survey", numbers(300), key="n"))
        )
        for party in parties
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(added) == 300
    assert parties[0].get_queue_status()["by_flow"]["survey"]["pending_records"] == 300


def test_wrong_records_are_named_and_none_is_added(processor: DistributedProcessor) -> None:
    wrong: list[Any] = [{"n": 1}, {"n": {1}}, "text", {"payload": {}, "key": " "}, {"n": "x" * 300_000}]
    with pytest.raises(InvalidTask) as caught:
        processor.add_records_to_queue("survey", wrong)
    fields = [problem.field for problem in caught.value.problems]
    assert fields == ["records.1.payload", "records.2.payload", "records.3.key", "records.4.payload"]
    assert processor.get_queue_status()["total_records"] == 0
    with pytest.raises(InvalidTask, match=r"records\.0\.n: is missing"):
        processor.add_records_to_queue("survey", [{}], key="n")
    for flow in ("", "x" * 61, "\x1f\x1f", "!"):
        with pytest.raises(InvalidTask, match="flow"):
            processor.add_records_to_queue(flow, numbers(1))


# --- being claimed ----------------------------------------------------------------------------


def test_001_01_claimers_at_once_get_disjoint_records(make_processor: MakeProcessor) -> None:
    parties = [make_processor() for _ in range(4)]
    parties[0].add_records_to_queue("survey", numbers(200))
    claimed: list[int] = []
    lock = threading.Lock()

    def work(party: DistributedProcessor) -> None:
        while batch := party.claim_records_batch("survey", 7):
            with lock:
                claimed.extend(record["id"] for record in batch)

    threads = [threading.Thread(target=work, args=[party]) for party in parties]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while batch := parties[0].claim_records_batch("survey", 50):  # what a look passed over as locked
        claimed += [record["id"] for record in batch]
    assert len(claimed) == len(set(claimed)) == 200


def test_001_02_records_of_a_flow_come_in_the_order_of_their_coming(processor: DistributedProcessor) -> None:
    for start in range(0, 30, 10):
        processor.add_records_to_queue("survey", [{"n": start + n} for n in range(10)])
        processor.add_records_to_queue("other", numbers(3))
    batches = iter(lambda: processor.claim_records_batch("survey", 4), [])
    assert [record["payload"]["n"] for batch in batches for record in batch] == list(range(30))


def test_001_15_every_processor_has_a_name_of_its_own(make_processor: MakeProcessor) -> None:
    assert len({make_processor().instance_id for _ in range(5)}) == 5


def test_001_10_a_stale_owner_is_refused(make_processor: MakeProcessor, rows: Rows) -> None:
    first, second = make_processor(), make_processor()
    first.add_records_to_queue("survey", numbers(1))
    (record,) = first.claim_records_batch("survey", 1)
    assert second.mark_record_completed(record["id"], {"by": "a stranger"}) is False
    expire(rows)
    assert first.cleanup_orphaned_records(0) == 1
    (again,) = second.claim_records_batch("survey", 1)
    assert (again["id"], again["retry_count"]) == (record["id"], 1)
    assert first.mark_record_completed(record["id"], {"by": "first"}) is False
    assert first.mark_record_failed(record["id"], "too late") is False
    assert second.mark_record_completed(record["id"], {"by": "second"}) is True
    found = rows.execute("SELECT status, result, payload FROM tasks")
    assert [tuple(row) for row in found] == [("COMPLETED", '{"by":"second"}', '{"n":0}')]


def test_a_record_that_is_marked_failed_has_failed_at_once(
    processor: DistributedProcessor, rows: Rows
) -> None:
    processor.add_records_to_queue("survey", numbers(1))
    (record,) = processor.claim_records_batch("survey", 1)
    assert processor.mark_record_failed(record["id"], "bad address")
    (row,) = rows.execute("SELECT status, error_message, retry_count, completed_at FROM processing_queue")
    assert tuple(row) == ("failed", "bad address", 1, None)
    assert processor.claim_records_batch("survey", 1) == []


def test_what_is_held_goes_back_when_a_processor_closes(make_processor: MakeProcessor) -> None:
    first, second = make_processor(), make_processor()
    first.add_records_to_queue("survey", numbers(4))
    assert len(first.claim_records_batch("survey", 4)) == 4
    first.close()
    assert [record["retry_count"] for record in second.claim_records_batch("survey", 4)] == [0] * 4


def test_a_record_that_may_have_killed_its_holder_is_claimed_alone_and_its_neighbours_are_not_touched(
    processor: DistributedProcessor, rows: Rows
) -> None:
    processor.add_records_to_queue("survey", numbers(5))
    rows.execute("UPDATE tasks SET failures = 1 WHERE payload = :payload", payload='{"n":2}')
    claimed: list[int] = []
    while batch := [record["payload"]["n"] for record in processor.claim_records_batch("survey", 5)]:
        assert 2 not in batch or batch == [2]
        claimed += batch
        left = rows.execute("SELECT epoch, attempt FROM tasks WHERE status = 'QUEUED'")
        assert [tuple(row) for row in left] == [(1, 0)] * (5 - len(claimed))
    assert claimed == [0, 1, 2, 3, 4]


def test_what_was_claimed_reaches_its_caller_though_the_look_for_lost_ones_fails(
    processor: DistributedProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("it went away")

    processor.add_records_to_queue("survey", numbers(2))
    monkeypatch.setattr(processor.system.store.records, "unrenewed", away)
    assert len(processor.claim_records_batch("survey", 5)) == 2


# --- being lost -------------------------------------------------------------------------------


def test_a_lease_counts_as_over_once_nobody_renewed_it_for_an_interval(
    make_processor: MakeProcessor, rows: Rows
) -> None:
    owner, other = make_processor(), make_processor()
    owner.add_records_to_queue("survey", numbers(2))
    assert len(owner.claim_records_batch("survey", 2)) == 2
    clock = [0.0]
    system = other.system
    lost = LostRecords(
        system.store, Reclaims(system.queue), lease_seconds=LEASE_SECONDS, clock=lambda: clock[0]
    )
    lane = system.store.records.lane("survey")
    assert lane is not None
    assert lost.reclaim(lane) == 0
    expire(rows)
    assert lost.reclaim(lane) == 0
    clock[0] += LEASE_SECONDS / 3 - 0.1
    assert lost.reclaim(lane) == 0
    clock[0] += 0.2
    assert lost.reclaim(lane) == 2
    assert rows.count("QUEUED") == 2


def test_001_05_a_record_that_kills_its_processors_fails_and_its_neighbours_do_not(
    make_processor: MakeProcessor, rows: Rows
) -> None:
    killed = 0
    make_processor().add_records_to_queue("survey", numbers(10))
    for _ in range(20):
        victim = make_processor()
        batch = victim.claim_records_batch("survey", 10)
        for record in batch:
            if record["payload"]["n"] == 4:  # it dies here, with all that it holds
                killed += 1
                victim._held.clear()
                expire(rows)
                assert make_processor().cleanup_orphaned_records(0) == len(batch)
                break
        else:
            for record in batch:
                assert victim.mark_record_completed(record["id"], None)
    assert killed == 4  # the first one, and three retries
    found = rows.execute("SELECT payload, error_message FROM processing_queue WHERE status = 'failed'")
    assert [tuple(row) for row in found] == [('{"n":4}', "its holder is gone; no retry is left")]
    assert rows.count("COMPLETED") == 9


def test_001_18_only_records_claimed_before_the_limit_return(
    processor: DistributedProcessor, rows: Rows
) -> None:
    processor.add_records_to_queue("survey", numbers(6))
    old, young, alive = (processor.claim_records_batch("survey", 2) for _ in range(3))
    hours = {1.6: old, 1.4: young}
    for age, batch in hours.items():
        for record in batch:
            rows.execute(
                "UPDATE tasks SET lease_until = :moment, started_at = :moment WHERE id = :id",
                moment=rows.at(-age * 3600),
                id=record["id"],
            )
    assert processor.cleanup_orphaned_records(1.5, dry_run=True) == 2
    assert rows.count("PROCESSING") == 6
    assert processor.cleanup_orphaned_records(1.5) == 2
    still = {row[0] for row in rows.execute("SELECT id FROM tasks WHERE status = 'PROCESSING'")}
    assert still == {record["id"] for record in [*young, *alive]}


def test_002_05_the_failed_records_below_the_limit_are_reset_and_no_others(
    make_processor: MakeProcessor, rows: Rows
) -> None:
    processor = make_processor()
    processor.add_records_to_queue("survey", numbers(4))
    processor.add_records_to_queue("other", numbers(1))
    never = make_processor({"NEVER_MAX_RETRIES": "0"})
    never.add_records_to_queue("never", numbers(1))
    for flow in ("survey", "survey", "survey", "survey", "other", "never"):
        (record,) = processor.claim_records_batch(flow, 1)
        processor.mark_record_failed(record["id"], "no")
    rows.execute("UPDATE tasks SET failures = 3 WHERE payload = :payload", payload='{"n":2}')
    assert processor.reset_failed_records("survey", 3, dry_run=True) == 3
    assert rows.count("FAILED") == 6
    assert processor.reset_failed_records("survey", 3) == 3
    assert processor.reset_failed_records("never", 3) == 0
    found = rows.execute("SELECT payload, retry_count FROM processing_queue WHERE status = 'pending'")
    assert sorted(tuple(row) for row in found) == [(f'{{"n":{n}}}', 1) for n in (0, 1, 3)]
