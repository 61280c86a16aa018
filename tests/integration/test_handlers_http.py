"""`http_request` and picture downloads against real HTTP servers on loopback."""

from __future__ import annotations

import gzip
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.handlers import addresses, outbound
from app.handlers.addresses import AddressRefused
from app.handlers.outbound import Outgoing, RequestFailed, exchange, read_at_most
from app.handlers.settings import HandlerSettings, Limits
from app.tasks.handlers import DoNotRetry, TaskCancelled, TaskContext, load_handlers
from tests.handler_doubles import (
    LocalServer,
    Received,
    RecordingBackend,
    Reply,
    configured,
    context,
    picture_bytes,
)
from tests.server_process import program

HANDLERS = load_handlers(["app.handlers"])
PRIVATE_ALLOWED = HandlerSettings(allow_private_addresses=True)
SECRET = "geheim-4711"


@contextmanager
def serving(answer: Reply | Callable[[Received], Reply]) -> Iterator[LocalServer]:
    with LocalServer(answer if callable(answer) else lambda _: answer) as server:
        yield server


@pytest.fixture
def private_allowed() -> Iterator[None]:
    with configured(PRIVATE_ALLOWED):
        yield


@pytest.fixture
def only_first_loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-in for the internet: 127.0.0.1 counts as public, every other address is judged as usual."""
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda a: a == ip_address("127.0.0.1") or real(a))


def request(payload: dict[str, Any], given: TaskContext | None = None) -> dict[str, Any]:
    handler = HANDLERS["http_request"]
    answer: dict[str, Any] = handler.call(handler.parse(payload), given or context()).model_dump()
    return answer


def describe(url: str) -> dict[str, Any]:
    handler = HANDLERS["describe_image"]
    answer: dict[str, Any] = handler.call(handler.parse({"url": url}), context()).model_dump()
    return answer


def trail(*hops: tuple[str, str]) -> Callable[[Received], Reply]:
    """A server that redirects each path to a place, and answers 200 elsewhere."""
    places = dict(hops)

    def answer(received: Received) -> Reply:
        place = places.get(received.path)
        return Reply(302, headers={"Location": place}) if place else Reply(200, b"arrived")

    return answer


@pytest.mark.usefixtures("private_allowed")
def test_a_webhook_is_sent_as_asked_with_the_tasks_idempotency_key() -> None:
    with serving(Reply(201, b'{"ok": true}', {"Content-Type": "application/json"})) as server:
        result = request(
            {
                "url": f"{server.url}/hook?a=1",
                "method": "put",
                "headers": {"X-Key": "k"},
                "json": {"n": [1, "ü"]},
            },
            context(task_id=99),
        )
    (sent,) = server.received
    assert (sent.method, sent.path, sent.json) == ("PUT", "/hook?a=1", {"n": [1, "ü"]})
    assert sent.headers["idempotency-key"] == "twintrack-99"
    assert sent.headers["x-key"] == "k"
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["host"] == f"127.0.0.1:{server.port}"
    assert (result["status"], result["body"], result["body_truncated"]) == (201, '{"ok": true}', False)
    assert result["final_url"] == f"{server.url}/hook?a=1"
    assert result["elapsed_ms"] >= 0


@pytest.mark.usefixtures("private_allowed")
def test_a_text_body_is_sent_and_its_type_can_be_chosen() -> None:
    with serving(Reply()) as server:
        request({"url": server.url, "text": "a=ü", "headers": {"content-type": "application/x-own"}})
        request({"url": server.url, "text": "plain"})
    first, second = server.received
    assert (first.body.decode(), first.headers["content-type"]) == ("a=ü", "application/x-own")
    assert second.headers["content-type"].startswith("text/plain")


@pytest.mark.usefixtures("private_allowed")
def test_the_result_has_no_cookie_and_few_headers() -> None:
    headers = {"Set-Cookie": f"session={SECRET}", "X-Internal": "x", "ETag": '"1"'}
    with serving(Reply(200, b"", headers)) as server:
        result = request({"url": server.url})
    assert result["headers"]["etag"] == '"1"'
    assert SECRET not in repr(result)
    assert "x-internal" not in result["headers"]


@pytest.mark.usefixtures("private_allowed")
def test_only_the_first_64_kib_of_a_body_are_kept() -> None:
    with serving(Reply(200, b"x" * 500_000)) as server:
        result = request({"url": server.url})
    assert len(result["body"]) == 65_536
    assert result["body_truncated"]


@pytest.mark.usefixtures("private_allowed")
def test_a_small_packed_body_cannot_unpack_without_limit() -> None:
    packed = gzip.compress(b"\0" * 50_000_000)
    with serving(Reply(200, packed, {"Content-Encoding": "gzip"})) as server:
        result = request({"url": server.url})
    assert server.received[0].headers["accept-encoding"] == "identity"
    assert len(result["body"]) == 65_536


@pytest.mark.usefixtures("private_allowed")
def test_a_body_of_any_bytes_becomes_text_that_a_database_can_hold() -> None:
    with serving(Reply(200, b"a\0\xff", {"Content-Type": "text/plain; charset=no-such-thing"})) as server:
        assert request({"url": server.url})["body"] == "a\ufffd\ufffd"


@pytest.mark.usefixtures("private_allowed")
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_retried(status: int) -> None:
    with serving(Reply(status)) as server, pytest.raises(RequestFailed, match=f"answered {status}"):
        request({"url": f"{server.url}/{SECRET}?{SECRET}"})


@pytest.mark.usefixtures("private_allowed")
@pytest.mark.parametrize("status", [302, 304, 400, 401, 403, 404, 410, 422])
def test_another_unexpected_status_is_not_retried(status: int) -> None:
    with serving(Reply(status)) as server, pytest.raises(DoNotRetry, match=f"answered {status}") as caught:
        request({"url": f"{server.url}/{SECRET}?{SECRET}", "headers": {"Authorization": SECRET}})
    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("private_allowed")
def test_the_payload_says_which_statuses_are_expected() -> None:
    with serving(Reply(503)) as server:
        assert request({"url": server.url, "expected_statuses": [503]})["status"] == 503
    with serving(Reply(200)) as server, pytest.raises(DoNotRetry, match="answered 200"):
        request({"url": server.url, "expected_statuses": [202]})


@pytest.mark.usefixtures("private_allowed")
def test_a_server_that_is_silent_too_long_is_retried_and_shows_no_secret() -> None:
    with LocalServer(lambda _: Reply()) as server:

        def silent(_: Received) -> Reply:
            server.closing.wait(30)
            return Reply()

        server.answer = silent
        with pytest.raises(RequestFailed, match=r"within 0\.2 seconds") as caught:
            request({"url": server.url, "timeout_seconds": 0.2, "headers": {"Authorization": SECRET}})
        server.closing.set()
    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("private_allowed")
def test_a_server_that_sends_drop_by_drop_meets_the_deadline() -> None:
    with (
        serving(Reply(200, b"x" * 1000, drop_bytes=1)) as server,
        pytest.raises(RequestFailed, match=r"within 0\.3 seconds"),
    ):
        request({"url": server.url, "timeout_seconds": 0.3})


@pytest.mark.usefixtures("private_allowed")
def test_a_connection_that_is_refused_or_cut_is_retried() -> None:
    with serving(Reply()) as server:
        gone = server.url
    with pytest.raises(RequestFailed, match="no connection"):
        request({"url": gone})
    with (
        serving(Reply(200, b"x" * 1000, hang_up_after=10)) as server,
        pytest.raises(RequestFailed, match="broke off"),
    ):
        request({"url": server.url})


def test_a_name_that_does_not_resolve_is_retried() -> None:
    with pytest.raises(RequestFailed, match="cannot be resolved"):
        request({"url": "http://" + "a" * 70 + ".test/"})


@pytest.mark.usefixtures("private_allowed")
def test_a_cancelled_task_sends_nothing() -> None:
    with serving(Reply()) as server, pytest.raises(TaskCancelled):
        request({"url": server.url}, context(RecordingBackend(cancel_after=0)))
    assert server.received == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433"]
)
def test_a_private_address_is_refused_before_anything_is_sent(host: str) -> None:
    with serving(Reply()) as server:
        for call in (lambda url: request({"url": url}), describe):
            with pytest.raises(AddressRefused, match="HTTP_ALLOW_PRIVATE"):
                call(f"http://{host}:{server.port}/")
    assert server.received == []


@pytest.mark.usefixtures("private_allowed")
def test_redirects_are_followed_only_when_asked_for() -> None:
    with serving(trail(("/a", "/b"), ("/b", "/c"))) as server:
        result = request({"url": f"{server.url}/a", "method": "GET", "follow_redirects": True})
        assert (result["body"], result["final_url"]) == ("arrived", f"{server.url}/c")
        with pytest.raises(DoNotRetry, match="answered 302"):
            request({"url": f"{server.url}/a", "method": "GET"})


@pytest.mark.usefixtures("private_allowed")
def test_five_redirects_are_followed_and_no_sixth() -> None:
    hops = [(f"/{n}", f"/{n + 1}") for n in range(6)]
    with serving(trail(*hops)) as server:
        assert request({"url": f"{server.url}/1", "follow_redirects": True})["status"] == 200
        with pytest.raises(DoNotRetry, match="more than 5 times"):
            request({"url": f"{server.url}/0", "follow_redirects": True})


@pytest.mark.usefixtures("private_allowed")
def test_headers_of_the_submitter_do_not_follow_to_another_origin() -> None:
    with serving(Reply()) as other, serving(trail(("/a", f"{other.url}/b"))) as server:
        request(
            {
                "url": f"{server.url}/a",
                "method": "GET",
                "follow_redirects": True,
                "headers": {"Authorization": SECRET, "X-Api-Key": SECRET, "Cookie": SECRET},
            }
        )
        assert server.received[0].headers["x-api-key"] == SECRET
    assert SECRET not in repr(other.received)
    assert other.received[0].headers["idempotency-key"] == "twintrack-7"


@pytest.mark.usefixtures("only_first_loopback_is_public")
@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:{port}/", "http://169.254.169.254/latest/", "http://[::1]:{port}/"]
)
def test_a_redirect_to_a_private_address_is_refused(target: str) -> None:
    with serving(Reply()) as server:
        server.answer = trail(("/a", target.format(port=server.port)))
        with pytest.raises(AddressRefused):
            request({"url": f"{server.url}/a", "follow_redirects": True})
        with pytest.raises(AddressRefused):
            describe(f"{server.url}/a")
        assert {received.path for received in server.received} == {"/a"}


@pytest.mark.usefixtures("private_allowed")
@pytest.mark.parametrize(
    "target", ["ftp://example.org/", "file:///etc/passwd", "http://me:pw@127.0.0.1/", "http://"]
)
def test_a_redirect_to_a_url_that_no_task_may_name_is_refused(target: str) -> None:
    with serving(trail(("/a", target))) as server, pytest.raises((DoNotRetry, RequestFailed)) as caught:
        request({"url": f"{server.url}/a", "follow_redirects": True})
    assert "pw" not in str(caught.value)


@pytest.mark.usefixtures("only_first_loopback_is_public")
def test_a_name_is_resolved_once_per_hop_and_the_judged_address_is_the_one_called() -> None:
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    with serving(trail(("/again", "/b"))) as server:
        url = f"http://rebind.test:{server.port}"
        with exchange(Outgoing("GET", f"{url}/"), resolver=rebinding) as (response, deadline):
            assert read_at_most(response, 100, deadline) == (b"arrived", False)
        assert asked == ["rebind.test"]
        assert server.received[0].headers["host"] == f"rebind.test:{server.port}"
        asked.clear()
        with (
            pytest.raises(AddressRefused),
            exchange(Outgoing("GET", f"{url}/again", redirects=5), resolver=rebinding),
        ):
            raise AssertionError("the second hop was answered")
    assert [received.path for received in server.received] == ["/", "/again"]


def test_the_next_address_is_tried_when_the_first_does_not_answer() -> None:
    with serving(Reply(200, b"here")) as server:
        outgoing = Outgoing("GET", f"http://two.test:{server.port}/", allow_private=True)
        with exchange(outgoing, resolver=lambda *_: ["127.0.0.3", "127.0.0.1"]) as (response, deadline):
            assert read_at_most(response, 100, deadline)[0] == b"here"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and its own certificate for hooks.test."""
    folder = tmp_path_factory.mktemp("tls")
    key, file = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *(
                program("openssl"),
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", str(key), "-out", str(file), "-days", "2", "-subj", "/CN=hooks.test"),
            *("-addext", "subjectAltName=DNS:hooks.test", "-addext", "keyUsage=digitalSignature,keyCertSign"),
        ],
        check=True,
        capture_output=True,
    )
    return key, file


