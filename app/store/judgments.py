"""The judgments: written by COPY in key order, within the one transaction of their batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors
from sqlalchemy import Connection, text

from app.rows import AcceptedRow, Conflict, Kept, Outcome

LOCK_TIMEOUT_SECONDS = 60
"""How long a load waits for one key of another batch that has not committed."""

_UNIQUE_KEY = "judgments_case_number_key"
# One sequence serves every batch; the lock lets each take a contiguous block of it.
_ID_LOCK = 0x6A756467
_COLUMNS = (
    "id, case_number, plaintiff_name, defendant_name, judgment_amount, judgment_date, court, county,"
    " batch_id, row_index, line_number"
)
_COPY_BYTES = 128 * 1024
_SPECIAL = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_VALUES = (
    "plaintiff_name, defendant_name, judgment_amount::text AS judgment_amount,"
    " judgment_date::text AS judgment_date, court, county"
)


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
                set_config('client_connection_check_interval', '5s', true)
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
        self.batch_id = batch_id
        self._connection = connection
        self._driver: psycopg.Connection[Any] = _driver(connection)
        self._next_id = first_id
        self._alive = alive

    def insert(self, rows: Iterable[AcceptedRow]) -> Outcome:
        """COPY the rows under a savepoint."""
        return self._under_savepoint(lambda: self._copy("public.judgments", rows))

    def insert_absent(self, rows: Iterable[AcceptedRow]) -> tuple[Outcome, set[str]]:
        """By way of a temporary table, in key order, leaving out what stands; returns the keys left out."""
        taken: set[str] = set()

        def write() -> None:
            execute = self._driver.execute
            execute(
                "CREATE TEMPORARY TABLE IF NOT EXISTS absent_judgments"
                " (LIKE public.judgments INCLUDING DEFAULTS) ON COMMIT DROP"
            )
            execute("TRUNCATE pg_temp.absent_judgments")
            self._copy("pg_temp.absent_judgments", rows)
            execute(
                f"INSERT INTO public.judgments ({_COLUMNS}) SELECT {_COLUMNS} FROM pg_temp.absent_judgments"
                ' ORDER BY case_number COLLATE "C" ON CONFLICT (case_number) DO NOTHING'
            )
            self._alive()
            taken.update(
                key
                for (key,) in execute(
                    "SELECT case_number FROM pg_temp.absent_judgments a"
                    " WHERE NOT EXISTS (SELECT FROM public.judgments j WHERE j.id = a.id)"
                )
            )

        outcome = self._under_savepoint(write)
        return outcome, taken if outcome is Outcome.LOADED else set()

    def taken(self, keys: Sequence[str]) -> set[str]:
        """Which of the keys stand already."""
        self._alive()
        rows = self._driver.execute(
            "SELECT case_number FROM public.judgments WHERE case_number = ANY(%s)", [list(keys)]
        )
        return {key for (key,) in rows}

    def kept(self, keys: Sequence[str]) -> dict[str, Kept]:
        """The judgments that stand under the keys."""
        self._alive()
        rows = self._driver.execute(
            f"SELECT case_number, batch_id, row_index, {_VALUES} FROM public.judgments WHERE case_number = ANY(%s)",
            [list(keys)],
        )
        return {key: Kept(batch_id, row_index, tuple(values)) for key, batch_id, row_index, *values in rows}

    def add_conflicts(self, conflicts: Sequence[Conflict]) -> None:
        """COPY duplicates."""
        statement = (
            "COPY intake.row_conflicts (batch_id, row_index, case_number, kept_batch_id, kept_row_index, fields)"
            " FROM STDIN"
        )
        with self._driver.cursor().copy(statement) as copy:
            for conflict in conflicts:
                copy.write_row(
                    (
                        self.batch_id,
                        conflict.row_index,
                        conflict.case_number,
                        conflict.kept_batch_id,
                        conflict.kept_row_index,
                        json.dumps(conflict.fields, ensure_ascii=False),
                    )
                )
        self._alive()

    def _copy(self, table: str, rows: Iterable[AcceptedRow]) -> None:
        first, batch = self._next_id, str(self.batch_id)
        pending: list[str] = []
        size = 0
        with self._driver.cursor().copy(f"COPY {table} ({_COLUMNS}) FROM STDIN") as copy:
            for row_id, row in enumerate(rows, start=first):
                line = _copy_line(row_id, batch, row)
                pending.append(line)
                size += len(line)
                self._next_id = row_id + 1
                if size >= _COPY_BYTES:
                    copy.write("".join(pending))
                    pending, size = [], 0
                    self._alive()
            copy.write("".join(pending))

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


def _copy_line(row_id: int, batch_id: str, row: AcceptedRow) -> str:
    case_number, row_index, line_number, _, _, _, plaintiff, defendant, amount, date, court, county = row
    values = (case_number, plaintiff, defendant, amount, date, court, county)
    text_values = "\t".join(["\\N" if value is None else value.translate(_SPECIAL) for value in values])
    return f"{row_id}\t{text_values}\t{batch_id}\t{row_index}\t{line_number}\n"


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    # SQLAlchemy begins its transaction with the first statement it sends itself.
    connection.execute(text("SELECT"))
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("judgments are written through psycopg")
    return driver
