"""A PostgREST on loopback, as far as its schema cache goes: it loses it on demand, and reads it again on NOTIFY pgrst."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg

SENTENCES = {
    "PGRST002": (503, "Could not query the database for the schema cache. Retrying."),
    "PGRST205": (404, "Could not find the table 'ops.v_pipeline_health' in the schema cache"),
    "PGRST202": (404, "Could not find the function ops.f in the schema cache"),
}


class PostgrestStub:
    """``code`` is what every request is refused with, while there is one; a reload takes it away if ``heals``."""

    def __init__(self) -> None:
        self.code: str | None = None
        self.answers_left: int | None = None
        """So many refusals, then the code is gone by itself; None for as long as it stands."""
        self.status = 200
        self.heals = True
        self.requests: list[tuple[str, str | None]] = []
        self.reloads = 0
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.requests.append((self.path, self.headers.get("Accept-Profile")))
                status, body = stub._answer()
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self) -> tuple[int, Any]:
        code = self.code
        if code is None:
            return self.status, [{"status": "completed"}] if self.status == 200 else {"message": "Ada Marlow"}
        if self.answers_left is not None:
            self.answers_left -= 1
            if self.answers_left <= 0:
                self.code = None
        status, sentence = SENTENCES[code]
        return status, {"code": code, "message": sentence, "details": None, "hint": None}

    @contextmanager
    def answering(self) -> Iterator[PostgrestStub]:
        """Answers until the block is left."""
        server = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        server.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    @contextmanager
    def listening(self, direct_url: str) -> Iterator[PostgrestStub]:
        """Hears of reloads until the block is left."""
        stopping = threading.Event()
        begun = threading.Event()

        def listen() -> None:
            with psycopg.connect(direct_url, autocommit=True) as connection:
                connection.execute("LISTEN pgrst")
                begun.set()
                while not stopping.is_set():
                    for notice in connection.notifies(timeout=0.1):
                        if notice.payload == "reload schema":
                            self.reloads += 1
                            if self.heals:
                                self.code = None

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        assert begun.wait(10)
        try:
            yield self
        finally:
            stopping.set()
            listener.join(5)
