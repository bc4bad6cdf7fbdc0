"""One round: what was uploaded in it, what must become of that, and when the fault struck."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import psutil

from app.pause import Point
from tests.acceptance.pipeline import FINISHED
from tests.faults.files import KnownFile, Maker
from tests.faults.invariants import Expected
from tests.faults.stack import Stack, until
from tests.faults.watchers import Reader, Seen


class Scene:
    """What a fault works with. ``rows`` is how many a victim has."""

    def __init__(self, stack: Stack, reader: Reader, *, rows: int, short: bool, chance: Any) -> None:
        self.stack = stack
        self.rows = rows
        self.short = short
        """Whether waits that only prove patience are cut short by moving the database's stamps."""
        self.chance = chance
        self.expected: dict[str, Expected] = {}
        self.bodies: list[str] = []
        self.struck_at: float | None = None
        self.healed_at: float | None = None
        self.upload_seconds: list[float] = []
        self.fired: list[str] = []
        """What shows that the fault has struck."""
        self._reader = reader
        self._seen: dict[str, Seen] = {}
        self._fence_when_struck: dict[str, int] = {}

    def file(self, rows: int | None = None, *, width: int = 0) -> KnownFile:
        return Maker().file(rows or self.rows, width=width)

    def post(self, file: KnownFile, **fields: str) -> httpx.Response:
        """Upload; a new batch is expected to be completed from now on."""
        began = time.monotonic()
        answer = self.stack.http.post("/api/v1/intake/upload", files={"file": (file.name, file.content)}, data=fields)
        self.upload_seconds.append(time.monotonic() - began)
        if answer.status_code == 202:
            self.accept(answer.json()["batch_id"], file)
        elif answer.status_code >= 400:
            self.bodies.append(answer.text)
        return answer

    def upload(self, file: KnownFile | None = None, **fields: str) -> str:
        """Upload, be answered 202, and return the batch's id."""
        answer = self.post(file or self.file(), **fields)
        assert answer.status_code == 202, f"{answer.status_code} {answer.text}"
        batch_id: str = answer.json()["batch_id"]
        return batch_id

    def accept(self, batch_id: str, file: KnownFile, **how: Any) -> None:
        """The batch must come to a verdict, and every row of the file to its fate."""
        self.expected[batch_id] = Expected(batch_id, file, **how)
        self._seen[batch_id] = self._reader.watch(batch_id, file.keys)

    def expect(self, batch_id: str, **how: Any) -> None:
        """Something else than a completed batch."""
        self.expected[batch_id] = replace(self.expected[batch_id], **how)

    def placed(self, *points: Point, file: KnownFile | None = None) -> str:
        """Upload a file whose worker is held at each of these points, in the order in which it comes by.

        Its id is not known before its batch is there, and by then a worker might have passed: so the web server is held
        in between.
        """
        file = file or self.file()
        self.stack.order(Point.RECEIVED, file.file_hash)
        sender = threading.Thread(target=self.post, args=(file,))
        sender.start()
        try:
            self.stack.held(Point.RECEIVED, file.file_hash)
            ((batch_id,),) = self.stack.rows("SELECT id::text FROM intake.batches WHERE file_hash = %s", file.file_hash)
            for point in points:
                self.stack.order(point, batch_id)
        finally:
            self.stack.let_go(Point.RECEIVED, file.file_hash)
            sender.join(30)
        assert batch_id in self.expected, "the upload was not answered 202"
        return str(batch_id)

    def strike(self, evidence: str = "") -> None:
        """The fault strikes now."""
        if self.struck_at is None:
            self.struck_at = time.monotonic()
            self._fence_when_struck = {key: max(seen.fences, default=0) for key, seen in self._seen.items()}
        if evidence:
            self.fired.append(evidence)

    def heal(self) -> None:
        """An outage is over: what was down is up again, or was told to be."""
        self.healed_at = time.monotonic()

    def batch(self, batch_id: str) -> dict[str, Any]:
        """The batch as the database has it."""
        columns = "status, fence, attempts, rejection_code, row_count_inserted, row_count_duplicate, lease_owner"
        ((*values,),) = self.stack.rows(f"SELECT {columns} FROM intake.batches WHERE id = %s", batch_id)
        return dict(zip(columns.split(", "), values, strict=True))

    def holder(self, batch_id: str) -> psutil.Process | None:
        """The process that holds the batch."""
        owner = self.batch(batch_id)["lease_owner"]
        return psutil.Process(int(owner.rpartition("/")[2])) if owner else None

    def pass_patience(self) -> None:
        """In a short round, hints that were sent count as sent long ago: the reconciler need not wait for its 30 s."""
        if self.short:
            self.stack.owner(
                "UPDATE intake.batches SET hinted_at = hinted_at - interval '30 seconds' WHERE id = ANY (%s)",
                list(self.expected),
            )

    def wait(self, within: float, batch_ids: Sequence[str] | None = None) -> None:
        """Until these batches, or all, have their verdict. Raises AssertionError (I1)."""
        wanted = batch_ids if batch_ids is not None else list(self.expected)
        until(lambda: all(self._finished(batch_id) for batch_id in wanted), within, "I1: every batch at its end")

    def _finished(self, batch_id: str) -> bool:
        return self._seen[batch_id].finished_at is not None

    def look_again(self, batch_id: str) -> None:
        """A finished batch begins anew: it is watched from here."""
        self._seen[batch_id].finished_at = None
        until(lambda: self.batch(batch_id)["status"] not in FINISHED or self._finished(batch_id), 10, "watched again")

    def resumed_seconds(self) -> float | None:
        """From the strike to the moment at which another attempt held the last of the batches whose worker was struck."""
        if self.struck_at is None:
            return None
        moments = [
            min((at for fence, at in seen.fences.items() if fence > self._fence_when_struck.get(key, 0)), default=None)
            for key, seen in self._seen.items()
            if self._fence_when_struck.get(key, 0) > 0
        ]
        later = [at for at in moments if at is not None]
        return max(later) - self.struck_at if later else None

    def terminal_seconds(self) -> float | None:
        """From the strike, or from the end of the outage, to the last batch's verdict; never below 0."""
        began = self.healed_at if self.healed_at is not None else self.struck_at
        ends = [seen.finished_at for seen in self._seen.values() if seen.finished_at is not None]
        return max(0.0, max(ends) - began) if began is not None and ends else None
