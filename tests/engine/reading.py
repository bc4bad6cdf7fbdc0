"""Files that hurt, and what the engine makes of a file, in plain values that tests compare."""

from __future__ import annotations

import datetime as dt
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import numpy as np

from app.block import Block, Place, Reader
from app.engine import merge
from app.engine.check import Findings, check
from app.engine.spool import Spool
from app.formats import csv
from app.formats.csv import CsvReader, Limits
from app.formats.lines import Lines
from app.rows import COPY_COLUMNS, ERROR_COLUMNS, Packed

BATCH = UUID("5f0c3a0e-8f0e-4a56-9b0b-0d7f6f1d2c3b")
TODAY = dt.date(2024, 12, 31)
LIMITS = Limits(max_record_bytes=1024 * 1024, max_columns=1000)
EPOCH = dt.date(2000, 1, 1)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """The file as it comes from storage."""
    return (data[start : start + size] for start in range(0, len(data), size))


def nothing_proven(data: bytes, start: int, behind: int, delimiter: int, width: int, **_: Any) -> Lines:
    """In place of find_lines: every line goes to the scanner, which is the reference."""
    empty = np.empty(0, np.int64)
    return Lines(empty, start, empty, empty, [], width, has_returns=False)


def record_by_record() -> Any:
    """While entered, no line is proven."""
    return mock.patch.object(csv, "find_lines", nothing_proven)


def records(reader: Reader) -> list[tuple[Place, Any, bytes]]:
    """Every record in file order with its place, its cells or what is wrong with it, and its bytes."""
    found: list[tuple[Place, Any, bytes]] = []
    for block in reader.blocks():
        found += [(row.place, (row.cells, row.continuations), block.raw(row.place)) for row in block.rows]
        found += [(bad.place, bad.problem, block.raw(bad.place)) for bad in block.damaged]
        found += [
            (block.place(index), (block.cells(index), ()), block.raw(block.place(index))) for index in plain(block)
        ]
    return sorted(found, key=lambda record: record[0].row_number)


def plain(block: Block) -> range:
    """The block's proven records."""
    return range(0 if block.plain is None else len(block.plain))


@dataclass(frozen=True)
class Checked:
    """Accepted rows by column name, and refused ones, both by row_index."""

    accepted: dict[int, dict[str, Any]]
    refused: dict[int, tuple[Any, ...]]
    findings: Findings


def checked(data: bytes, folder: Path, *, today: dt.date = TODAY, limits: Limits = LIMITS) -> Checked:
    """What the engine finds in a file."""
    with Spool(folder, str(BATCH), 1) as spool:
        findings = Findings.into(spool)
        check(
            findings, CsvReader(pieces(data, 1024 * 1024), limits), batch_id=BATCH, today=today, advance=lambda *_: None
        )
        rows: list[dict[str, Any]] = []
        for key_range in merge.key_ranges(findings.rows.runs, 50):
            for portion in key_range.portions():
                rows += unpacked(portion.rows)
        refused = {error[0]: error for error in unpacked_errors(b"".join(findings.errors.take()))}
    assert [row["case_number"].encode() for row in rows] == sorted(row["case_number"].encode() for row in rows)
    return Checked({row["row_index"]: row for row in rows}, refused, findings)


def unpacked_errors(octets: bytes) -> Iterator[tuple[Any, ...]]:
    """Packed errors: row_index, line_number, row_number, code, message, stage, raw_data as JSON, raw."""
    at = 0
    while at < len(octets):
        fields, at = _fields_at(octets, at, len(ERROR_COLUMNS))
        batch, *numbers = fields[:4]
        assert batch == BATCH.bytes
        code, message, stage, raw_data, raw = fields[4:]
        assert raw_data.startswith(b"\x01")
        yield (
            *(int.from_bytes(number) for number in numbers),
            code.decode(),
            message.decode(),
            stage.decode(),
            raw_data[1:],
            raw,
        )


