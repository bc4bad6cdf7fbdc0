"""One chunk of a file on its way from its format to the engine: records with their places, split but not yet judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from app.columns import Mapping as ColumnMapping


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
class Block:
    """A run of records and the bytes in which they stand; ``offset`` is the place of ``data`` in the file."""

    data: bytes
    offset: int
    rows: list[Row] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)

    def raw(self, place: Place) -> bytes:
        """The record's exact bytes, line end included."""
        return self.data[place.start - self.offset : place.end - self.offset]


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
