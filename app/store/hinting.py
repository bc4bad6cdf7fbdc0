"""Hinting: batches that wait for a worker, hinted at through the broker, or taken in turn without one."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, text

from app.store.claims import CLAIMABLE
from app.store.database import end_when_idle

HINT_PATIENCE_SECONDS = 30
"""How long a published hint may take before the reconciler publishes it again."""
_HINTING_SECONDS = 10
"""Far more than the broker takes for the hints, or for its timeouts."""


def take_unhinted(connection: Connection, *, limit: int = 100, only_expired: bool = False) -> list[tuple[UUID, str]]:
    """Claimable batches whose hint is missing or 30 s old, with the queue; they count as hinted from the commit on.

    Those whose worker has fallen silent go before all others; ``only_expired``: these alone.

    Several reconcilers share the work: each skips what another one has locked. A claim waits for the commit, and the
    server ends a transaction whose reconciler stands still, so that nobody waits for long.
    """
    end_when_idle(connection, _HINTING_SECONDS)
    rows = connection.execute(
        text(
            f"""
            WITH due AS (
                SELECT id FROM intake.batches
                WHERE {CLAIMABLE} AND NOT (:only_expired AND status = 'uploaded')
                    AND (hinted_at IS NULL OR hinted_at < clock_timestamp() - make_interval(secs => :patience))
                ORDER BY created_at
                FOR NO KEY UPDATE SKIP LOCKED LIMIT :limit
            )
            UPDATE intake.batches b SET hinted_at = clock_timestamp() FROM due WHERE b.id = due.id
            RETURNING b.id, CASE b.status WHEN 'uploaded' THEN b.priority ELSE 'high' END AS queue
            """
        ),
        {"limit": limit, "patience": HINT_PATIENCE_SECONDS, "only_expired": only_expired},
    )
    return [(row.id, row.queue) for row in rows]


def forget_hint(connection: Connection, batch_id: UUID) -> None:
    """The hint was not published after all: the next reconciler need not wait for it."""
    connection.execute(text("UPDATE intake.batches SET hinted_at = NULL WHERE id = :id"), {"id": batch_id})


def next_claimable(connection: Connection) -> UUID | None:
    """The batch to work on next where no broker hands them out: by priority, then by age."""
    found: UUID | None = connection.scalar(
        text(
            f"""
            SELECT id FROM intake.batches WHERE {CLAIMABLE}
            ORDER BY array_position(ARRAY['high', 'normal', 'low'], priority), created_at LIMIT 1
            """
        )
    )
    return found
