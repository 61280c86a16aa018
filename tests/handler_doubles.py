"""Stand-ins for tests of the shipped handlers: a runner's context, and HTTP servers on loopback."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image
from sqlalchemy.engine import Connection

from app.handlers.settings import HandlerSettings, configure, settings
from app.tasks.handlers import TaskContext

DROP_SECONDS = 0.05


@dataclass
class RecordingBackend:
    """Keeps the progress; asks for a cancel once `cancel_after` progress reports were made."""

    cancel_after: int | None = None
    reports: list[tuple[int | None, str | None]] = field(default_factory=list)

    def report_progress(self, percent: int | None, step: str | None) -> None:
        self.reports.append((percent, step))

    def cancel_requested(self) -> bool:
        return self.cancel_after is not None and len(self.reports) >= self.cancel_after

    def connection(self) -> Connection:
        raise AssertionError("this handler needs no connection")

    @property
    def steps(self) -> list[str | None]:
        return [step for _, step in self.reports]


def context(backend: RecordingBackend | None = None, *, task_id: int = 7, attempt: int = 1) -> TaskContext:
    return TaskContext(task_id, attempt, None, backend or RecordingBackend(), failures=attempt - 1)


@contextmanager
def configured(new: HandlerSettings) -> Iterator[None]:
    """The handlers' settings for the length of a test."""
    before = settings()
    configure(new)
    try:
        yield
    finally:
        configure(before)


def picture_bytes(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class Received:
    """One request as the server saw it. Header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """An empty header value leaves the header out; `drop_bytes` sends the body slowly, in such portions."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up_after: int | None = None
    drop_bytes: int | None = None


class LocalServer:
    """An HTTP server on a free loopback port; `answer` makes a reply from each request."""

    def __init__(self, answer: Callable[[Received], Reply]) -> None:
        self.received: list[Received] = []
        self.answer = answer
        # The moment at which the server gives up waiting, so that no test leaves a thread behind.
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._request_class())
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def _request_class(owner) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's
        class Request(BaseHTTPRequestHandler):
            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                received = Received(self.command, self.path, headers, self.rfile.read(length))
                owner.received.append(received)
                self._reply(owner.answer(received))

            def _reply(self, reply: Reply) -> None:
                self.send_response(reply.status)
                headers = {"Content-Length": str(len(reply.body)), **reply.headers}
                for name, value in headers.items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                try:
                    self._write(reply.body[: reply.hang_up_after], reply.drop_bytes)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def _write(self, body: bytes, drop_bytes: int | None) -> None:
                size = drop_bytes or max(1, len(body))
                for start in range(0, len(body), size):
                    self.wfile.write(body[start : start + size])
                    if drop_bytes and owner.closing.wait(DROP_SECONDS):
                        return

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
                """Keep the tests' output quiet."""

        return Request

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wrap(self, socket_of: Callable[[Any], Any]) -> None:
        """Put TLS around the listening socket."""
        self._server.socket = socket_of(self._server.socket)

    def __enter__(self) -> LocalServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
