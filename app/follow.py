"""Following batches to their end from a terminal: bars for a person, lines for a log, and one verdict each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import click

from app.batch import FINISHED, State
from app.client import Client, Document, NoAnswerError

_POLL_SECONDS = 0.3
_SECONDS_PER_BATCH = 0.02
_PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class HandedIn:
    """One file and what became of it: a ``batch`` document, or a ``problem`` document where it was refused."""

    file: Path
    batch: Document | None = None
    is_duplicate: bool = False
    problem: Document | None = None

    @property
    def is_settled(self) -> bool:
        """Nothing more will happen without a person."""
        return self.batch is None or State(self.batch["status"]) in FINISHED | {State.AWAITING_APPROVAL}

    @property
    def is_good(self) -> bool:
        """Neither refused nor failed, so far."""
        bad = (State.FAILED, State.CANCELLED, State.REVERTED)
        return self.batch is not None and State(self.batch["status"]) not in bad

    def verdict(self) -> str:
        """In one line, for a person."""
        if self.problem is not None:
            return f"refused {self.problem.get('code')}: {self.problem.get('detail')}"
        batch = self.batch or {}
        status = batch.get("status")
        if status == State.COMPLETED and "row_count_inserted" in batch:
            errors = batch["row_count_invalid"]
            said = (
                f"completed: {batch['row_count_inserted']:,} inserted, {batch['row_count_duplicate']:,} duplicate, "
                f"{errors:,} error{'' if errors == 1 else 's'} (batch {batch.get('batch_id')})"
            )
        elif status == State.FAILED and batch.get("rejection_reason"):
            said = f"failed {batch.get('rejection_code')}: {batch['rejection_reason']} (batch {batch.get('batch_id')})"
        elif status == State.UPLOADED:
            said = f"accepted as batch {batch.get('batch_id')}"
        else:
            said = f"{status}, batch {batch.get('batch_id')}"
        if not self.is_duplicate:
            return said
        known = f"already uploaded as batch {batch.get('batch_id')}; {said}"
        return f"{known}; --force ingests it again" if status == State.CANCELLED else known

    def document(self) -> Document:
        """For --json."""
        if self.problem is not None:
            return {"file": str(self.file), "problem": self.problem}
        return {"file": str(self.file), **(self.batch or {}), "is_duplicate": self.is_duplicate}


class Screen(Protocol):
    """Where progress is shown."""

    def sending(self, item: HandedIn, sent: int, total: int) -> None:
        """So many more bytes of so many have been sent."""

    def working(self, item: HandedIn) -> None:
        """The batch has been looked at again."""


def follow(
    client: Client,
    items: Iterable[HandedIn],
    screen: Screen,
    *,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Look at the batches until each is settled. A server that is away for a minute is waited for, then NoAnswerError."""
    waiting = [item for item in items if item.batch is not None]
    answered = clock()
    while waiting:
        for item in waiting:
            batch_id = (item.batch or {})["batch_id"]
            try:
                item.batch = client.batch(batch_id)
                answered = clock()
            except NoAnswerError:
                if clock() - answered > _PATIENCE_SECONDS:
                    raise
            screen.working(item)
        waiting = [item for item in waiting if not item.is_settled]
        if waiting:
            pause(max(_POLL_SECONDS, _SECONDS_PER_BATCH * len(waiting)))


class Lines:
    """Progress as lines on stderr: one per change of state."""

    def __init__(self) -> None:
        self._shown: dict[int, str] = {}

    def sending(self, item: HandedIn, sent: int, total: int) -> None:
        self._say(item, "sending")

    def working(self, item: HandedIn) -> None:
        status = (item.batch or {})["status"]
        self._say(item, f"{status}, batch {(item.batch or {})['batch_id']}")

    def _say(self, item: HandedIn, text: str) -> None:
        if self._shown.get(id(item)) != text:
            self._shown[id(item)] = text
            click.echo(f"{item.file.name}: {text}", err=True)


class Silence:
    """No progress at all."""

    def sending(self, item: HandedIn, sent: int, total: int) -> None:
        pass

    def working(self, item: HandedIn) -> None:
        pass


@contextmanager
def bars() -> Iterator[Screen]:
    """Progress as bars on a terminal: bytes while a file is sent, rows while it is worked on."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        tasks: dict[int, TaskID] = {}
        worked_on: set[int] = set()

        def task(item: HandedIn) -> TaskID:
            if id(item) not in tasks:
                tasks[id(item)] = progress.add_task(item.file.name, total=None, said="")
            return tasks[id(item)]

        class Bars:
            def sending(self, item: HandedIn, sent: int, total: int) -> None:
                progress.update(task(item), total=total, said="sending")
                progress.advance(task(item), sent)

            def working(self, item: HandedIn) -> None:
                batch = item.batch or {}
                done = batch["progress"]
                if id(item) not in worked_on:
                    # The bar was full when the file was sent; its clock would stand still.
                    worked_on.add(id(item))
                    progress.reset(task(item))
                # Rows are not known beforehand, so the bar goes by bytes and the text tells the rows.
                progress.update(
                    task(item),
                    total=max(done["bytes_total"], 1),
                    completed=max(done["bytes_total"], 1) if item.is_settled else done["bytes_processed"],
                    said=f"{batch['status']} {done['rows_processed']:,} rows",
                )

        yield Bars()
