"""Who looks on while a fault strikes: a reader that must never see a part of a batch, and senders who must not suffer."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from tests.acceptance.pipeline import FINISHED
from tests.faults.files import KnownFile, Maker
from tests.faults.stack import Stack

OTHERS_ROWS = 60
_GLANCE_SECONDS = 0.01
_LOOK = """
    SELECT b.id::text, b.status, b.fence, b.row_count_inserted, b.row_count_invalid, b.row_count_duplicate,
        (SELECT count(*) FROM public.judgments j
            WHERE j.case_number BETWEEN w.first AND w.last AND j.batch_id = b.id),
        (SELECT count(*) FROM intake.row_errors e WHERE e.batch_id = b.id),
        (SELECT count(*) FROM intake.row_conflicts c WHERE c.batch_id = b.id)
    FROM unnest(%s::uuid[], %s::text[], %s::text[]) AS w (id, first, last) JOIN intake.batches b USING (id)
"""


@dataclass
class Seen:
    """What the reader knows of a batch; moments are those of time.monotonic."""

    keys: tuple[str, str]
    fences: dict[int, float] = field(default_factory=dict)
    """Fence -> when it was first seen."""
    finished_at: float | None = None


class Reader:
    """Polls the watched batches, each time in one snapshot; ``breaches`` are the moments at which a part was seen (I5)."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._batches: dict[str, Seen] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.reads = 0
        self.breaches: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def watch(self, batch_id: str, keys: tuple[str, str]) -> Seen:
        with self._lock:
            return self._batches.setdefault(batch_id, Seen(keys))

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        while not self._stopped.wait(_GLANCE_SECONDS):
            with self._lock:
                watched = {key: seen for key, seen in self._batches.items() if seen.finished_at is None}
            if not watched:
                continue
            try:
                connection = connection or psycopg.connect(self._stack.info["database_url"], autocommit=True)
                firsts, lasts = zip(*(seen.keys for seen in watched.values()), strict=True)
                rows = connection.execute(_LOOK, (list(watched), list(firsts), list(lasts))).fetchall()
            except psycopg.Error:
                if connection is not None:
                    with contextlib.suppress(psycopg.Error):
                        connection.close()
                connection = None
                continue
            now = time.monotonic()
            self.reads += 1
            for row in rows:
                self._note(watched[row[0]], row, now)
        if connection is not None:
            connection.close()

    def _note(self, seen: Seen, row: tuple[Any, ...], now: float) -> None:
        batch_id, status, fence, inserted, invalid, duplicate, judgments, errors, conflicts = row
        seen.fences.setdefault(fence, now)
        if status in FINISHED:
            seen.finished_at = now
        expected = (
            (inserted, invalid, duplicate) if status == "completed" else (0, invalid if status == "failed" else 0, 0)
        )
        if (judgments, errors, conflicts) != expected:
            self.breaches.append(
                f"I5: batch {batch_id} {status}: {judgments} judgments, {errors} errors, {conflicts} conflicts seen"
            )


@dataclass(frozen=True)
class Other:
    """A batch that somebody else has sent meanwhile."""

    batch_id: str
    file: KnownFile
    fault: str
    seconds: float
    struck: bool
    """A fault has taken its own worker, so that it is none of the others."""


class Others:
    """One sender after the other, each with a small file, each waiting for the verdict, beside whatever happens (I7)."""

    def __init__(self, stack: Stack, *, short: bool) -> None:
        self._stack = stack
        self._short = short
        self._fault = ""
        self._going = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._stopped = threading.Event()
        self.done: list[Other] = []
        self.breaches: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def sending(self, fault: str) -> Any:
        """They send until the block is left, and what they have sent is finished then."""
        self._fault = fault
        self._going.set()
        try:
            yield
        finally:
            self._going.clear()
            self._idle.wait(60)

    def stop(self) -> None:
        self._stopped.set()
        self._going.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(
            base_url=self._stack.info["web"], headers=dict(self._stack.http.headers), timeout=30, trust_env=False
        ) as client:
            while True:
                self._going.wait()
                if self._stopped.is_set():
                    return
                self._idle.clear()
                try:
                    self._send(client)
                except (httpx.HTTPError, psycopg.Error) as problem:
                    # The sender tries again, as a person would.
                    self.breaches.append(f"{self._fault}: {type(problem).__name__}")
                finally:
                    self._idle.set()
                time.sleep(0.05)

    def _send(self, client: httpx.Client) -> None:
        file = Maker().file(OTHERS_ROWS)
        fault, began = self._fault, time.monotonic()
        answer = client.post("/api/v1/intake/upload", files={"file": (file.name, file.content)})
        if answer.status_code != 202:
            return
        batch_id = answer.json()["batch_id"]
        fence = 1
        try:
            fence = self._fence_at_the_end(batch_id, began)
        finally:
            # What was answered 202 is never forgotten, whatever became of its sender.
            self.done.append(Other(batch_id, file, fault, time.monotonic() - began, fence > 1))

    def _fence_at_the_end(self, batch_id: str, began: float) -> int:
        """Wait for the verdict. Raises psycopg.Error."""
        with psycopg.connect(self._stack.info["database_url"], autocommit=True) as connection:
            while True:
                row = connection.execute(
                    "SELECT status, fence FROM intake.batches WHERE id = %s", (batch_id,)
                ).fetchone()
                if row is None:
                    self.breaches.append(f"I1: {self._fault}: another sender's batch {batch_id} is gone")
                    return 1
                if row[0] in FINISHED:
                    return int(row[1])
                if self._short and time.monotonic() - began > 3:
                    # Its message may have died with a worker: it is hinted at again after 30 s.
                    connection.execute(
                        "UPDATE intake.batches SET hinted_at = hinted_at - interval '30 seconds'"
                        " WHERE id = %s AND hinted_at > now() - interval '30 seconds'",
                        (batch_id,),
                    )
                if time.monotonic() - began > 60:
                    self.breaches.append(f"I1: {self._fault}: another sender's batch {batch_id} is {row[0]} after 60 s")
                    return int(row[1])
                time.sleep(0.005)
