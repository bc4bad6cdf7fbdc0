"""The story of a file: how it is received, and how its batch is ingested, all of it or nothing.

receive: the bytes are in the blob store -> a batch row -> the caller answers 202 and sends a hint.
ingest:  claim -> check every row -> verdict -> one transaction with judgments, errors, conflicts, ledger and state.

The database is the truth: a hint may be lost, doubled or late, and a worker may die anywhere in here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg
import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.batch import Ledger, State, verdict
from app.block import Reader
from app.engine import check, load, merge, refusals
from app.engine.check import Findings
from app.engine.load import Loaded
from app.engine.spool import Spool
from app.errors import FileRefusedError
from app.formats.csv import CsvReader, Limits
from app.lease import Lease
from app.rows import Accepted
from app.settlement import Settlement
from app.store import batches, blobs, judgments, row_errors
from app.store.batches import Batch, Counts, LostClaimError
from app.store.blobs import BlobMissingError, Blobs, Incoming, StorageError

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
_UPLOAD_AGAIN = "upload it again from the original, then retry the batch."


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


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a worker needs: its connections, the files, local disk, its limits, and the name under which it claims."""

    engine: Engine
    blobs: Blobs
    spool: Path
    limits: Limits
    lease_seconds: int
    owner: str


def receive(engine: Engine, store: Blobs, incoming: Incoming, upload: Upload) -> Receipt:
    """Keep a file that has fully arrived, and make its batch unless these bytes have one already.

    When this returns, blob and batch are durable. The incoming file is used up in any case. Raises StorageError and
    SQLAlchemy's errors; then nothing was made, or an orphaned blob at worst, which the collector removes.
    """
    try:
        incoming.close()
        file_hash = incoming.sha256()
        with engine.begin() as connection:
            batches.lock_hash(connection, file_hash)
            first = batches.first_of(connection, file_hash)
            # Also for known bytes: a blob that storage has lost or altered is whole again.
            key = store.keep(incoming)
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
        log.info("batch received", batch_id=str(batch.id), bytes=batch.file_size_bytes, source=batch.source)
        return Receipt(batch, is_duplicate=False)
    finally:
        incoming.discard()


def ingest(workshop: Workshop, batch_id: UUID) -> State | None:
    """Work on the batch if it is to be had, to its verdict or to the end of this attempt.

    Returns the state reached, or None where there was nothing to do or the attempt ended without a verdict: another one
    follows, for the reconciler finds every batch without a verdict. Never raises for a file's or the surroundings' sake.
    """
    batch = _claim(workshop, batch_id)
    if batch is None:
        return None
    with Lease(workshop.engine, batch, workshop.lease_seconds) as lease:
        try:
            with (
                Spool(workshop.spool, str(batch.id), batch.fence) as spool,
                Settlement(workshop.engine, batch, lease.waiting) as settlement,
            ):
                state = _Attempt(workshop, batch, lease, spool, settlement).run()
        except LostClaimError:
            log.warning("claim lost", batch_id=str(batch.id), fence=batch.fence)
            return None
        except _SURROUNDINGS as trouble:
            lease.stop()
            _release(workshop, batch, trouble, counts_against_batch=False)
            return None
        except Exception as defect:
            lease.stop()
            _release(workshop, batch, defect, counts_against_batch=True)
            return None
    log.info("batch ended", batch_id=str(batch.id), state=state.value)
    return state


def sweep_spool(workshop: Workshop) -> None:
    """Remove what attempts that are over have left on this machine's disk: a killed worker cannot do it itself.

    Raises SQLAlchemy's errors.
    """
    for folder in Spool.folders(workshop.spool):
        with workshop.engine.begin() as connection:
            held = batches.is_held(connection, folder.batch_id, folder.fence)
        if not held:
            log.info("spool swept", batch_id=str(folder.batch_id), fence=folder.fence)
            folder.remove()


def _claim(workshop: Workshop, batch_id: UUID) -> Batch | None:
    try:
        with workshop.engine.begin() as connection:
            ended = batches.end_stale_backends(connection, batch_id)
        with workshop.engine.begin() as connection:
            batch = batches.claim(connection, batch_id, owner=workshop.owner, lease_seconds=workshop.lease_seconds)
    except SQLAlchemyError as trouble:
        log.warning("claim impossible", batch_id=str(batch_id), trouble=type(trouble).__name__)
        return None
    if batch is not None:
        log.info(
            "batch claimed",
            batch_id=str(batch.id),
            fence=batch.fence,
            attempt=batch.attempts,
            owner=workshop.owner,
            ended_backends=ended,
        )
    return batch


