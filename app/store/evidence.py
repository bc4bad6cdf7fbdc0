"""What the database holds of a batch, read to be compared with what its file says: all from one snapshot."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from sqlalchemy import Connection, text

from app.store.batches import Batch
from app.store.copying import copy_in

_PAGE = 200
_FETCH = 2_000
# Keys reach the server by COPY: as parameters or literals they might be logged.
_SEEK = """
    CREATE TEMPORARY TABLE IF NOT EXISTS sought_rows (row_index integer, case_number text COLLATE "C") ON COMMIT DROP;
    TRUNCATE pg_temp.sought_rows
"""
_STANDING = """
    SELECT s.row_index, j.batch_id, j.row_index, j.line_number, j.case_number, j.plaintiff_name, j.defendant_name,
        j.judgment_amount, j.judgment_date, j.court, j.county, c.kept_batch_id, c.kept_row_index, c.fields
    FROM pg_temp.sought_rows s
    LEFT JOIN LATERAL (SELECT * FROM public.judgments WHERE case_number = s.case_number LIMIT 1) j ON true
    LEFT JOIN LATERAL (SELECT * FROM intake.row_conflicts
        WHERE batch_id = %s AND case_number = s.case_number AND row_index = s.row_index LIMIT 1) c ON true
"""
_ERRORS = """
    SELECT row_index, line_number, row_number, error_code, error_message, error_stage, raw_data, raw
    FROM intake.row_errors WHERE batch_id = %s ORDER BY row_index
"""


class Standing(NamedTuple):
    """The judgment that stands under a row's key, None in every field where none does, and the row's own conflict."""

    batch_id: UUID | None
    row_index: int | None
    line_number: int | None
    values: tuple[Any, ...]
    """In the order of app.judgment.Judgment."""
    kept_batch_id: UUID | None
    kept_row_index: int | None
    fields: Any


class StoredError(NamedTuple):
    """One row error."""

    row_index: int
    line_number: int | None
    row_number: int | None
    code: str
    message: str
    stage: str
    raw_data: Any
    raw: bytes | None


class Miscounted(NamedTuple):
    """A batch whose judgments, counted over the whole table, are not those that it says."""

    batch_id: UUID
    inserted: int | None
    """None where there is no such batch."""
    judgments: int


def begin(connection: Connection) -> None:
    """Begin a transaction in which every read sees the same moment; rows are found by their indexes."""
    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    connection.execute(
        text(
            """
            SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
                set_config('enable_sort', 'off', true), set_config('jit', 'off', true)
            """
        )
    )


def size_of_all(connection: Connection) -> tuple[int, int]:
    """How many batches there are, and the bytes of their files."""
    row = connection.execute(text("SELECT count(*), coalesce(sum(file_size_bytes), 0) FROM intake.batches")).one()
    return int(row[0]), int(row[1])


def ids(connection: Connection) -> Iterator[UUID]:
    """Every batch by the time at which it was made, those that come meanwhile too; no transaction is left open."""
    last: tuple[dt.datetime | None, UUID | None] = (None, None)
    while True:
        rows = connection.execute(
            text(
                """
                SELECT created_at, id FROM intake.batches
                WHERE CAST(:at AS timestamptz) IS NULL OR (created_at, id) > (:at, CAST(:id AS uuid))
                ORDER BY created_at, id LIMIT :most
                """
            ),
            {"at": last[0], "id": last[1], "most": _PAGE},
        ).all()
        connection.rollback()
        if not rows:
            return
        yield from (batch_id for _, batch_id in rows)
        last = (rows[-1][0], rows[-1][1])


def standing(connection: Connection, batch: Batch, keys: Iterable[tuple[int, str]]) -> dict[int, Standing]:
    """What stands under the case numbers of rows of the batch, by row_index."""
    driver = _driver(connection)
    driver.execute(_SEEK)
    with copy_in(driver.cursor(), "COPY pg_temp.sought_rows FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(("int4", "text"))
        for key in keys:
            copy.write_row(key)
    found = driver.execute(_STANDING, (batch.id,), binary=True)
    return {row[0]: Standing(row[1], row[2], row[3], row[4:11], *row[11:]) for row in found}


def errors(connection: Connection, batch: Batch) -> Iterator[StoredError]:
    """The batch's row errors in file order, some at a time."""
    with _driver(connection).cursor(name="row_errors_of_batch") as cursor:
        cursor.itersize = _FETCH
        cursor.execute(_ERRORS, (batch.id,))
        for row in cursor:
            yield StoredError(*row)


def judgments(connection: Connection, batch: Batch) -> Iterator[int]:
    """The row_index of every judgment in the batch's block of ids."""
    yield from _indexes(
        connection,
        "SELECT row_index FROM public.judgments WHERE id BETWEEN %s AND %s AND batch_id = %s",
        (batch.first_judgment_id, batch.last_judgment_id, batch.id),
    )


def conflicts(connection: Connection, batch: Batch) -> Iterator[int]:
    """The row_index of every conflict of the batch."""
    yield from _indexes(connection, "SELECT row_index FROM intake.row_conflicts WHERE batch_id = %s", (batch.id,))


def completed_at(connection: Connection, batch_id: UUID) -> dt.datetime | None:
    """When another batch was completed; None where it is not."""
    found: dt.datetime | None = connection.scalar(
        text("SELECT completed_at FROM intake.batches WHERE id = :id AND status = 'completed'"), {"id": batch_id}
    )
    return found


def miscounted(connection: Connection, batch_id: UUID | None = None) -> list[Miscounted]:
    """Every batch, known or not, or this one, of which the table of judgments holds another number than was inserted.

    There is no index on the judgments' batch, so the whole table is read in any case.
    """
    rows = connection.execute(
        text(
            """
            SELECT coalesce(b.id, j.batch_id), b.row_count_inserted, coalesce(j.judgments, 0)
            FROM (
                SELECT batch_id, count(*) AS judgments FROM public.judgments
                WHERE CAST(:id AS uuid) IS NULL OR batch_id = :id GROUP BY batch_id
            ) j
            FULL JOIN (SELECT * FROM intake.batches WHERE CAST(:id AS uuid) IS NULL OR id = :id) b ON b.id = j.batch_id
            WHERE b.id IS NULL OR coalesce(j.judgments, 0) <> b.row_count_inserted
            """
        ),
        {"id": batch_id},
    )
    return [Miscounted(*row) for row in rows]


def _indexes(connection: Connection, statement: str, values: tuple[Any, ...]) -> Iterator[int]:
    with _driver(connection).cursor(name="rows_of_batch") as cursor:
        cursor.itersize = _FETCH
        cursor.execute(statement.encode(), values)
        for (row_index,) in cursor:
            yield row_index


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    # SQLAlchemy begins its transaction with the first statement it sends itself.
    connection.execute(text("SELECT"))
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("evidence is read through psycopg")
    return driver
