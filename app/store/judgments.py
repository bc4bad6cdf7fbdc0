"""The judgments: written by COPY in key order, within the one transaction of their batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

import numpy as np
import psycopg
from psycopg import errors
from sqlalchemy import Connection, Engine, text

from app import pause
from app.pause import Point
from app.rows import CONFLICT_COLUMNS, COPY_COLUMNS, STANDING_COLUMNS, Conflicts, Outcome, Packed, Standing
from app.store.copying import HEADER, PIECE_BYTES, TRAILER, copy_in

LOCK_TIMEOUT_SECONDS = 60
"""How long a load waits for one key of another batch that has not committed."""

_UNIQUE_KEY = "judgments_case_number_key"
# One sequence serves every batch; the lock lets each take a contiguous block of it.
_ID_LOCK = 0x6A756467
_DENSE = 2
"""Judgments are read between two keys where at most so many stand there for each key that is sought."""

_STAGE = f"""
    CREATE TEMPORARY TABLE IF NOT EXISTS staged_judgments ON COMMIT DROP AS
        SELECT {", ".join(COPY_COLUMNS)} FROM public.judgments WITH NO DATA;
    TRUNCATE pg_temp.staged_judgments
"""
_INSERT_ABSENT = f"""
    INSERT INTO public.judgments ({", ".join(COPY_COLUMNS)})
    SELECT {", ".join(COPY_COLUMNS)} FROM pg_temp.staged_judgments
    ORDER BY case_number COLLATE "C", row_index ON CONFLICT (case_number) DO NOTHING
"""
# Keys reach the server by COPY: as parameters or literals they might be logged.
_SEEK = """
    CREATE TEMPORARY TABLE IF NOT EXISTS sought_keys (case_number text COLLATE "C") ON COMMIT DROP;
    TRUNCATE pg_temp.sought_keys
"""
_VALUES = ", ".join(
    {"cents": "(judgment_amount * 100)::bigint"}.get(name, name).replace("case_number", "kept.case_number")
    for name in STANDING_COLUMNS
)
# All rows come as one value: a message for each would cost more than finding it.
_STANDING = f"""
    SELECT string_agg(sent, ''), string_agg(int4send(octet_length(sent)), '')
    FROM (SELECT record_send(ROW({_VALUES})) AS sent %s OFFSET 0) AS standing
"""
# Each key is looked up by itself: LIMIT leaves the planner no other way. It knows nothing of the sought keys, and a
# vacuum in the midst of a first load tells it that there are no judgments at all.
_STANDING_BY_KEY = (
    _STANDING
    % """
    FROM pg_temp.sought_keys sought
    CROSS JOIN LATERAL (SELECT * FROM public.judgments WHERE case_number = sought.case_number LIMIT 1) kept
"""
)
_STANDING_BETWEEN = (
    _STANDING
    % """
    FROM public.judgments kept
    WHERE case_number BETWEEN (SELECT min(case_number) FROM pg_temp.sought_keys)
        AND (SELECT max(case_number) FROM pg_temp.sought_keys)
    ORDER BY case_number LIMIT {most}
"""
)
_KEEP = "COPY intake.row_conflicts ({}) FROM STDIN (FORMAT BINARY)"
_KEEP_SAME = _KEEP.format(", ".join(CONFLICT_COLUMNS[:-1]))
_KEEP_DIFFERENT = _KEEP.format(", ".join(CONFLICT_COLUMNS))


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
                -- It may be idle while the file is read; a lease and a takeover bound it instead.
                set_config('idle_in_transaction_session_timeout', '0', true),
                -- Keys and ids are looked up in their index, whatever the statistics say in the midst of a load; and
                -- the index gives them in order.
                set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
                set_config('enable_sort', 'off', true)
            """
        ),
        {"name": f"dragonfly:{batch_id}:{fence}", "lock_timeout": f"{LOCK_TIMEOUT_SECONDS}s"},
    )


