"""The files of the benchmarks, made from a seed: nine columns, mixed forms of amounts and dates, errors and duplicates."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HEADER = "Case Number,Plaintiff,Defendant,Judgment Amount,Filing Date,Court,County,Lead ID,Status\n"
ERRORS, DUPLICATES = 0.03, 0.02

_FIRST = ("Ada", "Bela", "Caro", "Dimo", "Esra", "Finn", "Gwen", "Hugo", "Inés", "Jovan", "Kaya", "Lew", "Mina", "Noor")
_LAST = ("Marlow", "Nettle", "O'Brack", "Pellworth", "Quint", "Rövers", "Sandoval", "Tamsin", "Umber", "Vance", "Wilde")
_PLAINTIFFS = (
    "Harrow Lending LLC",
    '"Pell & Sons, Inc."',
    "Tidewater Credit Union",
    "Ninefold Finance Co.",
    "Portfolio Recovery Group",
    "",
)
_COURTS = ("Civil Court", "Supreme Court", "District Court", "Supreme Court of the City", "")
_COUNTIES = ("Kings", "Queens", "Bronx", "Richmond", "Nassau", "St. Lawrence")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WRONG = (
    ",Harrow Lending LLC,Ada Marlow,12.,2024-01-31,Civil Court,Kings,L-1,open",
    ",Harrow Lending LLC,N/A,250.00,2024-01-31,Civil Court,Kings,L-2,open",
    ",Harrow Lending LLC,Bela Quint,250.00,31/12/2023,Civil Court,Kings,L-3,open",
    ",Harrow Lending LLC,Caro Vance,,2024-01-31,Civil Court,Kings,L-4,open",
    ",Harrow Lending LLC,Dimo Umber,250.00,9999-12-31,Civil Court,Kings,L-5,open",
    ",Harrow\u200bLending,Esra Nettle,250.00,2024-01-31,Civil Court,Kings,L-6,open",
    ",Harrow Lending LLC,Finn Tamsin,250.00",
)


def write(path: Path, rows: int, **how: Any) -> None:
    """Write a file; ``how`` as records takes it."""
    with path.open("w", encoding="utf-8", newline="", buffering=1024 * 1024) as file:
        file.write(HEADER)
        file.writelines(records(rows, **how))


def content(rows: int, **how: Any) -> bytes:
    """The same file in memory."""
    return (HEADER + "".join(records(rows, **how))).encode()


def records(
    rows: int, *, order: str = "random", errors: float = ERRORS, seed: int = 1, bodies: int = 2, first: int = 0
) -> Iterator[str]:
    """The lines behind the header, with case numbers from ``first`` on, in ``order``: random, or sorted as the index is.

    ``seed`` chooses the case numbers, the duplicates and which rows are wrong; ``bodies`` all other cells. So two files
    of one seed hold the same accepted case numbers.
    """
    chance = random.Random(seed)
    numbers = list(range(first, first + rows))
    for place in chance.sample(range(1, rows), int(rows * DUPLICATES)) if rows > 1 else ():
        numbers[place] = numbers[place - 1]
    if order == "random":
        chance.shuffle(numbers)
    else:
        numbers.sort(key=_case)
    return _lines(numbers, errors, chance.random, random.Random(bodies).random)


def _case(number: int) -> str:
    return f"{2000 + number % 25}-CV-{number:09d}"


def _lines(numbers: list[int], errors: float, fate: Callable[[], float], uniform: Callable[[], float]) -> Iterator[str]:
    for number in numbers:
        case = _case(number)
        if fate() < errors:
            yield f"{case}{_WRONG[int(uniform() * len(_WRONG))]}\n"
            continue
        amount, date = _amount(uniform), _date(uniform)
        plaintiff = _PLAINTIFFS[int(uniform() * len(_PLAINTIFFS))]
        name = f"{_FIRST[int(uniform() * len(_FIRST))]} {_LAST[int(uniform() * len(_LAST))]}"
        court, county = _COURTS[int(uniform() * len(_COURTS))], _COUNTIES[int(uniform() * len(_COUNTIES))]
        yield f"{case},{plaintiff},{name},{amount},{date},{court},{county},L-{int(uniform() * 1e6):06d},open\n"


def _amount(uniform: Callable[[], float]) -> str:
    dollars, cents = int(uniform() * 90_000) + 100, int(uniform() * 100)
    plain, grouped = f"{dollars}.{cents:02d}", f"{dollars:,}.{cents:02d}"
    return (f'"${grouped}"', f'"{grouped}"', str(dollars), f"USD {plain}", plain, plain)[int(uniform() * 6)]


def _date(uniform: Callable[[], float]) -> str:
    year, month, day = 1998 + int(uniform() * 26), 1 + int(uniform() * 12), 1 + int(uniform() * 28)
    iso = f"{year}-{month:02d}-{day:02d}"
    return (
        f"{month}/{day}/{year}",
        f"{month:02d}/{day:02d}/{year % 100:02d}",
        f"{day}-{_MONTHS[month - 1]}-{year}",
        f"{month}/{day}/{year} 0:00",
        "",
        iso,
        iso,
    )[int(uniform() * 7)]
