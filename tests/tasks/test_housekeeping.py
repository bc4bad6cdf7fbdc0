"""Beat's housekeeping: the collector runs on the process's own settings, and is due every hour."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

from app.settings import Settings
from app.store.blobs import open_blobs
from tasks import process
from tasks.housekeeping import collect_leftovers
from tests.conftest import Look, Sender


def test_what_is_older_than_the_setting_says_is_removed_and_counted(
    celery: Celery, settings: Settings, look: Look, tmp_path: Path
) -> None:
    blobs = open_blobs(settings.storage)
    batch = Sender(process.engine(), blobs)(b"case_number\n1\n")
    keys = []
    for content, hours in ((b"old", settings.collect_after_hours + 1), (b"young", settings.collect_after_hours - 1)):
        incoming = blobs.incoming()
        incoming.write(content)
        keys.append(blobs.keep(incoming))
        stamp = time.time() - hours * 3600
        os.utime(tmp_path / "blobs" / keys[-1], (stamp, stamp))
    collect_leftovers()
    left = {str(path.relative_to(tmp_path / "blobs")) for path in (tmp_path / "blobs").rglob("*") if path.is_file()}
    assert left == {batch.storage_key, keys[1]}
    assert look.rows("SELECT kind, removed, removed_bytes FROM ops.leftovers WHERE removed > 0") == [("blob", 1, 3)]


def test_it_is_due_every_hour(celery: Celery) -> None:
    (entry,) = [entry for entry in celery.conf.beat_schedule.values() if entry["task"] == collect_leftovers.name]
    assert entry["schedule"] == 3600
