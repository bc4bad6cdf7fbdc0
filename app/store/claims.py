"""The claims: how an attempt takes a batch, keeps it, moves it on, and ends it or gives it back. The database's clock only.

Every write of an attempt carries its fence. A write that finds another fence, or a batch that is no longer in a running
state, changes nothing and raises LostClaimError.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from app.batch import MAX_SILENT_ATTEMPTS, State
from app.errors import CATALOGUE
from app.store.batches import Batch, Counts, one

_RUNNING = "('staging', 'validating', 'inserting')"
_EXPIRED = f"(status IN {_RUNNING} AND lease_until < clock_timestamp())"
_WAITING = "(status = 'uploaded' AND (not_before IS NULL OR not_before <= clock_timestamp()))"
CLAIMABLE = f"({_WAITING} OR {_EXPIRED})"
"""A condition on intake.batches: the batch waits for a worker, or its worker has fallen silent."""

FIRST_BACKOFF_SECONDS = 1
LONGEST_BACKOFF_SECONDS = 60


class LostClaimError(Exception):
    """The attempt's claim is gone: taken over, cancelled, or released. Nothing was written."""


def is_held(connection: Connection, batch_id: UUID, fence: int) -> bool:
    """Whether an attempt with this fence holds the batch."""
    return bool(
        connection.scalar(
            text(
                f"SELECT EXISTS (SELECT FROM intake.batches WHERE id = :id AND fence = :fence AND status IN {_RUNNING})"
            ),
            {"id": batch_id, "fence": fence},
        )
    )


def end_stale_backends(connection: Connection, batch_id: UUID | None = None) -> int:
    """End connections on which an attempt that lost its lease still holds a transaction open; returns their number.

    Of one batch before it is taken over: else a stopped worker's uncommitted keys would block whoever does. Of all
    batches before they are looked for: what an attempt has locked that stopped just before its commit is passed over.
    """
    return int(
        connection.scalar(
            text(
                f"""
                WITH loads AS MATERIALIZED (
                    SELECT pid, split_part(application_name, ':', 2) AS batch_id,
                        split_part(application_name, ':', 3) AS fence
                    FROM pg_stat_activity WHERE application_name ~ '^dragonfly:[0-9a-f-]{{36}}:[0-9]{{1,18}}$'
                )
                SELECT count(pg_terminate_backend(l.pid, 5000))
                FROM loads l JOIN intake.batches b ON b.id = l.batch_id::uuid AND l.fence::bigint <= b.fence
                WHERE (CAST(:id AS uuid) IS NULL OR b.id = :id)
                    AND (b.status = 'uploaded' OR (b.status IN {_RUNNING} AND b.lease_until < clock_timestamp()))
                """
            ),
            {"id": batch_id},
        )
        or 0
    )


def hold_claimable(connection: Connection, batch_id: UUID) -> Batch | None:
    """The batch, which nobody else changes before the transaction ends; None where it is not to be claimed."""
    return one(
        connection, f"SELECT * FROM intake.batches WHERE id = :id AND {CLAIMABLE} FOR NO KEY UPDATE", id=batch_id
    )


def claim(connection: Connection, batch_id: UUID, *, owner: str, lease_seconds: int) -> Batch | None:
    """Take the batch for one attempt, with a higher fence and a fresh lease; None where it is not to be had.

    A batch whose attempts have ended without a word MAX_SILENT_ATTEMPTS times fails as POISONED instead.
    """
    poisoned = connection.execute(
        text(
            f"""
            UPDATE intake.batches SET status = 'failed', rejection_code = 'POISONED', rejection_reason = :reason,
                fence = fence + 1, lease_until = NULL, lease_owner = NULL, completed_at = clock_timestamp()
            WHERE id = :id AND attempts >= :most AND {CLAIMABLE}
            """
        ),
        {"id": batch_id, "most": MAX_SILENT_ATTEMPTS, "reason": CATALOGUE["POISONED"].sentence},
    )
    if poisoned.rowcount:
        return None
    return one(
        connection,
        f"""
        UPDATE intake.batches SET status = 'staging', fence = fence + 1, attempts = attempts + 1,
            lease_until = clock_timestamp() + make_interval(secs => :lease), lease_owner = :owner,
            rows_processed = 0, bytes_processed = 0, not_before = NULL, hinted_at = NULL,
            started_at = coalesce(started_at, clock_timestamp())
        WHERE id = :id AND {CLAIMABLE}
        RETURNING *
        """,
        id=batch_id,
        owner=owner,
        lease=lease_seconds,
    )


