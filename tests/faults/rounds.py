"""A round of one fault on a running stack: set up, struck, proved to have fired, recovered, and every invariant checked."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.faults.invariants import Books, Expected, Leaks, balance
from tests.faults.scene import Scene
from tests.faults.stack import NotThereError, Stack
from tests.faults.watchers import Others, Reader


class DidNotFireError(AssertionError):
    """The fault left no trace: nothing was tested, which must not pass for a success."""


class Fault:
    """One kind of fault; a subclass says what it does in its docstring. Each round has an instance of its own."""

    name = ""
    within = 60.0
    """Seconds from the strike in which every batch must have its verdict."""
    outage = False
    """All senders are struck, so nobody sends beside it."""
    strikes_all = False
    """Others send, but every worker is struck in its turn: their times are not those of bystanders."""

    def prepare(self, scene: Scene) -> None:
        """Bring the stack to where it is to be struck."""

    def inject(self, scene: Scene) -> None:
        """Strike, and put into ``scene.fired`` what shows that it did."""
        raise NotImplementedError

    def outcome(self, scene: Scene) -> None:
        """Assert what must have become of it, beyond the invariants."""

    def heal(self, scene: Scene) -> None:
        """Undo what would not pass by itself; called whatever happened."""


@dataclass(frozen=True)
class Record:
    """A round as it is written down. Seconds; None where nothing was to be measured."""

    fault: str
    lease_seconds: int
    fired: bool
    evidence: str
    rows: int
    batches: int
    lost: int
    duplicated: int
    unaccounted: int
    breaches: list[str]
    resumed: float | None
    terminal: float | None
    uploads: list[float]
    others: list[float]
    """Of those that nothing struck."""
    reads: int
    seconds: float

    @classmethod
    def from_json(cls, line: str) -> Record:
        return cls(**json.loads(line))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


class Campaign:
    """Rounds on one stack, with those who look on."""

    def __init__(self, stack: Stack, *, short: bool) -> None:
        self.stack = stack
        self.short = short
        self.reader = Reader(stack)
        self.others = Others(stack, short=short)
        self.leaks = Leaks(stack)

    def close(self) -> None:
        self.others.stop()
        self.reader.stop()

    def run(self, fault: Fault, *, rows: int, number: int = 0) -> Record:
        """One round. Raises NotThereError where the machine cannot do it, DidNotFireError, and AssertionError of its outcome."""
        began = time.monotonic()
        self.stack.mend()
        scene = Scene(
            self.stack, self.reader, rows=rows, short=self.short, chance=random.Random(f"{fault.name} {number}")
        )
        reads, others = self.reader.reads, len(self.others.done)
        problem: AssertionError | None = None
        with contextlib.nullcontext() if fault.outage else self.others.sending(fault.name):
            try:
                fault.prepare(scene)
                fault.inject(scene)
                scene.strike()
                scene.wait(fault.within)
                fault.outcome(scene)
            except AssertionError as found:
                problem = found
            finally:
                fault.heal(scene)
                self.stack.let_all_go()
        if not scene.fired and problem is None:
            problem = DidNotFireError(f"{fault.name} did not fire")
        meanwhile = self.others.done[others:]
        books = self._books(scene, [Expected(other.batch_id, other.file) for other in meanwhile])
        if problem is not None:
            books.breaches.append(str(problem))
        return Record(
            fault=fault.name,
            lease_seconds=self.stack.lease_seconds,
            fired=bool(scene.fired),
            evidence="; ".join(scene.fired),
            rows=books.rows,
            batches=len(scene.expected) + len(meanwhile),
            lost=books.lost,
            duplicated=books.duplicated,
            unaccounted=books.unaccounted,
            breaches=books.breaches,
            resumed=scene.resumed_seconds(),
            terminal=scene.terminal_seconds(),
            uploads=scene.upload_seconds,
            others=[other.seconds for other in meanwhile if not (other.struck or fault.strikes_all)],
            reads=self.reader.reads - reads,
            seconds=time.monotonic() - began,
        )

    def _books(self, scene: Scene, others: list[Expected]) -> Books:
        books = Books()
        with psycopg.connect(self.stack.info["database_url"], autocommit=True) as connection:
            for expected in [*scene.expected.values(), *others]:
                books.add(balance(connection, expected))
        seen, self.reader.breaches = self.reader.breaches, []
        missed, self.others.breaches = self.others.breaches, []
        books.breaches += seen + [breach for breach in missed if breach.startswith("I1")]
        books.breaches += self.leaks.look(scene.bodies)
        return books


def read_records(path: Path) -> list[Record]:
    """What earlier rounds have written."""
    if not path.exists():
        return []
    return [Record.from_json(line) for line in path.read_text().splitlines() if line.strip()]


def append_record(path: Path, record: Record) -> None:
    """Written at once, so that a campaign that is broken off goes on where it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(record.to_json() + "\n")


@contextlib.contextmanager
def campaign(home: Path, *, lease_seconds: int, short: bool) -> Iterator[Campaign]:
    """A stack of its own for the block."""
    stack = Stack(home, lease_seconds=lease_seconds)
    try:
        running = Campaign(stack, short=short)
        try:
            yield running
        finally:
            running.close()
    finally:
        stack.stop()


__all__ = [
    "Campaign",
    "DidNotFireError",
    "Fault",
    "NotThereError",
    "Record",
    "append_record",
    "campaign",
    "read_records",
]
