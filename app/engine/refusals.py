"""Refusals: a row that is not accepted, in words and with its exact bytes."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from app.block import Block, Damaged, Place
from app.errors import CATALOGUE
from app.judgment import Fault
from app.rows import Accepted, RowError, pack_error

Faults = list[tuple[str, Fault]]
"""Header -> fault, in the order in which the faults are ranked."""


def row_error(
    batch: bytes, place: Place, keys: tuple[str, ...], cells: tuple[str, ...], *, raw: bytes, faults: Faults
) -> RowError:
    """The error of a well-formed row of the batch with this id; ``keys`` name its cells."""
    where = "; ".join(f"column {header}: {fault.message}" for header, fault in faults)
    return pack_error(
        batch,
        *place[:3],
        code=faults[0][1].code,
        message=_storable(f"Row {place.row_number:,}, {where}."),
        stage="validate",
        raw_data=_raw_data(keys, cells),
        raw=raw,
    )


def parse_error(batch: bytes, block: Block, keys: tuple[str, ...], damaged: Damaged) -> RowError:
    """The error of a record that could not be split."""
    place = damaged.place
    raw = block.raw(place)
    if damaged.cells is not None:
        shown = _raw_data(keys, damaged.cells)
    else:
        shown = _raw_data(("_raw",), (raw.decode(errors="backslashreplace").rstrip("\r\n"),))
    return pack_error(
        batch,
        *place[:3],
        code="PARSE_ERROR",
        message=f"Row {place.row_number:,}: {damaged.problem}.",
        stage="parse",
        raw_data=shown,
        raw=raw,
    )


def insert_failed(batch: bytes, row: Accepted, keys: tuple[str, ...], cells: tuple[str, ...], raw: bytes) -> RowError:
    """The error of an accepted row that the database itself refused."""
    message = f"Row {row.row_number:,}: {CATALOGUE['INSERT_FAILED'].sentence}"
    return pack_error(
        batch,
        *row[:3],
        code="INSERT_FAILED",
        message=message,
        stage="upsert",
        raw_data=_raw_data(keys, cells),
        raw=raw,
    )


def _storable(text: str) -> str:
    """The text with NUL, which PostgreSQL does not take, shown as U+2400."""
    return text.replace("\x00", "\u2400")


def _raw_data(keys: Sequence[str], cells: Sequence[str]) -> bytes:
    """A record for reading, as JSON: header -> cell."""
    found = orjson.dumps(dict(zip(keys, cells, strict=True)))

    if b"\\u0000" in found:
        found = orjson.dumps({key: _storable(cell) for key, cell in zip(keys, cells, strict=True)})
    return found
