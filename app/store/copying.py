"""COPY into a table, broken off without a word to the server of why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
"""Around the records of FORMAT BINARY."""
PIECE_BYTES = 128 * 1024
"""What is written at once: between two pieces a load looks whether its claim still holds."""


class _BrokenOffError(Exception):
    """Stands for what went wrong while the COPY is ended; its text is the kind alone."""

    def __init__(self, problem: BaseException) -> None:
        super().__init__(type(problem).__name__)
        self.problem = problem


@contextmanager
def copy_in(cursor: psycopg.Cursor[Any], statement: str) -> Iterator[psycopg.Copy]:
    """``cursor.copy``, which sends the text of an exception to the server, where it is logged; and a text may hold a row.

    The server is told the kind of the exception, and the caller gets the exception itself.
    """
    try:
        with cursor.copy(statement.encode()) as copy:
            try:
                yield copy
            except BaseException as problem:
                raise _BrokenOffError(problem) from None
    except _BrokenOffError as broken:
        raise broken.problem from broken.problem.__cause__
