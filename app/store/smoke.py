"""What the schema's smoke test writes and reads beside the store's own statements, in a transaction that is rolled back."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text
from sqlalchemy.exc import IntegrityError


@dataclass(frozen=True, slots=True)
class ForbiddenWrite:
    """An UPDATE of the batch ``:id`` that the database has to refuse by the constraint of this name."""

    what: str
    statement: str
    constraint: str


BUDGET_ABOVE_100 = ForbiddenWrite(
    "a threshold of 101 %",
    "UPDATE intake.batches SET error_threshold_percent = 101 WHERE id = :id",
    "batches_error_threshold_percent_check",
)
COMPLETED_AT_ONCE = ForbiddenWrite(
    "uploaded to completed without being worked on",
    "UPDATE intake.batches SET status = 'completed', completed_at = clock_timestamp() WHERE id = :id",
    "batches_transition",
)
FAILED_WITHOUT_A_REASON = ForbiddenWrite(
    "failed without a reason",
    "UPDATE intake.batches SET status = 'failed', completed_at = clock_timestamp() WHERE id = :id",
    "batches_failed_has_a_reason",
)
REASON_WITHOUT_A_FAILURE = ForbiddenWrite(
    "a reason on a batch that has not failed",
    "UPDATE intake.batches SET rejection_reason = 'Not refused at all.' WHERE id = :id",
    "batches_failed_has_a_reason",
)


def bound_waits(connection: Connection, *, lock_seconds: int, statement_seconds: int) -> None:
    """For this transaction only, so a pooler may stand in between."""
    connection.execute(
        text("SELECT set_config('lock_timeout', :lock, true), set_config('statement_timeout', :statement, true)"),
        {"lock": f"{lock_seconds}s", "statement": f"{statement_seconds}s"},
    )


def insert_with_defaults(connection: Connection, file_hash: str) -> RowMapping:
    """Add a batch of which nothing is said but its file; returns the row as the database filled it in."""
    return (
        connection.execute(
            text("INSERT INTO intake.batches (filename, file_hash) VALUES ('smoke.csv', :hash) RETURNING *"),
            {"hash": file_hash},
        )
        .mappings()
        .one()
    )


def refusal_of(connection: Connection, write: ForbiddenWrite, batch_id: UUID) -> str | None:
    """The constraint by which the write is refused; None where it is taken, and then it is taken back."""
    savepoint = connection.begin_nested()
    try:
        connection.execute(text(write.statement), {"id": batch_id})
    except IntegrityError as refusal:
        return constraint_of(refusal)
    else:
        return None
    finally:
        savepoint.rollback()


def constraint_of(refusal: IntegrityError) -> str:
    """The name of the constraint that refused, which is all that may be shown of such an error."""
    diagnosis = getattr(refusal.orig, "diag", None)
    return getattr(diagnosis, "constraint_name", None) or type(refusal.orig).__name__


def observed(connection: Connection, batch_id: UUID) -> RowMapping | None:
    """The batch in intake.v_batch_observability."""
    return _row(connection, "SELECT * FROM intake.v_batch_observability WHERE batch_id = :id", batch_id)


def metrics(connection: Connection, batch_id: UUID) -> RowMapping | None:
    """The batch in intake.view_batch_metrics."""
    return _row(connection, "SELECT * FROM intake.view_batch_metrics WHERE batch_id = :id", batch_id)


def _row(connection: Connection, query: str, batch_id: UUID) -> RowMapping | None:
    return connection.execute(text(query), {"id": batch_id}).mappings().one_or_none()
