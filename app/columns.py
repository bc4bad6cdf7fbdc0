"""Columns: which header of a vendor's file holds which field of the contract."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import FileRefusedError
from app.judgment import FIELDS, REQUIRED, excerpt, trim

TEMPLATE_VERSION = "1"
"""Raised whenever a variant is added or moved, so a batch tells by which rules its headers were read."""

VARIANTS: dict[str, tuple[str, ...]] = {
    "case_number": (
        "file number",
        "file #",
        "case no",
        "case #",
        "docket",
        "docket no",
        "docket number",
        "index number",
        "index no",
        "index #",
        "case/index number",
    ),
    "plaintiff_name": ("plaintiff", "creditor", "creditor name", "plf", "plf name"),
    "defendant_name": ("defendant", "debtor", "debtor name", "def", "def name"),
    "judgment_amount": (
        "amount",
        "amt",
        "amount awarded",
        "total amount",
        "principal",
        "judgment amt",
        "orig amt",
    ),
    "judgment_date": ("date of judgment", "date of entry", "entry date", "filing date"),
    "court": ("court name", "venue"),
    "county": ("county name",),
}
"""Field -> the other headers that vendors use for it, best first; the field's own name comes before them all."""

_IGNORED = re.compile(r"[\s\-._\u2010-\u2015]+")


@dataclass(frozen=True, slots=True)
class Mapping:
    """Which column (0-based) holds which field; ``headers`` are the file's own, in their order."""

    headers: tuple[str, ...]
    columns: dict[str, int]
    losers: tuple[str, ...]
    """Headers that could have held a field which another column holds already."""

    @property
    def unmapped(self) -> list[str]:
        """Headers that hold no field; their cells stay in raw data."""
        mapped = set(self.columns.values())
        return [header for index, header in enumerate(self.headers) if index not in mapped]

    @property
    def keys(self) -> tuple[str, ...]:
        """A distinct name for every column, under which raw data keeps its cell."""
        return distinct_keys(self.headers)


def normalise(header: str) -> str:
    """The header as it is compared: lower case, without blanks, dashes, dots and underscores."""
    return _IGNORED.sub("", header.replace("\ufeff", "")).lower()


def distinct_keys(headers: Sequence[str]) -> tuple[str, ...]:
    """The headers, made distinct: an empty one is named by its place, a repeated one gets its count behind it."""
    taken: set[str] = set()
    keys: list[str] = []
    for place, header in enumerate(headers, start=1):
        name = trim(header).replace("\x00", "\u2400") or f"column {place}"
        key, count = name, 1
        while key in taken:
            count += 1
            key = f"{name} ({count})"
        taken.add(key)
        keys.append(key)
    return tuple(keys)


def map_headers(headers: Sequence[str]) -> Mapping:
    """Find the column of every field: its own name first, then the variants in order, then the leftmost column.

    Raises FileRefusedError (MISSING_COLUMNS) naming the required fields without a column and the headers found.
    """
    normalised = [normalise(header) for header in headers]
    columns: dict[str, int] = {}
    losers: list[str] = []
    for field in FIELDS:
        names = [normalise(name) for name in (field, *VARIANTS[field])]
        found = [place for name in names for place, header in enumerate(normalised) if header == name]
        if found:
            columns[field] = found[0]
            losers += [headers[place] for place in found[1:]]
    missing = [field for field in REQUIRED if field not in columns]
    if missing:
        shown = ", ".join(excerpt(header) for header in headers)
        raise FileRefusedError(
            "MISSING_COLUMNS",
            f"No column for {', '.join(missing)}. Headers found: {shown or 'none'}. "
            "Name the columns as the documentation lists them.",
        )
    return Mapping(headers=tuple(headers), columns=columns, losers=tuple(losers))
