"""A Discord webhook on loopback that behaves as it is told, and remembers what it received and what it took."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

TOKEN = "the-token-that-nobody-may-see"
PATH = f"/api/webhooks/1234/{TOKEN}"


@dataclass(frozen=True)
class Reply:
    """An answer, given ``after`` so many seconds. ``cut``: the connection breaks in the middle of its body."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: float = 0.0
    cut: bool = False


class Silence:
    """The request is read and never answered."""


class Break:
    """The request is read and the connection closed without a word."""


Behaviour = Reply | Silence | Break


@dataclass(frozen=True)
class Received:
    """One request. ``embed`` is that of a message, else empty; ``at`` is time.monotonic()."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    at: float

    @property
    def embed(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (self.body.get("embeds") or [{}])[0]
        return found


class DiscordStub:
    """``behaviours`` are for the next messages, one each, and ``otherwise`` for those after; ``probe`` is for a GET.

    ``received`` has every request; ``taken`` every message that was answered with 2xx, or would have been: what a
    person would see in the channel. ``most_at_once`` is how many messages were under way together.
    """

    def __init__(self) -> None:
        self.behaviours: deque[Behaviour] = deque()
        self.otherwise: Behaviour | Callable[[Received], Behaviour] = Reply()
        self.probe: Behaviour = Reply(200, body=json.dumps({"id": "1234", "token": TOKEN}).encode())
        self.received: list[Received] = []
        self.taken: list[Received] = []
        self.most_at_once = 0
        self.arrived = threading.Event()
        self._lock = threading.Lock()
        self._at_once = 0
        self._server: _Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """The webhook's address, with its secret."""
        return f"http://127.0.0.1:{self._port}{PATH}"

    @property
    def posts(self) -> list[Received]:
        """The messages received."""
        return [request for request in self.received if request.method == "POST"]

    @property
    def shown(self) -> list[str]:
        """The messages taken, by the text of their embeds."""
        return [request.embed["description"] for request in self.taken]

    def start(self) -> None:
        """Listen, on the same port as before where there was one."""
        self._server = _Server(self, self._port)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections until the next start."""
        if self._server is not None:
            self._server.end()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def answer(self, request: Received) -> Behaviour:
        """What becomes of this request."""
        with self._lock:
            self.received.append(request)
            if request.method != "POST":
                return self.probe
            if self.behaviours:
                behaviour = self.behaviours.popleft()
            else:
                behaviour = self.otherwise(request) if callable(self.otherwise) else self.otherwise
            if isinstance(behaviour, Reply) and 200 <= behaviour.status < 300:
                self.taken.append(request)
        self.arrived.set()
        return behaviour

    def under_way(self, change: int) -> None:
        """Count a message that begins (1) or ends (-1)."""
        with self._lock:
            self._at_once += change
            self.most_at_once = max(self.most_at_once, self._at_once)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True
    allow_reuse_address = True

    def __init__(self, stub: DiscordStub, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.stub = stub
        self.ending = threading.Event()

    def end(self) -> None:
        self.ending.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the stub's."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._is_under_way = True
        self.server.stub.under_way(1)
        try:
            self._serve()
        finally:
            self._has_ended()

    def _has_ended(self) -> None:
        """Once, and before the answer has gone out: its reader may send the next message at once."""
        if getattr(self, "_is_under_way", False):
            self._is_under_way = False
            self.server.stub.under_way(-1)

    def _serve(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Received(
            self.command, self.path, dict(self.headers), json.loads(content) if content else {}, time.monotonic()
        )
        behaviour = self.server.stub.answer(request)
        self.close_connection = True
        if isinstance(behaviour, Break):
            return
        if isinstance(behaviour, Silence):
            self.server.ending.wait()
            return
        if behaviour.after and self.server.ending.wait(behaviour.after):
            return
        self._has_ended()
        self.send_response(behaviour.status)
        for name, value in behaviour.headers.items():
            self.send_header(name, value)
        if behaviour.cut:
            self.send_header("Content-Length", "1000")
        elif behaviour.status != 204:
            self.send_header("Content-Length", str(len(behaviour.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"{" if behaviour.cut else behaviour.body)
        if behaviour.cut:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests print nothing."""
