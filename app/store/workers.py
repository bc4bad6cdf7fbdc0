"""The workers' heartbeat: one row for each worker that has been seen."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

_SURELY_DEAD_SECONDS = 60


def seen(
    connection: Connection,
    *,
    name: str,
    host: str,
    pid: int,
    queues: Sequence[str],
    concurrency: int,
    version: str,
    broker: bool,
    disk_free_percent: float | None,
) -> None:
    """This worker lives; ``broker`` is whether it reaches the broker, the disk the fullest of those it writes to."""
    connection.execute(
        text(
            """
            INSERT INTO ops.workers (name, host, pid, queues, concurrency, version, disk_free_percent, broker_seen_at)
            VALUES (:name, :host, :pid, :queues, :concurrency, :version, :disk,
                CASE WHEN :broker THEN clock_timestamp() END)
            ON CONFLICT (name) DO UPDATE SET last_seen_at = clock_timestamp(),
                disk_free_percent = excluded.disk_free_percent,
                broker_seen_at = coalesce(excluded.broker_seen_at, workers.broker_seen_at)
            """
        ),
        {
            "name": name,
            "host": host,
            "pid": pid,
            "queues": list(queues),
            "concurrency": concurrency,
            "version": version,
            "broker": broker,
            "disk": disk_free_percent,
        },
    )


def gone(connection: Connection, name: str) -> None:
    """This worker has stopped in good order."""
    connection.execute(text("DELETE FROM ops.workers WHERE name = :name"), {"name": name})


def take_place(connection: Connection, name: str) -> str | None:
    """Once in its life a worker removes the row of one that died on its host before it began; returns that one's name."""
    replaced: str | None = connection.scalar(
        text(
            """
            WITH dead AS (
                SELECT d.name FROM ops.workers d JOIN ops.workers me ON me.host = d.host
                WHERE me.name = :name AND me.replaces IS NULL AND d.last_seen_at < me.started_at
                    AND d.last_seen_at < clock_timestamp() - make_interval(secs => :silent)
                ORDER BY d.last_seen_at LIMIT 1 FOR UPDATE OF d SKIP LOCKED
            ), removed AS (
                DELETE FROM ops.workers w USING dead WHERE w.name = dead.name RETURNING w.name
            )
            UPDATE ops.workers SET replaces = removed.name FROM removed WHERE workers.name = :name
            RETURNING workers.replaces
            """
        ),
        {"name": name, "silent": _SURELY_DEAD_SECONDS},
    )
    return replaced


def forget_gone(connection: Connection) -> int:
    """Remove workers that were last seen a day ago; returns how many."""
    return connection.execute(
        text("DELETE FROM ops.workers WHERE last_seen_at < clock_timestamp() - interval '1 day'")
    ).rowcount