@pytest.fixture
def tls_server(certificate: tuple[Path, Path]) -> Iterator[LocalServer]:
    key, file = certificate
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(file, key)
    server = LocalServer(lambda _: Reply(200, b"secure"))
    server.wrap(lambda plain: server_side.wrap_socket(plain, server_side=True))
    with server:
        yield server


def loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def test_tls_checks_the_name_although_the_connection_goes_to_a_number(
    tls_server: LocalServer, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate[1]))
    monkeypatch.setattr(outbound, "trusted_authorities", lambda: trusting)
    right, wrong = (
        Outgoing("GET", f"https://{host}:{tls_server.port}/", allow_private=True)
        for host in ("hooks.test", "other.test")
    )
    with exchange(right, resolver=loopback) as (response, deadline):
        assert read_at_most(response, 100, deadline)[0] == b"secure"
    with (
        pytest.raises(RequestFailed, match="TLS certificate is not valid for this host"),
        exchange(wrong, resolver=loopback),
    ):
        raise AssertionError("a wrong name was accepted")


def test_an_unknown_authority_is_not_trusted(tls_server: LocalServer) -> None:
    outgoing = Outgoing("GET", f"https://hooks.test:{tls_server.port}/", allow_private=True)
    with pytest.raises(RequestFailed, match="TLS certificate"), exchange(outgoing, resolver=loopback):
        raise AssertionError("an unknown authority was accepted")


