"""Refusals: a row that is not accepted, in words and with its exact bytes."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from app.block import Block, Damaged, Place
from app.errors import CATALOGUE
from app.judgment import Fault
from app.rows import Accepted, RowError, pack_error

INSERT_FAILED = "INSERT_FAILED"
SWALLOWED = "found a quoted cell that spans lines which are rows by themselves, expected its closing quote"
"""The problem of a record one of whose later lines passes the contract by itself."""

Faults = list[tuple[str, Fault]]
"""Header -> fault, in the order in which the faults are ranked."""


def row_error(
    batch: bytes, place: Place, keys: tuple[str, ...], cells: tuple[str, ...], *, raw: bytes, faults: Faults
) -> RowError:
    """The error of a well-formed row of the batch with this id; ``keys`` name its cells."""
    return pack_error(
        batch,
        *place[:3],
        code=faults[0][1].code,
        message=message_of_faults(place.row_number, faults),
        stage="validate",
        raw_data=raw_data_of(keys, cells),
        raw=raw,
    )


def parse_error(batch: bytes, block: Block, keys: tuple[str, ...], damaged: Damaged) -> RowError:
    """The error of a record that could not be split."""
    place = damaged.place
    raw = block.raw(place)
    return pack_error(
        batch,
        *place[:3],
        code="PARSE_ERROR",
        message=message_of_damage(damaged),
        stage="parse",
        raw_data=raw_data_of_damage(keys, damaged, raw),
        raw=raw,
    )


def insert_failed(batch: bytes, row: Accepted, keys: tuple[str, ...], cells: tuple[str, ...], raw: bytes) -> RowError:
    """The error of an accepted row that the database itself refused."""
    return pack_error(
        batch,
        *row[:3],
        code=INSERT_FAILED,
        message=message_of_insert(row.row_number),
        stage="upsert",
        raw_data=raw_data_of(keys, cells),
        raw=raw,
    )


def message_of_faults(row_number: int, faults: Faults) -> str:
    """What is wrong with a well-formed row."""
    where = "; ".join(f"column {header}: {fault.message}" for header, fault in faults)
    return _storable(f"Row {row_number:,}, {where}.")


def message_of_damage(damaged: Damaged) -> str:
    """What is wrong with a record that could not be split."""
    return f"Row {damaged.place.row_number:,}: {damaged.problem}."


def message_of_insert(row_number: int) -> str:
    """What is said of a row that the database itself refused."""
    return f"Row {row_number:,}: {CATALOGUE[INSERT_FAILED].sentence}"


def _storable(text: str) -> str:
    """The text with NUL, which PostgreSQL does not take, shown as U+2400."""
    return text.replace("\x00", "\u2400")


def raw_data_of_damage(keys: Sequence[str], damaged: Damaged, raw: bytes) -> bytes:
    """A damaged record for reading, as JSON: its cells where it has as many as the header, else the whole of it."""
    if damaged.cells is not None:
        return raw_data_of(keys, damaged.cells)
    return raw_data_of(("_raw",), (raw.decode(errors="backslashreplace").rstrip("\r\n"),))


def raw_data_of(keys: Sequence[str], cells: Sequence[str]) -> bytes:
    """A record for reading, as JSON: header -> cell."""
    found = orjson.dumps(dict(zip(keys, cells, strict=True)))
    if b"\\u0000" in found:
        found = orjson.dumps({key: _storable(cell) for key, cell in zip(keys, cells, strict=True)})
    return found
