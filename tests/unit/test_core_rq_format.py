"""A ticket in RQ's format: what goes in comes out, and nothing else is ever run."""

from __future__ import annotations

import pickle
import zlib
from typing import Any

import fakeredis
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rq.exceptions import DeserializationError
from rq.job import Job

from app.tasks.ids import MAX_ID
from app.tasks.tickets.rq_format import (
    RUN_TICKET,
    TicketJob,
    TicketSerializer,
    UnsafeTicket,
    pack_call,
    parse_job_id,
)

GOOD_CALL: list[Any] = [RUN_TICKET, None, [1, 1], {}]


def call(*parts: Any) -> bytes:
    packed: bytes = msgpack.packb(list(parts))
    return b"\x01" + packed


def value(what: Any) -> bytes:
    packed: bytes = msgpack.packb(what)
    return b"\x02" + packed


@pytest.mark.parametrize("task_id", [0, 1, 127, 128, 2**16, 2**32 - 1, 2**32, 2**63 - 1])
@pytest.mark.parametrize("epoch", [0, 1, 127, 128, 255, 2**31 - 1])
def test_a_call_is_packed_as_msgpack_would(task_id: int, epoch: int) -> None:
    assert pack_call(task_id, epoch) == call(RUN_TICKET, None, [task_id, epoch], {})


# --- job ids ---------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=MAX_ID), st.integers(min_value=0, max_value=2**31 - 1))
def test_a_job_id_names_its_task_and_epoch_as_text_or_bytes(task_id: int, epoch: int) -> None:
    text = f"t{task_id}-e{epoch}"
    assert parse_job_id(text) == (task_id, epoch)
    assert parse_job_id(text.encode()) == (task_id, epoch)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "t1",
        "t-e1",
        "t1-e",
        "t1-e1\n",
        " t1-e1",
        "T1-E1",
        "t-1-e1",
        "t1-e-1",
        "t1.0-e1",
        "t1-e1-e2",
        "t\u0663-e\u0661",
        f"t{MAX_ID + 1}-e1",
        f"t1-e{2**31}",
        "t99999999999999999999-e1",
        "c0ffee00-0000-4000-8000-000000000000",
    ],
)
def test_any_other_id_is_not_ours(text: str) -> None:
    assert parse_job_id(text) is None
    assert parse_job_id(text.encode()) is None


def test_bytes_that_are_no_text_are_not_ours() -> None:
    assert parse_job_id(b"t1-e1\xff") is None


# --- the serializer ----------------------------------------------------------------------------------


def test_a_packed_call_is_read_back_as_rq_expects_it() -> None:
    assert TicketSerializer.loads(pack_call(7, 3)) == [RUN_TICKET, None, [7, 3], {}]
    assert TicketSerializer.dumps((RUN_TICKET, None, (7, 3), {})) == pack_call(7, 3)


@pytest.mark.parametrize(
    "what", [None, True, 0, "done", "four?", {"task": 1, "status": "COMPLETED"}, [1, 2, 3], b"bytes"]
)
def test_a_result_goes_through_and_back(what: Any) -> None:
    if isinstance(what, str) and len(what) == 4:
        with pytest.raises(UnsafeTicket):
            TicketSerializer.dumps(what)
    else:
        assert TicketSerializer.loads(TicketSerializer.dumps(what)) == what


