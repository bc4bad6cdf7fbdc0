"""Blast radius one: whatever is damaged, wherever, the rows beside it arrive as if nothing had happened."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import FileRefusedError
from tests.engine.reading import checked

ROWS = 1_000
HEADER = b"case_number,plaintiff_name,defendant_name,judgment_amount,judgment_date"


def line(number: int) -> bytes:
    """A record with quoted and plain cells."""
    return f'C-{number:04d},"Pell & Sons, Inc.",Ada Marlow {number},"$1,{number:03d}.50",2024-01-31'.encode()


def inside_quotes(record: bytes) -> int:
    """A place in a quoted cell."""
    return record.index(b"Sons")


def at_a_delimiter(record: bytes) -> int:
    """The delimiter before a plain cell."""
    return record.index(b",Ada")


def before_a_quote(record: bytes) -> int:
    """The delimiter before a quoted cell."""
    return record.index(b',"$1')


def at_the_end(record: bytes) -> int:
    """The line end."""
    return len(record)


def in_plain_text(record: bytes) -> int:
    """A place in a plain cell."""
    return record.index(b"Marlow")


Damage = Callable[[bytes, int], bytes]


def insert(what: bytes) -> Damage:
    """Put something into the record."""
    return lambda record, place: record[:place] + what + record[place:]


def open_a_quote(record: bytes, place: int) -> bytes:
    """Begin a quoted cell that never ends."""
    behind = record.find(b",", place) + 1
    return record[:behind] + b'"' + record[behind:]


def drop_a_closing_quote(record: bytes, place: int) -> bytes:
    """Let a quoted cell run on."""
    found = record.find(b'",', place)
    return record if found < 0 else record[:found] + record[found + 1 :]


def drop_a_delimiter(record: bytes, place: int) -> bytes:
    """Let two cells become one."""
    found = record.find(b",Ada")
    return record[:found] + record[found + 1 :]


PLACES = (inside_quotes, at_a_delimiter, before_a_quote, at_the_end, in_plain_text)
DAMAGES: dict[str, Damage] = {
    "quote inserted": insert(b'"'),
    "quote opened": open_a_quote,
    "closing quote dropped": drop_a_closing_quote,
    "delimiter dropped": drop_a_delimiter,
    "delimiter added": insert(b","),
    "bad bytes": insert(b"\xff\xfe"),
    "NUL": insert(b"\x00"),
}
RECORDS = (0, 1, 499, ROWS - 2, ROWS - 1)


def damaged(hits: dict[int, list[tuple[Callable[[bytes], int], Damage]]], *, ended: bool) -> bytes:
    """The file with damage in some records."""
    lines = [HEADER]
    for number in range(ROWS):
        record = line(number)
        for place, damage in hits.get(number, ()):
            record = damage(record, place(record))
        lines.append(record)
    return b"\n".join(lines) + (b"\n" if ended else b"")


def assert_arrived(row: dict[str, Any], number: int) -> None:
    """The row is what its undamaged record says, on its line."""
    assert row["line_number"] == number + 2
    assert row["plaintiff_name"] == "Pell & Sons, Inc."
    assert row["defendant_name"] == f"Ada Marlow {number}"
    assert str(row["judgment_amount"]) == f"1{number:03d}.5"


def assert_only_these_suffer(data: bytes, hit: set[int], folder: Path) -> None:
    """Every other row arrives, with its values and its line; a damaged one arrives or is refused with its own bytes."""
    found = checked(data, folder)
    by_key = {row["case_number"]: row for row in found.accepted.values()}
    for number in set(range(ROWS)) - hit:
        assert_arrived(by_key[f"C-{number:04d}"], number)
    assert len(found.refused) <= len(hit)
    assert found.findings.total == len(found.accepted) + len(found.refused)
    lines = data.splitlines(keepends=True)
    for row_index, line_number, *_, raw in found.refused.values():
        assert line_number - 2 in hit
        assert raw.startswith(lines[line_number - 1])
        assert len(raw.splitlines()) <= len(hit)
        assert row_index not in found.accepted


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_one_damage_costs_one_row(name: str, place: Callable[[bytes], int], tmp_path: Path) -> None:
    for record, ended in itertools.product(RECORDS, (True, False)):
        data = damaged({record: [(place, DAMAGES[name])]}, ended=ended)
        assert_only_these_suffer(data, {record}, tmp_path)


def test_two_damages_cost_two_rows(tmp_path: Path) -> None:
    chance = random.Random(7)
    for _ in range(60):
        hits = {}
        for record in chance.sample(range(ROWS), 2):
            hits[record] = [(chance.choice(PLACES), chance.choice(list(DAMAGES.values())))]
        assert_only_these_suffer(damaged(hits, ended=chance.random() < 0.5), set(hits), tmp_path)


def test_damaged_neighbours_cost_no_third(tmp_path: Path) -> None:
    for first, second in itertools.product(DAMAGES.values(), repeat=2):
        hits = {500: [(PLACES[0], first)], 501: [(PLACES[0], second)]}
        assert_only_these_suffer(damaged(hits, ended=True), set(hits), tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda n: b'C-%d,Pell,"Ada Marlow,5.00,2024-01-31' % n,
        lambda n: b'C-%d,Pell,"Marlow, Ada,5.00,2024-01-31' % n,
        lambda n: b'"C-%d","Pell","Ada Marlow,"5.00","2024-01-31"' % n,
        lambda n: b'"C-%d","Pell","Ada Marlow","5.00","2024-01-31' % n,
        lambda n: b'C-%d,Pell,"Ada "Marlow",5.00,2024-01-31' % n,
        lambda n: b'C-%d,Pell & Sons,"Ada" Marlow,5.00,2024-01-31' % n,
    ],
    ids=["opened", "opened before a comma", "not closed", "not closed at the end", "inside", "behind"],
)
def test_a_run_of_records_with_broken_quotes_is_counted_one_by_one(
    damage: Callable[[int], bytes], tmp_path: Path
) -> None:
    """Else the error rate would fall with each record that is lost."""
    lines = [HEADER, *(damage(number) if 300 <= number < 700 else line(number) for number in range(ROWS))]
    data = b"\n".join(lines)
    found = checked(data, tmp_path)
    assert (found.findings.total, len(found.accepted), len(found.refused)) == (ROWS, ROWS - 400, 400)
    raws = [raw for *_, raw in sorted(found.refused.values(), key=lambda error: error[1])]
    assert [raw.rstrip(b"\n") for raw in raws] == lines[301:701]
    assert_only_these_suffer(data, set(range(300, 700)), tmp_path)


@pytest.mark.parametrize("damage", [b'"', b"\xff", b"\x00"])
def test_a_header_whose_names_are_still_there_costs_no_row(damage: bytes, tmp_path: Path) -> None:
    header = b"case_number,plaintiff_name,defendant_name,judgment_amount,judgment_date,not" + damage + b"es"
    lines = [header] + [line(number) + b"," for number in range(ROWS)]
    found = checked(b"\n".join(lines), tmp_path)
    assert len(found.accepted) == ROWS


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("place", range(0, len(HEADER) + 1, 3))
def test_a_damaged_header_never_makes_another_row_of_a_row(name: str, place: int, tmp_path: Path) -> None:
    """The file is refused whole, or its rows are, or they arrive as they are."""
    header = DAMAGES[name](HEADER, place) if name != "delimiter dropped" else HEADER.replace(b",", b"", 1 + place % 4)
    data = b"\n".join([header, *(line(number) for number in range(20))])
    try:
        found = checked(data, tmp_path)
    except FileRefusedError as refusal:
        code = refusal.code
    else:
        code = None
    if code is not None:
        assert code in ("MISSING_COLUMNS", "UNREADABLE_FILE")
        return
    assert found.findings.total == 20 == len(found.accepted) + len(found.refused)
    for number, row in found.accepted.items():
        # An optional column may have lost its name, and with it its cells.
        assert_arrived(
            {"plaintiff_name": "Pell & Sons, Inc.", **{k: v for k, v in row.items() if v is not None}}, number
        )
    assert all(error[3] == "PARSE_ERROR" for error in found.refused.values())