def renew(connection: Connection, batch: Batch, *, lease_seconds: int, rows: int, bytes_read: int) -> None:
    """Extend the lease and show the progress that earned it. Raises LostClaimError."""
    _write(
        connection,
        batch,
        "lease_until = clock_timestamp() + make_interval(secs => :lease),"
        " rows_processed = :rows, bytes_processed = :bytes",
        lease=lease_seconds,
        rows=rows,
        bytes=bytes_read,
    )


def enter(connection: Connection, batch: Batch, state: State) -> None:
    """Move to the next running state. Raises LostClaimError."""
    _write(connection, batch, "status = :state", state=state.value)


def complete(connection: Connection, batch: Batch, counts: Counts, reading: Mapping[str, Any]) -> None:
    """The last statement of the loading transaction. Raises LostClaimError: then the caller rolls all of it back."""
    _end(connection, batch, counts, reading, status=State.COMPLETED, code=None, reason=None)


def fail(
    connection: Connection, batch: Batch, counts: Counts, reading: Mapping[str, Any], *, code: str, reason: str
) -> None:
    """Refuse the whole file; ``reason`` in words. Raises LostClaimError."""
    _end(connection, batch, counts, reading, status=State.FAILED, code=code, reason=reason)


def release(connection: Connection, batch: Batch, *, counts_against_batch: bool) -> bool:
    """Give the claim back, to be taken again after a backoff that doubles up to 60 s; False where it is gone already.

    An attempt that its surroundings ended (database, storage, disk, shutdown) does not count against the batch.
    """
    done = connection.execute(
        text(
            f"""
            UPDATE intake.batches SET status = 'uploaded', lease_until = NULL, lease_owner = NULL, hinted_at = NULL,
                attempts = attempts - :returned, setbacks = setbacks + 1,
                not_before = clock_timestamp()
                    + make_interval(secs => least(:longest, :first * 2 ^ least(setbacks, 10))::double precision)
            WHERE id = :id AND fence = :fence AND status IN {_RUNNING}
            """
        ),
        {
            "id": batch.id,
            "fence": batch.fence,
            "returned": 0 if counts_against_batch else 1,
            "first": FIRST_BACKOFF_SECONDS,
            "longest": LONGEST_BACKOFF_SECONDS,
        },
    )
    return bool(done.rowcount)


def release_all_of(connection: Connection, owner_prefix: str) -> list[Batch]:
    """On a worker's shutdown: give back, at once and uncounted, every claim of its processes.

    Returns the batches as they were held.
    """
    rows = connection.execute(
        text(
            f"SELECT * FROM intake.batches WHERE status IN {_RUNNING} AND starts_with(lease_owner, :prefix)"
            " FOR NO KEY UPDATE"
        ),
        {"prefix": owner_prefix},
    )
    held = [Batch.from_row(row) for row in rows]
    connection.execute(
        text(
            """
            UPDATE intake.batches SET status = 'uploaded', lease_until = NULL, lease_owner = NULL, hinted_at = NULL,
                attempts = attempts - 1, not_before = NULL
            WHERE id = ANY (:ids)
            """
        ),
        {"ids": [batch.id for batch in held]},
    )
    return held


def _end(
    connection: Connection,
    batch: Batch,
    counts: Counts,
    reading: Mapping[str, Any],
    *,
    status: State,
    code: str | None,
    reason: str | None,
) -> None:
    values = dataclasses.asdict(counts)
    values["rows"] = counts.total
    _write(
        connection,
        batch,
        """
        status = :status, rejection_code = :code, rejection_reason = :reason, reading = CAST(:reading AS jsonb),
        row_count_total = :total, row_count_valid = :valid, row_count_invalid = :invalid,
        row_count_inserted = :inserted, row_count_duplicate = :duplicate, row_count_conflict = :conflict,
        rows_processed = :rows, bytes_processed = file_size_bytes,
        parse_duration_ms = :parse_duration_ms, db_duration_ms = :db_duration_ms,
        first_judgment_id = :first_judgment_id, last_judgment_id = :last_judgment_id,
        lease_until = NULL, lease_owner = NULL, setbacks = 0, completed_at = clock_timestamp()
        """,
        status=status.value,
        code=code,
        reason=reason,
        reading=json.dumps(reading),
        **values,
    )


def _write(connection: Connection, batch: Batch, assignments: str, **values: Any) -> None:
    done = connection.execute(
        text(f"UPDATE intake.batches SET {assignments} WHERE id = :id AND fence = :fence AND status IN {_RUNNING}"),
        {"id": batch.id, "fence": batch.fence, **values},
    )
    if not done.rowcount:
        raise LostClaimError(f"batch {batch.id}: fence {batch.fence} no longer holds it")
