"""How the intake stands: what waits in which state and for how long, who works, and what failed last."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, func, select

from app.batch import UNFINISHED, State
from app.store.batches import Batch
from app.store.tables import batches, workers


@dataclass(frozen=True, slots=True)
class Waiting:
    """The unfinished batches in one state; the age in seconds is the oldest one's since its upload."""

    status: State
    count: int
    oldest_age_seconds: float | None


@dataclass(frozen=True, slots=True)
class Intake:
    """``workers`` are rows of ops.workers with ``seen_seconds_ago``, the last seen first."""

    backlog: list[Waiting]
    workers: list[RowMapping]
    last_failure: Batch | None


def intake_state(connection: Connection) -> Intake:
    """Read it all, by the database's clock."""
    c = batches.c
    now = func.clock_timestamp()
    unfinished = [state.value for state in State if state in UNFINISHED]
    counted = connection.execute(
        select(c.status, func.count(), func.extract("epoch", now - func.min(c.created_at)))
        .where(c.status.in_(unfinished))
        .group_by(c.status)
    )
    found = {status: (count, float(age)) for status, count, age in counted}
    backlog = [Waiting(State(name), *found.get(name, (0, None))) for name in unfinished]
    seen = connection.execute(
        select(workers, func.extract("epoch", now - workers.c.last_seen_at).label("seen_seconds_ago")).order_by(
            workers.c.last_seen_at.desc(), workers.c.name
        )
    )
    failed = connection.execute(
        select(batches).where(c.status == State.FAILED.value).order_by(c.completed_at.desc()).limit(1)
    ).one_or_none()
    return Intake(backlog, list(seen.mappings()), None if failed is None else Batch.from_row(failed))