def totals(connection: Connection, batch_id: UUID, first_id: int, last_id: int) -> tuple[int, Decimal]:
    """How many judgments of the batch stand in its block of ids, and their dollars."""
    # Page by page: a block of ids stands together, and so do its rows.
    connection.execute(text("SELECT set_config('enable_bitmapscan', 'on', true)"))
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
        self._reading = _Reading(self._driver, alive)
        self.kept = 0
        """Conflicts kept so far, as the server counted them."""

    def insert(self, rows: Iterable[Packed]) -> Outcome:
        """COPY the rows under a savepoint."""
        return self._under_savepoint(lambda: self._copy("public.judgments", rows))

    def insert_absent(self, rows: Iterable[Packed]) -> Outcome:
        """By way of a temporary table, in key order: each row whose key is free, of each key the first."""

        def write() -> None:
            self._driver.execute(_STAGE)
            self._copy("pg_temp.staged_judgments", rows)
            self._alive()
            self._driver.execute(_INSERT_ABSENT)

        return self._under_savepoint(write)

    def standing(self, rows: Packed) -> Standing:
        """The judgments that stand under the rows' keys, those of this load among them, in key order."""
        return self._reading.standing(rows)

    def keep(self, conflicts: Sequence[Conflicts]) -> None:
        """Keep duplicates."""
        self.kept += self._send(_KEEP_SAME, (part.same for part in conflicts))
        self.kept += self._send(_KEEP_DIFFERENT, (part.different for part in conflicts))

    def _send(self, statement: str, parts: Iterable[bytes]) -> int:
        cursor = self._driver.cursor()
        with copy_in(cursor, statement) as copy:
            copy.write(HEADER)
            for octets in parts:
                for start in range(0, len(octets), PIECE_BYTES):
                    copy.write(octets[start : start + PIECE_BYTES])
                    self._alive()
            copy.write(TRAILER)
        self._alive()
        return cursor.rowcount

    def _copy(self, table: str, rows: Iterable[Packed]) -> None:
        statement = f"COPY {table} ({', '.join(COPY_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
        with copy_in(self._driver.cursor(), statement) as copy:
            copy.write(HEADER)
            for part in rows:
                octets = part.with_ids(self._next_id).data
                self._next_id += len(part)
                for start in range(0, len(octets), PIECE_BYTES):
                    copy.write(octets[start : start + PIECE_BYTES])
                    pause.at(Point.COPYING, self._batch_id)
                    self._alive()
            copy.write(TRAILER)

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


class Others:
    """What other batches have committed, read on a connection of its own: beside the load, which it does not see.

    The connection is taken when it is first needed.
    """

    def __init__(self, engine: Engine, batch_id: UUID, fence: int, *, alive: Callable[[], None] = lambda: None) -> None:
        self._engine = engine
        self._batch_id = batch_id
        self._fence = fence
        self._alive = alive
        self._connection: Connection | None = None
        self._reading: _Reading | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def standing(self, rows: Packed) -> Standing:
        """The judgments of others that stand under the rows' keys, in key order; from one thread at a time."""
        if self._reading is None:
            self._connection = self._engine.connect()
            begin_load(self._connection, self._batch_id, self._fence)
            self._reading = _Reading(_driver(self._connection), self._alive)
        return self._reading.standing(rows)


class _Reading:
    """Judgments by their keys, on a connection within a transaction."""

    def __init__(self, driver: psycopg.Connection[Any], alive: Callable[[], None]) -> None:
        self._driver = driver
        self._alive = alive
        self._dense = False

    def standing(self, rows: Packed) -> Standing:
        """The judgments that stand under the rows' keys, in key order.

        Where most keys of the last rows stood, all judgments between the first key and the last are read in one walk of
        the index, as long as they are not many more than the keys; else each key is looked up by itself.
        """
        if not len(rows):
            return Standing(np.empty(0, np.uint8), np.empty(0, np.int64))
        if self._dense:
            most = len(rows) * _DENSE
            self._seek(rows.part(0, 1), rows.part(len(rows) - 1, len(rows)))
            found = self._read(_STANDING_BETWEEN.format(most=most))
            if len(found) < most:
                return found
        self._seek(rows)
        found = self._read(_STANDING_BY_KEY)
        self._dense = len(found) * _DENSE > len(rows)
        return found

    def _seek(self, *rows: Packed) -> None:
        self._driver.execute(_SEEK)
        with copy_in(self._driver.cursor(), "COPY pg_temp.sought_keys FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(HEADER + b"".join(_key_record(key) for part in rows for key in part.key_octets()))
            copy.write(TRAILER)
        self._alive()

    def _read(self, statement: str) -> Standing:
        found = self._driver.execute(statement.encode(), binary=True).fetchone()
        self._alive()
        content, lengths = found if found and found[0] is not None else (b"", b"")
        return Standing(np.frombuffer(content, np.uint8), np.cumsum(np.frombuffer(lengths, ">i4"), dtype=np.int64))


def _key_record(key: bytes) -> bytes:
    return b"\x00\x01" + len(key).to_bytes(4) + key


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    # SQLAlchemy begins its transaction with the first statement it sends itself.
    connection.execute(text("SELECT"))
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("judgments are written through psycopg")
    return driver
