"""Checking: every row of a file against the contract, each refused one explained and kept with its exact bytes."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from app.block import Block, Damaged, Reader, Row
from app.engine.spool import ErrorSpool, RowSpool, Spool
from app.errors import CATALOGUE
from app.judgment import FIELDS, Fault, FaultError, JudgmentSchema, empty_word
from app.rows import AcceptedRow, RowError, cents_of

Advance = Callable[[int, int], None]
"""Called with rows checked and bytes read so far; raises to end the attempt."""

_MEMORY_CELLS = 20_000
_MEMORY_CELL_LENGTH = 200


@dataclass(slots=True)
class Findings:
    """What the check of a whole file found. ``rows`` and ``errors`` live as long as their spool."""

    rows: RowSpool
    errors: ErrorSpool
    total: int = 0
    cents_valid: int = 0
    empty_words: Counter[str] = field(default_factory=Counter)
    error_counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def into(cls, spool: Spool) -> Findings:
        """Empty findings on the spool's disk."""
        return cls(RowSpool(spool.folder), ErrorSpool(spool.folder / "errors"))

    @property
    def valid(self) -> int:
        return self.rows.count

    @property
    def invalid(self) -> int:
        return self.errors.count

    @property
    def dollars_valid(self) -> Decimal:
        return Decimal(self.cents_valid) / 100

    def refuse(self, error: RowError) -> None:
        """Keep one refused row."""
        self.errors.append(error)
        self.error_counts[error[3]] += 1


def check(findings: Findings, reader: Reader, *, today: dt.date, advance: Advance) -> None:
    """Check every row into ``findings``, which keep what was read before a file is refused half-way.

    ``today`` is the batch's. Raises FileRefusedError (LIMIT_EXCEEDED) from the reader, OSError where the spool's disk
    is full, and whatever ``advance`` raises.
    """
    checker = _Checker(reader, findings, today)
    for block in reader.blocks():
        checker.check(block)
        advance(findings.total, reader.bytes_read())


class _Cells:
    """One column's cells judged by its field, each distinct cell once."""

    def __init__(self, schema: JudgmentSchema, name: str) -> None:
        self.name = name
        self._field = schema.fields[name]
        self._known: dict[str, str | Fault | None] = {}

    def judge(self, cell: str) -> str | Fault | None:
        """The cell's value as text (amounts to two decimals, dates in ISO form), None where empty, or its fault."""
        try:
            return self._known[cell]
        except KeyError:
            pass
        value: str | Fault | None
        try:
            read = self._field.deserialize(cell)
            value = None if read is None else str(read)
        except FaultError as refusal:
            value = refusal.fault
        if len(cell) <= _MEMORY_CELL_LENGTH:
            if len(self._known) >= _MEMORY_CELLS:
                self._known.clear()
            self._known[cell] = value
        return value


class _Checker:
    def __init__(self, reader: Reader, findings: Findings, today: dt.date) -> None:
        schema = JudgmentSchema(today=today)
        columns = reader.mapping.columns
        self._keys = reader.mapping.keys
        self._headers = reader.mapping.headers
        self._columns = columns
        self._fields = [(name, columns[name], _Cells(schema, name)) for name in FIELDS if name in columns]
        self._findings = findings

    def check(self, block: Block) -> None:
        findings = self._findings
        for row in block.rows:
            self._check_row(block, row)
        for damaged in block.damaged:
            findings.refuse(self._parse_error(block, damaged))
        findings.total += len(block.rows) + len(block.damaged)

    def _check_row(self, block: Block, row: Row) -> None:
        findings = self._findings
        values: dict[str, str | None] = {}
        faults: list[tuple[str, Fault]] = []
        for name, column, cells in self._fields:
            cell = row.cells[column]
            value = cells.judge(cell)
            if isinstance(value, Fault):
                faults.append((name, value))
            else:
                values[name] = value
            if value is None or isinstance(value, Fault):
                word = empty_word(cell)
                if word:
                    findings.empty_words[word] += 1
        if row.continuations and any(self._is_a_row(cells) for cells in row.continuations):
            problem = "found a quoted cell that spans lines which are rows by themselves, expected its closing quote"
            findings.refuse(self._parse_error(block, Damaged(row.place, problem, row.cells)))
        elif faults:
            findings.refuse(self._row_error(block, row, faults))
        else:
            accepted = _accepted(row, values)
            findings.cents_valid += cents_of(accepted)
            findings.rows.append(accepted, row.place.end - row.place.start)

    def _is_a_row(self, cells: tuple[str, ...]) -> bool:
        return not any(isinstance(judge.judge(cells[column]), Fault) for _, column, judge in self._fields)

    def _row_error(self, block: Block, row: Row, faults: list[tuple[str, Fault]]) -> RowError:
        place = row.place
        where = "; ".join(f"column {self._headers[self._columns[name]]}: {fault.message}" for name, fault in faults)
        return (
            place.row_index,
            place.line_number,
            place.row_number,
            faults[0][1].code,
            _storable(f"Row {place.row_number:,}, {where}."),
            "validate",
            _raw_data(self._keys, row.cells),
            block.raw(place),
        )

    def _parse_error(self, block: Block, damaged: Damaged) -> RowError:
        place = damaged.place
        raw = block.raw(place)
        if damaged.cells is not None:
            shown = _raw_data(self._keys, damaged.cells)
        else:
            text = _storable(raw.decode(errors="backslashreplace").rstrip("\r\n"))
            shown = json.dumps({"_raw": text}, ensure_ascii=False)
        return (
            place.row_index,
            place.line_number,
            place.row_number,
            "PARSE_ERROR",
            f"Row {place.row_number:,}: {damaged.problem}.",
            "parse",
            shown,
            raw,
        )


def insert_failed(row: AcceptedRow, keys: tuple[str, ...], cells: tuple[str, ...], raw: bytes) -> RowError:
    """The error of an accepted row that the database itself refused."""
    _, row_index, line_number, row_number, *_ = row
    message = f"Row {row_number:,}: {CATALOGUE['INSERT_FAILED'].sentence}"
    return row_index, line_number, row_number, "INSERT_FAILED", message, "upsert", _raw_data(keys, cells), raw


def _storable(text: str) -> str:
    """The text with NUL, which PostgreSQL does not take, shown as U+2400."""
    return text.replace("\x00", "\u2400")


def _raw_data(keys: tuple[str, ...], cells: tuple[str, ...]) -> str:
    """A record for reading, as JSON: header -> cell."""
    return json.dumps(dict(zip(keys, map(_storable, cells), strict=True)), ensure_ascii=False)


def _accepted(row: Row, values: dict[str, str | None]) -> AcceptedRow:
    place = row.place
    return (
        values["case_number"] or "",
        place.row_index,
        place.line_number,
        place.row_number,
        place.start,
        place.end,
        values.get("plaintiff_name"),
        values["defendant_name"] or "",
        values["judgment_amount"] or "",
        values.get("judgment_date"),
        values.get("court"),
        values.get("county"),
    )
