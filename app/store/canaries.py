"""The canaries of the queues: when one left, when it came back, by the database's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True)
class Canary:
    """``waiting_seconds`` is the age of the oldest canary that has not come back, None where none is out."""

    queue: str
    waiting_seconds: float | None


def every(connection: Connection) -> list[Canary]:
    """Every queue that a canary has been sent round."""
    rows = connection.execute(
        text(
            """
            SELECT queue, CASE WHEN answered_at IS NULL OR answered_at < sent_at
                THEN extract(epoch FROM clock_timestamp() - sent_at) END
            FROM ops.canaries ORDER BY queue
            """
        )
    )
    return [Canary(queue, None if waiting is None else float(waiting)) for queue, waiting in rows]


def leaves(connection: Connection, queue: str) -> bool:
    """A canary is about to be sent; one that has not come back keeps its time, and then the answer is False.

    To be committed before it is sent: an idle worker answers at once, and a later note would count that one as out.
    """
    noted = connection.execute(
        text(
            """
            INSERT INTO ops.canaries (queue) VALUES (:queue)
            ON CONFLICT (queue) DO UPDATE SET sent_at = clock_timestamp() WHERE canaries.answered_at >= canaries.sent_at
            """
        ),
        {"queue": queue},
    )
    return noted.rowcount > 0


def stayed(connection: Connection, queues: Sequence[str]) -> None:
    """The broker has taken none of these, and none was out before: none is out."""
    values = {"queues": list(queues)}
    connection.execute(text("DELETE FROM ops.canaries WHERE queue = ANY (:queues) AND answered_at IS NULL"), values)
    connection.execute(
        text("UPDATE ops.canaries SET sent_at = answered_at WHERE queue = ANY (:queues) AND answered_at < sent_at"),
        values,
    )


def held_up(connection: Connection, queues: Sequence[str]) -> None:
    """The broker takes none of these queues: a canary that is out could not come back either, its time begins anew."""
    connection.execute(
        text(
            """
            UPDATE ops.canaries SET sent_at = clock_timestamp()
            WHERE queue = ANY (:queues) AND (answered_at IS NULL OR answered_at < sent_at)
            """
        ),
        {"queues": list(queues)},
    )


def answered(connection: Connection, queue: str, worker: str) -> None:
    """A worker has met the canary of a queue."""
    connection.execute(
        text(
            """
            INSERT INTO ops.canaries (queue, answered_at, answered_by) VALUES (:queue, clock_timestamp(), :worker)
            ON CONFLICT (queue) DO UPDATE SET answered_at = clock_timestamp(), answered_by = :worker
            """
        ),
        {"queue": queue, "worker": worker},
    )
