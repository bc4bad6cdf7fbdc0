"""The HTTP client of the command line: uploads that stream, and the few other calls that a terminal makes."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import urlsplit

import httpx

_TIMEOUT = httpx.Timeout(60, connect=10)
_BUSY_TRIES = 30
_LONGEST_PAUSE_SECONDS = 10.0
_CLIENT_ERROR, _SERVER_ERROR = 400, 500
_KEY_REFUSED = (401, 403, 429)

Document = dict[str, Any]


class NoAnswerError(Exception):
    """The server could not be asked: none is there, it refuses the key, or it cannot work. One sentence."""


class RefusedError(Exception):
    """The server answered no; ``problem`` is its problem document."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{problem.get('code', 'refused')}: {problem.get('detail') or problem.get('title')}")
        self.problem = dict(problem)


def origin_of(url: str) -> str:
    """Scheme, host and port of a web address: what may be shown, for the rest may hold a password.

    Raises ValueError where it is no web address.
    """
    try:
        # Each refuses what the other lets pass.
        urlsplit(url)
        address = httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        raise ValueError("no web address") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise ValueError("no web address")
    return f"{address.scheme}://{address.netloc.decode('ascii')}"


class Client:
    """Asks the server at ``url``, a web address, with ``key``. A context manager; ``pause`` waits so many seconds."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.origin = origin_of(url)
        """The server as it may be shown."""
        self._pause = pause
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"},
            timeout=_TIMEOUT,
            transport=transport,
            # A proxy cannot reach what listens on this machine's loopback.
            trust_env=not _is_loopback(url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def upload(self, path: Path, fields: Mapping[str, str], seen: Callable[[int], None]) -> Document:
        """Send the file and return the receipt; ``seen`` is told the number of bytes of each piece sent.

        A server that has no room for one more upload is asked again. Raises OSError, RefusedError, NoAnswerError.
        """
        name = path.name.encode("utf-8", "replace").decode()
        for left in reversed(range(_BUSY_TRIES)):
            with path.open("rb") as file:
                watched: Any = _Watched(file, seen)
                try:
                    return self._ask("POST", "/api/v1/intake/upload", data=fields, files={"file": (name, watched)})
                except _BusyError as busy:
                    if not left:
                        raise NoAnswerError(str(busy)) from None
                    seen(-watched.sent)
                    self._pause(busy.seconds)
        raise AssertionError("the last try returns or raises")

    def batch(self, batch_id: str) -> Document:
        """The batch as it stands. Raises RefusedError, NoAnswerError."""
        return self._ask("GET", f"/api/v1/intake/batches/{batch_id}")

    def retry(self, batch_id: str, error_threshold_percent: int | None) -> Document:
        """Put a failed batch back. Raises RefusedError, NoAnswerError."""
        body = {} if error_threshold_percent is None else {"error_threshold_percent": error_threshold_percent}
        return self._ask("POST", f"/api/v1/intake/batches/{batch_id}/retry", json=body)

    def cancel(self, batch_id: str) -> Document:
        """End an unfinished batch. Raises RefusedError, NoAnswerError."""
        return self._ask("POST", f"/api/v1/intake/batches/{batch_id}/cancel")

    def state(self) -> Document:
        """Backlog, workers and last failure. Raises RefusedError, NoAnswerError."""
        return self._ask("GET", "/api/v1/intake/state")

    def errors(self, batch_id: str, *, limit: int) -> Document:
        """The first of the batch's row errors. Raises RefusedError, NoAnswerError."""
        return self._ask("GET", f"/api/v1/intake/batches/{batch_id}/errors", params={"limit": limit})

    def judgments(self, batch_id: str, *, limit: int) -> Document:
        """The first of the judgments that the batch inserted. Raises RefusedError, NoAnswerError."""
        return self._ask("GET", "/api/v1/judgments", params={"batch_id": batch_id, "limit": limit})

    def _ask(self, method: str, path: str, **content: Any) -> Document:
        try:
            response = self._http.request(method, path, **content)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise NoAnswerError(
                f"No server answers at {self.origin}: start one with 'dragonfly up', or set DRAGONFLY_URL."
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            raise NoAnswerError(f"{self.origin} broke off: {type(problem).__name__}.") from None
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise NoAnswerError(f"What answers at {self.origin} is not Dragonfly (HTTP {response.status_code}).")
        if response.status_code < _CLIENT_ERROR:
            return document
        refused = RefusedError(document)
        if document.get("code") == "BUSY":
            raise _BusyError(str(refused), _seconds(response.headers.get("Retry-After")))
        if response.status_code in _KEY_REFUSED:
            raise NoAnswerError(f"{self.origin} refuses the key, {refused} Set DRAGONFLY_KEY to a valid one.")
        if response.status_code >= _SERVER_ERROR:
            raise NoAnswerError(f"{self.origin} cannot do it now, {refused}")
        raise refused


class _BusyError(NoAnswerError):
    def __init__(self, sentence: str, seconds: float) -> None:
        super().__init__(sentence)
        self.seconds = seconds


class _Watched:
    """A file that tells how much of it has been read."""

    def __init__(self, file: BinaryIO, seen: Callable[[int], None]) -> None:
        self._file = file
        self._seen = seen
        self.sent = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sent += len(data)
        self._seen(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _seconds(header: str | None) -> float:
    try:
        return min(max(float(header or 1), 0.1), _LONGEST_PAUSE_SECONDS)
    except ValueError:
        return 1.0


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
