"""Plain lines that are proven many at a time are the records that the scanner finds one by one."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import pytest

from app.errors import FileRefusedError
from app.formats import csv, window
from app.formats.csv import CsvReader, Limits
from tests.engine.reading import LIMITS, hostile_file, pieces, record_by_record, records

SEED = int(os.environ.get("FUZZ_SEED", "1"))
ROWS = int(os.environ.get("FUZZ_ROWS", "20000"))


def read(data: bytes, limits: Limits, piece: int) -> Any:
    """Everything that a reader says of a file."""
    try:
        reader = CsvReader(pieces(data, piece), limits)
        return records(reader), reader.reading(), reader.bytes_read()
    except FileRefusedError as refusal:
        return refusal.code, refusal.reason


def test_many_at_a_time_is_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, seed = 0, SEED * 1_000_000
    while rows < ROWS:
        seed += 1
        chance = random.Random(seed)
        data = hostile_file(chance)
        limits = Limits(max_record_bytes=chance.choice((200, 1000, 1024 * 1024)), max_columns=1000)
        with record_by_record():
            expected = read(data, limits, 1024 * 1024)
        with monkeypatch.context() as patched:
            # Blocks and windows of a few bytes put every boundary everywhere.
            patched.setattr(window, "_WINDOW_BYTES", chance.choice((16, 100, 1024 * 1024)))
            patched.setattr(csv, "BLOCK_BYTES", chance.choice((20, 90, 700, 1024 * 1024)))
            patched.setattr(csv, "_BLOCK_RECORDS", chance.choice((1, 3, 1000)))
            found = read(data, limits, chance.choice((7, 50, 300, 1024 * 1024)))
        assert found == expected, f"seed {seed}"
        rows += len(expected[0]) if isinstance(expected[0], list) else 0


def test_an_ordinary_file_is_proven_whole() -> None:
    lines = [f'C-{number},"Marlow, Ada","$1,234.50",2024-01-31,é' for number in range(5_000)]
    data = ("case_number,defendant_name,judgment_amount,judgment_date,court\r\n" + "\r\n".join(lines) + "\r\n").encode()
    for block in CsvReader(pieces(data, 65_536), LIMITS).blocks():
        assert not block.rows
        assert not block.damaged


@pytest.mark.parametrize(
    "line",
    ['-","', '"', '""', '","', "a", 'a,b,"c', "\x00", ",,", '"a"b,c,d', "é\xff"],
)
def test_hostile_lines_take_linear_time(line: str) -> None:
    header = b"case_number,defendant_name,judgment_amount\n"
    seconds = []
    for size in (1, 4):
        data = header + (line + "\n").encode("latin-1") * (size * 25_000 // (len(line) + 1))
        started = time.process_time()
        for _ in CsvReader(pieces(data, 1024 * 1024), LIMITS).blocks():
            pass
        seconds.append(time.process_time() - started)
    assert seconds[1] < 4 * seconds[0] * 3 + 1
