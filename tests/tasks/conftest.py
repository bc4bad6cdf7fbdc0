"""Celery on a broker that a test may use up, hang or kill, and the process's settings put in place for one test."""

from __future__ import annotations

import base64
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import redis
from celery import Celery
from sqlalchemy import Engine

from app.local.valkey import Valkey, free_port
from app.settings import Settings
from tasks import hints, process
from tasks.app import configure
from tasks.hints import Hinter


def assert_soon(condition: Callable[[], bool], within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@dataclass(frozen=True)
class Queues:
    """What lies in the broker, as it lies there."""

    client: redis.Redis

    def raw(self, queue: str) -> list[dict[str, Any]]:
        """The messages of a queue, oldest first."""
        return [json.loads(message) for message in reversed(self.client.lrange(queue, 0, -1))]

    def bodies(self, queue: str) -> list[Any]:
        """Their bodies."""
        return [json.loads(base64.b64decode(message["body"])) for message in self.raw(queue)]

    def ids(self, queue: str) -> list[str]:
        """The ids that they carry."""
        return [body[0][0] for body in self.bodies(queue)]

    def disconnect_everybody(self) -> None:
        """Close every connection but this one, as a restart does."""
        self.client.client_kill_filter(_type="normal", skipme=True)

    def everything(self) -> bytes:
        """All that the broker holds."""
        return b"\n".join(self.client.dump(key) for key in self.client.scan_iter())


@pytest.fixture
def queues(broker: Valkey) -> Iterator[Queues]:
    """The broker's queues, empty."""
    client = redis.Redis.from_url(broker.url)
    client.flushall()
    yield Queues(client)
    client.flushall()
    client.close()


@pytest.fixture
def settings(tmp_path: Path, broker: Valkey, service_url: str, database: Engine) -> Settings:
    """A worker's settings, with a lease of 5 s so that the reconciler looks once a second."""
    return Settings(
        home=tmp_path,
        storage_url=str(tmp_path / "blobs"),
        database_url=service_url,
        redis_url=broker.url,
        lease_seconds=5,
    )


@contextmanager
def begun(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """This process as a worker's, until the block is left."""
    for name in ("_settings", "_name", "_made"):
        monkeypatch.setattr(process, name, getattr(process, name))
    process.begin(settings)
    process._made = None
    celery = configure(settings)
    celery.pool.force_close_all()
    try:
        yield celery
    finally:
        if process._made is not None:
            process._made[1].engine.dispose()


@pytest.fixture
def celery(settings: Settings, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """Celery, configured for the broker."""
    with begun(settings, monkeypatch) as configured:
        yield configured


@pytest.fixture
def dead_port() -> int:
    """A port at which nobody answers."""
    return free_port()


@pytest.fixture
def hung_broker(tmp_path: Path) -> Iterator[Valkey]:
    """A broker that takes connections and never says a word."""
    with Valkey(data=tmp_path / "hung", password="hung") as server:
        (found,) = [
            child
            for child in psutil.Process().children(recursive=True)
            if "valkey" in child.name() and str(server.data) == str(Path(f"/proc/{child.pid}/cwd").readlink())
        ]
        found.send_signal(signal.SIGSTOP)
        try:
            yield server
        finally:
            found.send_signal(signal.SIGCONT)


@pytest.fixture
def hinter_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Hinter]]:
    """Makes hinters, whose threads rest after the test: they would go on with what is left on the next test's broker."""
    resting = threading.Semaphore(0)

    def rest(*_: object) -> bool:
        resting.release()
        threading.Event().wait()
        return True

    made: list[Hinter] = []

    def make(celery: Celery, **how: Any) -> Hinter:
        made.append(Hinter(celery, **how))
        return made[-1]

    yield make
    monkeypatch.setattr(hints.Publisher, "publish", rest)
    for hinter in made:
        hinter.enqueue(uuid4(), "normal")
    for _ in made:
        assert resting.acquire(timeout=20)
