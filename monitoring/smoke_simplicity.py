"""The schema's smoke test: seven cases straight on the database, in one transaction that is rolled back.

``python -m monitoring.smoke_simplicity`` is ``dragonfly smoke schema``.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from uuid import UUID

from sqlalchemy import Connection, RowMapping
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from app.batch import DEFAULT_ERROR_THRESHOLD_PERCENT, DEFAULT_PRIORITY, DEFAULT_SOURCE, State
from app.store import batches, claims, inventory, smoke
from app.store.batches import Batch, Counts
from app.store.database import open_single
from app.store.schema import newest_revision
from monitoring.smoke import (
    Case,
    CaseFailedError,
    CouldNotSetUpError,
    Facts,
    Outcome,
    Report,
    database_problem,
    listed,
    milliseconds_since,
    run_case,
)

_LOCK_SECONDS, _STATEMENT_SECONDS = 10, 30
_LEASE_SECONDS = 60
_MIGRATE = "Run 'dragonfly migrate'."
_REPAIR = "Restore it as migrations/versions makes it: the schema was changed by hand."

_COUNTS = Counts(
    total=1_000, valid=900, invalid=100, inserted=850, duplicate=50, conflict=5, parse_duration_ms=1_200, db_duration_ms=300
)  # fmt: skip
"""What the completed batch of a case is said to have counted. It stores no rows, so no sequence moves."""
_TOTAL_MS, _ROWS_PER_SECOND, _ERROR_RATE = 1_500, Decimal("666.7"), Decimal("10.00")

_DatabaseCase = Callable[[Connection, Facts], str]


def run(database_url: str, *, environment: str) -> Report:
    """Run every case on the application's database, as the application. Raises CouldNotSetUpError."""
    timestamp, began = dt.datetime.now(dt.UTC), time.monotonic()
    try:
        with open_single(database_url).connect() as connection:
            transaction = connection.begin()
            try:
                smoke.bound_waits(connection, lock_seconds=_LOCK_SECONDS, statement_seconds=_STATEMENT_SECONDS)
                if not inventory.is_migrated(connection):
                    raise CouldNotSetUpError(f"The database of DATABASE_URL has none of Dragonfly's tables. {_MIGRATE}")
                outcomes = [_run(connection, name, case) for name, case in CASES.items()]
            finally:
                # A connection that is gone has been rolled back by the server.
                with suppress(SQLAlchemyError):
                    transaction.rollback()
    except SQLAlchemyError as problem:
        raise CouldNotSetUpError(
            f"The database of DATABASE_URL cannot be used ({database_problem(problem)}): is it running, and is the "
            "address right?"
        ) from None
    return Report(
        test="schema",
        environment=environment,
        timestamp=timestamp,
        outcomes=outcomes,
        elapsed_ms=milliseconds_since(began),
    )


def main() -> None:
    """``python -m monitoring.smoke_simplicity``."""
    from app.smoke_commands import run_alone, schema

    run_alone(schema, "monitoring.smoke_simplicity")


def _run(connection: Connection, name: str, case: _DatabaseCase) -> Outcome:
    """One case under a savepoint, which is undone: no case sees what another one has done."""

    def undone(facts: Facts) -> str:
        savepoint = connection.begin_nested()
        try:
            return case(connection, facts)
        finally:
            savepoint.rollback()

    return run_case(Case(name, undone))


def _schema(connection: Connection, facts: Facts) -> str:
    facts.expect("revision", inventory.revision(connection), newest_revision(), remedy=_MIGRATE)
    found = inventory.take(connection)
    if found.missing:
        raise CaseFailedError(f"no {listed(found.missing)}", expected="all of this version's schema", remedy=_REPAIR)
    if found.forbidden:
        raise CaseFailedError(listed(found.forbidden), expected="that it may not", remedy="Revoke it.")
    facts.lines += [f"{kind}: {number}" for kind, number in found.found.items()]
    counts = found.found
    return (
        f"All there: {counts['table']} tables, {counts['view']} views, {counts['column']} columns, "
        f"{counts['constraint']} constraints, {counts['index']} indexes, {counts['right']} rights of "
        f"{counts['role']} roles."
    )


