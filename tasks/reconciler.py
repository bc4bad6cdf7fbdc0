"""The reconciler: in every worker, whatever its consumer does. It finds claimable batches whose hints were lost and hints
again; without a broker it works on them itself. It also keeps the worker's row, stands in for a sentinel that does not run
and, at the end, returns the worker's leases.
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
import threading
import time
from contextlib import closing
from typing import Any

import structlog
from celery import bootsteps
from sqlalchemy.exc import SQLAlchemyError

from app import intake, pause
from app.batch import State
from app.observer import Change, Why, tell
from app.pause import Point
from app.store import claims, hinting, workers
from monitoring import disk
from tasks import process
from tasks.app import QUEUES
from tasks.hints import Publisher, waiting
from tasks.sentinel import Watch

log = structlog.get_logger()

_LONGEST_TICK_SECONDS = 2.0
_SWEEP_SECONDS = 60.0
_ENOUGH_WAITING = 200
"""With so many messages in the queues nobody is idle: hinting again would only pile them up in the broker. Batches whose worker
has died are hinted at nevertheless, and go before what waits."""


class Reconciler(bootsteps.StartStopStep):  # type: ignore[misc]
    """A step of the worker, not of its consumer: it runs while the consumer waits for a broker."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._worker: threading.Thread | None = None
        self._broker_answers = True

    def start(self, parent: Any) -> None:
        """Begin, in the main process, after the pool has forked."""
        self._thread = threading.Thread(target=self._run, args=(parent,), name="reconciler", daemon=True)
        self._thread.start()
        # From here on batches are worked on, whether a broker answers or not.
        process.tell_that_it_is_ready()

    def stop(self, parent: Any) -> None:
        """End. The pool, which stops after this step, may still be at work: see ``hand_over``."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=_LONGEST_TICK_SECONDS)

    def terminate(self, parent: Any) -> None:
        """A cold shutdown waits for nobody: what the pool has is handed over at once."""
        self.stop(parent)
        hand_over()

    def _run(self, parent: Any) -> None:
        tick = min(_LONGEST_TICK_SECONDS, process.settings().lease_seconds / 5)
        swept = -_SWEEP_SECONDS
        watch = Watch(parent.app)
        while not self._stopping.wait(tick):
            try:
                self._tick(parent)
                watch.stand_in()
                if time.monotonic() - swept >= _SWEEP_SECONDS:
                    swept = time.monotonic()
                    intake.sweep_spool(process.workshop())
                    intake.end_old_attempts(process.workshop())
                    self._take_place()
            except SQLAlchemyError as trouble:
                log.warning("reconciler waits for the database", trouble=type(trouble).__name__)
            except Exception as defect:
                # Whatever it is, the batches need the next tick.
                log.error("reconciler failed", problem=type(defect).__name__)

    def _take_place(self) -> None:
        with process.engine().begin() as connection:
            replaced = workers.take_place(connection, process.worker_prefix())
        if replaced is not None:
            log.info("worker replaced", dead=replaced)

    def _tick(self, parent: Any) -> None:
        engine = process.engine()
        with engine.begin() as connection:
            workers.seen(
                connection,
                name=process.worker_prefix(),
                host=socket.gethostname(),
                pid=os.getpid(),
                queues=QUEUES,
                concurrency=parent.concurrency or 0,
                version=importlib.metadata.version("dragonfly"),
                broker=self._broker_answers,
                disk_free_percent=disk.free_percent(process.settings()),
            )
        in_queues = waiting(parent.app)
        answers = in_queues is not None
        if in_queues is not None:
            with engine.begin() as connection:
                ended = claims.end_stale_backends(connection)
            if ended:
                log.warning("stale connections ended", connections=ended)
            # A broker that is full tells how long its queues are, and takes nothing.
            answers = self._hint(parent, only_expired=in_queues >= _ENOUGH_WAITING)
        self._broker_answers = answers
        if not answers:
            self._work_without_broker()

    def _hint(self, parent: Any, *, only_expired: bool) -> bool:
        """Hint at what is due, and note it; nothing is noted where the broker does not take all. Whether it has.

        The note is committed after the last hint: a worker that is killed in between has noted nothing, and the next
        one need not wait for a hint that was never sent.
        """
        with process.engine().connect() as connection, connection.begin() as transaction:
            due = hinting.take_unhinted(connection, only_expired=only_expired)
            if due:
                pause.at(Point.RECONCILING)
            with closing(Publisher(parent.app)) as publisher:
                if not all(publisher.publish(batch_id, priority) for batch_id, priority in due):
                    transaction.rollback()
                    return False
        if due:
            log.info("hinted again", batches=len(due))
            process.repaired("hinted", len(due))
        return True

    def _work_without_broker(self) -> None:
        """Ingest in this process, one batch after the other, beside the ticks, until the broker answers again."""
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(target=self._ingest_all, name="ingest", daemon=True)
            self._worker.start()

    def _ingest_all(self) -> None:
        try:
            while not (self._stopping.is_set() or self._broker_answers):
                with process.engine().begin() as connection:
                    chosen = hinting.next_claimable(connection)
                if chosen is None:
                    return
                if intake.ingest(process.workshop(), chosen) is not None:
                    process.repaired("ingested")
        except SQLAlchemyError as trouble:
            log.warning("ingesting waits for the database", trouble=type(trouble).__name__)


def hand_over() -> None:
    """Return every lease of this worker's processes, uncounted: an attempt that still runs ends at its next step."""
    try:
        with process.engine().begin() as connection:
            returned = claims.release_all_of(connection, process.worker_prefix())
    except SQLAlchemyError as trouble:
        log.warning("leases left to run out", trouble=type(trouble).__name__)
        return
    for batch in returned:
        tell(Change(batch, batch.status, State.UPLOADED, Why.HANDED_OVER))


def sign_off() -> None:
    """The worker has stopped: whatever its pool has left is handed over, and its row goes."""
    hand_over()
    try:
        with process.engine().begin() as connection:
            workers.gone(connection, process.worker_prefix())
    except SQLAlchemyError as trouble:
        log.warning("worker row left", trouble=type(trouble).__name__)
