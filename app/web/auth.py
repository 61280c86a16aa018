"""Who is calling, and may they: tokens, browser sessions, and the developer's own machine.

    Authorization: Bearer <ADMIN_TOKEN or API_TOKEN>    programs; no CSRF rule applies to them
    session cookie                                      people who logged in; writes need X-CSRF-Token
    neither, in development and with no token set       a direct request from this machine acts as admin

Views never look at headers: a blueprint asks with `guard`, a view reads `caller()`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import structlog
from flask import current_app, g, redirect, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from app.web import parts
from app.web.loopback import is_cross_site, is_direct_loopback
from app.web.problems import Refused, invalid, refused, wants_page
from config import Config

log = structlog.get_logger(__name__)

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "X-CSRF-Token"
CSRF_FIELD = "csrf_token"
USER_HEADER = "X-User-Id"
USER_CHARACTERS = 128
FOREIGN_PAGES = frozenset({"rq_dashboard"})


class Role(StrEnum):
    """An admin may do everything that a submitter may."""

    SUBMITTER = "submitter"
    ADMIN = "admin"


class Means(StrEnum):
    """How a caller has proven who they are."""

    TOKEN = "token"
    SESSION = "session"
    LOOPBACK = "loopback"


@dataclass(frozen=True, slots=True)
class Caller:
    """`user_id` is the user on whose behalf a program calls; None acts for everybody."""

    role: Role
    means: Means
    user_id: str | None = None

    @property
    def proven_admin(self) -> bool:
        """True for somebody who holds ADMIN_TOKEN, as against a developer on their own machine."""
        return self.role is Role.ADMIN and self.means is not Means.LOOPBACK


def guard(role: Role) -> Callable[[], AnyResponse | None]:
    """A `before_request` function that lets only callers with this role pass.

    It raises a 401, or a 403 for a caller who is known but may not. A browser is sent to the login instead.
    """

    def check() -> AnyResponse | None:
        try:
            who = _identify()
        except Refused:
            if _may_log_in():
                return redirect(url_for("sessions.login_page", next=request.full_path.rstrip("?")))
            raise
        if role is Role.ADMIN and who.role is not Role.ADMIN:
            raise refused(403, "This address needs the admin token.")
        if request.method not in SAFE_METHODS and who.means is not Means.TOKEN:
            _refuse_forged(who)
        g.caller = who
        return None

    return check


def caller() -> Caller:
    """The caller whom `guard` has let pass."""
    who: Caller = g.caller
    return who


def known_caller() -> Caller | None:
    """The caller if there is one, for pages that only change their looks; raises nothing."""
    try:
        return _identify()
    except Refused:
        return None


def role_of_token(token: str) -> Role | None:
    """The role that a token stands for. Takes the same time for every wrong token."""
    config = parts.system().config
    given = _digest(token)
    is_admin = bool(config.ADMIN_TOKEN) and hmac.compare_digest(given, _digest(config.ADMIN_TOKEN or ""))
    is_api = bool(config.API_TOKEN) and hmac.compare_digest(given, _digest(config.API_TOKEN or ""))
    if is_admin:
        return Role.ADMIN
    return Role.SUBMITTER if is_api else None


def begin_session(role: Role) -> None:
    """Make this browser's session one of `role`, with a new CSRF token."""
    session.clear()
    session.permanent = True
    session["role"] = role.value
    session["mark"] = _mark(role)
    session["csrf"] = secrets.token_urlsafe(24)


def end_session() -> None:
    session.clear()


def csrf_token() -> str:
    """What forms and scripts of this session send back with a write; empty where none is needed."""
    return str(session.get("csrf", ""))


def _identify() -> Caller:
    authorization = request.headers.get("Authorization")
    if authorization is not None:
        return _with_user(_by_token(authorization))
    who = _by_session()
    if who is not None:
        return who
    if no_token_needed(parts.system().config) and is_direct_loopback(request):
        return _with_user(Caller(Role.ADMIN, Means.LOOPBACK))
    raise _unauthenticated("This address needs a token: send it as Authorization: Bearer …")


def no_token_needed(config: Config) -> bool:
    """True in development as long as no token is set: the developer's own machine is trusted."""
    return config.APP_ENV == "development" and not (config.ADMIN_TOKEN or config.API_TOKEN)


def _may_log_in() -> bool:
    config = parts.system().config
    has_login = bool(config.ADMIN_TOKEN or config.API_TOKEN)
    return has_login and request.method == "GET" and "Authorization" not in request.headers and wants_page()


def _by_token(authorization: str) -> Caller:
    scheme, _, token = authorization.partition(" ")
    role = role_of_token(token.strip()) if scheme.lower() == "bearer" else None
    if role is None:
        log.warning("auth.refused", path=request.path, remote=request.remote_addr)
        raise _unauthenticated("The token is not valid.")
    return Caller(role, Means.TOKEN)


def _by_session() -> Caller | None:
    try:
        role = Role(session.get("role", ""))
    except ValueError:
        return None
    mark = _mark(role)
    if not mark or not hmac.compare_digest(str(session.get("mark", "")), mark):
        return None  # the token has been changed since
    return Caller(role, Means.SESSION)


def header_text(name: str) -> str | None:
    """A header's text. Programs send UTF-8, which the server hands on as if it were Latin-1."""
    value = request.headers.get(name)
    if value is None or value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def _with_user(who: Caller) -> Caller:
    user_id = header_text(USER_HEADER)
    if user_id is None:
        return who
    if not 0 < len(user_id) <= USER_CHARACTERS or not user_id.isprintable():
        raise invalid(USER_HEADER, f"must be 1 to {USER_CHARACTERS} printable characters")
    return replace(who, user_id=user_id)


def _refuse_forged(who: Caller) -> None:
    """Refuse a write that another site's page has sent with this browser's rights."""
    if is_cross_site(request):
        raise refused(403, "A page of another site may not send this request.", kind="cross-site")
    if who.means is Means.SESSION and not _csrf_token_sent() and not _guarded_by_origin():
        raise refused(403, f"The session's token is missing: send it as {CSRF_HEADER}.", kind="csrf")


def _csrf_token_sent() -> bool:
    expected = csrf_token()
    given = request.headers.get(CSRF_HEADER) or request.form.get(CSRF_FIELD, "")
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


def _guarded_by_origin() -> bool:
    """Pages that are not ours cannot send our token: there the browser's own word has to do."""
    said = request.headers.get("Sec-Fetch-Site") == "same-origin" or "Origin" in request.headers
    return said and request.blueprint in FOREIGN_PAGES


def _mark(role: Role) -> str:
    """A trace of the token that a session was begun with, so that a new token ends old sessions."""
    config = parts.system().config
    token = config.ADMIN_TOKEN if role is Role.ADMIN else config.API_TOKEN
    key = str(current_app.secret_key).encode()
    return hmac.new(key, f"{role}:{token}".encode(), hashlib.sha256).hexdigest()[:32] if token else ""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _unauthenticated(detail: str) -> Refused:
    return refused(401, detail, WWW_Authenticate='Bearer realm="twintrack"')