PICTURE = picture_bytes(Image.new("RGB", (60, 40), "#c81e28"))


@pytest.mark.usefixtures("private_allowed")
def test_a_picture_is_downloaded_and_described() -> None:
    with serving(
        lambda r: Reply(302, headers={"Location": "/b.png"}) if r.path == "/a" else Reply(200, PICTURE)
    ) as server:
        result = describe(f"{server.url}/a")
    assert result["alt_text"].startswith("Landscape picture, 60 x 40 pixels, mostly red")
    assert result["source"] == {"kind": "url", "name": f"{server.url}/a"}


@pytest.mark.parametrize("declared", [True, False])
def test_a_download_above_the_limit_is_refused_for_good(declared: bool) -> None:
    body = PICTURE + b"\0" * 200_000
    # Without a length the server ends the body by closing the connection.
    headers = {} if declared else {"Content-Length": "", "Connection": "close"}
    small = replace(PRIVATE_ALLOWED, limits=Limits(picture_download_bytes=100_000))
    with (
        serving(Reply(200, body, headers)) as server,
        configured(small),
        pytest.raises(DoNotRetry, match="url: the picture is larger than"),
    ):
        describe(server.url)


@pytest.mark.usefixtures("private_allowed")
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(404), DoNotRetry),
        (Reply(204), DoNotRetry),
        (Reply(200, b"<html>no picture</html>"), DoNotRetry),
        (Reply(200, PICTURE[:60]), DoNotRetry),
        (Reply(503), RequestFailed),
        (Reply(429), RequestFailed),
        (Reply(200, PICTURE, hang_up_after=20), RequestFailed),
    ],
)
def test_a_download_without_a_picture_fails_in_the_right_way(reply: Reply, error: type[Exception]) -> None:
    with serving(reply) as server, pytest.raises(error):
        describe(server.url)


@pytest.mark.parametrize(("limit", "more"), [(101, False), (100, False), (99, True)])
def test_reading_keeps_no_more_than_the_limit(limit: int, more: bool) -> None:
    with serving(Reply(200, b"x" * 100)) as server:
        outgoing = Outgoing("GET", server.url, allow_private=True)
        with exchange(outgoing) as (response, deadline):
            assert read_at_most(response, limit, deadline) == (b"x" * min(limit, 100), more)
