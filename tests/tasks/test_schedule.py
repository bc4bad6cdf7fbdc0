"""Beat's scheduler: of two beats one fires, the other takes over when it is gone, and a pooler alone will not do."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from app.local.postgres import Postgres
from app.settings import Settings, SettingsError
from tasks import process
from tasks.app import WATCH_QUEUE
from tasks.schedule import SingleScheduler
from tests.conftest import Look
from tests.tasks.conftest import Queues, assert_soon, begun

TASK = "dragonfly.forget_gone_workers"
SCHEDULE = {
    "often": {"task": TASK, "schedule": 0.05, "options": {"queue": WATCH_QUEUE}},
}


@pytest.fixture
def celery(
    settings: Settings, queues: Queues, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Celery]:
    """Celery with an entry that is due twenty times a second."""
    direct = dataclasses.replace(settings, database_direct_url=postgres_server.url())
    with begun(direct, monkeypatch) as configured:
        schedule = configured.conf.beat_schedule
        configured.conf.beat_schedule = SCHEDULE
        yield configured
        configured.conf.beat_schedule = schedule


def fired(queues: Queues) -> int:
    """How many messages of the schedule wait; the sentinel's canaries are none."""
    return sum(message["headers"]["task"] == TASK for message in queues.raw(WATCH_QUEUE))


class Beats:
    """Beats of one machine or of two, each with a schedule file of its own."""

    def __init__(self, celery: Celery, folder: Path) -> None:
        self.celery = celery
        self.folder = folder
        self.open: list[SingleScheduler] = []

    def begin(self) -> SingleScheduler:
        beat = SingleScheduler(app=self.celery, schedule_filename=str(self.folder / f"beat-{len(self.open)}"))
        self.open.append(beat)
        return beat

    def fires(self, beat: SingleScheduler, queues: Queues) -> int:
        """How many messages the beat has sent after ten chances."""
        before = fired(queues)
        for _ in range(10):
            beat.tick()
            time.sleep(0.02)
        return fired(queues) - before


@pytest.fixture
def beats(celery: Celery, tmp_path: Path) -> Iterator[Beats]:
    made = Beats(celery, tmp_path)
    yield made
    for beat in made.open:
        beat.close()


def test_of_two_beats_only_one_fires(beats: Beats, queues: Queues) -> None:
    one, two = beats.begin(), beats.begin()
    assert beats.fires(one, queues) > 0
    assert beats.fires(two, queues) == 0
    assert two.tick() == pytest.approx(5.0)
    assert beats.fires(one, queues) > 0


def test_the_other_takes_over_when_the_first_is_gone(beats: Beats, queues: Queues) -> None:
    one, two = beats.begin(), beats.begin()
    assert beats.fires(one, queues) > 0
    assert beats.fires(two, queues) == 0
    one.close()
    beats.open.remove(one)
    assert beats.fires(two, queues) > 0


def test_the_sentinel_goes_with_the_lock(
    celery: Celery, tmp_path: Path, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    frequent = dataclasses.replace(process.settings(), sentinel_interval_seconds=0.1)
    monkeypatch.setattr(process, "_settings", frequent)
    beat = SingleScheduler(app=celery, schedule_filename=str(tmp_path / "beat"))
    beat.tick()
    assert_soon(lambda: look.count("ops.sentinel_runs") > 1)
    beat.close()
    runs = look.count("ops.sentinel_runs")
    time.sleep(1)
    assert look.count("ops.sentinel_runs") == runs


def test_one_whose_session_was_lost_asks_for_the_lock_again(beats: Beats, queues: Queues, look: Look) -> None:
    one, two = beats.begin(), beats.begin()
    assert beats.fires(one, queues) > 0
    ended = look.rows("SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted")
    assert ended == [(True,)]
    assert beats.fires(two, queues) > 0
    assert beats.fires(one, queues) == 0


def test_the_lock_is_taken_once_however_often_it_is_asked_for(beats: Beats, queues: Queues, look: Look) -> None:
    one = beats.begin()
    beats.fires(one, queues)
    assert look.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted") == [(1,)]


def test_without_a_direct_connection_it_refuses(
    settings: Settings, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begun(settings, monkeypatch) as celery, pytest.raises(SettingsError, match="DATABASE_DIRECT_URL"):
        SingleScheduler(app=celery, schedule_filename=str(settings.home / "beat"))


def test_without_a_database_it_fires_nothing_and_asks_again(
    settings: Settings, queues: Queues, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone: Any = dataclasses.replace(settings, database_direct_url="postgresql:///dragonfly?host=/nonexistent")
    with begun(gone, monkeypatch) as celery:
        beat = SingleScheduler(app=celery, schedule_filename=str(tmp_path / "beat"))
        assert beat.tick() == pytest.approx(5.0)
        beat.close()
    assert fired(queues) == 0
