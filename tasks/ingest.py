"""The task of a hint: work on the batch, if it is to be had."""

from __future__ import annotations

from uuid import UUID

from app import intake
from tasks import process
from tasks.app import app

NAME = "dragonfly.ingest"


@app.task(name=NAME)
def ingest(batch_id: str) -> None:
    """One attempt at a batch; a claim that gets no row returns at once."""
    intake.ingest(process.workshop(), UUID(batch_id))
