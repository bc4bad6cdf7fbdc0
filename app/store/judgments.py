"""The judgments: written by COPY in key order, within the one transaction of their batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors
from sqlalchemy import Connection, text

from app.rows import COPY_COLUMNS, VALUE_NAMES, Duplicates, Outcome, Packed

LOCK_TIMEOUT_SECONDS = 60
"""How long a load waits for one key of another batch that has not committed."""

_UNIQUE_KEY = "judgments_case_number_key"
# One sequence serves every batch; the lock lets each take a contiguous block of it.
_ID_LOCK = 0x6A756467
_COPY_BYTES = 128 * 1024
_COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_COPY_TRAILER = b"\xff\xff"

_STAGE = """
    CREATE TEMPORARY TABLE IF NOT EXISTS staged_judgments (LIKE public.judgments INCLUDING DEFAULTS) ON COMMIT DROP;
    TRUNCATE pg_temp.staged_judgments
"""
# Each staged row is looked up by its key: LIMIT leaves the planner no other way. It knows nothing of staged rows, and a
# vacuum in the midst of a first load tells it that there are no judgments at all.
_FORGET_KEPT = """
    DELETE FROM pg_temp.staged_judgments staged
    WHERE (SELECT true FROM public.judgments kept WHERE kept.case_number = staged.case_number LIMIT 1)
"""
_INSERT_ABSENT = f"""
    WITH inserted AS (
        INSERT INTO public.judgments ({", ".join(COPY_COLUMNS)})
        SELECT {", ".join(COPY_COLUMNS)} FROM pg_temp.staged_judgments
        ORDER BY case_number COLLATE "C", row_index ON CONFLICT (case_number) DO NOTHING
        RETURNING judgment_amount
    )
    SELECT coalesce(sum(judgment_amount), 0) FROM inserted
"""
# Values are shown as text; the dates' form does not hang on a setting.
_SHOWN = {
    "judgment_amount": "{}.judgment_amount::text",
    "judgment_date": "to_char({}.judgment_date, 'YYYY-MM-DD')",
}
_DIFFERENCES = " || ".join(
    f"CASE WHEN kept.{name} IS DISTINCT FROM staged.{name} THEN jsonb_build_object('{name}', jsonb_build_array("
    f"{_SHOWN.get(name, '{}.' + name).format('kept')}, {_SHOWN.get(name, '{}.' + name).format('staged')}))"
    " ELSE '{}'::jsonb END"
    for name in VALUE_NAMES
)
_SAME = " AND ".join(f"kept.{name} IS NOT DISTINCT FROM staged.{name}" for name in VALUE_NAMES)
_KEEP_STAGED = f"""
    WITH added AS (
        INSERT INTO intake.row_conflicts (batch_id, row_index, case_number, kept_batch_id, kept_row_index, fields)
        SELECT %(batch)s, staged.row_index, staged.case_number, kept.batch_id, kept.row_index,
            CASE WHEN {_SAME} THEN '{{}}'::jsonb ELSE {_DIFFERENCES} END
        FROM pg_temp.staged_judgments staged
        CROSS JOIN LATERAL (SELECT * FROM public.judgments WHERE case_number = staged.case_number LIMIT 1) kept
        WHERE (kept.batch_id, kept.row_index) <> (%(batch)s, staged.row_index)
        ORDER BY staged.row_index
        RETURNING fields
    )
    SELECT count(*), count(*) FILTER (WHERE fields <> '{{}}'),
        (SELECT coalesce(sum(judgment_amount), 0) FROM pg_temp.staged_judgments)
    FROM added
"""


def reserve_ids(connection: Connection, count: int) -> int:
    """Take ``count`` ids in a row and return the first; in a transaction of its own, committed before the load."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ID_LOCK})
    first: int = connection.execute(text("SELECT nextval('public.judgments_id_seq')")).scalar_one()
    if count > 1:
        connection.execute(text("SELECT setval('public.judgments_id_seq', :last)"), {"last": first + count - 1})
    return first


def begin_load(connection: Connection, batch_id: UUID, fence: int) -> None:
    """Prepare a transaction for a load: its name tells a takeover whose it is, its waits are bounded.

    Nothing here outlives the transaction, so a pooler in transaction mode may stand in between.
    """
    connection.execute(
        text(
            """
            SELECT set_config('application_name', :name, true), set_config('lock_timeout', :lock_timeout, true),
                set_config('client_connection_check_interval', '5s', true), set_config('jit', 'off', true),
                -- Keys and ids are looked up in their index, whatever the statistics say in the midst of a load.
                set_config('enable_seqscan', 'off', true)
            """
        ),
        {"name": f"dragonfly:{batch_id}:{fence}", "lock_timeout": f"{LOCK_TIMEOUT_SECONDS}s"},
    )


