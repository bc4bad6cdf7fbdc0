"""The body of a request on its way in: its pace, its size, and what is left of it when it is refused.

gunicorn reads until it has the bytes asked for, however slowly they come, so the pace is watched one level below, where
its socket is read. Under another server (the test client) there is no such socket, and only the size is watched.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from flask import Flask, Request, Response, after_this_request, request

from app.api.problems import ProblemError

WINDOW_SECONDS = 30.0
BYTES_PER_SECOND = 1024
_DRAIN_BYTES = 64 * 1024 * 1024
_DRAIN_SECONDS = 2.0
_DRAINING = 4
"""So many refused clients are waited for at once; of the next ones only what has come is read, and who sends on may find
the connection closed before the answer."""
_GLANCE_SECONDS = 0.02
_STEP = 64 * 1024
SMALL_BODY_BYTES = 1024 * 1024


class BodyTooSlowError(TimeoutError):
    """The body came slower than BYTES_PER_SECOND over a window. A TimeoutError, as servers expect of a socket."""


class PacedSocket:
    """A socket whose ``recv`` gives up on a body that comes too slowly.

    Only time spent waiting for the client counts: while the application writes to its disk, nobody is slow. In every
    window of ``window`` seconds of waiting the client has to send ``window`` times BYTES_PER_SECOND.
    """

    def __init__(
        self, sock: socket.socket, window: float = WINDOW_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sock = sock
        self._window = window
        self._clock = clock
        self._waited = 0.0
        self._received = 0
        self._deadline: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def allow(self, seconds: float) -> None:
        """From now on, the client has this long altogether."""
        self._deadline = self._clock() + seconds

    def recv(self, size: int) -> bytes:
        """As a socket's recv. Raises BodyTooSlowError."""
        started = self._clock()
        left = self._window - self._waited if self._deadline is None else self._deadline - started
        if left <= 0:
            raise BodyTooSlowError
        before = self._sock.gettimeout()
        self._sock.settimeout(left)
        try:
            data = self._sock.recv(size)
        except TimeoutError:
            raise BodyTooSlowError from None
        finally:
            self._sock.settimeout(before)
        self._waited += self._clock() - started
        self._received += len(data)
        if self._received >= self._window * BYTES_PER_SECOND:
            self._waited, self._received = 0.0, 0
        elif self._waited >= self._window:
            raise BodyTooSlowError
        return data


class LimitedBody:
    """The body as a stream that raises ProblemError when it is too long, too slow or cut off. Bounded memory."""

    def __init__(self, source: IO[bytes], *, most: int, what: str) -> None:
        self._source = source
        self._left = most
        self._what = what

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end."""
        try:
            data = self._source.read(size)
        except BodyTooSlowError:
            raise ProblemError("BODY_TOO_SLOW") from None
        except Exception:
            # The server's own parser of chunks raises many kinds; each means that the client broke off or broke a rule.
            raise ProblemError("MALFORMED_REQUEST", "The body ended before its end.") from None
        self._left -= len(data)
        if self._left < 0:
            raise too_large(self._what)
        return data


def too_large(what: str) -> ProblemError:
    """The body is longer than ``what`` allows."""
    return ProblemError("UPLOAD_TOO_LARGE", f"The server takes {what}.")


def body_of(incoming: Request, *, most: int, what: str) -> LimitedBody:
    """The body, refused at once where its declared length is above ``most`` bytes."""
    if (incoming.content_length or 0) > most:
        raise too_large(what)
    return LimitedBody(incoming.environ["wsgi.input"], most=most, what=what)


def has_body(incoming: Request) -> bool:
    """Whether the client announced a body."""
    return bool(incoming.content_length) or "chunked" in incoming.headers.get("Transfer-Encoding", "").lower()


def watch_pace(app: Flask, window: float = WINDOW_SECONDS) -> None:
    """Put every body under its pace, and read on for a moment after a refusal, so that the client hears of it."""

    draining = threading.BoundedSemaphore(_DRAINING)

    def drain(source: IO[bytes], paced: PacedSocket, sock: socket.socket) -> None:
        # Many that are refused at once, and send on slowly, would hold every thread of the server.
        patient = draining.acquire(blocking=False)
        try:
            ended = _drain(source, paced, _DRAIN_SECONDS if patient else _GLANCE_SECONDS)
        finally:
            if patient:
                draining.release()
        if not ended:
            # Else the server would read on by itself, to keep the connection for another request.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)

    def begin() -> None:
        if not has_body(request):
            return
        source = request.environ["wsgi.input"]
        unreader = _unreader(source)
        sock = getattr(unreader, "sock", None)
        if unreader is None or sock is None:
            return
        paced = PacedSocket(sock, window)
        unreader.sock = paced

        @after_this_request
        def finish(response: Response) -> Response:
            if response.status_code >= 400:  # noqa: PLR2004
                response.call_on_close(lambda: drain(source, paced, sock))
            # The connection may carry further requests, which have a pace of their own.
            response.call_on_close(lambda: setattr(unreader, "sock", sock))
            return response

    app.before_request(begin)


def read_small_bodies(app: Flask, streamed_endpoints: frozenset[str], *, most: int = SMALL_BODY_BYTES) -> None:
    """Take JSON bodies in whole before a view sees them; only ``streamed_endpoints`` read their own."""

    def read() -> None:
        if not has_body(request) or request.method == "GET" or request.routing_exception is not None:
            return
        if request.endpoint in streamed_endpoints:
            return
        body = body_of(request, most=most, what=f"a body of at most {most:,} bytes here")
        data = b"".join(iter(lambda: body.read(_STEP), b""))
        if data and not request.is_json:
            raise ProblemError("MALFORMED_REQUEST", "The body must be JSON, sent as Content-Type: application/json.")
        request.environ["wsgi.input"] = io.BytesIO(data)

    app.before_request(read)


def _unreader(source: Any) -> Any:
    """What gunicorn reads the socket through, for a body of known length or a chunked one; else None."""
    reader = getattr(source, "reader", None)
    return getattr(reader, "unreader", None) or getattr(getattr(reader, "req", None), "unreader", None)


def _drain(source: IO[bytes], paced: PacedSocket, seconds: float) -> bool:
    """Throw away what the client still sends, within limits. A connection closed with unread bytes loses the answer.

    Whether the body came to its end.
    """
    paced.allow(seconds)
    left = _DRAIN_BYTES
    # The client is gone, or too slow to be waited for: the server closes the connection either way.
    with contextlib.suppress(Exception):
        while left > 0 and (data := source.read(_STEP)):
            left -= len(data)
        return left > 0
    return False
