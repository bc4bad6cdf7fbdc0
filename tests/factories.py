"""Factories: each gives a valid thing, and a test overrides what it is about. Every name in them is invented."""

import csv
import io
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

FIELD_HEADERS = (
    "case_number",
    "plaintiff_name",
    "defendant_name",
    "judgment_amount",
    "judgment_date",
    "court",
    "county",
)
FILE_HEADERS = (
    "Case Number",
    "Plaintiff",
    "Defendant",
    "Judgment Amount",
    "Filing Date",
    "Court",
    "County",
    "Lead ID",
    "Status",
)
"""The nine columns of clean_file; the last two hold no field of the contract."""

_FIRST_NAMES = ("Ada", "Bela", "Caro", "Dimo", "Esra", "Finn", "Gwen", "Hugo", "Inés", "Jovan", "Kaya", "Lew")
_LAST_NAMES = ("Marlow", "Nettle", "O'Brack", "Pellworth", "Quint", "Rövers", "Sandoval", "Tamsin", "Umber", "Vance")
_PLAINTIFFS = ("Harrow Lending LLC", '"Pell & Sons, Inc."', "Tidewater Credit Union", "Ninefold Finance Co.", "")
_COURTS = ("Civil Court", "Supreme Court", "District Court", "")
_COUNTIES = ("Kings", "Queens", "Bronx", "Richmond", "Nassau", "St. Lawrence")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ROWS_PER_ROUND = 997
"""How many distinct bodies clean_file makes before it goes round again: a prime, so that they fall out of step."""

_case_counter = itertools.count(1)


def judgment_cells(**overrides: str) -> dict[str, str]:
    """The raw cells of one valid row by field; its case number occurs once in the whole test run."""
    unknown = overrides.keys() - set(FIELD_HEADERS)
    if unknown:
        raise KeyError(f"the contract has no field {', '.join(sorted(unknown))}")
    cells = {
        "case_number": f"CV-2024-{next(_case_counter):06d}",
        "plaintiff_name": "Harrow Lending LLC",
        "defendant_name": "Ada Marlow",
        "judgment_amount": "1,234.50",
        "judgment_date": "2024-01-31",
        "court": "Civil Court",
        "county": "Kings",
    }
    return {**cells, **overrides}


def csv_bytes(
    rows: Iterable[Mapping[str, str] | Sequence[str]],
    headers: Sequence[str] = FIELD_HEADERS,
    delimiter: str = ",",
    line_end: str = "\n",
    bom: bool = False,
) -> bytes:
    """The rows as a vendor would export them, quoted where a cell needs it.

    A mapping gives the cells of the headers that it knows, the others stay empty; a sequence is written as it is.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end)
    writer.writerow(headers)
    for row in rows:
        writer.writerow([row.get(header, "") for header in headers] if isinstance(row, Mapping) else row)
    return text.getvalue().encode("utf-8-sig" if bom else "utf-8")


def clean_file(rows: int, seed: int = 0, start: int = 0) -> bytes:
    """A file of valid rows in nine columns, two of them unmapped; the same arguments give the same bytes.

    Its case numbers are those of the range from ``start``, in an order of the seed's own: files with overlapping
    ranges share case numbers, and the other cells differ between seeds.
    """
    return _file(_records(rows, seed, start))


def file_with_errors(rows: int, invalid: int, seed: int = 0, start: int = 0) -> bytes:
    """A file like clean_file's in which exactly ``invalid`` of the rows are refused, with all the codes of FAULTS."""
    damaged = set(random.Random(seed).sample(range(rows), invalid))
    faults = itertools.cycle(FAULTS.values())
    return _file(
        next(faults).format(case=record.partition(",")[0]) if place in damaged else record
        for place, record in enumerate(_records(rows, seed, start))
    )


FAULTS = {
    "INVALID_AMOUNT": "{case},Harrow Lending LLC,Ada Marlow,12.,2024-01-31,Civil Court,Kings,L-1,open",
    "MISSING_DEFENDANT": "{case},Harrow Lending LLC,N/A,250.00,2024-01-31,Civil Court,Kings,L-2,open",
    "INVALID_DATE": "{case},Harrow Lending LLC,Bela Quint,250.00,31/12/2023,Civil Court,Kings,L-3,open",
    "MISSING_AMOUNT": "{case},Harrow Lending LLC,Caro Vance,,2024-01-31,Civil Court,Kings,L-4,open",
    "FUTURE_DATE": "{case},Harrow Lending LLC,Dimo Umber,250.00,9999-12-31,Civil Court,Kings,L-5,open",
    "INVALID_TEXT": "{case},Harrow\u200bLending,Esra Nettle,250.00,2024-01-31,Civil Court,Kings,L-6,open",
    "PARSE_ERROR": "{case},Harrow Lending LLC,Finn Tamsin,250.00",
}
"""Code -> a record of clean_file's columns that is refused with it."""


def _file(records: Iterator[str]) -> bytes:
    return "\n".join(itertools.chain([",".join(FILE_HEADERS)], records, [""])).encode()


def _records(rows: int, seed: int, start: int) -> Iterator[str]:
    chance = random.Random(seed)
    bodies = [_body(chance) for _ in range(_ROWS_PER_ROUND)]
    # A stride without a common divisor visits every number once, far from the order of the unique index.
    stride = next(
        step for step in itertools.count(chance.randrange(rows // 2, rows + 1) | 1) if math.gcd(step, rows) == 1
    )
    number = chance.randrange(rows) if rows else 0
    for place in range(rows):
        yield f"2024-CV-{start + number:09d},{bodies[place % _ROWS_PER_ROUND]}"
        number = (number + stride) % rows


def _body(chance: random.Random) -> str:
    """Everything behind the case number: eight cells, quoted where they need it."""
    cents = chance.randrange(100, 9_999_999)
    plain, grouped = f"{cents // 100}.{cents % 100:02d}", f"{cents // 100:,}.{cents % 100:02d}"
    amount = chance.choice((plain, plain, str(cents // 100), f'"{grouped}"', f'"${grouped}"', f"USD {plain}"))
    year, month, day = chance.randrange(1998, 2024), chance.randrange(1, 13), chance.randrange(1, 29)
    date = chance.choice(
        (
            f"{year}-{month:02d}-{day:02d}",
            f"{year}-{month:02d}-{day:02d}",
            f"{month}/{day}/{year}",
            f"{month:02d}/{day:02d}/{year % 100:02d}",
            f"{day}-{_MONTHS[month - 1]}-{year}",
            f"{month}/{day}/{year} 0:00",
            "",
        )
    )
    return ",".join(
        (
            chance.choice(_PLAINTIFFS),
            f"{chance.choice(_FIRST_NAMES)} {chance.choice(_LAST_NAMES)}",
            amount,
            date,
            chance.choice(_COURTS),
            chance.choice(_COUNTIES),
            f"L-{chance.randrange(10**6):06d}",
            chance.choice(("open", "closed", "on hold")),
        )
    )
