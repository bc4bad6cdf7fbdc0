"""The engine and the contract agree on every row, code, message and stored value."""

from __future__ import annotations

import os
import random
from pathlib import Path

from app.formats.csv import CsvReader
from app.judgment import FIELDS, Judgment, JudgmentSchema
from tests.engine.reading import LIMITS, TODAY, checked, pieces, record_by_record, records

SEED = int(os.environ.get("FUZZ_SEED", "1"))
ROWS = int(os.environ.get("FUZZ_ROWS", "20000"))
HEADERS = ("case_number", "defendant_name", "judgment_amount", "judgment_date", "plaintiff_name", "court", "county")

BLANKS = (" ", "  ", "\t", "\u00a0", "\u2003", "\u3000", "\n", "\r\n")
WORDS = ("NA", "n/a", "Null", "-", "NAN", "N", "na ", " - ", "--")
FORBIDDEN = ("\x00", "\x07", "\x1f", "\x7f", "\x85", "\xad", "\u061c", "\u200b", "\u2028", "\u2060", "\ufeff")
LETTERS = (
    "a",
    "B",
    "é",
    "É",
    "ß",
    "ÿ",
    "×",
    "\u0130",
    "e\u0301",
    "\u0301",
    "\u1e9b",
    "ﬁ",
    "名",
    "😀",
    "Ω",
    "\u2126",
    "'",
    '"',
    ",",
    ";",
    "nN",
    "-",
)
MONTHS = ("Jan", "feb", "MAR", "Apr", "May", "jun", "JUL", "Aug", "Sep", "Oct", "Nov", "Dec", "Mai", "J\u0130N", "jan.")


def text(chance: random.Random) -> str:
    """A text of a few letters, blanks and now and then something that is refused."""
    kind = chance.random()
    if kind < 0.4:
        return f"{chance.choice(('Ada', 'Inés', 'NA Corp', 'Rövers'))} {chance.randrange(10_000)}"
    if kind < 0.5:
        return chance.choice(WORDS)
    if kind < 0.55:
        return chance.choice(("x", "é", "e\u0301", "n")) * chance.choice((99, 100, 101, 499, 500, 501, 2001))
    parts = [chance.choice((*LETTERS, *LETTERS, *BLANKS)) for _ in range(chance.randrange(8))]
    if kind > 0.9:
        parts.insert(chance.randrange(len(parts) + 1), chance.choice(FORBIDDEN))
    return "".join(parts)


def amount(chance: random.Random) -> str:
    """An amount in one of its forms, or in one that is none."""
    digits = str(chance.randrange(10 ** chance.randrange(1, 15)))
    whole = chance.choice((digits, f"{int(digits):,}", f"{int(digits):,}", "0" * chance.randrange(3) + digits))
    cents = chance.choice(("", "", ".5", ".05", ".", ".123", ".00"))
    written = chance.choice(("", "", "$", "USD ", "USD", "USD $", "$ ", "usd ", "-", "+")) + whole + cents
    written += chance.choice(("", "", "", " USD", "USD", " ", "  "))
    if chance.random() < 0.15:
        place = chance.randrange(len(written) + 1)
        written = (
            written[:place]
            + chance.choice((",", ".", " ", "٣", "$", "(", "e5", "\t", "\x00", ""))
            + written[place + 1 :]
        )
    return chance.choice((written, written, written, chance.choice(WORDS), ".50", "12,34", ",123", "1,234,56", ""))


def date(chance: random.Random) -> str:
    """A date in one of its forms, or in one that is none."""
    year, month, day = chance.randrange(1897, 2027), chance.randrange(14), chance.randrange(33)
    short = chance.random() < 0.5
    one, two = (str(month), str(day)) if short else (f"{month:02d}", f"{day:02d}")
    written = chance.choice(
        (
            f"{year}-{month:02d}-{day:02d}",
            f"{year}-{one}-{two}",
            f"{year}/{one}/{two}",
            f"{one}/{two}/{year}",
            f"{one}/{two}/{year % 100:02d}",
            f"{one}-{two}-{year}",
            f"{one}-{two}-{year % 100:02d}",
            f"{two}-{chance.choice(MONTHS)}-{year}",
            f"{year}{month:02d}{day:02d}",
            f"{one}/{two}-{year}",
        )
    )
    if chance.random() < 0.4:
        written += chance.choice((" ", "T", "  ", "t", "")) + chance.choice(
            (
                "0:00",
                "00:00",
                "12:34:56",
                "1:2",
                "9:59:59.123",
                "23:59Z",
                "1:00 PM",
                "1:00pm",
                "01:02:03+05:30",
                "99:99",
                ":00",
                "123:00",
                "0:00:0",
            )
        )
    if chance.random() < 0.1:
        place = chance.randrange(len(written) + 1)
        written = written[:place] + chance.choice(("/", "-", " ", "٣", "\x00", "")) + written[place + 1 :]
    return chance.choice((written, written, written, written, chance.choice(WORDS), ""))


def written_file(chance: random.Random, rows: int, delimiter: str) -> bytes:
    """A well-formed file of rows in all forms, each cell quoted where it must be and now and then where not."""
    lines = [delimiter.join(HEADERS)]
    for number in range(rows):
        key = f"{chance.choice(('C-', 'c-', 'Ç-', 'n'))}{number}" if chance.random() < 0.8 else text(chance)
        cells = [key, text(chance), amount(chance), date(chance), text(chance), text(chance), text(chance)]
        lines.append(delimiter.join(quoted(cell, delimiter, chance) for cell in cells))
    return (chance.choice(("\n", "\r\n")).join(lines) + "\n").encode()


def quoted(cell: str, delimiter: str, chance: random.Random) -> str:
    """The cell as a spreadsheet writes it."""
    if any(mark in cell for mark in ('"', delimiter, "\n", "\r")) or chance.random() < 0.2:
        return '"' + cell.replace('"', '""') + '"'
    return cell


def test_engine_and_contract_agree(tmp_path: Path) -> None:
    schema = JudgmentSchema(today=TODAY)
    rows = 0
    while rows < ROWS:
        chance = random.Random(SEED * 1_000_000 + rows)
        data = written_file(chance, 2_500, chance.choice(",,;\t|"))
        found = checked(data, tmp_path)
        with record_by_record():
            expected = records(CsvReader(pieces(data, 1024 * 1024), LIMITS))
        index = 0
        for place, content, raw in expected:
            index = place.row_index
            if isinstance(content, str) or content[1]:
                continue
            outcome = schema.check(dict(zip(HEADERS, content[0], strict=True)))
            if isinstance(outcome, Judgment):
                row = found.accepted[index]
                assert {name: row[name] for name in FIELDS} == outcome._asdict(), raw
                assert row["line_number"] == place.line_number
            else:
                error = found.refused[index]
                first = next(iter(outcome.values()))
                assert error[1:4] == (place.line_number, place.row_number, first.code), raw
                for name, fault in outcome.items():
                    assert f"column {name}: {fault.message}".replace("\x00", "\u2400") in error[4], raw
                assert error[7] == raw
        assert found.findings.total == index + 1
        assert len(found.accepted) + len(found.refused) == index + 1
        assert sum(row["judgment_amount"] for row in found.accepted.values()) == found.findings.dollars_valid
        rows += index + 1
