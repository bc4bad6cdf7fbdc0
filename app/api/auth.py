"""Who asks: every call but the open ones needs a valid API key; only failures are counted against an address."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from flask import Flask, g, request
from sqlalchemy import Engine

from app.api.problems import ProblemError
from app.store import keys

FAILURES_PER_MINUTE = 20
_WINDOW_SECONDS = 60.0
_MOST_ADDRESSES = 10_000
_SCHEME = "bearer "


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


def require_key(app: Flask, engine: Engine, open_blueprints: frozenset[str], limit: FailureLimit) -> None:
    """Check the key before anything else of a request is looked at; the key's name is then ``caller()``."""

    def check() -> None:
        # An address that does not exist is a 404 for everyone: nothing stands behind it.
        if request.routing_exception is not None or request.blueprint in open_blueprints:
            return
        plaintext = _bearer()
        if plaintext is not None:
            with engine.begin() as connection:
                key = keys.authenticate(connection, plaintext)
            if key is not None:
                g.caller = key.name
                return
        wait = limit.record(request.remote_addr or "")
        if wait is not None:
            raise ProblemError("TOO_MANY_ATTEMPTS", headers={"Retry-After": str(wait)})
        raise ProblemError("UNAUTHENTICATED")

    app.before_request(check)


def caller() -> str:
    """The name of the key with which this request came."""
    return str(g.caller)


def _bearer() -> str | None:
    header = request.headers.get("Authorization", "")
    if not header.lower().startswith(_SCHEME):
        return None
    return header[len(_SCHEME) :].strip() or None