def totals(connection: Connection, batch_id: UUID, first_id: int, last_id: int) -> tuple[int, Decimal]:
    """How many judgments of the batch stand in its block of ids, and their dollars."""
    row = connection.execute(
        text(
            """
            SELECT count(*) AS judgments, coalesce(sum(judgment_amount), 0) AS dollars FROM public.judgments
            WHERE id BETWEEN :first AND :last AND batch_id = :batch_id
            """
        ),
        {"first": first_id, "last": last_id, "batch_id": batch_id},
    ).one()
    return row.judgments, row.dollars


class JudgmentTarget:
    """public.judgments and intake.row_conflicts as the target of one batch's load (app.rows.Target).

    ``alive`` is called whenever the server has taken some bytes. Errors of the server itself pass through; they are
    psycopg errors whose text may hold a row: never log it.
    """

    def __init__(
        self, connection: Connection, batch_id: UUID, *, first_id: int, alive: Callable[[], None] = lambda: None
    ) -> None:
        self._batch_id = batch_id
        self._driver: psycopg.Connection[Any] = _driver(connection)
        self._next_id = first_id
        self._alive = alive

    def insert(self, rows: Iterable[Packed]) -> Outcome:
        """COPY the rows under a savepoint."""
        return self._under_savepoint(lambda: self._copy("public.judgments", rows))

    def insert_absent(self, rows: Iterable[Packed]) -> tuple[Outcome, Duplicates]:
        """By way of a temporary table, in key order, keeping as duplicates what stands."""
        kept = Duplicates()

        def write() -> None:
            staged = self._stage(rows)
            kept.add(self._keep_staged())
            if kept.rows == staged:
                return
            self._driver.execute(_FORGET_KEPT)
            self._alive()
            inserted = self._driver.execute(_INSERT_ABSENT).fetchone()
            # What still meets a key: the file's own duplicates, and those of a batch that has just committed.
            late = self._keep_staged()
            kept.rows += late.rows
            kept.differing += late.differing
            kept.dollars -= inserted[0] if inserted else 0

        outcome = self._under_savepoint(write)
        return outcome, kept if outcome is Outcome.LOADED else Duplicates()

    def keep_duplicates(self, rows: Iterable[Packed]) -> Duplicates:
        """Keep rows whose key stands, with the fields in which they differ from the judgment that stands."""
        next_id = self._next_id
        self._stage(rows)
        self._next_id = next_id
        return self._keep_staged()

    def taken(self, keys: Sequence[str]) -> set[str]:
        """Which of the keys stand already."""
        self._alive()
        rows = self._driver.execute(
            "SELECT case_number FROM public.judgments WHERE case_number = ANY(%s)", [list(keys)]
        )
        return {key for (key,) in rows}

    def _stage(self, rows: Iterable[Packed]) -> int:
        self._driver.execute(_STAGE)
        first_id = self._next_id
        self._copy("pg_temp.staged_judgments", rows)
        self._alive()
        return self._next_id - first_id

    def _keep_staged(self) -> Duplicates:
        found = self._driver.execute(_KEEP_STAGED, {"batch": self._batch_id}).fetchone()
        self._alive()
        return Duplicates(*found) if found else Duplicates()

    def _copy(self, table: str, rows: Iterable[Packed]) -> None:
        statement = f"COPY {table} ({', '.join(COPY_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
        with self._driver.cursor().copy(statement) as copy:
            copy.write(_COPY_HEADER)
            for part in rows:
                octets = part.with_ids(self._next_id).data
                self._next_id += len(part)
                for start in range(0, len(octets), _COPY_BYTES):
                    copy.write(octets[start : start + _COPY_BYTES])
                    self._alive()
            copy.write(_COPY_TRAILER)

    def _under_savepoint(self, write: Callable[[], None]) -> Outcome:
        first_id = self._next_id
        self._alive()
        self._driver.execute("SAVEPOINT rows")
        try:
            write()
        except errors.UniqueViolation as refusal:
            if refusal.diag.constraint_name != _UNIQUE_KEY:
                raise
            outcome = Outcome.KEY_TAKEN
        except (errors.DataError, errors.IntegrityError, errors.RaiseException, errors.ProgramLimitExceeded):
            outcome = Outcome.REFUSED
        else:
            self._driver.execute("RELEASE SAVEPOINT rows")
            self._alive()
            return Outcome.LOADED
        self._driver.execute("ROLLBACK TO SAVEPOINT rows")
        self._driver.execute("RELEASE SAVEPOINT rows")
        self._next_id = first_id
        self._alive()
        return outcome


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    # SQLAlchemy begins its transaction with the first statement it sends itself.
    connection.execute(text("SELECT"))
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("judgments are written through psycopg")
    return driver
