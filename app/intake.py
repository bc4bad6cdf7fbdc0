"""The story of a file: how it is received, and how its batch is ingested, all of it or nothing.

receive: the bytes are in the blob store -> a batch row -> the caller answers 202 and sends a hint.
ingest:  claim -> check every row -> verdict -> one transaction with judgments, errors, conflicts, ledger and state.

The database is the truth: a hint may be lost, doubled or late, and a worker may die anywhere in here.
"""

from __future__ import annotations

import datetime as dt
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app import pause
from app.attempt import Attempt
from app.batch import State
from app.engine.spool import Spool
from app.lease import Lease
from app.observer import Change, Why, tell
from app.pause import Point
from app.settlement import Settlement
from app.store import batches, claims, leftovers
from app.store.batches import Batch
from app.store.blobs import Blobs, Incoming, StorageError
from app.store.claims import LostClaimError
from app.store.leftovers import Kind
from app.workshop import Workshop

log = structlog.get_logger()

# What ends an attempt without being the file's fault or ours: the batch is released and tried again later. A database
# error that is about data or statements is a defect, and counts: it would come again for ever.
_SURROUNDINGS = (
    OperationalError,
    InterfaceError,
    InternalError,
    PoolTimeoutError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,
    StorageError,
    OSError,
)
_RELEASE_TRIES, _RELEASE_SECONDS = 300, 0.1
"""Often enough that a database which comes back hears of the release before somebody finds the lease run out."""

_SURELY_OVER = dt.timedelta(minutes=1)
"""An attempt that has just ended may still be on its way out of its transaction."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What the sender says about a file. ``filename`` is for display only."""

    filename: str
    source: str
    error_threshold_percent: int
    force: bool
    priority: str
    created_by: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """The batch of an upload; ``is_duplicate`` when these bytes were received before, by which nothing new began."""

    batch: Batch
    is_duplicate: bool


def receive(engine: Engine, store: Blobs, incoming: Incoming, upload: Upload) -> Receipt:
    """Keep a file that has fully arrived, and make its batch unless these bytes have one already.

    When this returns, blob and batch are durable. The incoming file is used up in any case. Raises StorageError and
    SQLAlchemy's errors; then nothing was made, or an orphaned blob at worst, which the collector removes.
    """
    try:
        incoming.close()
        file_hash = incoming.sha256()
        pause.at(Point.ARRIVED, file_hash)
        with engine.begin() as connection:
            batches.lock_hash(connection, file_hash)
            first = batches.first_of(connection, file_hash)
            # Also for known bytes: a blob that storage has lost or altered is whole again.
            key = store.keep(incoming)
            pause.at(Point.KEPT, file_hash)
            if first is not None and not upload.force:
                return Receipt(first, is_duplicate=True)
            batch = batches.insert(
                connection,
                filename=upload.filename,
                source=upload.source,
                file_hash=file_hash,
                storage_key=key,
                file_size_bytes=incoming.size,
                error_threshold_percent=upload.error_threshold_percent,
                priority=upload.priority,
                created_by=upload.created_by,
                first_batch_id=first.id if first else None,
            )
        pause.at(Point.RECEIVED, file_hash)
        tell(Change(batch, None, State.UPLOADED, Why.RECEIVED))
        return Receipt(batch, is_duplicate=False)
    finally:
        incoming.discard()


