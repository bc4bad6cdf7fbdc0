"""The collector: removes the files of uploads that were never finished, and no file of which there is a batch.

It never races an upload of the same bytes: both hold the lock on their hash, and the collector asks once more under it. A
collector that was halted between question and removal, and whose lock is gone by then, takes the removal back.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app import pause
from app.pause import Point
from app.store import batches, leftovers
from app.store.blobs import StorageError, key_of
from app.store.database import end_when_idle
from app.store.leftovers import Kind
from app.store.upkeep import Stored, Upkeep

log = structlog.get_logger()

MOST_FILES = 20_000
MOST_SECONDS = 30.0
"""A run of beat's looks at so many files, or for so long; the next one goes on behind them."""
MOST_LEFTOVERS = 20
"""Uploads that are broken off leave single files. Where more have no batch, the database is likelier to be the wrong one: set
back, or one of two beside the same store. Then a run removes none of them, unless a person says so."""
_TOGETHER = 500
_MOST_FAILURES = 3
"""So many files that cannot be removed end a run: then it is the store that fails."""
_REMOVAL_SECONDS = 600.0
"""An object store may take long to set a large file aside, and until it has the lock must hold."""


class TooManyLeftoversError(Exception):
    """More files have no batch than broken-off uploads leave behind; none of them was removed."""


@dataclass(slots=True)
class Collected:
    """What one run has looked at and removed; ``is_whole`` where it came to the end of all files."""

    looked_at: int = 0
    removed: dict[Kind, int] = field(default_factory=lambda: {Kind.BLOB: 0, Kind.ARRIVAL: 0})
    size: int = 0
    put_back: int = 0
    is_whole: bool = False


Found = Callable[[Kind, Stored, dt.timedelta], None]
"""Told of each leftover with its age, before it is removed."""