def _threshold_default(connection: Connection, facts: Facts) -> str:
    row = smoke.insert_with_defaults(connection, _new_hash())
    facts.expect(
        "error_threshold_percent of a batch that says nothing of it",
        row["error_threshold_percent"],
        DEFAULT_ERROR_THRESHOLD_PERCENT,
        remedy=f"Restore the default: ALTER TABLE intake.batches ALTER error_threshold_percent "
        f"SET DEFAULT {DEFAULT_ERROR_THRESHOLD_PERCENT}.",
    )
    _expect_refused(connection, facts, smoke.BUDGET_ABOVE_100, row["id"])
    return f"A batch has a budget of {DEFAULT_ERROR_THRESHOLD_PERCENT} % unless it says otherwise, and 100 % at most."


def _batch_creation(connection: Connection, facts: Facts) -> str:
    file_hash = _new_hash()
    batch = _new_batch(connection, file_hash)
    for what, found, expected in (
        ("status of a new batch", batch.status.value, State.UPLOADED.value),
        ("file_hash", batch.file_hash, file_hash),
        ("rows counted", (batch.row_count_total, batch.row_count_inserted, batch.row_count_invalid), (0, 0, 0)),
        ("fence", batch.fence, 0),
        ("rejection_reason", batch.rejection_reason, None),
        ("completed_at", batch.completed_at, None),
        ("read back as it was made", batches.get(connection, batch.id) == batch, True),
    ):
        facts.expect(what, found, expected, remedy=_REPAIR)
    _expect_refused(connection, facts, smoke.COMPLETED_AT_ONCE, batch.id)
    return "A batch is made as uploaded, with nothing counted, and may not skip to completed."


def _idempotency(connection: Connection, facts: Facts) -> str:
    file_hash = _new_hash()
    first = _new_batch(connection, file_hash)
    savepoint = connection.begin_nested()
    refused_by = None
    try:
        _new_batch(connection, file_hash)
    except IntegrityError as refusal:
        refused_by = smoke.constraint_of(refusal)
    finally:
        savepoint.rollback()
    facts.expect(
        "a second batch of the same bytes is refused by",
        refused_by,
        "batches_file_hash_key",
        remedy="Restore the unique index: CREATE UNIQUE INDEX batches_file_hash_key ON intake.batches (file_hash) "
        "WHERE NOT forced.",
    )
    forced = _new_batch(connection, file_hash, first=first)
    facts.expect("first_batch_id of a forced one", forced.first_batch_id, first.id, remedy=_REPAIR)
    known = batches.first_of(connection, file_hash)
    facts.expect("first batch of these bytes", known.id if known else None, first.id, remedy=_REPAIR)
    return "The same bytes make no second batch unless forced, and a forced one points to the first."


def _timing_metrics(connection: Connection, facts: Facts) -> str:
    row = _found(smoke.observed(connection, _completed_batch(connection)), "intake.v_batch_observability")
    for name, expected in (
        ("parse_duration_ms", _COUNTS.parse_duration_ms),
        ("db_duration_ms", _COUNTS.db_duration_ms),
        ("total_duration_ms", _TOTAL_MS),
        ("rows_per_second", _ROWS_PER_SECOND),
    ):
        facts.expect(f"{name} in intake.v_batch_observability", row[name], expected, remedy=_REPAIR)
    wall_clock = row["wall_clock_ms"]
    facts.expect("wall_clock_ms is known", wall_clock is not None and wall_clock >= 0, expected=True, remedy=_REPAIR)
    return (
        f"{_COUNTS.parse_duration_ms} ms of parsing and {_COUNTS.db_duration_ms} ms of loading show as {_TOTAL_MS} ms."
    )


