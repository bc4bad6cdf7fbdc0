"""Files of which every row's fate is known before they are uploaded, and whose cells can be told from anything else."""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass, field
from functools import cached_property

MARKS = ("FLTQX-", "Qvornzell", "Wexmoor", "zqexport")
"""One of them stands in every cell that names a case or a person, and in every file's name."""

_HEADER = "Case Number,Defendant,Plaintiff,Judgment Amount,Filing Date,County"
_EVERY_INVALID = 47
_EVERY_DUPLICATE = 61

_serials = itertools.count(random.SystemRandom().randrange(10**9) * 1_000)


@dataclass(frozen=True)
class KnownFile:
    """``rows`` data rows: about two of a hundred are refused, and as many repeat a case number of the file."""

    name: str
    content: bytes
    cases: tuple[str, ...]
    """By row_index."""
    cents: tuple[int, ...]
    invalid: frozenset[int]
    repeats: frozenset[int]
    seed: int
    width: int

    @property
    def file_hash(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def rows(self) -> int:
        return len(self.cases)

    def judgment(self, row: int) -> tuple[str, str, str, int, str, None, str, int]:
        """All that must stand of a valid row: case number, defendant, plaintiff, cents, date, court, county, line."""
        return (
            self.cases[row],
            f"{MARKS[1]} {self.seed}-{row}",
            f"{MARKS[2]}{'x' * self.width}, Inc.",
            self.cents[row],
            f"2021-03-{row % 28 + 1:02d}",
            None,
            "Kings",
            row + 2,
        )

    @cached_property
    def lines(self) -> list[bytes]:
        """Each row's bytes."""
        return self.content.splitlines()[1:]

    @property
    def keys(self) -> tuple[str, str]:
        """The first and the last case number, between which there are none of other files, unless they share a serial."""
        return min(self.cases), max(self.cases)

    @property
    def first_rows(self) -> dict[str, int]:
        """Case number -> the row that stands for it where no other file has it."""
        found: dict[str, int] = {}
        for row, case in enumerate(self.cases):
            if row not in self.invalid:
                found.setdefault(case, row)
        return found

    def cents_of(self, rows: set[int]) -> int:
        """The dollars of these rows, in cents."""
        return sum(self.cents[row] for row in rows)


@dataclass(frozen=True)
class Maker:
    """Makes files; those of one ``serial`` share their case numbers, all others have their own."""

    serial: int = field(default_factory=lambda: next(_serials))

    def file(self, rows: int, seed: int = 0, *, width: int = 0) -> KnownFile:
        """The same arguments give the same bytes; ``width`` makes each row about so many bytes longer."""
        chance = random.Random(f"{self.serial} {seed}")
        numbers = list(range(rows))
        chance.shuffle(numbers)
        cents = [chance.randrange(1, 10**8) for _ in numbers]
        repeats = {row for row in range(rows) if row % _EVERY_DUPLICATE == _EVERY_DUPLICATE - 1}
        invalid = {row for row in range(rows) if row % _EVERY_INVALID == _EVERY_INVALID - 1} - repeats
        cases = [f"{MARKS[0]}{self.serial}-{number:07d}" for number in numbers]
        for row in repeats:
            # The row before it is valid: the two strides never fall on neighbours of one another within a file.
            cases[row] = cases[row - 2 if row - 1 in invalid else row - 1]
        filler = "x" * width
        lines = [_HEADER]
        for row, case in enumerate(cases):
            amount = "12." if row in invalid else f"{cents[row] // 100}.{cents[row] % 100:02d}"
            lines.append(
                f'{case},{MARKS[1]} {seed}-{row},"{MARKS[2]}{filler}, Inc.",{amount},2021-03-{row % 28 + 1:02d},Kings'
            )
        content = "\n".join([*lines, ""]).encode()
        name = f"{MARKS[3]}-{self.serial}-{seed}.csv"
        return KnownFile(name, content, tuple(cases), tuple(cents), frozenset(invalid), frozenset(repeats), seed, width)
