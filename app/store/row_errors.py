"""The row errors: written by COPY at the end of an attempt, counted for the ledger, resolved by people."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection, text

from app.rows import RowError

_COPY_BYTES = 128 * 1024
_COPY = (
    "COPY intake.row_errors (batch_id, row_index, line_number, row_number, error_code, error_message, error_stage,"
    " raw_data, raw) FROM STDIN (FORMAT BINARY)"
)
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
# The number of fields, then each behind its length: batch_id, row_index, line_number, row_number.
_HEAD = struct.Struct(">hi16s6i")
_LENGTH = struct.Struct(">i")
_JSONB_VERSION = b"\x01"


def store(
    connection: Connection, batch_id: UUID, errors: Iterable[RowError], alive: Callable[[], None] = lambda: None
) -> None:
    """Add a batch's row errors, any number of them; ``alive`` is called as the server takes them."""
    connection.execute(text("SELECT"))
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("row errors are written through psycopg")
    with driver.cursor().copy(_COPY) as copy:
        pending = [_HEADER]
        size = 0
        for error in errors:
            record = _packed(batch_id.bytes, error)
            pending.append(record)
            size += len(record)
            if size >= _COPY_BYTES:
                copy.write(b"".join(pending))
                pending, size = [], 0
                alive()
        copy.write(b"".join([*pending, _TRAILER]))
    alive()


def _packed(batch_id: bytes, error: RowError) -> bytes:
    """The row as COPY BINARY takes it."""
    row_index, line_number, row_number, code, message, stage, raw_data, raw = error
    parts = [_HEAD.pack(9, 16, batch_id, 4, row_index, 4, line_number, 4, row_number)]
    for content in (code.encode(), message.encode(), stage.encode(), _JSONB_VERSION + raw_data, raw):
        parts.append(_LENGTH.pack(len(content)))
        parts.append(content)
    return b"".join(parts)


def count(connection: Connection, batch_id: UUID) -> int:
    """How many row errors of the batch are stored."""
    statement = text("SELECT count(*) FROM intake.row_errors WHERE batch_id = :id")
    found: Any = connection.execute(statement, {"id": batch_id}).scalar_one()
    return int(found)
