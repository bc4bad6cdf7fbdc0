"""The sentinel in a worker that stands in for one that does not run."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
from sqlalchemy.exc import SQLAlchemyError

from app.settings import Settings
from monitoring import bounded
from tasks import canary, process
from tasks.sentinel import Watch
from tests.conftest import Look
from tests.tasks.conftest import Queues, assert_soon, begun


def test_a_database_that_hangs_over_the_canary_keeps_no_check_from_running(
    settings: Settings, queues: Queues, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(bounded, "LONGEST_SECONDS", 1.0)
    monkeypatch.setattr(canary, "send", lambda *_: released.wait(60))
    with begun(dataclasses.replace(settings, sentinel_interval_seconds=0.1), monkeypatch) as celery:
        watch = Watch(celery)
        time.sleep(0.2)
        watch.stand_in()
        try:
            assert_soon(lambda: look.count("ops.sentinel_runs") == 1, within=10)
        finally:
            released.set()
            watch.end()


def test_one_that_stands_in_remembers_that_the_database_was_away(
    settings: Settings, dead_port: int, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would tell of the deaths of those who could not give a sign of life meanwhile."""
    look.change(
        "INSERT INTO ops.workers (name, host, pid, concurrency, version, last_seen_at)"
        " VALUES ('host/1-aa/', 'host', 1, 2, '0', now() - interval '5 minutes')"
    )
    away = dataclasses.replace(
        settings, database_url=f"postgresql://127.0.0.1:{dead_port}/nowhere", sentinel_interval_seconds=0.1
    )
    with begun(away, monkeypatch) as celery:
        watch = Watch(celery)
        time.sleep(0.2)
        with pytest.raises(SQLAlchemyError):
            watch.stand_in()
    with begun(dataclasses.replace(settings, sentinel_interval_seconds=0.1), monkeypatch):
        watch._sentinel.settings = process.settings()
        time.sleep(0.2)
        watch.stand_in()
        assert_soon(lambda: look.count("ops.sentinel_runs") == 1, within=10)
        watch.end()
    ((findings,),) = look.rows("SELECT findings FROM ops.sentinel_runs")
    (found,) = [finding["message"] for finding in findings if finding["check"] == "workers"]
    assert found == "Waiting for 1 of 1 workers: the database was away"
