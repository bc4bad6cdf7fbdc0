"""Judging a block: plain columns by masks, suspect cells by their field of the contract, each distinct cell once."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import numpy as np

from app.block import Block, Damaged, Place, Plain, Row
from app.columns import Mapping
from app.engine import masks
from app.engine.cells import PAD, Cells, Numbers
from app.engine.pack import TEXTS, Values, pack
from app.engine.refusals import SWALLOWED, Faults, parse_error, row_error
from app.judgment import FIELDS, Fault, FaultError, JudgmentSchema, empty_word
from app.rows import PLACE, Packed, RowError

_MEMORY_CELLS = 20_000
_MEMORY_CELL_LENGTH = 200
_AMOUNT, _DATE = "judgment_amount", "judgment_date"
_NULL = -1


class _Known(NamedTuple):
    """What the contract makes of one cell: cents, days since 2000-01-01, a text, nothing, or a fault."""

    value: int | bytes | Fault | None
    word: str | None


@dataclass(slots=True)
class Checked:
    """What was found in one block."""

    total: int
    accepted: Packed | None
    cents: int
    refused: list[RowError] = field(default_factory=list)
    empty_words: Counter[str] = field(default_factory=Counter)


class _Memory:
    """One field of the contract and what it made of the cells that it was asked for."""

    def __init__(self, schema: JudgmentSchema, name: str) -> None:
        self.rule = schema.fields[name]
        self._known: dict[bytes, _Known] = {}

    def judge(self, cell: bytes) -> _Known:
        """A cell as it stands between its delimiters or quotes; a quote inside it is doubled."""
        known = self._known.get(cell)
        if known is None:
            known = self.explain(cell.replace(b'""', b'"').decode())
            if len(cell) <= _MEMORY_CELL_LENGTH:
                if len(self._known) >= _MEMORY_CELLS:
                    self._known.clear()
                self._known[cell] = known
        return known

    def explain(self, text: str) -> _Known:
        """Ask the contract."""
        try:
            value = self.rule.deserialize(text)
        except FaultError as refusal:
            return _Known(refusal.fault, empty_word(text))
        if value is None:
            return _Known(None, empty_word(text))
        if isinstance(value, Decimal):
            return _Known(int(value * 100), None)
        if isinstance(value, dt.date):
            return _Known((value - masks.POSTGRES_EPOCH).days, None)
        return _Known(str(value).encode(), None)


class Judge:
    """Checks blocks of one file; may be called from several threads, which share what they know of cells."""

    def __init__(self, mapping: Mapping, batch_id: UUID, today: dt.date) -> None:
        self._schema = JudgmentSchema(today=today)
        self._batch_id = batch_id
        self._headers = mapping.headers
        self._keys = mapping.keys
        self._columns = mapping.columns
        self._fields = [
            (name, mapping.columns[name], _Memory(self._schema, name)) for name in FIELDS if name in mapping.columns
        ]

    def check(self, block: Block) -> Checked:
        """Judge every record of the block."""
        found = _Found()
        if block.plain is not None:
            self._judge_plain(block, block.plain, found)
        for row in block.rows:
            self._judge_row(block, row, found)
        found.refused += [parse_error(self._batch_id.bytes, block, self._keys, damaged) for damaged in block.damaged]
        found.refused.sort(key=lambda error: error[0])
        total = (0 if block.plain is None else len(block.plain)) + len(block.rows) + len(block.damaged)
        values = found.values()
        if values is None:
            return Checked(total, None, 0, found.refused, found.empty_words)
        packed = pack(values, self._batch_id)
        return Checked(total, packed, int(values.cents.sum()), found.refused, found.empty_words)

    def _judge_plain(self, block: Block, plain: Plain, found: _Found) -> None:
        cells = Cells(block, plain)
        found.octets = cells.octets
        rows = _Rows(len(plain))
        faults: dict[int, Faults] = defaultdict(list)
        for name, index, memory in self._fields:
            column = cells.column(index)
            reading = masks.read(self._schema, memory.rule, column)
            suspect = ~reading.accepted
            if not getattr(memory.rule, "missing_code", None):
                suspect &= ~reading.empty
            starts, lengths = column.starts, np.where(reading.accepted, column.lengths, _NULL)
            numbers = reading.values
            places = np.flatnonzero(suspect)
            if len(places):
                begins, ends = column.starts[places] - cells.shift, column.ends[places] - cells.shift
                starts = starts.copy()
                for place, begin, end in zip(places.tolist(), begins.tolist(), ends.tolist(), strict=True):
                    known = memory.judge(block.data[begin:end])
                    if known.word:
                        found.empty_words[known.word] += 1
                    value = known.value
                    if isinstance(value, Fault):
                        faults[place].append((self._headers[index], value))
                    elif isinstance(value, bytes):
                        starts[place], lengths[place] = found.add_text(value), len(value)
                    elif value is not None and numbers is not None:
                        numbers[place], lengths[place] = value, 0
            rows.take(name, starts, lengths, numbers)
        if faults:
            self._refuse_plain(block, plain, faults, found)
        good = np.ones(len(plain), np.bool_)
        good[list(faults)] = False
        found.add_plain(rows, plain, block.offset, np.flatnonzero(good))

    def _refuse_plain(self, block: Block, plain: Plain, faults: dict[int, Faults], found: _Found) -> None:
        # Number by number, NumPy's own conversions would take as long as all the rest.
        which, batch = sorted(faults), self._batch_id.bytes
        columns = (plain.row_index, plain.line_number, plain.row_number, plain.starts, plain.record_ends)
        numbers = np.stack([column[which] for column in columns], axis=1).tolist()
        delimiter = chr(block.data[int(plain.ends[which[0], 0])])
        for index, (row_index, line_number, row_number, start, end) in zip(which, numbers, strict=True):
            raw = block.data[start:end]
            cells = block.cells(index) if b'"' in raw else tuple(raw.rstrip(b"\r\n").decode().split(delimiter))
            place = Place(row_index, line_number, row_number, start + block.offset, end + block.offset)
            found.refused.append(row_error(batch, place, self._keys, cells, raw=raw, faults=faults[index]))

    def _judge_row(self, block: Block, row: Row, found: _Found) -> None:
        values: dict[str, int | bytes | None] = {}
        faults: Faults = []
        for name, column, memory in self._fields:
            known = memory.judge(row.cells[column].replace('"', '""').encode())
            if known.word:
                found.empty_words[known.word] += 1
            if isinstance(known.value, Fault):
                faults.append((self._headers[column], known.value))
            else:
                values[name] = known.value
        if row.continuations and any(self._is_a_row(cells) for cells in row.continuations):
            found.refused.append(
                parse_error(self._batch_id.bytes, block, self._keys, Damaged(row.place, SWALLOWED, row.cells))
            )
        elif faults:
            raw = block.raw(row.place)
            found.refused.append(
                row_error(self._batch_id.bytes, row.place, self._keys, row.cells, raw=raw, faults=faults)
            )
        else:
            found.add_row(row, values)

    def _is_a_row(self, cells: tuple[str, ...]) -> bool:
        return not any(isinstance(memory.explain(cells[column]).value, Fault) for _, column, memory in self._fields)


class _Rows:
    """The values of a block's plain records by field, as they are read."""

    def __init__(self, count: int) -> None:
        nothing = np.full(count, _NULL)
        origin = np.full(count, PAD)
        self.texts: dict[str, tuple[Numbers, Numbers]] = dict.fromkeys(TEXTS, (origin, nothing))
        self.cents = np.zeros(count, np.int64)
        self.days = np.zeros(count, np.int64)
        self.dated = np.zeros(count, np.bool_)

    def take(self, name: str, starts: Numbers, lengths: Numbers, numbers: Numbers | None) -> None:
        """Keep one field; a length of -1 is NULL."""
        if numbers is None:
            self.texts[name] = (starts, lengths)
        elif name == _AMOUNT:
            self.cents = numbers
        else:
            self.days, self.dated = numbers, lengths != _NULL