def test_neither_kind_of_bytes_looks_compressed_to_rq() -> None:
    for data in (pack_call(1, 1), TicketSerializer.dumps({"task": 1})):
        with pytest.raises(zlib.error):
            zlib.decompress(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pickle.dumps(("os.system", None, ("true",), {})), id="pickle"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x01", id="nothing after the version"),
        pytest.param(b"\x00" + msgpack.packb(GOOD_CALL), id="version 0"),
        pytest.param(b"\x03" + msgpack.packb(GOOD_CALL), id="version 3"),
        pytest.param(msgpack.packb(GOOD_CALL), id="no version"),
        pytest.param(b'["app.jobs.run_ticket", null, [1, 1], {}]', id="JSON"),
        pytest.param(b"\x01\xc1\xc1", id="no msgpack"),
        pytest.param(call(*GOOD_CALL) + b"x", id="more than one value"),
        pytest.param(b"\x01" + b"\x91" * 5000 + b"\xc0", id="a deep nest"),
        pytest.param(call("os.system", None, ["true"], {}), id="os.system"),
        pytest.param(call("builtins.eval", None, ["1"], {}), id="eval"),
        pytest.param(call("app.jobs", None, [], {}), id="a module"),
        pytest.param(call("app.jobs.run_ticket ", None, [1, 1], {}), id="almost the name"),
        pytest.param(call(b"app.jobs.run_ticket", None, [1, 1], {}), id="the name as bytes"),
        pytest.param(call(["app.jobs.run_ticket"], None, [1, 1], {}), id="a list as function"),
        pytest.param(call({}, None, [1, 1], {}), id="a map as function"),
        pytest.param(call(None, None, [1, 1], {}), id="no function"),
        pytest.param(call("run_ticket", RUN_TICKET, [1, 1], {}), id="a method of an instance"),
        pytest.param(call(RUN_TICKET, "x", [1, 1], {}), id="an instance"),
        pytest.param(call(RUN_TICKET, None, [1], {"epoch": 1}), id="keywords"),
        pytest.param(call(RUN_TICKET, None, [1, 1]), id="three parts"),
        pytest.param(call(*GOOD_CALL, None), id="five parts"),
        pytest.param(b"\x01" + msgpack.packb({"a": 1, "b": 2, "c": 3, "d": 4}), id="a map as call"),
        pytest.param(b"\x01" + msgpack.packb(RUN_TICKET), id="a word as call"),
        pytest.param(value(["os.system", None, ["true"], {}]), id="a call dressed as a value"),
        pytest.param(value({"os.system": 1, "b": 2, "c": 3, "d": 4}), id="a map of four as a value"),
        pytest.param(value("abcd"), id="a word of four letters as a value"),
        pytest.param(value(b"abcd"), id="four bytes as a value"),
    ],
)
def test_what_is_no_ticket_is_refused(data: bytes) -> None:
    with pytest.raises(UnsafeTicket):
        TicketSerializer.loads(data)


@given(st.binary(max_size=60))
def test_whatever_bytes_arrive_are_refused_or_are_harmless(data: bytes) -> None:
    for kind in (b"", b"\x01", b"\x02"):
        try:
            loaded = TicketSerializer.loads(kind + data)
        except UnsafeTicket:
            continue
        if (kind or data[:1]) == b"\x01":
            assert loaded[0] == RUN_TICKET
        else:
            assert not hasattr(loaded, "__len__") or len(loaded) != 4


@pytest.mark.parametrize(
    "what", [("os.system", None, ("true",), {}), (RUN_TICKET, object(), (), {}), ["a", "b", "c", "d"]]
)
def test_an_unsafe_ticket_is_not_even_written(what: Any) -> None:
    with pytest.raises(UnsafeTicket):
        TicketSerializer.dumps(what)


# --- the job -------------------------------------------------------------------------------------------


def job_with(hash_fields: dict[str, Any]) -> Job:
    client = fakeredis.FakeRedis()
    fields = {"data": pack_call(1, 1), "status": "queued", "created_at": "2026-01-01T00:00:00.000000Z"}
    client.hset("rq:job:t1-e1", mapping=fields | hash_fields)
    job: Job = TicketJob.fetch("t1-e1", connection=client, serializer=TicketSerializer)
    return job


def test_callbacks_that_a_hash_names_are_ignored() -> None:
    job = job_with(
        {
            "success_callback_name": "os.system",
            "failure_callback_name": "os.system",
            "stopped_callback_name": "os.system",
        }
    )
    assert (job.success_callback, job.failure_callback, job.stopped_callback) == (None, None, None)


def test_webhooks_dependencies_retries_and_repeats_of_a_hash_are_ignored() -> None:
    job = job_with(
        {
            "webhooks": '[{"url": "http://127.0.0.1:1/", "events": ["finished"]}]',
            "dependency_ids": '["t2-e1"]',
            "dependency_id": "t2-e1",
            "retries_left": "5",
            "number_of_retries": "5",
            "repeats_left": "5",
        }
    )
    assert job.webhooks == []
    assert job.dependency_ids == []
    assert (job.retries_left, job.repeats_left) == (None, None)


def test_a_job_that_names_another_function_cannot_be_performed() -> None:
    job = job_with({"data": call("os.system", None, ["true"], {})})
    with pytest.raises(DeserializationError):
        job.perform()
    with pytest.raises(DeserializationError):
        _ = job.func_name


def test_compressed_pickle_is_refused_too() -> None:
    job = job_with({"data": zlib.compress(pickle.dumps(("os.system", None, ("true",), {})))})
    with pytest.raises(DeserializationError):
        _ = job.func_name


def test_a_ticket_is_read_as_the_call_that_it_is() -> None:
    job = job_with({"timeout": "90"})
    assert (job.func_name, list(job.args), job.kwargs, job.timeout) == (RUN_TICKET, [1, 1], {}, 90)
