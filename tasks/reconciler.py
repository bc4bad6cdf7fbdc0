"""The reconciler: in every worker, whatever its consumer does. It finds claimable batches whose hints were lost and hints
again; without a broker it works on them itself. It also keeps the worker's row and, at the end, returns its leases.
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
import threading
from typing import Any

import structlog
from celery import bootsteps
from sqlalchemy.exc import SQLAlchemyError

from app import intake
from app.store import batches, workers
from tasks import process
from tasks.app import GRACE_SECONDS, QUEUES
from tasks.hints import publish

log = structlog.get_logger()

_LONGEST_TICK_SECONDS = 2.0


class Reconciler(bootsteps.StartStopStep):  # type: ignore[misc]
    """A step of the worker, not of its consumer: it runs while the consumer waits for a broker."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._broker_answers = True

    def start(self, parent: Any) -> None:
        """Begin, in the main process, after the pool has forked."""
        self._thread = threading.Thread(target=self._run, args=(parent,), name="reconciler", daemon=True)
        self._thread.start()
        # From here on batches are worked on, whether a broker answers or not.
        process.tell_that_it_is_ready()

    def stop(self, parent: Any) -> None:
        """End, and give back what the pool has left: its processes are gone, their batches are not."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=GRACE_SECONDS)
        hand_over()
        try:
            with process.engine().begin() as connection:
                workers.gone(connection, process.worker_prefix())
        except SQLAlchemyError as trouble:
            log.warning("worker row left", trouble=type(trouble).__name__)

    def terminate(self, parent: Any) -> None:
        """As stop: a cold shutdown leaves leases too."""
        self.stop(parent)

    def _run(self, parent: Any) -> None:
        tick = min(_LONGEST_TICK_SECONDS, process.settings().lease_seconds / 5)
        while not self._stopping.wait(tick):
            try:
                self._tick(parent)
            except SQLAlchemyError as trouble:
                log.warning("reconciler waits for the database", trouble=type(trouble).__name__)
            except Exception as defect:
                # Whatever it is, the batches need the next tick.
                log.error("reconciler failed", problem=type(defect).__name__)

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
            )
            due = batches.take_unhinted(connection)
        unsent = []
        for number, (batch_id, priority) in enumerate(due):
            self._broker_answers = publish(parent.app, batch_id, priority)
            if not self._broker_answers:
                unsent = due[number:]
                break
        if due:
            log.info("hinted again", batches=len(due) - len(unsent), unsent=len(unsent))
        if not unsent:
            return
        with engine.begin() as connection:
            for batch_id, _ in unsent:
                batches.forget_hint(connection, batch_id)
            chosen = batches.next_claimable(connection)
        if chosen is not None:
            intake.ingest(process.workshop(), chosen)


def hand_over() -> None:
    """Return every lease of this worker's processes, uncounted: an attempt that still runs ends at its next step."""
    try:
        with process.engine().begin() as connection:
            returned = batches.release_all_of(connection, process.worker_prefix())
    except SQLAlchemyError as trouble:
        log.warning("leases left to run out", trouble=type(trouble).__name__)
        return
    for batch_id in returned:
        log.info("batch handed over", batch_id=str(batch_id))
