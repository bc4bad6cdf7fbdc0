"""The rows on their way from the engine to the store: accepted, refused, or duplicates of rows that stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple, Protocol
from uuid import UUID

AcceptedRow = tuple[str, int, int, int, int, int, str | None, str, str, str | None, str | None, str | None]
"""case_number, row_index, line_number, row_number, start, end (app.block.Place), plaintiff_name, defendant_name,
judgment_amount, judgment_date, court, county: plain texts as the database takes them; the key comes first, so tuples sort in the order of the load."""

RowError = tuple[int, int, int, str, str, str, str, bytes]
"""row_index, line_number, row_number, error_code, error_message, error_stage, raw_data as JSON, raw."""

VALUE_NAMES = ("plaintiff_name", "defendant_name", "judgment_amount", "judgment_date", "court", "county")
"""What a judgment holds beside its key, in the order of ``values``."""


class Outcome(Enum):
    """What became of one attempt to insert rows; except for LOADED, nothing was inserted."""

    LOADED = auto()
    KEY_TAKEN = auto()
    REFUSED = auto()


class Kept(NamedTuple):
    """The judgment that stands under a key; ``values`` as text, in the order of VALUE_NAMES."""

    batch_id: UUID
    row_index: int
    values: tuple[str | None, ...]


class Conflict(NamedTuple):
    """A duplicate: a row that was not inserted, and how it differs from the one kept (field -> [kept, refused])."""

    row_index: int
    case_number: str
    kept_batch_id: UUID
    kept_row_index: int
    fields: dict[str, list[str | None]]


class Target(Protocol):
    """Where judgments go, within one transaction. Rows come in key order, each key at most once a call."""

    batch_id: UUID

    def insert(self, rows: Iterable[AcceptedRow]) -> Outcome:
        """Insert all or none."""
        ...

    def insert_absent(self, rows: Iterable[AcceptedRow]) -> tuple[Outcome, set[str]]:
        """Insert those whose key is free; returns the keys that were taken. REFUSED inserts none."""
        ...

    def taken(self, keys: Sequence[str]) -> set[str]:
        """Which of the keys stand already."""
        ...

    def kept(self, keys: Sequence[str]) -> dict[str, Kept]:
        """The judgments that stand under the keys."""
        ...

    def add_conflicts(self, conflicts: Sequence[Conflict]) -> None:
        """Keep duplicates."""
        ...


def values_of(row: AcceptedRow) -> tuple[str | None, ...]:
    """What the row holds beside its key, in the order of VALUE_NAMES."""
    return row[6:12]


def cents_of(row: AcceptedRow) -> int:
    """The row's amount in cents."""
    return int(row[8].replace(".", ""))
