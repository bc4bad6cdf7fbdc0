"""What must hold after every fault, whatever died: the batches against their files, cell by cell, and no leak."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.acceptance.pipeline import FINISHED
from tests.faults.files import MARKS, KnownFile
from tests.faults.stack import Stack, until

_CENTS = 3
"""The place of the amount in KnownFile.judgment."""


@dataclass
class Books:
    """What was found wrong, and how many rows were looked at."""

    rows: int = 0
    lost: int = 0
    duplicated: int = 0
    unaccounted: int = 0
    breaches: list[str] = field(default_factory=list)

    def add(self, other: Books) -> None:
        self.rows += other.rows
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.unaccounted += other.unaccounted
        self.breaches += other.breaches


@dataclass(frozen=True)
class Expected:
    """A batch that was answered 202 and what must become of it."""

    batch_id: str
    file: KnownFile
    status: str = "completed"
    code: str | None = None
    shared: bool = False
    """Other batches have the same case numbers."""


def balance(connection: psycopg.Connection[Any], expected: Expected) -> Books:
    """I1 to I4 for one batch, against the file it was made of."""
    books = Books(rows=expected.file.rows)
    batch_id, file = expected.batch_id, expected.file
    row = connection.execute(
        "SELECT status, rejection_code, row_count_total, row_count_valid, row_count_invalid, row_count_inserted,"
        " row_count_duplicate FROM intake.batches WHERE id = %s",
        (batch_id,),
    ).fetchone()
    if row is None:
        books.lost = books.unaccounted = file.rows
        books.breaches.append(f"I1: batch {batch_id} is not there")
        return books
    status, code, total, valid, invalid, inserted, duplicate = row
    if status not in FINISHED:
        books.breaches.append(f"I1: batch {batch_id} is {status}")
    if (status, code) != (expected.status, expected.code):
        books.breaches.append(f"batch {batch_id} is {status} {code}, expected {expected.status} {expected.code}")
    first, last = file.keys
    judgments = connection.execute(
        "SELECT case_number, defendant_name, plaintiff_name, (judgment_amount * 100)::bigint, judgment_date::text, court,"
        " county, line_number, row_index, batch_id::text FROM public.judgments WHERE case_number BETWEEN %s AND %s",
        (first, last),
    ).fetchall()
    own = {row: tuple(cells) for *cells, row, batch in judgments if batch == batch_id}
    own_count = sum(found[-1] == batch_id for found in judgments)
    copies = Counter(case for case, *_ in judgments)
    books.duplicated = sum(copies.values()) - len(copies) + own_count - len(own)
    if books.duplicated:
        books.breaches.append(f"I3: batch {batch_id}: {books.duplicated} judgments stand twice")
    if status != "completed":
        if own_count:
            books.breaches.append(f"I2: batch {batch_id} is {status} and has {own_count} judgments")
        return books
    errors = _rows_of(connection, "intake.row_errors", "error_code, rtrim(encode(raw, 'escape'), E'\\r\\n')", batch_id)
    conflicts = _rows_of(connection, "intake.row_conflicts", "case_number", batch_id)
    _check_rows(books, expected, own, errors, conflicts)
    books.lost = len(file.first_rows.keys() - copies.keys())
    if books.lost:
        books.breaches.append(f"I4: batch {batch_id}: {books.lost} judgments are missing")
    figures = (total, valid, invalid, inserted, duplicate)
    counted = (file.rows, file.rows - len(file.invalid), len(errors), len(own), len(conflicts))
    if figures != counted or inserted + duplicate + invalid != total:
        books.breaches.append(f"I2: batch {batch_id} says {figures}, counted {counted}")
    kept = {row for row, *_ in conflicts if row < file.rows}
    dollars = sum(cells[_CENTS] for cells in own.values()) + file.cents_of(kept)
    if dollars != file.cents_of(set(range(file.rows)) - file.invalid):
        books.breaches.append(f"I2: batch {batch_id}: the dollars do not add up")
    return books


def _check_rows(
    books: Books,
    expected: Expected,
    own: dict[int, tuple[Any, ...]],
    errors: list[tuple[Any, ...]],
    conflicts: list[tuple[Any, ...]],
) -> None:
    file, batch_id = expected.file, expected.batch_id
    fates = Counter([*own, *(row for row, *_ in (*errors, *conflicts))])
    books.unaccounted = len(set(range(file.rows)) ^ fates.keys()) + sum(count - 1 for count in fates.values())
    if books.unaccounted:
        books.breaches.append(f"I2: batch {batch_id}: {books.unaccounted} rows without exactly one fate")
    wrong = sum(cells != file.judgment(row) for row, cells in own.items() if row < file.rows)
    if wrong:
        books.breaches.append(f"I2: batch {batch_id}: {wrong} judgments differ from their rows")
    wrong = sum((code, raw) != ("INVALID_AMOUNT", file.lines[row].decode()) for row, code, raw in errors)
    wrong += sum(case != file.cases[row] for row, case in conflicts)
    if wrong:
        books.breaches.append(f"I2: batch {batch_id}: {wrong} errors or duplicates are not those of their rows")
    if {row for row, *_ in errors} != file.invalid:
        books.breaches.append(f"I2: batch {batch_id}: other rows are refused than the file's bad ones")
    if not expected.shared and set(own) != set(file.first_rows.values()):
        books.breaches.append(f"I2: batch {batch_id}: other rows stand than the first of each case number")


def _rows_of(connection: psycopg.Connection[Any], table: str, columns: str, batch_id: str) -> list[tuple[Any, ...]]:
    statement = f"SELECT row_index, {columns} FROM {table} WHERE batch_id = %s"
    return connection.execute(statement, (batch_id,)).fetchall()  # type: ignore[call-overload, no-any-return]


class Leaks:
    """I6: what was said, sent or shown since the last look holds no cell of a row, and no file's name."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._read: dict[Path, int] = {}

    def look(self, bodies: Iterable[str]) -> list[str]:
        """Where a mark was found; ``bodies`` are those of errors that a client was answered."""
        places = [("an error's body", body) for body in bodies]
        places += [(f"the log {path.name}", self._since(path)) for path in self._stack.logs()]
        places += [("the broker", text) for text in self._broker()]
        places.append(("Flower", until(self._flower, 60, "Flower shows what it knows")))
        alerts = self._stack.owner("SELECT coalesce(string_agg(a::text, ' '), '') FROM ops.alerts a")
        places.append(("an alert", alerts[0][0]))
        return [f"I6: a cell or a file's name stands in {place}" for place, text in places if holds_mark(text)]

    def _flower(self) -> str | None:
        with contextlib.suppress(httpx.HTTPError):
            answer = self._stack.flower.get("/api/tasks")
            return answer.text if answer.status_code == 200 else None
        return None

    def _since(self, path: Path) -> str:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            text = file.read()
            self._read[path] = file.tell()
        return text.decode(errors="replace")

    def _broker(self) -> list[str]:
        until(self._stack.answers, 60, "the broker shows what it holds")
        found = []
        for key in self._stack.broker.scan_iter():
            octets = self._stack.broker.dump(key)
            # Compressed or not, ids and names of queues are all that may be in there: LZF leaves the first bytes readable.
            found.append(f"{key!r} {octets!r}")
            if self._stack.broker.type(key) == b"list":
                found += [_decoded(message) for message in self._stack.broker.lrange(key, 0, -1)]  # type: ignore[union-attr]
            elif self._stack.broker.type(key) == b"hash":
                found += [_decoded(message) for message in self._stack.broker.hvals(key)]  # type: ignore[union-attr]
        return found


def holds_mark(text: str) -> bool:
    """Whether something of a file is in there."""
    return any(mark in text for mark in MARKS)


def _decoded(message: bytes) -> str:
    """A message with its body, which is base64."""
    import base64
    import json

    text = message.decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        envelope = json.loads(text)
        envelope = envelope[0] if isinstance(envelope, list) else envelope
        text += base64.b64decode(envelope["body"]).decode(errors="replace")
    return text
