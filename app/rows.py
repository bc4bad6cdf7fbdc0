"""The rows on their way from the engine to the store: accepted ones in the form that COPY BINARY takes, refused ones in words."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Octets = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[Any]

ERROR_COLUMNS = (
    "batch_id",
    "row_index",
    "line_number",
    "row_number",
    "error_code",
    "error_message",
    "error_stage",
    "raw_data",
    "raw",
)
"""The order of the fields of a packed row error."""

COPY_COLUMNS = (
    "id",
    "judgment_date",
    "judgment_amount",
    "batch_id",
    "row_index",
    "line_number",
    "case_number",
    "defendant_name",
    "plaintiff_name",
    "court",
    "county",
)
"""The order of the fields in a packed row: those of fixed length come first."""

VALUE_NAMES = ("plaintiff_name", "defendant_name", "judgment_amount", "judgment_date", "court", "county")
"""What a judgment holds beside its key."""

STANDING_COLUMNS = (
    "batch_id",
    "row_index",
    "cents",
    "case_number",
    "judgment_date",
    "defendant_name",
    "plaintiff_name",
    "court",
    "county",
)
"""The order of the fields of a judgment that stands already."""

CONFLICT_COLUMNS = ("batch_id", "row_index", "kept_batch_id", "kept_row_index", "case_number", "fields")
"""The order of the fields of a packed conflict; where nothing differs, the last one is left to its default."""

_ID_AT, _ID_BYTES = 6, 8
_DATE_AT = 14
_NULL = b"\xff\xff\xff\xff"


_ERROR_HEAD = struct.Struct(">hi16s6i")
_LENGTH = struct.Struct(">i").pack
_JSONB_VERSION = b"\x01"


class RowError(NamedTuple):
    """A refused row; ``octets`` is the whole of it as COPY BINARY takes it: a tuple of texts takes four times the memory."""

    row_index: int
    code: str
    octets: bytes


def pack_error(
    batch: bytes,
    row_index: int,
    line_number: int,
    row_number: int,
    *,
    code: str,
    message: str,
    stage: str,
    raw_data: bytes,
    raw: bytes,
) -> RowError:
    """Pack a refused row. ``batch`` are the id's 16 bytes, ``raw_data`` is JSON, ``raw`` the record's exact bytes."""
    parts = [_ERROR_HEAD.pack(len(ERROR_COLUMNS), 16, batch, 4, row_index, 4, line_number, 4, row_number)]
    for content in (code.encode(), message.encode(), stage.encode(), _JSONB_VERSION + raw_data, raw):
        parts += (_LENGTH(len(content)), content)
    return RowError(row_index, code, b"".join(parts))


PLACE = np.dtype([("row_number", np.int32), ("length", np.int32), ("start", np.int64)])
"""Where a row stands in its file, beside what its packed form tells: kept for a row that the database refuses."""


class Accepted(NamedTuple):
    """One accepted row; ``start`` and ``end`` are byte offsets into its file."""

    row_index: int
    line_number: int
    row_number: int
    start: int
    end: int
    cents: int


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows as COPY BINARY takes them, one behind the other in ``octets``; row i ends before ``ends[i]``.

    ``keys`` holds each row's case number in UTF-8, filled up with zeros to one width; ``places`` a PLACE for each.
    """

    octets: Octets
    ends: Numbers
    keys: Octets
    places: Places

    def __len__(self) -> int:
        return len(self.ends)

    def chosen(self, which: Flags) -> Packed:
        """The rows that are marked, in the same order."""
        if which.all():
            return self
        starts = np.concatenate((np.zeros(1, np.int64), self.ends[:-1]))
        # Whole runs of marked rows are copied at once: mostly one row in fifty is left out, or taken.
        edges = np.flatnonzero(np.diff(which, prepend=False, append=False))
        runs = zip(starts[edges[0::2]].tolist(), self.ends[edges[1::2] - 1].tolist(), strict=True)
        parts = [self.octets[start:end] for start, end in runs]
        octets = np.concatenate(parts) if parts else np.empty(0, np.uint8)
        return Packed(octets, np.cumsum((self.ends - starts)[which]), self.keys[which], self.places[which])

    def part(self, first: int, behind: int) -> Packed:
        """The rows from ``first`` up to before ``behind``."""
        start = int(self.ends[first - 1]) if first else 0
        end = int(self.ends[behind - 1]) if behind else 0
        return Packed(
            self.octets[start:end], self.ends[first:behind] - start, self.keys[first:behind], self.places[first:behind]
        )

    def key_octets(self) -> list[bytes]:
        """The case numbers in UTF-8, of rows with the same one once."""
        keys: list[bytes] = self.keys.view(f"S{self.keys.shape[1]}").ravel().tolist()
        return list(dict.fromkeys(keys))

    def with_ids(self, first_id: int) -> Octets:
        """The rows' bytes with ids from ``first_id`` on."""
        octets = self.octets.copy()
        starts = np.concatenate((np.zeros(min(1, len(self)), np.int64), self.ends[:-1]))
        ids = np.ndarray((max(0, len(octets) - _ID_BYTES + 1),), ">i8", octets, strides=(1,))
        ids[starts + _ID_AT] = np.arange(first_id, first_id + len(self))
        return octets

    def accepted(self, index: int) -> Accepted:
        """One row's place and amount."""
        start = int(self.ends[index - 1]) if index else 0
        row = self.octets[start : int(self.ends[index])].tobytes()
        dated = row[_DATE_AT : _DATE_AT + 4] != _NULL
        at = _DATE_AT + (8 if dated else 4)
        *_, millions_of_millions, ten_thousands, units, cents = struct.unpack_from(">i8h", row, at)
        row_index, line_number = struct.unpack_from(">4xi4xi", row, at + 20 + 20)
        place = self.places[index]
        start_in_file, length = int(place["start"]), int(place["length"])
        return Accepted(
            row_index,
            line_number,
            int(place["row_number"]),
            start_in_file,
            start_in_file + length,
            ((millions_of_millions * 10_000 + ten_thousands) * 10_000 + units) * 100 + cents // 100,
        )


class Outcome(Enum):
    """What became of one attempt to insert rows; except for LOADED, nothing was inserted."""

    LOADED = auto()
    KEY_TAKEN = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Standing:
    """Judgments that stand, each a record of STANDING_COLUMNS as PostgreSQL sends it; judgment i ends before ``ends[i]``.

    A record is its number of fields, then each one's type, length and content; cents are a bigint.
    """

    octets: Octets
    ends: Numbers

    def __len__(self) -> int:
        return len(self.ends)


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Duplicates packed as COPY BINARY takes them, in key order: those that are the same as the row that stands, and
    those that differ from it. ``cents`` are the dollars of all of them.
    """

    same: bytes
    different: bytes
    rows: int
    differing: int
    cents: int


class Target(Protocol):
    """Where judgments go, within one transaction. Rows come in key order."""

    def insert(self, rows: Iterable[Packed]) -> Outcome:
        """Insert all or none; each key comes once."""
        ...

    def insert_absent(self, rows: Iterable[Packed]) -> Outcome:
        """Insert those whose key is free, of each key the first; LOADED or REFUSED."""
        ...

    def standing(self, rows: Packed) -> Standing:
        """The judgments that stand under the rows' keys; there may be others of neighbouring keys among them."""
        ...

    def keep(self, conflicts: Sequence[Conflicts]) -> None:
        """Keep duplicates."""
        ...
