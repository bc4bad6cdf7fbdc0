"""The row errors: written by COPY within the transaction in which an attempt ends, counted for the ledger, resolved by people."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection, text

from app.rows import ERROR_COLUMNS
from app.store.copying import HEADER, PIECE_BYTES, TRAILER, copy_in

_COPY = f"COPY intake.row_errors ({', '.join(ERROR_COLUMNS)}) FROM STDIN (FORMAT BINARY)"


def store(connection: Connection, errors: Iterable[bytes], alive: Callable[[], None] = lambda: None) -> None:
    """Add packed row errors, any number of them; ``alive`` is called as the server takes them."""
    connection.execute(text("SELECT"))
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("row errors are written through psycopg")
    with copy_in(driver.cursor(), _COPY) as copy:
        pending = [HEADER]
        size = 0
        for error in errors:
            pending.append(error)
            size += len(error)
            if size >= PIECE_BYTES:
                copy.write(b"".join(pending))
                pending, size = [], 0
                alive()
        copy.write(b"".join([*pending, TRAILER]))
    alive()


def count(connection: Connection, batch_id: UUID) -> int:
    """How many row errors of the batch are stored."""
    statement = text("SELECT count(*) FROM intake.row_errors WHERE batch_id = :id")
    found: Any = connection.execute(statement, {"id": batch_id}).scalar_one()
    return int(found)
