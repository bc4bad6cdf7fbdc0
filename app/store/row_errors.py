"""The row errors: written by COPY at the end of an attempt, counted for the ledger, resolved by people."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection, text

from app.rows import RowError

_TICK_ROWS = 1_000
_COPY = (
    "COPY intake.row_errors (batch_id, row_index, line_number, row_number, error_code, error_message, error_stage,"
    " raw_data, raw) FROM STDIN"
)


def store(
    connection: Connection, batch_id: UUID, errors: Iterable[RowError], alive: Callable[[], None] = lambda: None
) -> None:
    """Add a batch's row errors, any number of them; ``alive`` is called as the server takes them."""
    connection.execute(text("SELECT"))
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("row errors are written through psycopg")
    with driver.cursor().copy(_COPY) as copy:
        for number, error in enumerate(errors):
            copy.write_row((batch_id, *error))
            if number % _TICK_ROWS == 0:
                alive()
    alive()


def count(connection: Connection, batch_id: UUID) -> int:
    """How many row errors of the batch are stored."""
    return _count(connection, "SELECT count(*) FROM intake.row_errors WHERE batch_id = :id", batch_id)


def count_conflicts(connection: Connection, batch_id: UUID) -> int:
    """How many duplicates of the batch are stored."""
    return _count(connection, "SELECT count(*) FROM intake.row_conflicts WHERE batch_id = :id", batch_id)


def _count(connection: Connection, statement: str, batch_id: UUID) -> int:
    found: Any = connection.execute(text(statement), {"id": batch_id}).scalar_one()
    return int(found)
