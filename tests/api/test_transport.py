"""Bodies on a real server: bounded memory, their size, their pace, and clients that leave; and headers that only it checks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import psutil
import pytest
from sqlalchemy import Engine, text
from werkzeug.http import parse_options_header

KEY = "the-key-of-these-tests-0123456789"
MAX_BYTES = 90_000_000
WINDOW_SECONDS = 3.0
UPLOAD_SLOTS = 3
MIB = 1024 * 1024
HEAD = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
TAIL = b"\r\n--limit--\r\n"


@dataclass(frozen=True)
class Served:
    """A gunicorn that serves the application."""

    port: int
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def files(self) -> list[Path]:
        """Everything in the store, half-received files too."""
        return [path for path in (self.home / "blobs").rglob("*") if path.is_file()]

    def memory(self) -> int:
        """Resident bytes of the process that answers."""
        worker = psutil.Process(self.process.pid).children()[0]
        return int(worker.memory_info().rss)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@pytest.fixture(scope="module")
def server(service_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("served")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "-k", "gthread", "--threads", "8", "--no-control-socket"),
            *("-b", f"127.0.0.1:{port}", "--log-level", "warning", "--pythonpath", str(Path(__file__).parent)),
            "served:app",
        ],
        env={
            **os.environ,
            "SERVED_HOME": str(home),
            "SERVED_DATABASE": service_url,
            "SERVED_MAX_BYTES": str(MAX_BYTES),
            "SERVED_WINDOW": str(WINDOW_SECONDS),
        },
    )
    served = Served(port, home, process)
    try:
        wait_for(lambda: is_up(served))
        yield served
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


@pytest.fixture
def served(server: Served, engine: Engine) -> Iterator[Served]:
    """The server on empty tables and an empty store; fails a test that leaves a half-received file."""
    for path in server.files():
        path.unlink()
    yield server
    wait_for(lambda: not [path for path in server.files() if path.parent.name == "incoming"])


def is_up(served: Served) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{served.url}/healthz").status_code == 200
    return False


def wait_for(condition: Callable[[], bool], within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


def head(*lines: str, key: str = KEY, kind: str = "multipart/form-data; boundary=limit") -> bytes:
    fixed = ["POST /api/v1/intake/upload HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", f"Content-Type: {kind}"]
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and document of the one answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(65536)
        assert data, f"the connection was closed without an answer: {received!r}"
        received += data
    headers, _, body = received.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in headers.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return int(headers.split()[1]), json.loads(body)


def pieces(total: int) -> Iterator[bytes]:
    """A body of about ``total`` bytes, made while it is sent."""
    yield HEAD
    block = b"C-1,Ada Marlow,10.00\r\n" * 3000
    for _ in range(total // len(block)):
        yield block
    yield TAIL


def upload(served: Served, content: Iterator[bytes], key: str = KEY) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "multipart/form-data; boundary=limit"}
    with httpx.Client(timeout=60, trust_env=False) as client:
        return client.post(f"{served.url}/api/v1/intake/upload", content=content, headers=headers)


def batches_in(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(*) FROM intake.batches")) or 0)


def test_a_large_chunked_upload_is_stored_in_bounded_memory(served: Served) -> None:
    before = served.memory()
    digest = hashlib.sha256()
    size = 0
    for piece in pieces(80_000_000):
        if piece not in (HEAD, TAIL):
            digest.update(piece)
            size += len(piece)
    peak = 0

    def watched() -> Iterator[bytes]:
        nonlocal peak
        for place, piece in enumerate(pieces(80_000_000)):
            if place % 200 == 0:
                peak = max(peak, served.memory())
            yield piece

    response = upload(served, watched())
    assert response.status_code == 202, response.text
    assert response.json()["file_hash"] == digest.hexdigest()
    assert [path.stat().st_size for path in served.files()] == [size]
    assert peak - before < 40 * MIB


def test_a_chunked_body_above_the_limit_is_refused_in_mid_stream(served: Served, engine: Engine) -> None:
    response = upload(served, pieces(MAX_BYTES + 5_000_000))
    assert (response.status_code, response.json()["code"]) == (413, "UPLOAD_TOO_LARGE")
    assert served.files() == []
    assert batches_in(engine) == 0


def test_a_declared_length_above_the_limit_is_refused_unread(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(head(f"Content-Length: {MAX_BYTES * 10}"))
        status, document = read_answer(connection)
    assert (status, document["code"]) == (413, "UPLOAD_TOO_LARGE")


def test_a_client_refused_early_reads_the_answer_though_it_sends_everything_first(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(head("Content-Length: 30000000", key="wrong") + HEAD)
        connection.sendall(b"x" * (30_000_000 - len(HEAD)))
        status, document = read_answer(connection)
    assert (status, document["code"]) == (401, "UNAUTHENTICATED")
    assert served.files() == []


def test_a_browser_without_its_csrf_token_is_refused_before_its_file_is_read(served: Served) -> None:
    with httpx.Client(base_url=served.url, trust_env=False) as browser:
        csrf_token = browser.post("/api/v1/session", json={"key": KEY}).json()["csrf_token"]
        cookie = f"Cookie: dragonfly_session={browser.cookies['dragonfly_session']}"
    with served.connect() as connection:
        # Not a byte of the body is sent, and its length alone would be refused.
        connection.sendall(by_cookie(cookie, f"Content-Length: {MAX_BYTES * 10}"))
        status, document = read_answer(connection)
    assert (status, document["code"]) == (403, "CSRF_FAILED")
    body = HEAD + b"C-1,Ada Marlow,10.00\r\n" + TAIL
    with served.connect() as connection:
        connection.sendall(by_cookie(cookie, f"X-CSRF-Token: {csrf_token}", f"Content-Length: {len(body)}") + body)
        status, document = read_answer(connection)
    assert status == 202, document


def by_cookie(*lines: str) -> bytes:
    with_key = head(*lines)
    return with_key.replace(f"Authorization: Bearer {KEY}\r\n".encode(), b"")


@pytest.mark.parametrize(("scheme", "is_secure"), [("https", True), ("http", False)])
def test_behind_a_proxy_that_ends_tls_the_cookie_is_secure(served: Served, scheme: str, is_secure: bool) -> None:
    response = httpx.post(
        f"{served.url}/api/v1/session", json={"key": KEY}, headers={"X-Forwarded-Proto": scheme}, trust_env=False
    )
    assert response.status_code == 200
    assert ("; Secure" in response.headers["Set-Cookie"]) is is_secure


@pytest.mark.parametrize(
    ("filename", "plain", "in_full"),
    [
        ("May export.csv", "May export-errors.csv", None),
        ("clerk\u2019s.csv", "clerks-errors.csv", "clerk\u2019s-errors.csv"),
        ("\u00e9.csv", "e-errors.csv", "\u00e9-errors.csv"),
        ("\u6f22\u5b57.csv", "upload-errors.csv", "\u6f22\u5b57-errors.csv"),
        ("\U0001f600.csv", "upload-errors.csv", "\U0001f600-errors.csv"),
        ('a"b%41.csv', "a_b_41-errors.csv", 'a"b%41-errors.csv'),
        ("\uff02; a=\u2100\uff3c.csv", "_; a=a_c_-errors.csv", "\uff02; a=\u2100\uff3c-errors.csv"),
        ("a\r\nSet-Cookie: b=c\t.csv", "aSet-Cookie: b=c-errors.csv", None),
        (".csv", "upload-errors.csv", None),
    ],
)
def test_the_errors_are_a_file_whatever_the_name_of_the_batch_s(
    served: Served, stored: Any, filename: str, plain: str, in_full: str | None
) -> None:
    batch = stored.failed(filename=filename)
    response = httpx.get(
        f"{served.url}/api/v1/intake/batches/{batch}/errors.csv",
        headers={"Authorization": f"Bearer {KEY}"},
        trust_env=False,
    )
    assert response.status_code == 200, response.text
    (disposition,) = [value for name, value in response.headers.raw if name == b"Content-Disposition"]
    kind, options = parse_options_header(disposition.decode("ascii").split("; filename*=")[0])
    assert (kind, options) == ("attachment", {"filename": plain})
    _, starred, encoded = disposition.decode("ascii").partition("; filename*=UTF-8''")
    assert (unquote(encoded) if starred else None) == in_full
    assert "Set-Cookie" not in response.headers


def test_a_body_slower_than_its_pace_is_ended_with_408(served: Served, engine: Engine) -> None:
    started = time.monotonic()
    with served.connect() as connection:
        connection.sendall(head("Content-Length: 1000000") + HEAD)
        connection.settimeout(0.1)
        while time.monotonic() - started < 10:
            with contextlib.suppress(TimeoutError):
                if connection.recv(1, socket.MSG_PEEK):
                    break
            connection.sendall(b"x" * 20)
        connection.settimeout(5)
        status, document = read_answer(connection)
    assert (status, document["code"]) == (408, "BODY_TOO_SLOW")
    assert WINDOW_SECONDS <= time.monotonic() - started < 10
    assert batches_in(engine) == 0


@pytest.mark.parametrize("kind", ["chunked", "length"])
def test_a_body_that_stops_is_ended_with_408(served: Served, kind: str) -> None:
    framing = "Transfer-Encoding: chunked" if kind == "chunked" else "Content-Length: 1000000"
    start = HEAD if kind == "length" else b"%x\r\n%s\r\n" % (len(HEAD), HEAD)
    with served.connect() as connection:
        connection.sendall(head(framing) + start)
        status, document = read_answer(connection)
    assert (status, document["code"]) == (408, "BODY_TOO_SLOW")


def test_a_small_json_body_that_stops_is_ended_too(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(
            head("Content-Length: 100", kind="application/json").replace(
                b"/api/v1/intake/upload", b"/api/v1/intake/batches/00000000-0000-0000-0000-000000000000/retry"
            )
        )
        assert read_answer(connection)[0] == 408


def test_a_slow_body_above_its_pace_is_taken(served: Served) -> None:
    body = HEAD + b"x" * 30_000 + TAIL
    with served.connect() as connection:
        connection.sendall(head(f"Content-Length: {len(body)}"))
        for start in range(0, len(body), 3000):
            connection.sendall(body[start : start + 3000])
            time.sleep(0.25)
        assert read_answer(connection)[0] == 202


def test_a_client_that_leaves_in_mid_upload_leaves_nothing_behind(served: Served, engine: Engine) -> None:
    for framing in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
        with served.connect() as connection:
            start = b"%x\r\n" % 900_000 if "chunked" in framing else b""
            connection.sendall(head(framing) + start + HEAD + b"x" * 400_000)
            wait_for(lambda: bool(served.files()))
        wait_for(lambda: not served.files())
    assert batches_in(engine) == 0


def test_a_broken_chunk_is_a_malformed_request(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(head("Transfer-Encoding: chunked") + b"%x\r\n%s\r\nnonsense\r\n" % (len(HEAD), HEAD))
        status, document = read_answer(connection)
    assert (status, document["code"]) == (400, "MALFORMED_REQUEST")


def test_three_quarters_of_the_threads_take_uploads_and_the_next_is_told_to_come_back(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(served.connect()) for _ in range(UPLOAD_SLOTS)]
        for connection in slow:
            connection.sendall(head("Content-Length: 1000000") + HEAD + b"x" * 70_000)
        wait_for(lambda: len(served.files()) == UPLOAD_SLOTS)
        refused = upload(served, pieces(10_000_000))
        assert (refused.status_code, refused.json()["code"]) == (503, "BUSY")
        assert int(refused.headers["Retry-After"]) > 0
        listed = httpx.get(f"{served.url}/api/v1/intake/batches", headers={"Authorization": f"Bearer {KEY}"})
        assert listed.status_code == 200
    wait_for(lambda: upload(served, iter([HEAD, b"a,b\r\n", TAIL])).status_code in (200, 202))


def test_the_pace_is_the_body_s_and_not_the_connection_s(served: Served) -> None:
    body = HEAD + b"Case Number\r\n" + TAIL
    with served.connect() as connection:
        for expected in (202, 200, 200):
            # Together they wait for longer than one body may.
            connection.sendall(head(f"Content-Length: {len(body)}") + body[:50])
            time.sleep(WINDOW_SECONDS * 0.5)
            connection.sendall(body[50:])
            assert read_answer(connection)[0] == expected


def test_many_refused_clients_that_send_on_slowly_hold_nobody_up(served: Served) -> None:
    clients = [served.connect() for _ in range(40)]
    try:
        for client in clients:
            client.sendall(head(f"Content-Length: {MAX_BYTES}") + HEAD)
        time.sleep(0.2)
        started = time.monotonic()
        assert httpx.get(f"{served.url}/healthz", timeout=20).status_code == 200
        assert time.monotonic() - started < 1.5
    finally:
        for client in clients:
            client.close()
