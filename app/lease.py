"""The lease of one attempt: renewed as long as the attempt makes progress, lost when its fence is gone."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.store import claims
from app.store.batches import Batch
from app.store.claims import LostClaimError
from app.store.judgments import LOCK_TIMEOUT_SECONDS

_LONGEST_BEAT_SECONDS = 1.0
# A statement may wait for another batch's key as long as the lock timeout, and then still has to do its own work.
_LONGEST_WAIT_SECONDS = LOCK_TIMEOUT_SECONDS + 30


class Lease:
    """Keeps a claim while it is entered. Its thread proves progress, not life: an attempt that neither reads bytes nor
    checks rows nor waits, for a bounded time, on the database loses its lease although its process lives.

    The attempt's own thread calls ``advance``, ``alive`` and ``waiting``; each raises LostClaimError once the claim is
    gone.
    """

    def __init__(self, engine: Engine, batch: Batch, lease_seconds: int) -> None:
        self._engine = engine
        self._batch = batch
        self._lease_seconds = lease_seconds
        self._beat = min(_LONGEST_BEAT_SECONDS, lease_seconds / 5)
        self._rows = 0
        self._bytes = 0
        self._moves = 0
        self._wait_until = 0.0
        self._lost = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{batch.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def advance(self, rows: int, bytes_read: int) -> None:
        """Rows were checked: ``rows`` and ``bytes_read`` so far."""
        self._rows, self._bytes = rows, bytes_read
        self.alive()

    def alive(self) -> None:
        """Something moved: bytes were read, written or merged. Ends a wait."""
        self._moves += 1
        self._wait_until = 0.0
        if self._lost.is_set():
            raise LostClaimError(f"batch {self._batch.id}: fence {self._batch.fence} no longer holds it")

    def waiting(self) -> None:
        """A statement is about to run that may wait for another batch: for a bounded time that counts as progress."""
        self.alive()
        self._wait_until = time.monotonic() + _LONGEST_WAIT_SECONDS

    def stop(self) -> None:
        """End the heartbeat: before the final statement, which must not meet a renewal, and at the end."""
        self._stopped.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=_LONGEST_WAIT_SECONDS)

    def _keep(self) -> None:
        seen = -1
        while not self._stopped.wait(self._beat):
            moves = self._moves
            if moves == seen and time.monotonic() >= self._wait_until:
                continue
            try:
                with self._engine.begin() as connection:
                    claims.renew(
                        connection,
                        self._batch,
                        lease_seconds=self._lease_seconds,
                        rows=self._rows,
                        bytes_read=self._bytes,
                    )
                seen = moves
            except LostClaimError:
                self._lost.set()
                return
            except SQLAlchemyError:
                # The attempt's own connection will tell; until then the next beat tries again.
                continue
