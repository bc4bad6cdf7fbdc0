"""A file's rows derived a second time: record by record through the scanner, row by row through the contract's one schema.

Nothing here works in columns, and nothing is remembered from one cell to the next; only the words are the engine's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from app.block import Block, Damaged, Place, Row
from app.engine import refusals
from app.errors import FileRefusedError
from app.formats.csv import CsvReader, Limits
from app.judgment import Judgment, JudgmentSchema


class Refusal(NamedTuple):
    """Why a row is refused, as intake.row_errors keeps it."""

    code: str
    message: str
    stage: str
    raw_data: Any


class Derived(NamedTuple):
    """One row: its place, its exact bytes, and the judgment that it holds or why it holds none."""

    place: Place
    raw: bytes
    cells: tuple[str, ...]
    result: Judgment | Refusal


class Derivation:
    """The rows of one file; ``refusal`` is set where the whole file is refused before its end. ``today`` is the batch's."""

    def __init__(self, pieces: Iterator[bytes], limits: Limits, today: dt.date) -> None:
        self._schema = JudgmentSchema(today=today)
        self._reader: CsvReader | None = None
        self.refusal: FileRefusedError | None = None
        try:
            self._reader = CsvReader(pieces, limits, by_record=True)
        except FileRefusedError as refusal:
            self.refusal = refusal
            return
        mapping = self._reader.mapping
        self._headers, self._columns, self._keys = mapping.headers, mapping.columns, mapping.keys

    def rows(self) -> Iterator[list[Derived]]:
        """All rows in file order, some at a time."""
        if self._reader is None:
            return
        try:
            for block in self._reader.blocks():
                found = [self._of_row(block, row) for row in block.rows]
                found += [self._of_damage(block, damaged) for damaged in block.damaged]
                found.sort(key=lambda row: row.place.row_index)
                yield found
        except FileRefusedError as refusal:
            self.refusal = refusal

    def of_insert(self, row: Derived) -> Refusal:
        """What is kept of an acceptable row that the database itself has refused."""
        message = refusals.message_of_insert(row.place.row_number)
        return Refusal(refusals.INSERT_FAILED, message, "upsert", self._shown(row.cells))

    def _of_row(self, block: Block, row: Row) -> Derived:
        raw = block.raw(row.place)
        if any(isinstance(self._check(cells), Judgment) for cells in row.continuations):
            damaged = Damaged(row.place, refusals.SWALLOWED, row.cells)
            return Derived(row.place, raw, row.cells, self._damage(damaged, raw))
        result = self._check(row.cells)
        if isinstance(result, Judgment):
            return Derived(row.place, raw, row.cells, result)
        faults = [(self._headers[self._columns[name]], fault) for name, fault in result.items()]
        message = refusals.message_of_faults(row.place.row_number, faults)
        refusal = Refusal(faults[0][1].code, message, "validate", self._shown(row.cells))
        return Derived(row.place, raw, row.cells, refusal)

    def _of_damage(self, block: Block, damaged: Damaged) -> Derived:
        raw = block.raw(damaged.place)
        return Derived(damaged.place, raw, (), self._damage(damaged, raw))

    def _damage(self, damaged: Damaged, raw: bytes) -> Refusal:
        shown = orjson.loads(refusals.raw_data_of_damage(self._keys, damaged, raw))
        return Refusal("PARSE_ERROR", refusals.message_of_damage(damaged), "parse", shown)

    def _check(self, cells: tuple[str, ...]) -> Any:
        return self._schema.check({name: cells[column] for name, column in self._columns.items()})

    def _shown(self, cells: tuple[str, ...]) -> Any:
        return orjson.loads(refusals.raw_data_of(self._keys, cells))
