"""Merging: the spooled runs in one key order, a portion at a time, read ahead while the database takes the one before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from app.engine import conflicts
from app.engine.cells import Flags, Octets
from app.engine.pack import key_order, taken
from app.engine.spool import SAMPLE_ROWS, Run
from app.rows import Conflicts, Packed

PORTION_ROWS = 20_000
_PORTION_BYTES = 4 * 1024 * 1024
_FEWEST_PORTIONS = 3
"""A range of its own for each portion would cost the server ten milliseconds of waiting at the end of each."""
_AHEAD = 1
_HEAVY = 2


class Portion(NamedTuple):
    """Rows by (case_number, row_index); ``firsts`` marks the first row of each key in the whole file.

    ``first_rows`` are those rows. ``before`` is the first row of the key that an earlier portion began, where this one goes on with it; ``repeats`` are
    the rows that are no firsts, as conflicts with those that are.
    """

    rows: Packed
    firsts: Flags
    first_rows: Packed
    before: Packed | None
    repeats: Conflicts


class _Slice(NamedTuple):
    run: int
    first: int
    behind: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where a portion's rows stand; ``begun`` is the first row of their one key, where an earlier portion holds it."""

    slices: tuple[_Slice, ...]
    begun: _Slice | None = None

    @property
    def count(self) -> int:
        return sum(piece.behind - piece.first for piece in self.slices)


@dataclass(frozen=True, slots=True)
class KeyRange:
    """A run of portions in key order; may be read more than once."""

    _runs: Sequence[Run]
    _plans: tuple[_Plan, ...]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(plan.count for plan in self._plans)

    def portions(self) -> Iterator[Portion]:
        """The rows, by (case_number, row_index)."""
        for plan in self._plans:
            yield _read(self._runs, plan)


def key_ranges(runs: Sequence[Run], most: int, *, portion_rows: int = PORTION_ROWS) -> list[KeyRange]:
    """All rows of all runs in key order, in at most ``most`` ranges; long rows make smaller portions."""
    size = sum(run.size for run in runs)
    if size > _PORTION_BYTES:
        portion_rows = min(portion_rows, max(1, sum(run.count for run in runs) * _PORTION_BYTES // size))
    plans = _planned(runs, portion_rows)
    together = max(_FEWEST_PORTIONS, -(-len(plans) // most))
    return [KeyRange(runs, tuple(plans[first : first + together])) for first in range(0, len(plans), together)]


def read_ahead(ranges: Sequence[KeyRange]) -> Generator[tuple[int, Portion], None, None]:
    """The portions of all ranges with the number of their range; a thread reads the next while one is in use."""
    if sum(key_range.count for key_range in ranges) <= PORTION_ROWS:
        for number, key_range in enumerate(ranges):
            for portion in key_range.portions():
                yield number, portion
        return
    ready: queue.Queue[tuple[int, Portion] | BaseException | None] = queue.Queue(_AHEAD)
    abandoned = threading.Event()

    def put(item: tuple[int, Portion] | BaseException | None) -> bool:
        while not abandoned.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for number, key_range in enumerate(ranges):
                for portion in key_range.portions():
                    if not put((number, portion)):
                        return
            put(None)
        except BaseException as problem:
            put(problem)

    producer = threading.Thread(target=produce, name="merge", daemon=True)
    producer.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        abandoned.set()
        producer.join()


def _planned(runs: Sequence[Run], portion_rows: int) -> list[_Plan]:
    total = sum(run.count for run in runs)
    if not total:
        return []
    if len(runs) == 1 and total <= portion_rows:
        return [_Plan((_Slice(0, 0, total),))]
    width = max(run.width for run in runs)
    samples = np.sort(np.concatenate([_texts(run.samples, width) for run in runs]))
    step = max(1, portion_rows // SAMPLE_ROWS)
    splitters, repeats = np.unique(samples[step::step], return_counts=True)
    # A key that is a splitter twice has at least a portion of rows: it is kept apart, and cut wherever need be.
    bounds = [
        (splitter, side) for splitter, many in zip(splitters, repeats >= _HEAVY, strict=True) for side in _sides(many)
    ]
    cuts = np.zeros((len(runs), len(bounds) + 2), np.int64)
    for number, run in enumerate(runs):
        keys = _texts(run.keys(), width)
        cuts[number, -1] = run.count
        for side in ("left", "right"):
            chosen = [place for place, bound in enumerate(bounds) if bound[1] == side]
            if chosen:
                wanted = np.array([bounds[place][0] for place in chosen], f"S{width}")
                cuts[number, np.array(chosen) + 1] = np.searchsorted(keys, wanted, side=side)
    plans: list[_Plan] = []
    for place, (low, high) in enumerate(pairwise(cuts.T)):
        slices = tuple(
            _Slice(number, first, behind)
            for number, (first, behind) in enumerate(zip(low.tolist(), high.tolist(), strict=True))
            if behind > first
        )
        one_key = place < len(bounds) and bounds[place][1] == "right"
        if one_key:
            plans += _cut(slices, portion_rows)
        elif slices:
            plans.append(_Plan(slices))
    return plans


def _sides(heavy: bool) -> tuple[str, ...]:
    return ("left", "right") if heavy else ("left",)


def _cut(slices: tuple[_Slice, ...], portion_rows: int) -> list[_Plan]:
    """Portions of rows that all have one key: in file order as they stand."""
    plans: list[_Plan] = []
    for run, first, behind in slices:
        for start in range(first, behind, portion_rows):
            piece = _Slice(run, start, min(start + portion_rows, behind))
            plans.append(_Plan((piece,), begun=plans[0].slices[0] if plans else None))
    return plans


def _texts(keys: Octets, width: int) -> np.ndarray:
    return np.ascontiguousarray(keys).view(f"S{keys.shape[1]}").ravel().astype(f"S{width}")


def _read(runs: Sequence[Run], plan: _Plan) -> Portion:
    rows = _merged([runs[piece.run].part(piece.first, piece.behind) for piece in plan.slices])
    firsts = np.empty(len(rows), np.bool_)
    firsts[0] = True
    firsts[1:] = (rows.keys[1:] != rows.keys[:-1]).any(axis=1)
    before = None
    if plan.begun is not None:
        firsts[0] = False
        before = runs[plan.begun.run].part(plan.begun.first, plan.begun.first + 1)
    return Portion(rows, firsts, rows.chosen(firsts), before, conflicts.among(rows, firsts, before))


def _merged(parts: list[Packed]) -> Packed:
    if len(parts) == 1:
        return parts[0]
    width = max(part.keys.shape[1] for part in parts)
    keys = np.concatenate([_widened(part.keys, width) for part in parts])
    order = key_order(keys)
    sizes = np.concatenate([np.diff(part.ends, prepend=0) for part in parts])
    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    octets = np.concatenate([part.octets for part in parts])
    rows = pa.Array.from_buffers(pa.binary(), len(sizes), [None, pa.py_buffer(offsets), pa.py_buffer(octets)])
    places = np.concatenate([part.places for part in parts])
    return Packed(*taken(rows, order), keys[order], places[order])


def _widened(keys: Octets, width: int) -> Octets:
    if keys.shape[1] == width:
        return keys
    wide = np.zeros((len(keys), width), np.uint8)
    wide[:, : keys.shape[1]] = keys
    return wide
