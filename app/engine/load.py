"""Loading: the accepted rows in key order, range by range, first valid row wins, every duplicate kept with its differences.

Key order is a rule: writers of overlapping batches then wait for each other and never deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby, islice

from app.engine.spool import KeyRange
from app.rows import VALUE_NAMES, AcceptedRow, Conflict, Kept, Outcome, Target, cents_of, values_of

MOST_RANGES = 50
"""Each range is a subtransaction; beyond 64 PostgreSQL's cache of them overflows and every reader slows down."""

_ASK_KEYS = 5_000
_SMALL_ROWS = 500


@dataclass(slots=True)
class Loaded:
    """What a load did."""

    duplicate: int = 0
    conflict: int = 0
    refused: int = 0
    cents_duplicate: int = 0
    cents_refused: int = 0

    @property
    def dollars_duplicate(self) -> Decimal:
        return Decimal(self.cents_duplicate) / 100

    @property
    def dollars_refused(self) -> Decimal:
        return Decimal(self.cents_refused) / 100


def load(ranges: Sequence[KeyRange], target: Target, refuse: Callable[[AcceptedRow], None]) -> Loaded:
    """Load every range; ``refuse`` is called with each row that the database itself will not take."""
    loader = _Loader(target, refuse)
    for key_range in ranges:
        loader.load(key_range)
    return loader.done


class _Loader:
    def __init__(self, target: Target, refuse: Callable[[AcceptedRow], None]) -> None:
        self._target = target
        self._refuse = refuse
        self._cautious = False
        self.done = Loaded()

    def load(self, key_range: KeyRange) -> None:
        """Begin optimistic; after the first taken key, ask which keys stand before inserting."""
        taken = self._ask(key_range) if self._cautious else set()
        outcome = self._target.insert(_firsts(key_range.rows(), taken))
        if outcome is Outcome.KEY_TAKEN and not self._cautious:
            self._cautious = True
            taken = self._ask(key_range)
            outcome = self._target.insert(_firsts(key_range.rows(), taken))
        if outcome is Outcome.KEY_TAKEN:
            # Another batch has committed one of the keys in between.
            outcome, more = self._target.insert_absent(_firsts(key_range.rows(), taken))
            taken |= more
        if outcome is Outcome.REFUSED:
            self._load_piecemeal(key_range)
        elif taken or key_range.duplicates:
            self._keep_duplicates(key_range.rows(), taken)

    def _ask(self, key_range: KeyRange) -> set[str]:
        taken: set[str] = set()
        keys = (row[0] for row in _firsts(key_range.rows(), frozenset()))
        while chunk := list(islice(keys, _ASK_KEYS)):
            taken |= self._target.taken(chunk)
        return taken

    def _keep_duplicates(self, rows: Iterable[AcceptedRow], taken: set[str]) -> None:
        """Every row that was not inserted: those under a taken key, and those behind the first of their key."""
        own: list[tuple[AcceptedRow, Kept]] = []
        foreign: list[AcceptedRow] = []
        for key, group in groupby(rows, key=lambda row: row[0]):
            if key not in taken:
                first = next(group)
                kept = Kept(self._target.batch_id, first[1], values_of(first))
                for row in group:
                    own.append((row, kept))
                    if len(own) >= _ASK_KEYS:
                        self._add(own)
                        own = []
                continue
            for row in group:
                foreign.append(row)
                if len(foreign) >= _ASK_KEYS:
                    self._add(self._with_kept(foreign))
                    foreign = []
        self._add(own)
        self._add(self._with_kept(foreign))

    def _with_kept(self, rows: list[AcceptedRow]) -> list[tuple[AcceptedRow, Kept]]:
        kept = self._target.kept(list(dict.fromkeys(row[0] for row in rows))) if rows else {}
        return [(row, kept[row[0]]) for row in rows]

    def _add(self, pairs: list[tuple[AcceptedRow, Kept]]) -> None:
        if not pairs:
            return
        conflicts = []
        for row, kept in pairs:
            differences = {
                name: [ours, theirs]
                for name, ours, theirs in zip(VALUE_NAMES, kept.values, values_of(row), strict=True)
                if ours != theirs
            }
            conflicts.append(Conflict(row[1], row[0], kept.batch_id, kept.row_index, differences))
            self.done.duplicate += 1
            self.done.conflict += bool(differences)
            self.done.cents_duplicate += cents_of(row)
        self._target.add_conflicts(conflicts)

    def _load_piecemeal(self, key_range: KeyRange) -> None:
        """The database refuses something in this range: find it by halving."""
        rows = key_range.rows()
        while chunk := list(islice(rows, _SMALL_ROWS)):
            self._halve(chunk)

    def _halve(self, rows: list[AcceptedRow]) -> None:
        taken = self._target.taken(list(dict.fromkeys(row[0] for row in rows)))
        outcome = self._target.insert(_firsts(rows, taken))
        if outcome is Outcome.KEY_TAKEN:
            outcome, more = self._target.insert_absent(_firsts(rows, taken))
            taken |= more
        if outcome is Outcome.LOADED:
            self._keep_duplicates(rows, taken)
        elif len(rows) > 1:
            middle = len(rows) // 2
            self._halve(rows[:middle])
            self._halve(rows[middle:])
        else:
            self._refuse(rows[0])
            self.done.refused += 1
            self.done.cents_refused += cents_of(rows[0])


def _firsts(rows: Iterable[AcceptedRow], taken: set[str] | frozenset[str]) -> Iterator[AcceptedRow]:
    """The first row of every key that is not taken."""
    key: str | None = None
    for row in rows:
        if row[0] != key:
            key = row[0]
            if key not in taken:
                yield row
