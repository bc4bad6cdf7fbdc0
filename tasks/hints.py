"""Hints: telling the workers through the broker that a batch is waiting. Losing one costs seconds, never a batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import ChannelError

from app.batch import PRIORITIES
from tasks.ingest import NAME

log = structlog.get_logger()

CAPACITY = 1_000


class Publisher:
    """A connection to the broker that is kept while it works; a new one for each hint would cost ten times the hint."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._connection: Connection | None = None
        self._producer: Any = None

    def publish(self, batch_id: UUID, priority: str) -> bool:
        """Send one hint; False where the broker does not take it within its timeouts."""
        kept = self._connection is not None
        # A connection that was kept may belong to a broker that has been restarted since.
        return self._send(batch_id, priority) or (kept and self._send(batch_id, priority))

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.release()

    def _send(self, batch_id: UUID, priority: str) -> bool:
        try:
            if self._connection is None:
                # Tried once: Celery's own pool would retry for ever where the broker is gone.
                self._connection = self._celery.connection_for_write()
                self._connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=2)
                self._producer = self._celery.amqp.Producer(self._connection)
            self._celery.send_task(NAME, args=[str(batch_id)], queue=priority, producer=self._producer, retry=False)
        except Exception as problem:
            self.close()
            log.warning("hint not sent", batch_id=str(batch_id), problem=type(problem).__name__)
            return False
        return True


def waiting(celery: Celery) -> int | None:
    """How many hints wait in the broker's queues; None where it does not answer within its timeouts."""
    try:
        with celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=2)
            channel = connection.default_channel
            return sum(int(channel.queue_declare(name, passive=True).message_count) for name in PRIORITIES)
    except ChannelError:
        # No worker has declared its queues yet.
        return 0
    except Exception as problem:
        log.warning("broker does not answer", problem=type(problem).__name__)
        return None


class Hinter:
    """A bounded queue with one publisher thread: ``enqueue`` never blocks a request.

    ``dropped`` is called, in the publisher's thread, with each batch whose hint the broker did not take, so that the
    reconciler need not wait for it.
    """

    def __init__(
        self, celery: Celery, *, capacity: int = CAPACITY, dropped: Callable[[UUID], None] = lambda _: None
    ) -> None:
        self._celery = celery
        self._dropped = dropped
        self._waiting: queue.Queue[tuple[UUID, str]] = queue.Queue(capacity)
        self._started = threading.Lock()
        self._thread: threading.Thread | None = None

    def enqueue(self, batch_id: UUID, priority: str) -> None:
        """Hand over a hint; where the queue is full it is dropped, for the reconciler to make good."""
        with self._started:
            # Not before the first hint: a server that forks after loading would leave the thread behind.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._publish, name="hints", daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait((batch_id, priority))
        except queue.Full:
            log.warning("hint dropped", batch_id=str(batch_id))

    def _publish(self) -> None:
        publisher = Publisher(self._celery)
        while True:
            batch_id, priority = self._waiting.get()
            if publisher.publish(batch_id, priority):
                continue
            try:
                self._dropped(batch_id)
            except Exception as problem:
                log.warning("dropped hint not noted", batch_id=str(batch_id), problem=type(problem).__name__)
