"""Who may do what: tokens, and the developer's own machine."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.web.support import ADMIN, ADMIN_TOKEN, API_TOKEN, BROWSER, SUBMITTER, MakeApp, submit

GUARDED = [
    ("GET", "/api/tasks"),
    ("POST", "/api/tasks"),
    ("POST", "/api/test-rq-task"),
    ("POST", "/api/uploads"),
    ("GET", "/api/tasks/1/events"),
    ("GET", "/metrics"),
]
ADMIN_ONLY = [
    ("GET", "/admin/rq/health"),
    ("GET", "/admin/rq/stats"),
    ("GET", "/admin/rq/workers"),
    ("GET", "/admin/rq/routing"),
    ("PUT", "/admin/rq/routing"),
    ("POST", "/admin/rq/queues/normal/pause"),
    ("POST", "/admin/rq/queues/normal/clear"),
    ("GET", "/api/schedules"),
    ("POST", "/api/schedules"),
    ("GET", "/admin/schedules"),
    ("GET", "/admin/rq/dead-letters"),
    ("DELETE", "/admin/rq/dead-letters"),
    ("POST", "/admin/rq/dead-letters/retry"),
    ("POST", "/admin/maintenance/pause-task-submission"),
    ("GET", "/admin/maintenance/status"),
    ("GET", "/admin/rq/dashboard/"),
    ("GET", "/admin/rq/dashboard/0/data/queues.json"),
    ("POST", "/admin/rq/dashboard/queue/normal/queued/empty"),
]
PUBLIC = ["/health", "/health/live", "/health/ready", "/login"]


@pytest.mark.parametrize(("method", "path"), [*GUARDED, *ADMIN_ONLY])
def test_without_a_token_there_is_401_and_the_way_to_prove_oneself(
    client: FlaskClient, method: str, path: str
) -> None:
    answer = client.open(path, method=method)
    assert (answer.status_code, answer.mimetype) == (401, "application/problem+json")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer wrong",
        "Bearer",
        "Bearer ",
        f"Basic {ADMIN_TOKEN}",
        ADMIN_TOKEN,
        f"Bearer {ADMIN_TOKEN}x",
        f"Bearer {ADMIN_TOKEN[:-1]}",
        "Bearer \u00e4",
    ],
)
def test_a_wrong_token_is_401(client: FlaskClient, authorization: str) -> None:
    assert client.get("/api/tasks", headers={"Authorization": authorization}).status_code == 401


@pytest.mark.parametrize(("method", "path"), ADMIN_ONLY)
def test_the_api_token_is_403_at_admin_addresses(client: FlaskClient, method: str, path: str) -> None:
    answer = client.open(path, method=method, headers=SUBMITTER)
    assert (answer.status_code, answer.mimetype) == (403, "application/problem+json")


@pytest.mark.parametrize("headers", [ADMIN, SUBMITTER, {"Authorization": f"bearer  {API_TOKEN} "}])
def test_either_token_opens_the_api(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.get("/api/tasks", headers=headers).status_code == 200


def test_the_admin_token_opens_the_admin_addresses(client: FlaskClient) -> None:
    assert client.get("/admin/rq/health", headers=ADMIN).status_code == 200


@pytest.mark.parametrize("path", PUBLIC)
def test_health_and_login_are_public(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 200


def test_a_program_with_a_token_needs_no_csrf_token_and_no_origin(client: FlaskClient) -> None:
    foreign = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    assert submit(client, headers={**SUBMITTER, **foreign})


# --- the developer's own machine ------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_direct_request_from_this_machine_acts_as_admin(
    local: FlaskClient, host: str, address: str
) -> None:
    environment = {"REMOTE_ADDR": address}
    answer = local.get("/admin/rq/health", headers={"Host": host}, environ_overrides=environment)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Whatever",
        "X-Real-IP",
        "Via",
        "True-Client-IP",
        "CF-Connecting-IP",
    ],
)
def test_a_relayed_request_needs_a_token(local: FlaskClient, name: str) -> None:
    assert local.get("/api/tasks", headers={name: "127.0.0.1"}).status_code == 401


@pytest.mark.parametrize("address", ["10.0.0.7", "::ffff:10.0.0.7", "2001:db8::1", "", "localhost"])
def test_a_request_from_another_machine_needs_a_token(local: FlaskClient, address: str) -> None:
    answer = local.get("/api/tasks", environ_overrides={"REMOTE_ADDR": address})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.7"],
)
def test_a_foreign_name_for_this_machine_is_refused(local: FlaskClient, host: str) -> None:
    assert local.get("/api/tasks", headers={"Host": host}).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
    ],
)
def test_a_write_from_another_sites_page_is_refused(local: FlaskClient, headers: dict[str, str]) -> None:
    answer = local.post("/api/tasks", json={"name": "test.noop"}, headers=headers)
    assert (answer.status_code, answer.get_json()["type"]) == (403, "urn:twintrack:problem:cross-site")
    assert local.get("/api/tasks").get_json()["tasks"] == []


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, {"Sec-Fetch-Site": "none"}, {}],
)
def test_a_write_from_our_own_page_needs_nothing_more(local: FlaskClient, headers: dict[str, str]) -> None:
    assert submit(local, headers=headers)


@pytest.mark.parametrize(
    "settings", [{"API_TOKEN": API_TOKEN}, {"ADMIN_TOKEN": ADMIN_TOKEN}, {"APP_ENV": "staging"}]
)
def test_loopback_is_nothing_special_once_a_token_is_set_or_outside_development(
    make_app: MakeApp, settings: dict[str, Any]
) -> None:
    assert make_app(**settings).test_client().get("/api/tasks").status_code == 401


def test_without_an_admin_token_nobody_is_admin(make_app: MakeApp) -> None:
    client = make_app(API_TOKEN=API_TOKEN).test_client()
    for token in ("", "None", API_TOKEN):
        answer = client.get("/admin/rq/health", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code in (401, 403)


def test_a_browser_without_a_login_is_sent_to_it_and_back(client: FlaskClient) -> None:
    answer = client.get("/admin/rq/health?x=1", headers=BROWSER)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/login?next=/admin/rq/health?x%3D1")


def test_a_program_without_a_token_is_not_redirected(client: FlaskClient) -> None:
    assert client.get("/admin/rq/health", headers={"Accept": "*/*"}).status_code == 401
