"""The sentinel in Celery's processes: in beat's own every minute, and in a worker's where nobody has run it for too long.

It is no task: a task needs a broker and a worker, and these are among what it watches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from celery import Celery
from sqlalchemy.exc import SQLAlchemyError

from app.store import sentinel, watch
from app.store.database import open_single
from monitoring import bounded
from monitoring.command import broker_of
from monitoring.sentinel import Sentinel
from tasks import canary, process

log = structlog.get_logger()

STAND_IN_INTERVALS = 1.25
"""Without a run for so many intervals, a worker stands in."""
_LOOK_SECONDS = 5.0
_END_SECONDS = 2.0
_TURN = "sentinel stand-in"


class Watch:
    """Rounds of canaries and sentinel, in a thread of their own: a peer that hangs holds up nothing else."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._begun = time.monotonic()
        self._interval = process.settings().sentinel_interval_seconds
        self._patience = self._interval * STAND_IN_INTERVALS
        self._sentinel = Sentinel(
            settings=process.settings(),
            interval_seconds=self._interval,
            broker=broker_of(process.settings()),
            begun=self._begun,
        )
        # A connection for each use: one that is kept would wait for ever for a server that hangs.
        self._engine = open_single(process.settings().require_database_url(), idle_seconds=bounded.IDLE_SECONDS)
        self._at_work = threading.Event()
        self._ended = threading.Event()
        self._told = threading.Event()
        self._looked = self._begun
        self._thread: threading.Thread | None = None

    def go(self) -> None:
        """From now on a round in every interval; returns at once."""
        self._at_work.set()
        if self._thread is None:
            self._start(self._keep)
            threading.Thread(target=self._keep_delivering, name="alerts", daemon=True).start()

    def pause(self) -> None:
        """No further round until ``go``: another process has this work."""
        self._at_work.clear()

    def end(self) -> None:
        """No round any more; one that has begun is waited for, but not for long."""
        self._ended.set()
        self._at_work.set()
        self._told.set()
        if self._thread is not None:
            self._thread.join(_END_SECONDS)
        if self._sentinel.broker is not None:
            self._sentinel.broker.close()

    def stand_in(self) -> None:
        """Begin one round where the last on record is too old, unless another worker does. Raises SQLAlchemyError."""
        now = time.monotonic()
        if now - self._looked < min(_LOOK_SECONDS, self._interval) or now - self._begun < self._patience:
            return
        self._looked = now
        if self._thread is not None and self._thread.is_alive():
            return
        try:
            due = self._is_due()
        except SQLAlchemyError:
            self._sentinel.miss_database()
            raise
        if due:
            log.warning("nobody has run the sentinel: standing in")
            self._start(self._round_and_alerts)

    def _is_due(self) -> bool:
        with process.engine().begin() as connection:
            last = sentinel.last_run(connection)
            return (last is None or last.age_seconds > self._patience) and watch.take_turn(
                connection, _TURN, seconds=self._interval
            )

    def _start(self, work: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=work, name="sentinel", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while self._at_work.wait() and not self._ended.is_set():
            began = time.monotonic()
            self._round()
            self._ended.wait(max(0.0, began + self._interval - time.monotonic()))

    def _keep_delivering(self) -> None:
        """Beside the rounds: a webhook that hangs delays no check."""
        while not self._ended.is_set():
            self._told.wait(self._interval)
            self._told.clear()
            if self._at_work.is_set() and not self._ended.is_set():
                self._sentinel.deliver()

    def _round_and_alerts(self) -> None:
        self._round()
        self._sentinel.deliver()

    def _round(self) -> None:
        try:
            bounded.call(lambda: canary.send(self._celery, self._engine))
        except (SQLAlchemyError, TimeoutError) as trouble:
            log.warning("canary not noted", trouble=type(trouble).__name__)
        try:
            self._sentinel.watch()
        except Exception as defect:
            # Whatever it is, the pipeline needs the next round.
            log.error("sentinel failed", problem=type(defect).__name__)
        self._told.set()
