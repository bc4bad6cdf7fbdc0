"""How the database stands, for metrics: counts, sums and ages, by its own clock; never an id, never a cell of a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, text

from app.batch import PRIORITIES, RUNNING, State
from app.store import canaries, leftovers, sentinel, watch
from app.store.alerts import WAITS_SINCE
from app.store.canaries import Canary
from app.store.claims import CLAIMABLE

_LONGEST_STATEMENT = "5s"
_WINDOW_MINUTES = 60
_WATCHED_STATES = (State.UPLOADED, *sorted(RUNNING))


@dataclass(frozen=True, slots=True)
class Stock:
    """The batches of one state and source, and their rows.

    ``withheld`` are valid rows that no judgment was made of, because their batch failed. ``conflict`` is part of
    ``duplicate``. ``unbalanced`` counts completed batches whose own columns contradict each other.
    """

    state: str
    source: str
    batches: int
    inserted: int
    duplicate: int
    conflict: int
    invalid: int
    withheld: int
    unbalanced: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """The batches of one priority that could be claimed now; the age is that of the longest wait."""

    priority: str
    batches: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Outbox:
    """The alerts that are kept, by check and level, and what has become of them."""

    kept: dict[tuple[str, str], int]
    waiting: int
    oldest_waiting_seconds: float
    refused: int


@dataclass(frozen=True, slots=True)
class Figures:
    """All of it. ``longest_in_state`` and the ages of ``backlogs`` are 0 where nothing is there."""

    stocks: list[Stock]
    longest_in_state: Mapping[str, float]
    backlogs: list[Backlog]
    last_hour: list[watch.Rows]
    workers: list[watch.SeenWorker]
    beat_silent_seconds: float | None
    canaries: list[Canary]
    last_run: sentinel.LastRun | None
    outbox: Outbox
    leftovers: list[leftovers.Removed]


def read(connection: Connection, *, beat: str) -> Figures:
    """Read it all; gives up on a statement after 5 s. ``beat`` is the name of beat's heartbeat.

    Costs one pass over intake.batches; all the rest is found by index.
    """
    connection.execute(text(f"SET LOCAL statement_timeout = '{_LONGEST_STATEMENT}'"))
    return Figures(
        stocks=_stocks(connection),
        longest_in_state=_longest_in_state(connection),
        backlogs=_backlogs(connection),
        last_hour=watch.rows_of_last(connection, _WINDOW_MINUTES),
        workers=watch.seen_workers(connection),
        beat_silent_seconds=watch.silent_seconds(connection, beat),
        canaries=canaries.every(connection),
        last_run=sentinel.last_run(connection),
        outbox=_outbox(connection),
        leftovers=leftovers.removed(connection),
    )


def _stocks(connection: Connection) -> list[Stock]:
    rows = connection.execute(
        text(
            """
            SELECT status, source, count(*), sum(row_count_inserted), sum(row_count_duplicate),
                sum(row_count_conflict), sum(row_count_invalid),
                coalesce(sum(row_count_valid) FILTER (WHERE status = 'failed'), 0),
                count(*) FILTER (WHERE status = 'completed' AND (row_count_total <> row_count_valid + row_count_invalid
                    OR row_count_valid <> row_count_inserted + row_count_duplicate))
            FROM intake.batches GROUP BY status, source ORDER BY status, source
            """
        )
    )
    return [Stock(state, source, *map(int, numbers)) for state, source, *numbers in rows]


def _longest_in_state(connection: Connection) -> dict[str, float]:
    rows = connection.execute(
        text(
            """
            SELECT status, extract(epoch FROM clock_timestamp() - min(state_since)) FROM intake.batches
            WHERE status IN ('uploaded', 'staging', 'validating', 'inserting') GROUP BY status
            """
        )
    )
    return {state.value: 0.0 for state in _WATCHED_STATES} | {status: float(age) for status, age in rows}


def _backlogs(connection: Connection) -> list[Backlog]:
    """A batch waits since it was uploaded or released, since the end of its backoff, or since its lease ran out."""
    rows = connection.execute(
        text(
            f"""
            SELECT priority, count(*),
                extract(epoch FROM clock_timestamp() - min(greatest(state_since, not_before, lease_until)))
            FROM intake.batches WHERE {CLAIMABLE} GROUP BY priority
            """
        )
    )
    found = {priority: (count, max(0.0, float(age))) for priority, count, age in rows}
    return [Backlog(priority, *found.get(priority, (0, 0.0))) for priority in PRIORITIES]


def _outbox(connection: Connection) -> Outbox:
    kept = connection.execute(
        text("SELECT check_name, level, count(*) FROM ops.alerts GROUP BY check_name, level ORDER BY check_name, level")
    )
    counts = {(check, level): int(count) for check, level, count in kept}
    waiting, oldest, refused = connection.execute(
        text(
            f"""
            SELECT count(*) FILTER (WHERE failed_at IS NULL),
                extract(epoch FROM clock_timestamp() - min({WAITS_SINCE}) FILTER (WHERE failed_at IS NULL)),
                count(*) FILTER (WHERE failed_at IS NOT NULL)
            FROM ops.alerts WHERE sent_at IS NULL
            """
        )
    ).one()
    return Outbox(counts, int(waiting), 0.0 if oldest is None else float(oldest), int(refused))
