"""Sessions of people: login, logout, CSRF, and the headers that protect their pages."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.web import build_app
from tests.web.support import ADMIN_TOKEN, API_TOKEN, BROWSER, SUBMITTER, MakeApp, system_of


def log_in(client: FlaskClient, token: str = ADMIN_TOKEN) -> str:
    """Begin a session; its CSRF token."""
    answer = client.post("/login", data={"token": token})
    assert answer.status_code == 303
    with client.session_transaction() as session:
        return str(session["csrf"])


def test_a_login_goes_back_to_the_page_that_asked_for_it(client: FlaskClient) -> None:
    answer = client.post("/login", data={"token": ADMIN_TOKEN, "next": "/admin/rq/stats?x=1"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/admin/rq/stats?x=1")
    assert client.get("/admin/rq/stats").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "", "/a\r\nb"],
)
def test_a_login_leads_to_no_other_site(client: FlaskClient, path: str) -> None:
    answer = client.post("/login", data={"token": ADMIN_TOKEN, "next": path})
    assert answer.headers["Location"] == "/"


def test_a_wrong_token_shows_the_form_again_and_begins_nothing(client: FlaskClient) -> None:
    answer = client.post("/login", data={"token": "wrong"})
    assert (answer.status_code, answer.mimetype) == (401, "text/html")
    assert "wrong" not in re.sub(r"what.s wrong", "", answer.get_data(as_text=True))
    assert "Set-Cookie" not in answer.headers


def test_a_login_form_of_another_site_is_refused(client: FlaskClient) -> None:
    answer = client.post("/login", data={"token": API_TOKEN}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert "Set-Cookie" not in answer.headers


def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites(client: FlaskClient) -> None:
    cookie = client.post("/login", data={"token": ADMIN_TOKEN}).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert ADMIN_TOKEN not in cookie


def test_in_production_the_cookie_travels_encrypted_only(make_app: MakeApp) -> None:
    tokens = {"ADMIN_TOKEN": ADMIN_TOKEN, "API_TOKEN": API_TOKEN, "SECRET_KEY": "k" * 32}
    client = make_app(APP_ENV="production", **tokens).test_client()
    assert "Secure" in client.post("/login", data={"token": ADMIN_TOKEN}).headers["Set-Cookie"]


def test_a_session_of_the_api_token_is_no_admins(client: FlaskClient) -> None:
    log_in(client, API_TOKEN)
    assert client.get("/api/tasks").status_code == 200
    assert client.get("/admin/rq/stats").status_code == 403


def test_a_sessions_write_needs_its_csrf_token(client: FlaskClient) -> None:
    csrf = log_in(client)
    body = {"name": "test.noop"}
    for token in ({}, {"X-CSRF-Token": "wrong"}, {"X-CSRF-Token": ""}):
        answer = client.post("/api/tasks", json=body, headers=token)
        assert (answer.status_code, answer.get_json()["type"]) == (403, "urn:twintrack:problem:csrf")
    assert client.post("/api/tasks", json=body, headers={"X-CSRF-Token": csrf}).status_code == 202


def test_a_sessions_write_from_another_site_is_refused_with_any_token(client: FlaskClient) -> None:
    headers = {"X-CSRF-Token": log_in(client), "Origin": "https://elsewhere.example"}
    assert client.post("/api/tasks", json={"name": "test.noop"}, headers=headers).status_code == 403


def test_a_form_may_carry_the_csrf_token_as_a_field(client: FlaskClient) -> None:
    csrf = log_in(client)
    assert client.post("/logout").status_code == 403
    assert client.post("/logout", data={"csrf_token": csrf}).status_code == 303
    assert client.get("/api/tasks").status_code == 401


def test_a_bearer_token_wins_over_a_session(client: FlaskClient) -> None:
    log_in(client)
    assert client.get("/admin/rq/stats", headers=SUBMITTER).status_code == 403
    assert client.get("/admin/rq/stats", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_a_session_does_not_act_for_users(client: FlaskClient) -> None:
    csrf = log_in(client)
    answer = client.post(
        "/api/tasks", json={"name": "test.noop"}, headers={"X-CSRF-Token": csrf, "X-User-Id": "ada"}
    )
    task = client.get(f"/api/tasks/{answer.get_json()['id']}").get_json()
    assert task["user_id"] is None


def test_a_new_token_ends_the_sessions_of_the_old_one(make_app: MakeApp) -> None:
    old = make_app(ADMIN_TOKEN=ADMIN_TOKEN, SECRET_KEY="k" * 32)
    new = make_app(ADMIN_TOKEN="another-token", SECRET_KEY="k" * 32)
    client = old.test_client()
    log_in(client)
    cookie = client.get_cookie("twintrack_session")
    assert cookie is not None
    headers = {"Cookie": f"twintrack_session={cookie.value}"}
    assert old.test_client(use_cookies=False).get("/api/tasks", headers=headers).status_code == 200
    assert new.test_client(use_cookies=False).get("/api/tasks", headers=headers).status_code == 401


def test_a_forged_cookie_is_worth_nothing(client: FlaskClient) -> None:
    client.set_cookie("twintrack_session", "eyJyb2xlIjoiYWRtaW4ifQ.aaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbb")
    assert client.get("/api/tasks").status_code == 401


def test_two_apps_without_a_secret_key_do_not_share_sessions(app: Flask) -> None:
    assert app.secret_key != build_app(system=system_of(app)).secret_key


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/nothing", "/login", "/api/tasks"])
def test_every_answer_is_protected(client: FlaskClient, path: str) -> None:
    headers = client.get(path, headers=BROWSER).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert re.fullmatch(r"[0-9a-f]{16}", headers["X-Request-Id"])


def test_the_pages_load_nothing_that_the_policy_forbids(local: FlaskClient) -> None:
    for path in ("/login", "/nothing"):
        page = local.get(path, headers=BROWSER).get_data(as_text=True)
        assert not re.search(
            r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://(?!www\.w3\.org)", page
        )
