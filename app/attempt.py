"""One attempt at a batch, under its lease: check every row, take the verdict, then load all or nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

from sqlalchemy import Connection

from app import pause
from app.batch import Ledger, State, verdict
from app.block import Reader
from app.engine import check, load, merge, refusals
from app.engine.check import Findings
from app.engine.load import Loaded
from app.engine.spool import Spool
from app.errors import FileRefusedError
from app.formats.csv import CsvReader
from app.lease import Lease
from app.observer import Change, Why, tell
from app.pause import Point
from app.rows import Accepted
from app.settlement import Settlement
from app.store import blobs, claims, judgments, row_errors
from app.store.batches import Batch, Counts
from app.store.blobs import BlobMissingError, Blobs
from app.workshop import Workshop

_UPLOAD_AGAIN = "upload it again from the original, then retry the batch."


class _RefusedError(Exception):
    """A file is refused after its bytes were read; ``refused_rows`` are those that the database would not take."""

    def __init__(self, code: str, reason: str, refused_rows: int = 0) -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason
        self.refused_rows = refused_rows


class Attempt:
    """One attempt at a batch; ``state`` is the batch's, as far as this attempt has brought it."""

    def __init__(self, workshop: Workshop, batch: Batch, lease: Lease) -> None:
        self.state = batch.status
        self._workshop = workshop
        self._batch = batch
        self._lease = lease
        self._reader: Reader | None = None
        self._reading_so_far: dict[str, object] = {}
        self._parse_ms = 0

    def run(self, spool: Spool, settlement: Settlement) -> State:
        """To the batch's end. Raises LostClaimError, and whatever the surroundings raise."""
        self._settlement = settlement
        self._findings = Findings.into(spool)
        started = time.monotonic()
        try:
            try:
                with self._step("check"):
                    self._check_all_rows()
                with self._step("verdict"):
                    self._take_verdict()
            finally:
                self._parse_ms = _milliseconds_since(started)
            self._load()
        except _RefusedError as refusal:
            self._refuse(refusal)
        return self.state

    def _step(self, name: str) -> AbstractContextManager[object]:
        return self._workshop.observer.step(name)

    def _enter(self, state: State, why: Why) -> None:
        with self._workshop.engine.begin() as connection:
            claims.enter(connection, self._batch, state)
        self._moved(state, why)

    def _moved(self, state: State, why: Why, counts: Counts | None = None, code: str | None = None) -> None:
        before, self.state = self.state, state
        tell(Change(self._batch, before, state, why, counts, code), self._workshop.observer)

    def _check_all_rows(self) -> None:
        """Read the blob once: verify its hash, split it, check every row. Raises _RefusedError."""
        batch, lease = self._batch, self._lease
        stream = _VerifiedStream(self._workshop.blobs, batch)
        refusal: FileRefusedError | None = None
        try:
            try:
                self._reader = CsvReader(stream.pieces(), self._workshop.limits)
                self._enter(State.VALIDATING, Why.HEADER_READ)
                self._findings.errors.outlet = self._settlement.store
                check.check(self._findings, self._reader, batch_id=batch.id, today=batch.today, advance=self._advance)
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

    def _advance(self, rows: int, bytes_read: int) -> None:
        pause.at(Point.CHECKING, self._batch.id)
        self._lease.advance(rows, bytes_read)

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
        self._enter(State.INSERTING, Why.VERDICT_PASSED)
        with self._step("load"):
            counts = self._load_rows()
        self._lease.stop()
        with self._step("commit"):
            counts = self._timed(counts, started)
            claims.complete(self._settlement.connection(), self._batch, counts, self._reading())
            pause.at(Point.COMMITTING, self._batch.id)
            self._settlement.commit()
            pause.at(Point.COMMITTED, self._batch.id)
        self._moved(State.COMPLETED, Why.COMMITTED, counts)

    def _load_rows(self) -> Counts:
        """Write errors, judgments and conflicts; returns the counts, balanced. Raises _RefusedError."""
        engine, batch, findings, lease = self._workshop.engine, self._batch, self._findings, self._lease
        # All keys are read once for this, from a disk that may be slow.
        lease.waiting()
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
        return self._balanced_counts(connection, loaded, target.kept, first_id)

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
        self._lease.waiting()
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
        findings = self._findings
        counts = Counts(total=findings.total, valid=findings.valid - refusal.refused_rows, invalid=findings.invalid)
        connection = self._store_errors()
        self._lease.stop()
        with self._step("commit"):
            counts = self._timed(counts, started)
            reason = refusal.reason.replace("\x00", "\u2400")
            claims.fail(connection, self._batch, counts, self._reading(), code=refusal.code, reason=reason)
            self._settlement.commit()
        self._moved(State.FAILED, Why.REFUSED, counts, refusal.code)

    def _timed(self, counts: Counts, started: float) -> Counts:
        return dataclasses.replace(
            counts, parse_duration_ms=self._parse_ms, db_duration_ms=_milliseconds_since(started)
        )

    def _reading(self) -> dict[str, object]:
        how = dict(self._reader.reading()) if self._reader is not None else self._reading_so_far
        findings = self._findings
        return {**how, "empty_words": dict(findings.empty_words), "error_counts": dict(findings.error_counts)}


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
