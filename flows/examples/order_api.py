"""A small web API on this machine, for the example `api_records`: orders by pages, and shipments.

What was shipped is kept in a file. As such APIs do, it is away for a moment now and then, and it takes
a shipment once per idempotency key.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ORDERS, PAGE = 45, 20


def order(number: int) -> dict[str, Any]:
    return {"number": number, "item_grams": [100 * (1 + item) for item in range(1 + number % 4)]}


class OrderApi(ThreadingHTTPServer):
    """GET /orders?page=N, POST /shipments."""

    def __init__(self, file: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()
        self._file = file
        self._shipped: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        self._refused: set[str] = set()

    def page(self, number: int) -> dict[str, Any]:
        last = min(ORDERS, number * PAGE)
        orders = [order(one) for one in range(1 + (number - 1) * PAGE, last + 1)]
        return {"orders": orders, "next": number + 1 if last < ORDERS else None}

    def ship(self, key: str, shipment: dict[str, Any]) -> int:
        """The status of the answer: every ninth order is refused the first time."""
        with self.lock:
            if shipment["number"] % 9 == 0 and key not in self._shipped and key not in self._refused:
                self._refused.add(key)
                return 503
            self._shipped.setdefault(key, shipment)
            self._file.write_text(json.dumps(self._shipped))
            return 201


class _Answers(BaseHTTPRequestHandler):
    server: OrderApi

    def do_GET(self) -> None:
        self._say(200, self.server.page(int(self.path.rpartition("=")[2])))

    def do_POST(self) -> None:
        shipment = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.ship(self.headers["Idempotency-Key"], shipment)
        self._say(status, {"shipped": status == 201})

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Says nothing: the example tells what it does."""


@contextmanager
def order_api(file: Path) -> Iterator[OrderApi]:
    """The API, as long as the block runs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with OrderApi(file) as api:
        answering = threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.05})
        answering.start()
        try:
            yield api
        finally:
            api.shutdown()
            answering.join()
