"""What uploads and attempts that died have left: which of it nobody needs, how much was removed, how far the collector is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, text


class Kind(StrEnum):
    """What is left behind, and by whom; a CHECK of the database is held to this."""

    BLOB = "blob"
    """A file in its place, without a batch: its upload ended before the batch was made."""
    ARRIVAL = "arrival"
    """A file on its way in, whose receiver was killed."""
    SPOOL = "spool"
    """The folder of an attempt that is over, on the disk of its machine."""
    CONNECTION = "connection"
    """The transaction of an attempt that is over: it holds its keys against every other batch."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed of one kind, ever; ``passed_seconds`` since all was last looked at, None where it never was."""

    kind: str
    count: int
    size: int
    passed_seconds: float | None


def has_batches(connection: Connection) -> bool:
    """Whether any file was ever received here."""
    return bool(connection.scalar(text("SELECT EXISTS (SELECT FROM intake.batches)")))


def without_batch(connection: Connection, hashes: Sequence[str]) -> set[str]:
    """Those of the hashes of which there is no batch."""
    rows = connection.execute(
        text(
            """
            SELECT hash FROM unnest(CAST(:hashes AS text[])) hash
            WHERE NOT EXISTS (SELECT FROM intake.batches WHERE file_hash = hash)
            """
        ),
        {"hashes": list(hashes)},
    )
    return {file_hash for (file_hash,) in rows}


def count(connection: Connection, kind: Kind, *, removed: int = 1, size: int = 0) -> None:
    """So many more were removed, of so many bytes."""
    connection.execute(
        text(
            """
            INSERT INTO ops.leftovers AS l (kind, removed, removed_bytes) VALUES (:kind, :removed, :size)
            ON CONFLICT (kind) DO UPDATE
                SET removed = l.removed + excluded.removed, removed_bytes = l.removed_bytes + excluded.removed_bytes
            """
        ),
        {"kind": kind.value, "removed": removed, "size": size},
    )


def position(connection: Connection, kind: Kind) -> str:
    """The key behind which the next run goes on; empty where it begins."""
    found = connection.scalar(text("SELECT position FROM ops.leftovers WHERE kind = :kind"), {"kind": kind.value})
    return found or ""


def reached(connection: Connection, kind: Kind, key: str) -> None:
    """The run has come as far as this key; an empty one ends the pass."""
    connection.execute(
        text(
            """
            INSERT INTO ops.leftovers AS l (kind, position, passed_at)
            VALUES (:kind, :key, CASE WHEN :key = '' THEN clock_timestamp() END)
            ON CONFLICT (kind) DO UPDATE
                SET position = excluded.position, passed_at = coalesce(excluded.passed_at, l.passed_at)
            """
        ),
        {"kind": kind.value, "key": key},
    )


def removed(connection: Connection) -> list[Removed]:
    """What was removed so far, of every kind."""
    rows = connection.execute(
        text(
            """
            SELECT kind, removed, removed_bytes, extract(epoch FROM clock_timestamp() - passed_at)
            FROM ops.leftovers
            """
        )
    )
    found = {kind: (number, size, None if age is None else float(age)) for kind, number, size, age in rows}
    return [Removed(kind.value, *found.get(kind.value, (0, 0, None))) for kind in Kind]


def end_connections(connection: Connection, *, over_for: dt.timedelta) -> int:
    """End connections on which an attempt that is over still holds a transaction open; returns their number.

    A claim ends those of the batch that it takes over. What this finds is left of a batch that nobody will claim again:
    cancelled while its worker was stopped or cut off, say. Others that need its keys would wait for them in vain.
    """
    return int(
        connection.scalar(
            text(
                """
                SELECT count(pg_terminate_backend(a.pid, 5000)) FROM pg_stat_activity a
                JOIN intake.batches b ON b.id::text = split_part(a.application_name, ':', 2)
                WHERE a.datname = current_database() AND a.application_name ~ '^dragonfly:[0-9a-f-]{36}:[0-9]{1,18}$'
                    AND b.state_since < clock_timestamp() - :over_for
                    AND (b.fence > split_part(a.application_name, ':', 3)::bigint
                        OR b.status NOT IN ('staging', 'validating', 'inserting'))
                """
            ),
            {"over_for": over_for},
        )
        or 0
    )
