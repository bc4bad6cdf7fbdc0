"""The batches: one row each, how it is made, found, and begun anew or cancelled by a person. The database's clock only.

What an attempt does to its batch stands in ``claims``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Connection, Row, text

from app.batch import State

_UNFINISHED = "('uploaded', 'staging', 'validating', 'awaiting_approval', 'inserting')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One row of intake.batches."""

    id: UUID
    filename: str
    source: str
    file_hash: str
    storage_key: str | None
    file_size_bytes: int
    status: State
    error_threshold_percent: int
    rejection_code: str | None
    rejection_reason: str | None
    row_count_total: int
    row_count_valid: int
    row_count_invalid: int
    row_count_inserted: int
    row_count_duplicate: int
    row_count_conflict: int
    rows_processed: int
    bytes_processed: int
    parse_duration_ms: int | None
    db_duration_ms: int | None
    reading: Mapping[str, Any]
    first_judgment_id: int | None
    last_judgment_id: int | None
    created_at: dt.datetime
    created_by: str | None
    started_at: dt.datetime | None
    completed_at: dt.datetime | None
    forced: bool
    first_batch_id: UUID | None
    priority: str
    state_since: dt.datetime
    fence: int
    lease_until: dt.datetime | None
    lease_owner: str | None
    attempts: int
    setbacks: int
    not_before: dt.datetime | None
    hinted_at: dt.datetime | None

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        values = {name: row._mapping[name] for name in cls.__slots__}
        for name, value in values.items():
            if isinstance(value, dt.datetime):
                values[name] = value.astimezone(dt.UTC)
        return cls(**{**values, "status": State(values["status"])})

    @property
    def today(self) -> dt.date:
        """The day by which dates are judged, the same in every attempt: the UTC date of created_at."""
        return self.created_at.astimezone(dt.UTC).date()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What an attempt found and did, as it is written to the batch at its end."""

    total: int = 0
    valid: int = 0
    invalid: int = 0
    inserted: int = 0
    duplicate: int = 0
    conflict: int = 0
    parse_duration_ms: int | None = None
    db_duration_ms: int | None = None
    first_judgment_id: int | None = None
    last_judgment_id: int | None = None


def get(connection: Connection, batch_id: UUID) -> Batch | None:
    """The batch, or None."""
    return one(connection, "SELECT * FROM intake.batches WHERE id = :id", id=batch_id)


def hold(connection: Connection, batch_id: UUID) -> Batch | None:
    """The batch, which nobody else changes before the transaction ends; None where there is none."""
    return one(connection, "SELECT * FROM intake.batches WHERE id = :id FOR NO KEY UPDATE", id=batch_id)


def first_of(connection: Connection, file_hash: str) -> Batch | None:
    """The first, unforced batch of these bytes, or None."""
    return one(connection, "SELECT * FROM intake.batches WHERE file_hash = :hash AND NOT forced", hash=file_hash)


def lock_hash(connection: Connection, file_hash: str) -> None:
    """Hold, to the end of the transaction, the lock that keeps the blob of this hash from being collected."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:hash, 0))"), {"hash": file_hash})


def try_lock_hash(connection: Connection, file_hash: str) -> bool:
    """Hold the same lock unless somebody else does, which is said at once."""
    return bool(
        connection.scalar(text("SELECT pg_try_advisory_xact_lock(hashtextextended(:hash, 0))"), {"hash": file_hash})
    )


def insert(
    connection: Connection,
    *,
    filename: str,
    source: str,
    file_hash: str,
    storage_key: str,
    file_size_bytes: int,
    error_threshold_percent: int,
    priority: str,
    created_by: str,
    first_batch_id: UUID | None,
) -> Batch:
    """Add an uploaded batch; one with a ``first_batch_id`` is forced. It counts as hinted: its hint follows at once."""
    return _require(
        one(
            connection,
            """
            INSERT INTO intake.batches (filename, source, file_hash, storage_key, file_size_bytes, priority, created_by,
                error_threshold_percent, first_batch_id, forced, hinted_at, created_at, state_since)
            VALUES (:filename, :source, :file_hash, :storage_key, :file_size_bytes, :priority, :created_by,
                :error_threshold_percent, :first_batch_id, CAST(:first_batch_id AS uuid) IS NOT NULL,
                clock_timestamp(), clock_timestamp(), clock_timestamp())
            RETURNING *
            """,
            filename=filename,
            source=source,
            file_hash=file_hash,
            storage_key=storage_key,
            file_size_bytes=file_size_bytes,
            priority=priority,
            created_by=created_by,
            error_threshold_percent=error_threshold_percent,
            first_batch_id=first_batch_id,
        )
    )


def retry(connection: Connection, batch_id: UUID, error_threshold_percent: int | None = None) -> Batch | None:
    """Put a failed batch back to uploaded, its errors, counts and attempts cleared; None where it is not failed."""
    batch = one(
        connection,
        """
        UPDATE intake.batches SET status = 'uploaded', rejection_code = NULL, rejection_reason = NULL,
            error_threshold_percent = coalesce(:threshold, error_threshold_percent), fence = fence + 1,
            row_count_total = 0, row_count_valid = 0, row_count_invalid = 0, row_count_inserted = 0,
            row_count_duplicate = 0, row_count_conflict = 0, rows_processed = 0, bytes_processed = 0,
            parse_duration_ms = NULL, db_duration_ms = NULL, reading = '{}', attempts = 0, setbacks = 0,
            not_before = NULL, hinted_at = clock_timestamp(), started_at = NULL, completed_at = NULL
        WHERE id = :id AND status = 'failed'
        RETURNING *
        """,
        id=batch_id,
        threshold=error_threshold_percent,
    )
    if batch is not None:
        connection.execute(text("DELETE FROM intake.row_errors WHERE batch_id = :id"), {"id": batch_id})
        connection.execute(text("DELETE FROM intake.row_conflicts WHERE batch_id = :id"), {"id": batch_id})
    return batch


def cancel(connection: Connection, batch_id: UUID) -> Batch | None:
    """End an unfinished batch; its attempt, if any, can write nothing more. None where it is finished or unknown."""
    return one(
        connection,
        f"""
        UPDATE intake.batches SET status = 'cancelled', fence = fence + 1, lease_until = NULL, lease_owner = NULL,
            completed_at = clock_timestamp()
        WHERE id = :id AND status IN {_UNFINISHED}
        RETURNING *
        """,
        id=batch_id,
    )


def one(connection: Connection, statement: str, **values: Any) -> Batch | None:
    """The batch that the statement returns, or None."""
    row = connection.execute(text(statement), values).one_or_none()
    return None if row is None else Batch.from_row(row)


def _require(batch: Batch | None) -> Batch:
    if batch is None:
        raise RuntimeError("the statement returned no batch")
    return batch
