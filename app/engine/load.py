"""Loading: the accepted rows in key order, range by range, first valid row wins, every duplicate kept with its differences.

Key order is a rule: writers of overlapping batches then wait for each other and never deadlock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from app.engine.conflicts import Meeting, among, joined
from app.engine.merge import KeyRange, Portion, read_ahead
from app.rows import Accepted, Conflicts, Outcome, Packed, Standing, Target

MOST_RANGES = 50
"""Each range is a subtransaction; beyond 64 PostgreSQL's cache of them overflows and every reader slows down."""

_HELD_BYTES = 4 * 1024 * 1024
_SMALL_ROWS = 500
_COMPARING = 2
"""Threads: one waits for the server while the other compares."""


@dataclass(slots=True)
class Loaded:
    """What a load did: duplicates and those of them that differ from the row that stands, and what was refused."""

    duplicates: int = 0
    differing: int = 0
    cents_duplicate: int = 0
    refused: int = 0
    cents_refused: int = 0

    @property
    def dollars_duplicate(self) -> Decimal:
        return Decimal(self.cents_duplicate) / 100

    @property
    def dollars_refused(self) -> Decimal:
        return Decimal(self.cents_refused) / 100


def load(
    ranges: Sequence[KeyRange], target: Target, refuse: Callable[[Accepted], None], ask: Callable[[Packed], Standing]
) -> Loaded:
    """Load every range; ``refuse`` is called with each row that the database itself will not take.

    ``ask`` tells which judgments of others stand under the rows' keys; it is called from other threads, one at a time.
    """
    with ThreadPoolExecutor(_COMPARING, thread_name_prefix="compare") as pool:
        loader = _Loader(target, refuse, ask, pool)
        with closing(read_ahead(ranges)) as ahead:
            for number, portions in groupby(ahead, key=itemgetter(0)):
                loader.load(ranges[number], (portion for _, portion in portions))
        loader.finish()
    return loader.done


class _Compared(NamedTuple):
    """A portion beside the judgments that stand: its first rows of free keys, and its duplicates."""

    free: Packed
    found: Conflicts


class _Loader:
    """Begins optimistic. After the first taken key it asks which judgments stand before it inserts; threads ask for the next
    range and compare it while this one is inserted and its duplicates are kept.
    """

    def __init__(
        self,
        target: Target,
        refuse: Callable[[Accepted], None],
        ask: Callable[[Packed], Standing],
        pool: ThreadPoolExecutor,
    ) -> None:
        self._target = target
        self._refuse = refuse
        self._ask_others = ask
        self._asking = threading.Lock()
        self._pool = pool
        self._optimistic = True
        self._asked: tuple[KeyRange, list[Future[_Compared]]] | None = None
        self._held: list[Conflicts] = []
        self._held_bytes = 0
        self.done = Loaded()

    def load(self, key_range: KeyRange, portions: Iterator[Portion]) -> None:
        """Load one range, or the one before it; ``portions`` are its own, which may be read only once."""
        if self._optimistic:
            outcome = self._insert_firsts(portions)
            if outcome is not Outcome.KEY_TAKEN:
                self._end(key_range, outcome)
                return
            self._optimistic = False
            portions = key_range.portions()
        self._ask(key_range, portions)

    def finish(self) -> None:
        """Load what was only asked for, and keep the duplicates that are still held."""
        self._insert_free()
        self._keep()

    def _insert_firsts(self, portions: Iterator[Portion]) -> Outcome:
        """As if no key stood yet."""
        repeats: list[Conflicts] = []

        def firsts() -> Iterator[Packed]:
            for portion in portions:
                repeats.append(portion.repeats)
                yield portion.first_rows

        outcome = self._target.insert(firsts())
        if outcome is Outcome.LOADED:
            self._hold(repeats)
        return outcome

    def _ask(self, key_range: KeyRange, portions: Iterator[Portion]) -> None:
        """Have it found out which judgments stand; meanwhile the range before is inserted."""
        compared = [self._pool.submit(self._compare, portion) for portion in portions]
        self._insert_free()
        self._asked = key_range, compared

    def _compare(self, portion: Portion) -> _Compared:
        rows = portion.rows
        with self._asking:
            standing = self._ask_others(rows)
        meeting = Meeting(rows, standing)
        left = ~meeting.stands
        if not left.any():
            return _Compared(rows.part(0, 0), meeting.conflicts())
        # A key stands for all its rows or for none, so what is left repeats a row of the file.
        repeats = among(rows.chosen(left), portion.firsts[left], portion.before)
        return _Compared(rows.chosen(portion.firsts & left), joined((meeting.conflicts(), repeats)))

    def _insert_free(self) -> None:
        """Insert what is free of the range that was asked for."""
        if self._asked is None:
            return
        (key_range, futures), self._asked = self._asked, None
        compared = [future.result() for future in futures]
        free = [portion.free for portion in compared if len(portion.free)]
        outcome = Outcome.LOADED
        if self.done.refused:
            # The first row of a key may be one that was refused: the database finds who stands in its place.
            outcome = Outcome.KEY_TAKEN
        elif free:
            outcome = self._target.insert(free)
        if outcome is Outcome.LOADED:
            self._hold([portion.found for portion in compared])
        self._end(key_range, outcome)

    def _end(self, key_range: KeyRange, outcome: Outcome) -> None:
        """Make good what was not inserted."""
        if outcome is Outcome.KEY_TAKEN:
            # Another batch has committed one of the keys in between.
            outcome = self._target.insert_absent(portion.rows for portion in key_range.portions())
            if outcome is Outcome.LOADED:
                for portion in key_range.portions():
                    self._hold_what_others_hold(portion.rows)
        if outcome is Outcome.REFUSED:
            # From here on nobody knows without asking whether the first row of a key stands.
            self._optimistic = False
            for portion in key_range.portions():
                for first in range(0, len(portion.rows), _SMALL_ROWS):
                    self._halve(portion.rows.part(first, min(first + _SMALL_ROWS, len(portion.rows))))

    def _hold_what_others_hold(self, rows: Packed) -> None:
        """After an insert that left rows out: each row that does not stand itself is a duplicate of the one that does."""
        self._hold([Meeting(rows, self._target.standing(rows)).conflicts(apart=True)])

    def _hold(self, found: list[Conflicts]) -> None:
        """Count duplicates, and keep them many at a time."""
        held = joined(found)
        self.done.duplicates += held.rows
        self.done.differing += held.differing
        self.done.cents_duplicate += held.cents
        if held.rows:
            self._held.append(held)
            self._held_bytes += len(held.same) + len(held.different)
            if self._held_bytes >= _HELD_BYTES:
                self._keep()

    def _keep(self) -> None:
        if self._held:
            self._target.keep(self._held)
        self._held, self._held_bytes = [], 0

    def _halve(self, rows: Packed) -> None:
        """The database refuses something among these rows: find it."""
        outcome = self._target.insert_absent([rows])
        if outcome is Outcome.LOADED:
            self._hold_what_others_hold(rows)
        elif len(rows) > 1:
            middle = len(rows) // 2
            self._halve(rows.part(0, middle))
            self._halve(rows.part(middle, len(rows)))
        else:
            row = rows.accepted(0)
            self._refuse(row)
            self.done.refused += 1
            self.done.cents_refused += row.cents