def ingest(workshop: Workshop, batch_id: UUID) -> State | None:
    """Work on the batch if it is to be had, to its verdict or to the end of this attempt.

    Returns the state reached, or None where there was nothing to do or the attempt ended without a verdict: another one
    follows, for the reconciler finds every batch without a verdict. Never raises for a file's or the surroundings' sake.
    """
    began = time.monotonic()
    batch = _claim(workshop, batch_id)
    if batch is None:
        return None
    with (
        workshop.observer.attempt(batch, time.monotonic() - began),
        Lease(workshop.engine, batch, workshop.lease_seconds) as lease,
    ):
        pause.at(Point.CLAIMED, batch.id)
        attempt = Attempt(workshop, batch, lease)
        try:
            with (
                Spool(workshop.spool, str(batch.id), batch.fence) as spool,
                Settlement(workshop.engine, batch, lease.waiting) as settlement,
            ):
                return attempt.run(spool, settlement)
        except LostClaimError:
            log.warning("claim lost", batch_id=str(batch.id), fence=batch.fence)
            workshop.observer.lost(batch)
        except _SURROUNDINGS as trouble:
            lease.stop()
            _release(workshop, batch, attempt.state, trouble, counts_against_batch=False)
        except Exception as defect:
            lease.stop()
            _release(workshop, batch, attempt.state, defect, counts_against_batch=True)
    return None


def sweep_spool(workshop: Workshop) -> None:
    """Remove what attempts that are over have left on this machine's disk: a killed worker cannot do it itself.

    Raises SQLAlchemy's errors.
    """
    for folder in Spool.folders(workshop.spool):
        with workshop.engine.begin() as connection:
            if claims.is_held(connection, folder.batch_id, folder.fence):
                continue
            # However young it is: an attempt whose fence is gone can write nothing any more.
            size = folder.size()
            folder.remove()
            leftovers.count(connection, Kind.SPOOL, size=size)
        log.info("spool swept", batch_id=str(folder.batch_id), fence=folder.fence, bytes=size)


def end_old_attempts(workshop: Workshop) -> None:
    """End the transactions of attempts that are over, whose workers were stopped or cut off. Raises SQLAlchemy's errors."""
    with workshop.engine.begin() as connection:
        ended = leftovers.end_connections(connection, over_for=_SURELY_OVER)
        if ended:
            leftovers.count(connection, Kind.CONNECTION, removed=ended)
    if ended:
        log.warning("connections of old attempts ended", connections=ended)


def _claim(workshop: Workshop, batch_id: UUID) -> Batch | None:
    try:
        with workshop.engine.begin() as connection:
            ended = claims.end_stale_backends(connection, batch_id)
        with workshop.engine.begin() as connection:
            found = claims.hold_claimable(connection, batch_id)
            if found is None:
                return None
            batch = claims.claim(connection, batch_id, owner=workshop.owner, lease_seconds=workshop.lease_seconds)
    except SQLAlchemyError as trouble:
        log.warning("claim impossible", batch_id=str(batch_id), trouble=type(trouble).__name__)
        return None
    if ended:
        log.warning("stale connections ended", batch_id=str(batch_id), connections=ended)
    if batch is None:
        tell(Change(found, found.status, State.FAILED, Why.POISONED, code="POISONED"), workshop.observer)
        return None
    why = Why.CLAIMED if found.status is State.UPLOADED else Why.TAKEN_OVER
    tell(Change(batch, found.status, State.STAGING, why), workshop.observer)
    return batch


def _release(workshop: Workshop, batch: Batch, state: State, problem: Exception, *, counts_against_batch: bool) -> None:
    """Give the batch back. Only the problem's type and place are logged: its text may hold a row."""
    frame = traceback.extract_tb(problem.__traceback__)[-1]
    log.warning(
        "attempt ended",
        batch_id=str(batch.id),
        fence=batch.fence,
        problem=type(problem).__name__,
        sqlstate=getattr(getattr(problem, "orig", problem), "sqlstate", None),
        place=f"{Path(frame.filename).name}:{frame.lineno}",
        counts_against_batch=counts_against_batch,
    )
    for _ in range(_RELEASE_TRIES):
        try:
            with workshop.engine.begin() as connection:
                released = claims.release(connection, batch, counts_against_batch=counts_against_batch)
        except SQLAlchemyError:
            time.sleep(_RELEASE_SECONDS)
            continue
        if released:
            why = Why.DEFECT if counts_against_batch else Why.RELEASED
            tell(Change(batch, state, State.UPLOADED, why), workshop.observer)
        return
    log.warning("claim left to its lease", batch_id=str(batch.id), fence=batch.fence)
