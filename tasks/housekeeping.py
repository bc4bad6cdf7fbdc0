"""Tasks of beat: what has to be tidied from time to time."""

from __future__ import annotations

from app.store import workers
from tasks import process
from tasks.app import app


@app.task(name="dragonfly.forget_gone_workers")
def forget_gone_workers() -> None:
    """Remove the rows of workers that were last seen a day ago."""
    with process.engine().begin() as connection:
        workers.forget_gone(connection)
