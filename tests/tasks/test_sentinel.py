"""The sentinel in a worker that stands in for one that does not run."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest

from app.settings import Settings
from monitoring import bounded
from tasks import canary
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
