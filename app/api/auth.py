"""Who asks: every call but the open ones needs a valid API key, or the session cookie that a browser got for one.

Only failures are counted against an address. With a cookie, a call that changes something needs the session's CSRF token.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from flask import Flask, current_app, g, request
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.api.parts import parts
from app.api.problems import ProblemError
from app.api.session_cookie import COOKIE, Session
from app.store import keys, sign_in
from app.store.keys import Key

FAILURES_PER_MINUTE = 20
_WINDOW_SECONDS = 60.0
_MOST_ADDRESSES = 10_000
_SCHEME = "bearer "
_PATIENCE_SECONDS = 1.0
_REMEMBERED_SECONDS = 3600.0
_FAILURES = "dragonfly.failures"
CSRF_HEADER = "X-CSRF-Token"
_READING = frozenset({"GET", "HEAD"})
_ELSEWHERE = frozenset({"cross-site", "same-site"})


class FailureLimit:
    """Counts failed sign-ins by address, in memory, over the last minute. ``clock`` gives seconds."""

    def __init__(self, most: int = FAILURES_PER_MINUTE, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def record(self, address: str) -> int | None:
        """Count one more failure; the seconds to wait where there were too many, else None."""
        now = self._clock()
        with self._lock:
            failures = self._failures.setdefault(address, deque(maxlen=self._most + 1))
            self._failures.move_to_end(address)
            while failures and failures[0] <= now - _WINDOW_SECONDS:
                failures.popleft()
            failures.append(now)
            while len(self._failures) > _MOST_ADDRESSES:
                self._failures.popitem(last=False)
            if len(failures) <= self._most:
                return None
            return max(1, int(failures[0] + _WINDOW_SECONDS - now) + 1)


class RememberedKeys:
    """Asks the database for a key, for a moment only; where it does not answer, a key that was valid within the hour is.

    For calls that must answer while the database does not, and tell nobody anything that is worth a key for long.
    """

    def __init__(self, engine: Engine, *, patience: float = _PATIENCE_SECONDS) -> None:
        self._engine = engine
        self._patience = patience
        self._turn = threading.Lock()
        self._known: dict[str, tuple[float, str]] = {}

    def name_of(self, plaintext: str) -> str | None:
        """The name of the key, or None. Raises ProblemError (DATABASE_UNAVAILABLE) where nobody knows."""
        fingerprint = hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).hexdigest()
        deadline = time.monotonic() + self._patience
        answered = threading.Event()
        answer: list[str | None] = []

        def ask() -> None:
            try:
                with self._engine.begin() as connection:
                    key = keys.authenticate(connection, plaintext)
                answer.append(None if key is None else key.name)
            except SQLAlchemyError:
                pass
            finally:
                self._turn.release()
                answered.set()

        # One at a time: what hangs must not take every connection.
        if self._turn.acquire(timeout=self._patience):
            threading.Thread(target=ask, name="key", daemon=True).start()
            answered.wait(max(0.0, deadline - time.monotonic()))
        if not answer:
            seen, name = self._known.get(fingerprint, (0.0, ""))
            if name and time.monotonic() - seen <= _REMEMBERED_SECONDS:
                return name
            raise ProblemError("DATABASE_UNAVAILABLE")
        self._known.pop(fingerprint, None)
        if answer[0] is not None:
            self._known[fingerprint] = (time.monotonic(), answer[0])
        return answer[0]


def require_key(
    app: Flask,
    engine: Engine,
    open_blueprints: frozenset[str],
    limit: FailureLimit,
    *,
    steadfast: frozenset[str] = frozenset(),
) -> None:
    """Check who asks before anything else of a request is looked at; the key's name is then ``caller()``.

    ``open_blueprints`` need none; ``steadfast`` ones are let in while the database does not answer, by RememberedKeys.
    """
    app.extensions[_FAILURES] = limit
    remembered = RememberedKeys(engine)

    def name_of(plaintext: str) -> str | None:
        if request.blueprint in steadfast:
            return remembered.name_of(plaintext)
        with engine.begin() as connection:
            key = keys.authenticate(connection, plaintext)
        return None if key is None else key.name

    def check() -> None:
        # An address that does not exist is a 404 for everyone: nothing stands behind it.
        if request.routing_exception is not None or request.blueprint in open_blueprints:
            return
        plaintext = _bearer()
        if plaintext is not None:
            name = name_of(plaintext)
            if name is not None:
                g.caller = name
                return
        elif COOKIE in request.cookies:
            _, key = require_session()
            g.caller = key.name
            return
        raise failed_attempt()

    app.before_request(check)


def caller() -> str:
    """The name of the key with which this request came, or for which its session stands."""
    return str(g.caller)


def failed_attempt(detail: str | None = None) -> ProblemError:
    """Count a wrong key, or none, against the address; the refusal to raise, with what to do as ``detail``."""
    limit: FailureLimit = current_app.extensions[_FAILURES]
    wait = limit.record(request.remote_addr or "")
    if wait is not None:
        return ProblemError("TOO_MANY_ATTEMPTS", headers={"Retry-After": str(wait)})
    return ProblemError("UNAUTHENTICATED", detail)


def current_session() -> tuple[Session, Key] | None:
    """The session that the cookie names and the key that it stands for; None where either is no longer valid."""
    session = parts().sessions.read(request.cookies.get(COOKIE, ""))
    if session is None:
        return None
    with parts().engine.begin() as connection:
        key = sign_in.key_of_session(connection, session.key_id, session.id)
    return None if key is None else (session, key)


def require_session() -> tuple[Session, Key]:
    """As current_session; raises ProblemError where there is none, or where a change comes without the CSRF token.

    A cookie that has expired is no attempt at guessing one, so it is not counted: a page left open asks for hours.
    """
    found = current_session()
    if found is None:
        raise ProblemError("UNAUTHENTICATED", "There is no session, or it has ended: sign in again.")
    if request.method not in _READING:
        require_csrf_token(found[0])
    return found


def require_csrf_token(session: Session) -> None:
    """Raise ProblemError where the request does not carry the session's token."""
    if not parts().sessions.is_csrf_token(session, request.headers.get(CSRF_HEADER, "")):
        raise ProblemError("CSRF_FAILED")


def refuse_other_sites() -> None:
    """Raise ProblemError where the browser says that a page from elsewhere sent this."""
    if request.headers.get("Sec-Fetch-Site", "") in _ELSEWHERE:
        raise ProblemError("CSRF_FAILED", "A page of another site may not sign anybody in.")


def _bearer() -> str | None:
    header = request.headers.get("Authorization", "")
    if not header.lower().startswith(_SCHEME):
        return None
    return header[len(_SCHEME) :].strip() or None
