"""The canary: a message that goes round every queue, so that a queue from which no worker takes is noticed."""

from __future__ import annotations

import structlog
from celery import Celery
from sqlalchemy import Engine

from app.store import canaries
from tasks import process
from tasks.app import QUEUES, app

log = structlog.get_logger()

NAME = "dragonfly.canary"
_SHORTEST_LIFE_SECONDS = 60.0
"""Of those that a busy worker has not met in time, one is enough; but one there is to be, until the next leaves."""


@app.task(name=NAME)
def answer(queue: str) -> None:
    """A worker has met the canary."""
    with process.engine().begin() as connection:
        canaries.answered(connection, queue, process.worker_prefix())


def send(celery: Celery, engine: Engine) -> None:
    """Note one for every queue, send them, and take back the note of those that the broker has not taken in time.

    A process that ends in between leaves canaries noted that nobody can meet: those of the next round come back for them.

    Raises SQLAlchemyError.
    """
    with engine.begin() as connection:
        begun = {queue for queue in QUEUES if canaries.leaves(connection, queue)}
    waiting = list(QUEUES)
    life = max(_SHORTEST_LIFE_SECONDS, process.settings().sentinel_interval_seconds)
    try:
        with celery.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=2)
            producer = celery.amqp.Producer(connection)
            for queue in QUEUES:
                celery.send_task(NAME, args=[queue], queue=queue, producer=producer, retry=False, expires=life)
                waiting.remove(queue)
    except Exception as problem:
        log.warning("canary not sent", problem=type(problem).__name__)
    if waiting:
        with engine.begin() as connection:
            canaries.stayed(connection, [queue for queue in waiting if queue in begun])
            canaries.held_up(connection, [queue for queue in waiting if queue not in begun])
