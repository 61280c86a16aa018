"""The task API as this command needs it: submit a batch, ask for the state of tasks.

ServerTrouble
├── NotReachable      nobody answers; may pass
├── TryLater          it answers "not now", with the seconds to wait
└── ServerRefused     it answers, and asking again will not help
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

BATCH_LIMIT = 250
IDS_PER_CALL = 100
TIMEOUT_SECONDS = 30.0
RETRY_AFTER_LIMIT_SECONDS = 60.0
RETRY_AFTER_DEFAULT_SECONDS = 5.0
LATER_STATUSES = frozenset({429, 503})
USER_LIMIT = "urn:twintrack:problem:user-limit-reached"

ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "QUARANTINED"})


class ServerTrouble(Exception):
    """Root; the message is one sentence for the person at the terminal."""


class NotReachable(ServerTrouble):
    pass


class TryLater(ServerTrouble):
    def __init__(self, sentence: str, wait_seconds: float) -> None:
        self.wait_seconds = wait_seconds
        super().__init__(sentence)


class ServerRefused(ServerTrouble):
    pass


@dataclass(frozen=True, slots=True)
class Submission:
    path: str
    priority: str
    idempotency_key: str

    def body(self) -> dict[str, Any]:
        return {
            "name": "describe_image",
            "payload": {"path": self.path},
            "priority": self.priority,
            "idempotency_key": self.idempotency_key,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """To one submission: a task's id, or why there is none.

    `failed_before`: the key named an older task, which has failed. `later`: it may be accepted then.
    """

    task_id: str | None
    refusal: str = ""
    failed_before: bool = False
    later: bool = False


@dataclass(frozen=True, slots=True)
class TaskState:
    """`description` is the handler's result; None while there is none, or none is kept any more."""

    task_id: str
    status: str
    description: Mapping[str, Any] | None
    error: str | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class TaskApi:
    """A connection to one server. Every call raises a kind of `ServerTrouble` when it fails."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._client = httpx.Client(
                base_url=self.url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False
            )
        except (httpx.InvalidURL, UnicodeEncodeError):
            raise ServerRefused("The server's URL or the token is not valid.") from None

    def __enter__(self) -> TaskApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def submit(self, submissions: Sequence[Submission]) -> list[Answer]:
        """Submit up to `BATCH_LIMIT` tasks; one answer each, in order."""
        body = {"tasks": [submission.body() for submission in submissions]}
        answers = self._call("POST", "/api/tasks/batch", json=body).get("tasks")
        if not isinstance(answers, list) or len(answers) != len(submissions):
            raise self._no_task_api()
        try:
            return [_answer(answer) for answer in answers]
        except (AttributeError, KeyError, TypeError):
            raise self._no_task_api() from None

    def states(self, task_ids: Sequence[str]) -> dict[str, TaskState]:
        """The states of up to `IDS_PER_CALL` tasks; one that the server does not know is left out."""
        listed = self._call("GET", "/api/tasks", params={"ids": ",".join(task_ids)}).get("tasks")
        if not isinstance(listed, list):
            raise self._no_task_api()
        try:
            return {state.task_id: state for state in map(_state, listed)}
        except (AttributeError, KeyError, TypeError):
            raise self._no_task_api() from None

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = self._client.request(method, path, **options)
        except (httpx.HTTPError, httpx.InvalidURL):
            raise NotReachable(f"No server answers at {self.url}.") from None
        if response.status_code in (200, 202):
            return self._object(response)
        raise self._trouble(response)

    def _trouble(self, response: httpx.Response) -> ServerTrouble:
        detail = self._detail(response)
        match response.status_code:
            case 401 | 403:
                return ServerRefused(
                    f"The server at {self.url} does not accept the token: give one with --token,"
                    " or set API_TOKEN for a server on this machine."
                )
            case status if status in LATER_STATUSES:
                return TryLater(detail, _wait_seconds(response))
            case status if status >= 500:
                return NotReachable(f"The server at {self.url} answers {status}.")
            case 404 | 405:
                return self._no_task_api()
        return ServerRefused(f"The server at {self.url} refuses: {detail}")

    def _detail(self, response: httpx.Response) -> str:
        try:
            detail = self._object(response).get("detail")
        except ServerRefused:
            detail = None
        return detail if isinstance(detail, str) else f"it answers {response.status_code}."

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        try:
            body = response.json()
        except ValueError:
            raise self._no_task_api() from None
        if not isinstance(body, dict):
            raise self._no_task_api()
        return body

    def _no_task_api(self) -> ServerRefused:
        return ServerRefused(f"What answers at {self.url} is not a Twintrack server of this version.")


def _wait_seconds(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "")
    seconds = float(text) if text.isdigit() else RETRY_AFTER_DEFAULT_SECONDS
    return min(max(seconds, 1.0), RETRY_AFTER_LIMIT_SECONDS)


def _answer(answer: Mapping[str, Any]) -> Answer:
    problem = answer.get("error")
    if problem is None:
        ended_badly = answer.get("status") in ENDED - {"COMPLETED"}
        return Answer(str(answer["id"]), failed_before=ended_badly and not answer.get("created", True))
    fields = "; ".join(f"{one['field']}: {one['message']}" for one in problem.get("errors", ()))
    refusal = fields or str(problem.get("detail", "refused without a reason"))
    later = problem.get("status") in LATER_STATUSES or problem.get("type") == USER_LIMIT
    return Answer(None, refusal, later=later)


def _state(task: Mapping[str, Any]) -> TaskState:
    result = task.get("result")
    return TaskState(
        task_id=str(task["id"]),
        status=str(task["status"]),
        description=result if isinstance(result, dict) else None,
        error=task.get("error"),
    )