def _rejection_reason(connection: Connection, facts: Facts) -> str:
    batch = _new_batch(connection, _new_hash())
    _expect_refused(connection, facts, smoke.FAILED_WITHOUT_A_REASON, batch.id)
    _expect_refused(connection, facts, smoke.REASON_WITHOUT_A_FAILURE, batch.id)
    reason = "Refused by the smoke test."
    claims.fail(connection, _claimed(connection, batch), Counts(), {}, code="EMPTY_FILE", reason=reason)
    row = _found(smoke.observed(connection, batch.id), "intake.v_batch_observability")
    facts.expect("status of a refused batch", row["status"], State.FAILED.value, remedy=_REPAIR)
    facts.expect("rejection_reason of it", row["rejection_reason"], reason, remedy=_REPAIR)
    return "A failed batch must have a reason, and no other batch may have one."


def _metrics_view(connection: Connection, facts: Facts) -> str:
    row = _found(smoke.metrics(connection, _completed_batch(connection)), "intake.view_batch_metrics")
    for name, expected in (
        ("status", State.COMPLETED.value),
        ("row_count_total", _COUNTS.total),
        ("row_count_valid", _COUNTS.valid),
        ("row_count_invalid", _COUNTS.invalid),
        ("row_count_inserted", _COUNTS.inserted),
        ("row_count_duplicate", _COUNTS.duplicate),
        ("error_rate_percent", _ERROR_RATE),
        ("total_duration_ms", _TOTAL_MS),
    ):
        facts.expect(f"{name} in intake.view_batch_metrics", row[name], expected, remedy=_REPAIR)
    return f"intake.view_batch_metrics gives the batch's figures: {_COUNTS.total:,} rows, {_ERROR_RATE} % of them bad."


CASES: dict[str, _DatabaseCase] = {
    "schema": _schema,
    "threshold_default": _threshold_default,
    "batch_creation": _batch_creation,
    "idempotency": _idempotency,
    "timing_metrics": _timing_metrics,
    "rejection_reason": _rejection_reason,
    "metrics_view": _metrics_view,
}


def _found(row: RowMapping | None, view: str) -> RowMapping:
    if row is None:
        raise CaseFailedError("no row of the batch", expected=f"one in {view}", remedy=_REPAIR)
    return row


def _expect_refused(connection: Connection, facts: Facts, write: smoke.ForbiddenWrite, batch_id: UUID) -> None:
    found = smoke.refusal_of(connection, write, batch_id)
    facts.expect(f"{write.what} is refused by", found, write.constraint, remedy=_REPAIR)


def _new_hash() -> str:
    """Of no file: no bytes with this SHA-256 are known to anybody."""
    return secrets.token_hex(32)


def _new_batch(connection: Connection, file_hash: str, first: Batch | None = None) -> Batch:
    return batches.insert(
        connection,
        filename="smoke.csv",
        source=DEFAULT_SOURCE,
        file_hash=file_hash,
        storage_key="none",
        file_size_bytes=1,
        error_threshold_percent=DEFAULT_ERROR_THRESHOLD_PERCENT,
        priority=DEFAULT_PRIORITY,
        created_by="smoke test",
        first_batch_id=first.id if first else None,
    )


def _claimed(connection: Connection, batch: Batch) -> Batch:
    claimed = claims.claim(connection, batch.id, owner="smoke test", lease_seconds=_LEASE_SECONDS)
    if claimed is None:
        raise CaseFailedError("that a new batch cannot be claimed", expected="that it can", remedy=_REPAIR)
    return claimed


def _completed_batch(connection: Connection) -> UUID:
    batch = _claimed(connection, _new_batch(connection, _new_hash()))
    for state in (State.VALIDATING, State.INSERTING):
        claims.enter(connection, batch, state)
    claims.complete(connection, batch, _COUNTS, {})
    return batch.id


if __name__ == "__main__":
    main()