class Collector:
    """One run. ``older_than`` is the age, by the store's clock, below which a file is left alone.

    A ``dry`` run removes nothing and remembers nothing. With ``most_leftovers`` a run that finds more files without a batch
    removes none of them, and raises TooManyLeftoversError. Raises StorageError and SQLAlchemy's errors, in which case what was
    removed so far is removed, and counted.
    """

    def __init__(
        self,
        engine: Engine,
        store: Upkeep,
        *,
        older_than: dt.timedelta,
        dry: bool = False,
        most_leftovers: int | None = None,
        found: Found = lambda *_: None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._now = store.now()
        self._limit = self._now - older_than
        self._dry = dry
        self._most_leftovers = most_leftovers
        self._found = found
        self.done = Collected()
        self._failures = 0

    def run(self, *, most: int | None = None, seconds: float | None = None, resume: bool = False) -> Collected:
        """Look at all files, or at ``most`` for ``seconds``; ``resume`` goes on where the last such run has ended."""
        with self._engine.begin() as connection:
            if not leftovers.has_batches(connection):
                # An empty database beside stored files is a new or another one: it knows nothing about them.
                self.done.is_whole = True
                return self.done
            begin = leftovers.position(connection, Kind.BLOB) if resume else ""
        self._end_removals()
        self._remove_arrivals()
        self._remove_blobs(begin, most, None if seconds is None else time.monotonic() + seconds, remember=resume)
        return self.done

    def _end_removals(self) -> None:
        """Of collectors that died half-way: a blob that is nowhere else goes back to its place."""
        for stored in self._store.aside():
            file_hash = stored.file_hash
            if file_hash is None or self._dry:
                continue
            with self._engine.begin() as connection:
                if not batches.try_lock_hash(connection, file_hash):
                    continue
                if self._store.find(key_of(file_hash)) is None:
                    self._store.put_back(file_hash)
                    self.done.put_back += 1
                elif stored.modified < self._limit:
                    # A younger one may be half of a removal that is under way, or halted.
                    self._store.forget(file_hash)

    def _remove_arrivals(self) -> None:
        for stored in self._store.arrivals():
            if stored.modified >= self._limit:
                continue
            self._tell(Kind.ARRIVAL, stored)
            if not self._dry:
                self._store.remove_arrival(stored.key)
                with self._engine.begin() as connection:
                    leftovers.count(connection, Kind.ARRIVAL, size=stored.size)

    def _remove_blobs(self, begin: str, most: int | None, deadline: float | None, *, remember: bool) -> None:
        files = self._store.blobs(begin)
        place, waiting, is_overdue = begin, list[str](), False
        for page in _pages(files if most is None else islice(files, most)):
            self.done.looked_at += len(page)
            place = page[-1].key
            waiting += self._orphans(page)
            if self._most_leftovers is None:
                self._remove_orphans(waiting)
                waiting = []
            elif len(waiting) > self._most_leftovers:
                raise TooManyLeftoversError
            is_overdue = deadline is not None and time.monotonic() > deadline
            if is_overdue:
                break
        self._remove_orphans(waiting)
        self.done.is_whole = not is_overdue and (most is None or self.done.looked_at < most)
        if remember:
            # Not before: a run that removes nothing is to find the same again.
            self._remember("" if self.done.is_whole else place)

    def _orphans(self, page: list[Stored]) -> list[str]:
        old = {stored.file_hash: stored for stored in page if stored.file_hash and stored.modified < self._limit}
        with self._engine.begin() as connection:
            return sorted(leftovers.without_batch(connection, [file_hash for file_hash in old if file_hash]))

    def _remove_orphans(self, file_hashes: list[str]) -> None:
        for file_hash in file_hashes:
            try:
                self._remove_orphan(file_hash)
            except StorageError as problem:
                # One that cannot be removed keeps nobody from the others behind it; a store that is gone ends the run.
                self._failures += 1
                if self._failures >= _MOST_FAILURES:
                    raise
                log.warning("leftover not removed", file_hash=file_hash, problem=type(problem).__name__)

    def _remove_orphan(self, file_hash: str) -> None:
        with self._engine.begin() as connection:
            end_when_idle(connection, _REMOVAL_SECONDS)
            # Whoever holds it is receiving these bytes just now.
            if not batches.try_lock_hash(connection, file_hash) or not leftovers.without_batch(connection, [file_hash]):
                return
            stored = self._store.find(key_of(file_hash))
            if stored is None or stored.modified >= self._limit:
                return
            self._tell(Kind.BLOB, stored)
            if self._dry:
                return
            pause.at(Point.COLLECTING, file_hash)
            self._store.set_aside(file_hash)
            try:
                # Where this succeeds the transaction, and with it the lock, has lasted until the file was gone.
                leftovers.count(connection, Kind.BLOB, size=stored.size)
            except SQLAlchemyError:
                self._store.put_back(file_hash)
                raise
            self._store.forget(file_hash)

    def _tell(self, kind: Kind, stored: Stored) -> None:
        self._found(kind, stored, self._now - stored.modified)
        self.done.removed[kind] += 1
        self.done.size += stored.size

    def _remember(self, key: str) -> None:
        if not self._dry:
            with self._engine.begin() as connection:
                leftovers.reached(connection, Kind.BLOB, key)


def collect_some(engine: Engine, store: Callable[[], Upkeep], *, older_than: dt.timedelta) -> None:
    """Beat's run: a bounded piece of work, which the next one goes on with. Only logs where the surroundings fail."""
    try:
        collector = Collector(engine, store(), older_than=older_than, most_leftovers=MOST_LEFTOVERS)
        done = collector.run(most=MOST_FILES, seconds=MOST_SECONDS, resume=True)
    except (SQLAlchemyError, StorageError) as trouble:
        log.warning("collecting ended early", trouble=type(trouble).__name__)
        return
    except TooManyLeftoversError:
        log.error("leftovers not removed: too many files have no batch", more_than=MOST_LEFTOVERS)
        return
    log.info(
        "leftovers collected",
        looked_at=done.looked_at,
        **{f"{kind.value}s": number for kind, number in done.removed.items()},
        bytes=done.size,
        put_back=done.put_back,
        whole_pass=done.is_whole,
    )


def _pages(files: Iterator[Stored]) -> Iterator[list[Stored]]:
    while page := list(islice(files, _TOGETHER)):
        yield page