class _Found:
    """What is found in a block while it is judged. Texts that the contract wrote anew stand behind the block's bytes."""

    def __init__(self) -> None:
        self.refused: list[RowError] = []
        self.empty_words: Counter[str] = Counter()
        self.octets = np.zeros(2 * PAD, np.uint8)
        self._texts: list[bytes] = []
        self._texts_end = 0
        self._parts: list[Values] = []
        self._rows: list[tuple[Row, dict[str, int | bytes | None]]] = []

    def add_text(self, text: bytes) -> int:
        """Keep a text; returns its place from the end of the block's padded bytes on."""
        start = len(self.octets) + self._texts_end
        self._texts.append(text)
        self._texts_end += len(text)
        return start

    def add_plain(self, rows: _Rows, plain: Plain, offset: int, good: Numbers) -> None:
        """Accept plain records."""
        places = np.empty(len(good), PLACE)
        starts = plain.starts[good]
        places["row_number"], places["start"] = plain.row_number[good], starts + offset
        places["length"] = plain.record_ends[good] - starts
        self._parts.append(
            Values(
                self.octets,
                {name: (starts[good], lengths[good]) for name, (starts, lengths) in rows.texts.items()},
                rows.cents[good],
                rows.days[good],
                rows.dated[good],
                plain.row_index[good],
                plain.line_number[good],
                places,
            )
        )

    def add_row(self, row: Row, values: dict[str, int | bytes | None]) -> None:
        """Accept a record that was read by itself."""
        self._rows.append((row, values))

    def values(self) -> Values | None:
        """All accepted rows in file order; None where there are none."""
        parts = self._parts
        if self._rows:
            parts = [*parts, self._scanned()]
        if not sum(map(len, parts)):
            return None
        octets = self.octets
        if self._texts:
            texts = np.frombuffer(b"".join(self._texts), np.uint8)
            octets = np.concatenate((octets, texts, np.zeros(PAD, np.uint8)))
        order = np.argsort(np.concatenate([part.row_index for part in parts]), kind="stable")
        if len(parts) == 1:
            return _replaced(parts[0], octets)

        def joined(pick: list[np.ndarray]) -> np.ndarray:
            return np.concatenate(pick)[order]

        return Values(
            octets,
            {
                name: (joined([part.texts[name][0] for part in parts]), joined([part.texts[name][1] for part in parts]))
                for name in TEXTS
            },
            joined([part.cents for part in parts]),
            joined([part.days for part in parts]),
            joined([part.dated for part in parts]),
            joined([part.row_index for part in parts]),
            joined([part.line_number for part in parts]),
            joined([part.places for part in parts]),
        )

    def _scanned(self) -> Values:
        count = len(self._rows)
        texts = {name: (np.full(count, PAD), np.full(count, _NULL)) for name in TEXTS}
        cents, days = np.zeros(count, np.int64), np.zeros(count, np.int64)
        dated = np.zeros(count, np.bool_)
        places = np.empty(count, PLACE)
        for index, (row, values) in enumerate(self._rows):
            place = row.place
            places[index] = (place.row_number, place.end - place.start, place.start)
            for name, value in values.items():
                if isinstance(value, bytes):
                    starts, lengths = texts[name]
                    starts[index], lengths[index] = self.add_text(value), len(value)
                elif value is not None and name == _AMOUNT:
                    cents[index] = value
                elif value is not None:
                    days[index], dated[index] = value, True
        row_index = np.array([row.place.row_index for row, _ in self._rows], np.int64)
        line_number = np.array([row.place.line_number for row, _ in self._rows], np.int64)
        return Values(self.octets, texts, cents, days, dated, row_index, line_number, places)


def _replaced(values: Values, octets: np.ndarray) -> Values:
    return Values(
        octets,
        values.texts,
        values.cents,
        values.days,
        values.dated,
        values.row_index,
        values.line_number,
        values.places,
    )
