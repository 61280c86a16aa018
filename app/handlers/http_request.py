"""`http_request`: call a URL, such as a webhook, and keep the answer.

Every attempt of a task sends the same `Idempotency-Key`, so that a receiver who honours it acts once.
"""

from __future__ import annotations

import json
import re
import time
from typing import Annotated, Any, Literal

import httpx
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.handlers.outbound import (
    RETRY_STATUSES,
    Deadline,
    Outgoing,
    RequestFailed,
    checked_url,
    exchange,
    origin,
    read_at_most,
)
from app.handlers.settings import settings
from app.tasks.handlers import DoNotRetry, TaskContext, task

USER_AGENT = "Twintrack"
HEADERS_SHOWN = (
    *("cache-control", "content-length", "content-type", "date", "etag", "last-modified"),
    *("location", "retry-after", "server", "x-request-id"),
)
HEADERS_WE_SET = frozenset(
    {"connection", "content-length", "host", "idempotency-key", "te", "transfer-encoding", "upgrade"}
)
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")  # RFC 9110, 5.6.2
PRINTABLE = re.compile(r"(?:[!-~](?:[\t -~]{0,8190}[!-~])?)?")


def _url(text: str) -> str:
    try:
        return checked_url(text)
    except ValueError as error:
        raise PydanticCustomError("url", "{reason}", {"reason": str(error)}) from None


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not TOKEN.fullmatch(name):
            raise PydanticCustomError("header", "a header's name has characters that HTTP does not allow")
        if name.lower() in HEADERS_WE_SET:
            raise PydanticCustomError("header", "{name} is set by the worker", {"name": name})
        if not PRINTABLE.fullmatch(value):
            raise PydanticCustomError("header", "the value of {name} is not valid in HTTP", {"name": name})
    return headers


Url = Annotated[str, AfterValidator(_url)]
Headers = Annotated[dict[str, str], Field(max_length=50), AfterValidator(_headers)]
Method = Annotated[
    Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
    BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
]
StatusCode = Annotated[int, Field(ge=100, le=599)]


class HttpRequestPayload(BaseModel):
    """`expected_statuses` empty stands for 200 to 299; `timeout_seconds` is for the whole exchange."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: Url
    method: Method = "POST"
    headers: Headers = Field(default_factory=dict)
    json_body: Any = Field(default=None, alias="json")
    text: str | None = None
    timeout_seconds: float = Field(default=30.0, ge=0.1, le=120, allow_inf_nan=False)
    expected_statuses: list[StatusCode] = Field(default_factory=list, max_length=100)
    follow_redirects: bool = False

    @model_validator(mode="after")
    def _one_body(self) -> HttpRequestPayload:
        if self.has_json and self.text is not None:
            raise PydanticCustomError("body", "give json or text, not both")
        return self

    @property
    def has_json(self) -> bool:
        """True also for `"json": null`, which is a body."""
        return "json_body" in self.model_fields_set

    def expects(self, status: int) -> bool:
        return status in self.expected_statuses if self.expected_statuses else 200 <= status <= 299


class HttpResult(BaseModel):
    """`body` is the first 64 KiB as text."""

    status: int
    headers: dict[str, str]
    body: str
    body_truncated: bool
    elapsed_ms: int
    final_url: str


@task("http_request", payload=HttpRequestPayload, timeout_seconds=180)
def http_request(payload: HttpRequestPayload, context: TaskContext) -> HttpResult:
    """Send the request. Raises `RequestFailed` for 408, 429, 5xx and network trouble, which is retried;
    `DoNotRetry` for any other status that was not expected."""
    context.check_cancelled()
    context.progress(step="sending")
    started = time.monotonic()
    with exchange(_outgoing(payload, context)) as (response, deadline):
        _require_expected(payload, response)
        context.progress(50, "reading")
        return _result(response, deadline, started)


def _outgoing(payload: HttpRequestPayload, context: TaskContext) -> Outgoing:
    content, content_type = _body(payload)
    headers = httpx.Headers({"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"})
    if content_type is not None:
        headers["Content-Type"] = content_type
    headers.update(payload.headers)
    headers["Idempotency-Key"] = context.idempotency_key
    allowed = settings()
    return Outgoing(
        method=payload.method,
        url=payload.url,
        headers=headers,
        content=content,
        timeout_seconds=payload.timeout_seconds,
        redirects=allowed.limits.redirects if payload.follow_redirects else 0,
        allow_private=allowed.allow_private_addresses,
    )


def _body(payload: HttpRequestPayload) -> tuple[bytes | None, str | None]:
    if payload.has_json:
        return json.dumps(payload.json_body, ensure_ascii=False).encode(), "application/json"
    if payload.text is not None:
        return payload.text.encode(), "text/plain; charset=utf-8"
    return None, None


def _require_expected(payload: HttpRequestPayload, response: httpx.Response) -> None:
    status = response.status_code
    if payload.expects(status):
        return
    sentence = f"{payload.method} {origin(payload.url)} answered {status}"
    if status in RETRY_STATUSES:
        raise RequestFailed(sentence)
    raise DoNotRetry(f"{sentence}, which is not an expected status")


def _result(response: httpx.Response, deadline: Deadline, started: float) -> HttpResult:
    body, truncated = read_at_most(response, settings().limits.response_body_bytes, deadline)
    return HttpResult(
        status=response.status_code,
        headers={name: response.headers[name] for name in HEADERS_SHOWN if name in response.headers},
        body=_text(body, response.charset_encoding),
        body_truncated=truncated,
        elapsed_ms=round((time.monotonic() - started) * 1000),
        final_url=str(response.url),
    )


def _text(body: bytes, charset: str | None) -> str:
    # NUL is valid in JSON and refused by some databases' text columns.
    try:
        text = body.decode(charset or "utf-8", errors="replace")
    except LookupError:
        text = body.decode("utf-8", errors="replace")
    return text.replace("\x00", "\ufffd")
