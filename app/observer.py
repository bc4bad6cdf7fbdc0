"""What is told of a batch: each change of its state once it is committed, and in a worker each step of an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog

from app.batch import State
from app.store.batches import Batch, Counts

log = structlog.get_logger()


class Why(StrEnum):
    """What changed a state: the arrows of docs/explanation/architecture.md."""

    RECEIVED = "received"
    CLAIMED = "claimed"
    TAKEN_OVER = "taken over"
    HEADER_READ = "header read"
    VERDICT_PASSED = "verdict passed"
    COMMITTED = "committed"
    REFUSED = "refused"
    POISONED = "poisoned"
    RELEASED = "released"
    """The surroundings (database, storage, disk) ended the attempt."""
    DEFECT = "ended by a defect"
    HANDED_OVER = "handed over"
    RETRIED = "retried"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a batch's state that is committed. Ids, figures and names of ours; never a cell, never a file's name."""

    batch: Batch
    """As it was when the attempt, or whoever asked for the change, read it: id, source, fence and attempts hold."""
    before: State | None
    after: State
    why: Why
    counts: Counts | None = None
    """Where a worker came to a verdict."""
    code: str | None = None
    """Where the batch failed."""


class Observer(Protocol):
    """Whoever watches a worker's attempts. What it is told must not wait, and must not raise."""

    def changed(self, change: Change) -> None:
        """A state has changed."""

    def lost(self, batch: Batch) -> None:
        """The attempt has found its claim gone."""

    def attempt(self, batch: Batch, claim_seconds: float) -> AbstractContextManager[object]:
        """Is entered around an attempt, right after its claim, which took so long."""

    def step(self, name: str) -> AbstractContextManager[object]:
        """Is entered around a step of this thread's attempt: check, verdict, load, commit."""


class Observers:
    """Several observers as one, or none."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def changed(self, change: Change) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.changed(change)

    def lost(self, batch: Batch) -> None:
        """Tell each."""
        for observer in self._observers:
            observer.lost(batch)

    def attempt(self, batch: Batch, claim_seconds: float) -> AbstractContextManager[object]:
        """Enter each."""
        return _all_of([observer.attempt(batch, claim_seconds) for observer in self._observers])

    def step(self, name: str) -> AbstractContextManager[object]:
        """Enter each."""
        return _all_of([observer.step(name) for observer in self._observers])


def _all_of(managers: Sequence[AbstractContextManager[object]]) -> AbstractContextManager[object]:
    stack = ExitStack()
    for manager in managers:
        stack.enter_context(manager)
    return stack


def tell(change: Change, observer: Observer | None = None) -> None:
    """Write the one line of the log for this change, then tell the observer."""
    batch = change.batch
    said: dict[str, object] = {
        "batch_id": str(batch.id),
        "from": None if change.before is None else change.before.value,
        "to": change.after.value,
        "why": change.why.value,
        "fence": batch.fence,
        "attempt": batch.attempts,
        "source": batch.source,
    }
    if change.code is not None:
        said["code"] = change.code
    if change.counts is not None:
        counts = change.counts
        said.update(
            rows=counts.total,
            valid=counts.valid,
            invalid=counts.invalid,
            inserted=counts.inserted,
            duplicate=counts.duplicate,
            conflict=counts.conflict,
            parse_ms=counts.parse_duration_ms,
            db_ms=counts.db_duration_ms,
        )
    log.info("batch changed", **said)
    if observer is not None:
        observer.changed(change)