def unpacked(rows: Packed) -> list[dict[str, Any]]:
    """Packed rows in plain values."""
    found = []
    start = 0
    for index, end in enumerate(rows.ends.tolist()):
        record = rows.octets[start:end].tobytes()
        cells = dict(zip(COPY_COLUMNS, _fields(record), strict=True))
        key = rows.keys[index].tobytes().rstrip(b"\x00")
        assert key == cells["case_number"]
        found.append({name: _value(name, cell) for name, cell in cells.items()})
        start = end
    return found


def _fields(record: bytes) -> list[Any]:
    cells, at = _fields_at(record, 0, len(COPY_COLUMNS))
    assert at == len(record)
    return cells


def _fields_at(octets: bytes, at: int, expected: int) -> tuple[list[Any], int]:
    """The fields of the record there, and where it ends."""
    (count,) = struct.unpack_from(">h", octets, at)
    assert count == expected
    cells: list[bytes | None] = []
    at += 2
    for _ in range(count):
        (length,) = struct.unpack_from(">i", octets, at)
        at += 4
        cells.append(None if length < 0 else octets[at : at + length])
        at += max(length, 0)
    return cells, at


def _value(name: str, cell: bytes | None) -> Any:
    if cell is None:
        return None
    if name == "judgment_amount":
        _, weight, sign, scale, *digits = struct.unpack(">hhHH4H", cell)
        assert (weight, sign, scale) == (2, 0, 2)
        whole = (digits[0] * 10_000 + digits[1]) * 10_000 + digits[2]
        return Decimal(whole * 100 + digits[3] // 100) / 100
    if name == "judgment_date":
        return EPOCH + dt.timedelta(days=struct.unpack(">i", cell)[0])
    if name == "batch_id":
        return UUID(bytes=cell)
    if name in ("id", "row_index", "line_number"):
        return int.from_bytes(cell, signed=True)
    return cell.decode()


FRAGMENTS = (
    *("a", "b c", '"q"', '"a,b"', '"a""b"', '"', '""', "NA", "-", "", "null", " ", 'x"y', "é", "\x00", "\t", "12.50"),
    *('"$1,2"', "\r", "\n", "\r\n", '"a\nb"', '"a\r\nb"', ' "a"', '"a" ', '"NULL"', '"NA"', '"1","2"', "a\xad", "N/A "),
)
"""Pieces of cells that are hard on a reader of delimited text."""


def hostile_file(chance: random.Random) -> bytes:
    """A file of a few dozen records in which anything may be wrong; of a seed's own."""
    width = chance.choice((3, 3, 4, 5))
    delimiter, line_end = chance.choice(",,\t;"), chance.choice(("\n", "\n", "\r\n", "\r"))
    hostility = chance.choice((0, 0.02, 0.1, 0.5))
    lines = [delimiter.join(("case_number", "defendant_name", "judgment_amount", "x1", "x2")[:width])]
    for _ in range(chance.randrange(120)):
        cells = [_cell(chance) for _ in range(width)]
        if chance.random() < hostility:
            for _ in range(chance.randrange(1, 3)):
                cells[chance.randrange(len(cells))] = chance.choice(FRAGMENTS)
            if chance.random() < 0.3:
                cells = cells[: chance.randrange(width)]
            if chance.random() < 0.3:
                cells += [chance.choice(("", "", "NA", "z"))] * chance.randrange(1, 3)
        lines.append(delimiter.join(cells))
        if chance.random() < hostility:
            lines[-1] += chance.choice(("\n", "\r", " ", delimiter, '"'))
    data = (line_end.join(lines) + (line_end if chance.random() < 0.7 else "")).encode()
    if chance.random() < hostility and len(data) > 40:
        place = chance.randrange(30, len(data))
        damage = chance.choice((b"\xff", b"\xc3", b'"', b"\n", b"\r", b",", b'""', b"\x00"))
        data = data[:place] + damage + data[place + chance.randrange(2) :]
    return data


def _cell(chance: random.Random) -> str:
    if chance.random() > 0.1:
        return f"K{chance.randrange(1000)}"
    return chance.choice(('"K,1"', '"J""d"', '"q"', "NA", "null", ""))
