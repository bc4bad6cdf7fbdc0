"""One chunk of a file on its way from its format to the engine: records with their places, split but not yet judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from app.columns import Mapping as ColumnMapping

Positions = npt.NDArray[np.int64]


class Place(NamedTuple):
    """Where a record stands.

    ``row_index`` counts data rows from 0; ``line_number`` is the physical line, from 1, on which it starts;
    ``row_number`` is the record as a spreadsheet counts it, header and blank records included; ``start`` and ``end``
    are byte offsets into the file.
    """

    row_index: int
    line_number: int
    row_number: int
    start: int
    end: int


class Row(NamedTuple):
    """A well-formed record: as many cells as there are headers.

    ``continuations`` are the lines, after its first, of a record that spans lines, as far as each has the header's field
    count by itself: if one of them passes the contract, the record has swallowed rows.
    """

    place: Place
    cells: tuple[str, ...]
    continuations: tuple[tuple[str, ...], ...] = ()


class Damaged(NamedTuple):
    """A record that is refused as a whole; ``problem`` says what was found and what was expected.

    ``cells`` are for reading, where the record has as many as the header; bytes that are not UTF-8 stand as ``\\xNN``.
    """

    place: Place
    problem: str
    cells: tuple[str, ...] | None = None


@dataclass(slots=True)
class Plain:
    """Records of one line each that are proven well-formed, column by column; all positions count from the block's start.

    ``ends`` holds, for each record and column, the position behind the cell: that of its delimiter or line end. A cell
    that begins with a quote ends with one; doubled quotes inside it are still doubled. The bytes are valid UTF-8.
    ``stains`` tells, in order, where cells hold more than printable ASCII: at controls, at the first bytes of characters
    beyond ASCII, at quotes that follow a quote. Some may stand between the records.
    """

    starts: Positions
    ends: Positions
    record_ends: Positions
    row_index: Positions
    line_number: Positions
    row_number: Positions
    stains: Positions

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(slots=True)
class Block:
    """A run of records and the bytes in which they stand; ``offset`` is the place of ``data`` in the file.

    ``plain`` holds most records of an ordinary file; ``rows`` and ``damaged`` those that had to be read one by one.
    Each record is in one of the three, in file order within it.
    """

    data: bytes
    offset: int
    plain: Plain | None = None
    rows: list[Row] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)

    def raw(self, place: Place) -> bytes:
        """The record's exact bytes, line end included."""
        return self.data[place.start - self.offset : place.end - self.offset]

    def place(self, index: int) -> Place:
        """The place of a plain record."""
        plain = self.plain
        if plain is None:
            raise IndexError(index)
        return Place(
            int(plain.row_index[index]),
            int(plain.line_number[index]),
            int(plain.row_number[index]),
            int(plain.starts[index]) + self.offset,
            int(plain.record_ends[index]) + self.offset,
        )

    def cell(self, index: int, column: int) -> str:
        """A cell of a plain record."""
        plain = self.plain
        if plain is None:
            raise IndexError(index)
        start = int(plain.starts[index] if column == 0 else plain.ends[index, column - 1] + 1)
        content = self.data[start : int(plain.ends[index, column])]
        if content.startswith(b'"'):
            content = content[1:-1].replace(b'""', b'"')
        return content.decode()

    def cells(self, index: int) -> tuple[str, ...]:
        """All cells of a plain record."""
        plain = self.plain
        if plain is None:
            raise IndexError(index)
        start, ends = int(plain.starts[index]), plain.ends[index].tolist()
        record = self.data[start : ends[-1]]
        if b'"' not in record:
            return tuple(record.decode().split(chr(self.data[ends[0]])))
        return tuple(self.cell(index, column) for column in range(len(ends)))


class Reader(Protocol):
    """A file of one format, opened: its columns are known, its rows are still to come."""

    mapping: ColumnMapping

    def blocks(self) -> Iterator[Block]:
        """The records, in file order, in blocks of bounded size. Raises FileRefusedError (LIMIT_EXCEEDED)."""
        ...

    def reading(self) -> Mapping[str, Any]:
        """How the file was read, for intake.batches.reading; complete once the blocks are exhausted."""
        ...

    def cells_of(self, raw: bytes) -> tuple[str, ...]:
        """The cells of one record that was accepted before, from its exact bytes."""
        ...

    def bytes_read(self) -> int:
        """How far into the file the reader is."""
        ...
