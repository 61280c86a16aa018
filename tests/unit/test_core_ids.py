"""Ids: strictly ascending, whatever the clock and however fast, and never the same in two processes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tasks.ids import EPOCH_MS, MAX_ID, NODE_BITS, SEQUENCE_BITS, IdSource, bucket_of, first_id_of
from tests.clocks import Clock

NODES = 1 << NODE_BITS
START = EPOCH_MS / 1000 + 1_000_000


def test_ids_ascend_strictly_whatever_the_clock_does() -> None:
    clock = Clock(START)
    source = IdSource(clock)
    ids = []
    for step in (0, 0, 0.0005, 0.002, -5, 0, 3600, -3600, 0.001):
        clock.now += step
        ids += [source.next(), *source.take(3)]
    assert all(earlier < later for earlier, later in pairwise(ids))


def test_a_burst_borrows_from_the_time_to_come_and_stays_in_order() -> None:
    source = IdSource(Clock(START))
    burst = source.take(100_000)
    assert len(set(burst)) == 100_000
    assert burst == sorted(burst)
    borrowed_ms = (burst[-1] - burst[0]) >> (NODE_BITS + SEQUENCE_BITS)
    assert borrowed_ms == pytest.approx(100_000 / (1 << SEQUENCE_BITS), abs=1)


def test_threads_share_a_source_without_a_double() -> None:
    source = IdSource()
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda _: [source.next() for _ in range(500)], range(8)))
    assert all(part == sorted(part) for part in parts)
    assert len({task_id for part in parts for task_id in part}) == 4000


def test_an_id_is_a_positive_number_of_63_bits_for_decades() -> None:
    far = datetime(2095, 1, 1, tzinfo=UTC).timestamp()
    for now in (START, far):
        assert 0 < IdSource(Clock(now)).next() <= MAX_ID


def test_another_node_is_drawn_after_a_collision() -> None:
    source = IdSource(Clock(START))
    nodes = set()
    for _ in range(20):
        nodes.add(source.next() % NODES)
        source.renew_node()
    assert len(nodes) > 10


def test_a_forked_child_draws_a_node_of_its_own() -> None:
    source = IdSource(Clock(START))
    ours = source.next()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str([source.next() for _ in range(3)]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = [int(word) for word in pipe.read().strip("[]").split(",")]
    # 1 of 16,384 children draws our node by chance; then the primary key notices
    assert len({task_id % NODES for task_id in theirs}) == 1
    assert theirs == sorted(theirs)
    assert theirs[0] != ours
    assert source.next() % NODES == ours % NODES


def test_every_task_of_a_moment_has_at_least_the_first_id_of_it() -> None:
    moment = datetime(2026, 6, 1, 12, tzinfo=UTC)
    source = IdSource(Clock(moment.timestamp()))
    task_id = source.next()
    assert first_id_of(moment) <= task_id < first_id_of(moment + timedelta(milliseconds=1))
    assert first_id_of(datetime(1999, 1, 1, tzinfo=UTC)) == 0


@given(st.integers(min_value=0, max_value=MAX_ID))
def test_a_bucket_is_a_place_on_a_scale_of_a_hundred(task_id: int) -> None:
    assert 0 <= bucket_of(task_id) < 100


def test_the_node_has_no_say_in_the_bucket() -> None:
    first = IdSource(Clock(START)).next() >> NODE_BITS << NODE_BITS
    assert len({bucket_of(first + node) for node in (0, 1, 77, NODES - 1)}) == 1
