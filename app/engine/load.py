"""Loading: the accepted rows in key order, range by range, first valid row wins, every duplicate kept with its differences.

Key order is a rule: writers of overlapping batches then wait for each other and never deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby
from operator import itemgetter

import numpy as np

from app.engine.cells import Flags
from app.engine.merge import KeyRange, Portion, read_ahead
from app.rows import Accepted, Duplicates, Outcome, Packed, Target

MOST_RANGES = 50
"""Each range is a subtransaction; beyond 64 PostgreSQL's cache of them overflows and every reader slows down."""

_ASK_KEYS = 5_000
_HELD_ROWS = 20_000
_SMALL_ROWS = 500


@dataclass(slots=True)
class Loaded:
    """What a load did."""

    duplicates: Duplicates = field(default_factory=Duplicates)
    refused: int = 0
    cents_refused: int = 0

    @property
    def dollars_refused(self) -> Decimal:
        return Decimal(self.cents_refused) / 100


def load(ranges: Sequence[KeyRange], target: Target, refuse: Callable[[Accepted], None]) -> Loaded:
    """Load every range; ``refuse`` is called with each row that the database itself will not take."""
    loader = _Loader(target, refuse)
    with closing(read_ahead(ranges)) as ahead:
        for number, portions in groupby(ahead, key=itemgetter(0)):
            loader.load(ranges[number], (portion for _, portion in portions))
    loader.finish()
    return loader.done


class _Loader:
    """Begins optimistic. After the first taken key it asks which keys stand before it inserts; where most of a range
    stood already, it leaves the next to the database.
    """

    def __init__(self, target: Target, refuse: Callable[[Accepted], None]) -> None:
        self._target = target
        self._refuse = refuse
        self._insert: Callable[[KeyRange, Iterator[Portion]], Outcome] = self._optimistic
        self._held: list[Packed] = []
        self._held_rows = 0
        self.done = Loaded()

    def load(self, key_range: KeyRange, portions: Iterator[Portion]) -> None:
        """Load one range; ``portions`` are its own, which may be read only once."""
        outcome = self._insert(key_range, portions)
        if outcome is Outcome.KEY_TAKEN and self._insert != self._cautious:
            self._insert = self._cautious
            outcome = self._cautious(key_range, key_range.portions())
        if outcome is Outcome.KEY_TAKEN:
            # Another batch has committed one of the keys in between.
            outcome = self._left_to_database(key_range, key_range.portions())
        if outcome is Outcome.REFUSED:
            for portion in key_range.portions():
                for first in range(0, len(portion.rows), _SMALL_ROWS):
                    self._halve(portion, first, min(first + _SMALL_ROWS, len(portion.rows)))

    def finish(self) -> None:
        """Keep the duplicates that are still held."""
        if self._held:
            self.done.duplicates.add(self._target.keep_duplicates(self._held))
        self._held, self._held_rows = [], 0

    def _optimistic(self, key_range: KeyRange, portions: Iterator[Portion]) -> Outcome:
        duplicates: list[Packed] = []

        def firsts() -> Iterator[Packed]:
            for portion in portions:
                duplicates.append(portion.rows.chosen(~portion.firsts))
                yield portion.rows.chosen(portion.firsts)

        outcome = self._target.insert(firsts())
        if outcome is Outcome.LOADED:
            self._hold(duplicates)
        return outcome

    def _cautious(self, key_range: KeyRange, portions: Iterator[Portion]) -> Outcome:
        asked = [(portion, portion.firsts & ~self._taken(portion.rows)) for portion in portions]
        outcome = self._target.insert(portion.rows.chosen(free) for portion, free in asked)
        if outcome is Outcome.LOADED:
            self._hold([portion.rows.chosen(~free) for portion, free in asked])
            if sum(int(free.sum()) for _, free in asked) * 2 < key_range.count:
                self._insert = self._left_to_database
        return outcome

    def _left_to_database(self, key_range: KeyRange, portions: Iterator[Portion]) -> Outcome:
        outcome, duplicates = self._target.insert_absent(portion.rows for portion in portions)
        if outcome is Outcome.LOADED:
            self.done.duplicates.add(duplicates)
            if duplicates.rows * 2 < key_range.count:
                self._insert = self._cautious
        return outcome

    def _taken(self, rows: Packed) -> Flags:
        keys = rows.key_texts()
        taken: set[str] = set()
        for first in range(0, len(keys), _ASK_KEYS):
            taken |= self._target.taken(keys[first : first + _ASK_KEYS])
        if not taken:
            return np.zeros(len(keys), np.bool_)
        return np.fromiter((key in taken for key in keys), np.bool_, len(keys))

    def _hold(self, duplicates: list[Packed]) -> None:
        """Keep duplicates many at a time; the judgments that stand are in the database by then."""
        self._held += [rows for rows in duplicates if len(rows)]
        self._held_rows += sum(map(len, duplicates))
        if self._held_rows >= _HELD_ROWS:
            self.finish()

    def _halve(self, portion: Portion, first: int, behind: int) -> None:
        """The database refuses something among these rows: find it."""
        part = portion.rows.part(first, behind)
        outcome, duplicates = self._target.insert_absent([part])
        if outcome is Outcome.LOADED:
            self.done.duplicates.add(duplicates)
        elif len(part) > 1:
            middle = (first + behind) // 2
            self._halve(portion, first, middle)
            self._halve(portion, middle, behind)
        else:
            row = part.accepted(0)
            self._refuse(row)
            self.done.refused += 1
            self.done.cents_refused += row.cents