class _RefusedError(Exception):
    """A file is refused after its bytes were read; ``refused_rows`` are those that the database would not take."""

    def __init__(self, code: str, reason: str, refused_rows: int = 0) -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason
        self.refused_rows = refused_rows


class _Attempt:
    """One attempt at a batch, under its lease: check all rows, take the verdict, then load all or nothing."""

    def __init__(self, workshop: Workshop, batch: Batch, lease: Lease, spool: Spool, settlement: Settlement) -> None:
        self._workshop = workshop
        self._batch = batch
        self._lease = lease
        self._settlement = settlement
        self._findings = Findings.into(spool)
        self._reader: Reader | None = None
        self._reading_so_far: dict[str, object] = {}
        self._parse_ms = 0

    def run(self) -> State:
        """To the batch's end. Raises LostClaimError, and whatever the surroundings raise."""
        started = time.monotonic()
        try:
            try:
                self._check_all_rows()
                self._take_verdict()
            finally:
                self._parse_ms = _milliseconds_since(started)
            self._load()
        except _RefusedError as refusal:
            self._refuse(refusal)
            return State.FAILED
        return State.COMPLETED

    def _check_all_rows(self) -> None:
        """Read the blob once: verify its hash, split it, check every row. Raises _RefusedError."""
        batch, lease = self._batch, self._lease
        stream = _VerifiedStream(self._workshop.blobs, batch)
        refusal: FileRefusedError | None = None
        try:
            try:
                self._reader = CsvReader(stream.pieces(), self._workshop.limits)
                with self._workshop.engine.begin() as connection:
                    batches.enter(connection, batch, State.VALIDATING)
                self._findings.errors.outlet = self._settlement.store
                check.check(self._findings, self._reader, batch_id=batch.id, today=batch.today, advance=lease.advance)
            except FileRefusedError as found:
                refusal = found
                self._reading_so_far = found.reading
            # A file that is refused early is still read to its end: an altered blob comes before any other fault.
            for _ in stream.pieces():
                lease.alive()
        except BlobMissingError:
            raise _RefusedError("INTEGRITY_ERROR", f"The stored file is missing: {_UPLOAD_AGAIN}") from None
        if stream.sha256() != batch.file_hash:
            reason = f"The stored file no longer has the SHA-256 it was received with: {_UPLOAD_AGAIN}"
            raise _RefusedError("INTEGRITY_ERROR", reason)
        if refusal is not None:
            raise _RefusedError(refusal.code, refusal.reason)
        if not self._findings.total:
            raise _RefusedError("EMPTY_FILE", "The file has a header and no data rows.")

    def _take_verdict(self, refused_rows: int = 0) -> None:
        """Compare the error rate with the budget. Raises _RefusedError."""
        decision = verdict(
            total=self._findings.total,
            invalid=self._findings.invalid,
            threshold_percent=self._batch.error_threshold_percent,
        )
        if decision.reason is not None:
            raise _RefusedError("ERROR_BUDGET_EXCEEDED", decision.reason, refused_rows)

    def _load(self) -> None:
        """The second phase: everything of the batch in one transaction, its last statement guarded by the fence."""
        started = time.monotonic()
        engine, batch, findings, lease = self._workshop.engine, self._batch, self._findings, self._lease
        with engine.begin() as connection:
            batches.enter(connection, batch, State.INSERTING)
        ranges = merge.key_ranges(findings.rows.runs, load.MOST_RANGES)
        with engine.begin() as connection:
            first_id = judgments.reserve_ids(connection, findings.valid)
        connection = self._store_errors()
        self._settlement.begin_load()
        target = judgments.JudgmentTarget(connection, batch.id, first_id=first_id, alive=lease.waiting)
        with judgments.Others(engine, batch.id, batch.fence, alive=lease.waiting) as others:
            loaded = load.load(ranges, target, self._refuse_row, others.standing)
        try:
            self._take_verdict(loaded.refused)
        except _RefusedError:
            self._settlement.undo_load()
            raise
        row_errors.store(connection, findings.errors.take(), lease.waiting)
        counts = self._balanced_counts(connection, loaded, target.kept, first_id)
        lease.stop()
        batches.complete(connection, batch, self._timed(counts, started), self._reading())
        self._settlement.commit()

    def _store_errors(self) -> Connection:
        """The settlement's connection, with every row error stored that was found so far."""
        connection = self._settlement.connection()
        self._findings.errors.outlet = None
        row_errors.store(connection, self._findings.errors.take(), self._lease.waiting)
        return connection

    def _refuse_row(self, row: Accepted) -> None:
        """Keep a row that the database itself refused, from its bytes in the blob."""
        reader = self._reader
        if reader is None:
            raise RuntimeError("rows were loaded without a reader")
        raw = self._workshop.blobs.read_range(_key_of(self._batch), row.start, row.end)
        self._findings.refuse(
            refusals.insert_failed(self._batch.id.bytes, row, reader.mapping.keys, reader.cells_of(raw), raw)
        )

    def _balanced_counts(self, connection: Connection, loaded: Loaded, conflicts: int, first_id: int) -> Counts:
        """The batch's counts, after the ledger was checked against what the database holds. Raises LedgerError."""
        batch_id, findings = self._batch.id, self._findings
        valid = findings.valid - loaded.refused
        last_id = first_id + findings.valid - 1
        stored, dollars_stored = judgments.totals(connection, batch_id, first_id, last_id)
        Ledger(
            total=findings.total,
            valid=valid,
            invalid=findings.invalid,
            inserted=valid - loaded.duplicates,
            duplicate=loaded.duplicates,
            errors_stored=row_errors.count(connection, batch_id),
            conflicts_stored=conflicts,
            judgments_stored=stored,
            dollars_valid=findings.dollars_valid - loaded.dollars_refused,
            dollars_duplicate=loaded.dollars_duplicate,
            dollars_stored=dollars_stored,
        ).check()
        return Counts(
            total=findings.total,
            valid=valid,
            invalid=findings.invalid,
            inserted=stored,
            duplicate=loaded.duplicates,
            conflict=loaded.differing,
            first_judgment_id=first_id if stored else None,
            last_judgment_id=last_id if stored else None,
        )

    def _refuse(self, refusal: _RefusedError) -> None:
        """Fail the batch: every row error that was found is kept, and not one judgment."""
        started = time.monotonic()
        batch, findings = self._batch, self._findings
        counts = Counts(total=findings.total, valid=findings.valid - refusal.refused_rows, invalid=findings.invalid)
        connection = self._store_errors()
        self._lease.stop()
        batches.fail(
            connection,
            batch,
            self._timed(counts, started),
            self._reading(),
            code=refusal.code,
            reason=refusal.reason.replace("\x00", "\u2400"),
        )
        self._settlement.commit()

    def _timed(self, counts: Counts, started: float) -> Counts:
        return dataclasses.replace(
            counts, parse_duration_ms=self._parse_ms, db_duration_ms=_milliseconds_since(started)
        )

    def _reading(self) -> dict[str, object]:
        how = dict(self._reader.reading()) if self._reader is not None else self._reading_so_far
        findings = self._findings
        return {**how, "empty_words": dict(findings.empty_words), "error_counts": dict(findings.error_counts)}


def _release(workshop: Workshop, batch: Batch, problem: Exception, *, counts_against_batch: bool) -> None:
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
                batches.release(connection, batch, counts_against_batch=counts_against_batch)
        except SQLAlchemyError:
            time.sleep(_RELEASE_SECONDS)
        else:
            return
    log.warning("claim left to its lease", batch_id=str(batch.id), fence=batch.fence)


class _VerifiedStream:
    """A batch's blob, hashed while it is read; ``pieces`` may be taken up again where it was left."""

    def __init__(self, store: Blobs, batch: Batch) -> None:
        self._pieces = store.read(_key_of(batch))
        self._hash = hashlib.sha256()

    def pieces(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self._hash.update(piece)
            yield piece

    def sha256(self) -> str:
        return self._hash.hexdigest()


def _key_of(batch: Batch) -> str:
    return batch.storage_key or blobs.key_of(batch.file_hash)


def _milliseconds_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
