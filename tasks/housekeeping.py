"""Tasks of beat: what has to be tidied from time to time."""

from __future__ import annotations

import datetime as dt

from app import collector
from app.store import workers
from app.store.upkeep import open_upkeep
from tasks import process
from tasks.app import app


@app.task(name="dragonfly.forget_gone_workers")
def forget_gone_workers() -> None:
    """Remove the rows of workers that were last seen a day ago."""
    with process.engine().begin() as connection:
        workers.forget_gone(connection)


@app.task(name="dragonfly.collect_leftovers")
def collect_leftovers() -> None:
    """Look at the next files of the store, and remove those of uploads that were never finished."""
    chosen = process.settings()
    collector.collect_some(
        process.engine(),
        lambda: open_upkeep(chosen.storage),
        older_than=dt.timedelta(hours=chosen.collect_after_hours),
    )
