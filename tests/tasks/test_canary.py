"""How long a canary counts as out."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest
from celery import Celery
from sqlalchemy import Engine

from app.settings import Settings
from app.store import canaries
from tasks import canary
from tasks.app import QUEUES
from tests.conftest import Look
from tests.tasks.conftest import Queues, begun


@pytest.fixture
def out_for_long(database: Engine, look: Look) -> Engine:
    """A canary in each queue that left an hour ago; that of one queue has come back."""
    with database.begin() as connection:
        for queue in QUEUES:
            canaries.leaves(connection, queue)
    look.change("UPDATE ops.canaries SET sent_at = sent_at - interval '1 hour'")
    with database.begin() as connection:
        canaries.answered(connection, "low", "host/1-aa/")
    return database


def waiting(database: Engine) -> dict[str, float | None]:
    """Seconds by queue."""
    with database.begin() as connection:
        return {one.queue: one.waiting_seconds for one in canaries.every(connection)}


def test_one_that_comes_back_at_once_is_not_out(
    celery: Celery, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker answers before the sender has done its next step."""
    monkeypatch.setattr(celery, "send_task", lambda *_, queue, **__: canary.answer(queue))
    for _ in range(2):
        canary.send(celery, database)
        assert waiting(database) == dict.fromkeys(sorted(QUEUES))


@pytest.mark.parametrize("interval", [10, 300])
def test_one_that_a_busy_worker_meets_late_is_still_there_until_the_next_leaves(
    settings: Settings, database: Engine, queues: Queues, monkeypatch: pytest.MonkeyPatch, interval: float
) -> None:
    with begun(dataclasses.replace(settings, sentinel_interval_seconds=interval), monkeypatch) as celery:
        canary.send(celery, database)
    ((message,), now) = queues.raw("low"), dt.datetime.now(dt.UTC)
    expires = dt.datetime.fromisoformat(message["headers"]["expires"])
    lasts = max(60, interval)
    assert lasts - 30 < (expires - now).total_seconds() <= lasts


def test_one_whose_sender_ends_before_it_leaves_comes_back_with_the_next(
    celery: Celery, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(celery, "send_task", ends)
        with pytest.raises(SystemExit):
            canary.send(celery, database)
    assert all(seconds is not None for seconds in waiting(database).values())
    monkeypatch.setattr(celery, "send_task", lambda *_, queue, **__: canary.answer(queue))
    canary.send(celery, database)
    assert waiting(database) == dict.fromkeys(sorted(QUEUES))


def test_one_that_the_broker_never_took_is_not_out(
    settings: Settings, database: Engine, dead_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = dataclasses.replace(settings, redis_url=f"redis://127.0.0.1:{dead_port}/0")
    with begun(away, monkeypatch) as celery:
        canary.send(celery, database)
    assert waiting(database) == {}


def test_one_that_does_not_come_back_keeps_its_time_when_the_next_is_sent(celery: Celery, out_for_long: Engine) -> None:
    canary.send(celery, out_for_long)
    out = waiting(out_for_long)
    assert {queue for queue, seconds in out.items() if (seconds or 0) > 3_000} == set(QUEUES) - {"low"}
    assert out["low"] is not None, "the next one is out"


def test_while_the_broker_takes_none_its_time_does_not_count(
    settings: Settings, out_for_long: Engine, dead_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = dataclasses.replace(settings, redis_url=f"redis://127.0.0.1:{dead_port}/0")
    with begun(away, monkeypatch) as celery:
        canary.send(celery, out_for_long)
    out = waiting(out_for_long)
    assert out["low"] is None, "it has come back, and no other has left"
    assert all(0 <= (seconds or 0) < 60 for seconds in out.values())
