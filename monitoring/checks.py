"""The checks, one function each: what it looks at, its threshold from the settings, and what it says.

A check is given the scene and returns one finding, whose message names the figure and the threshold. A check that cannot
run raises; the sentinel makes that CRITICAL with its reason. ``CHECKS`` has them in the order in which they are reported.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from app.batch import PRIORITIES, RUNNING, State
from app.settings import Limit
from app.store import alerts, canaries, watch
from monitoring.discord import webhook_of
from monitoring.report import NEXT, Finding, Level
from monitoring.scene import Broker, CannotRunError, Scene

RATE_MINUTES = 60
BEAT = "beat"
_LEDGER_ROWS = 200_000
"""So many rows of older batches are counted again in one run; the next run goes on behind them."""
_LEDGER_ROWS_OF_LAST = 2_000_000
"""So many rows of the last hour are counted again in each run; the rest of them comes in turn."""
_ORDER_OF_STATES = [state for state in State if state in RUNNING]


def database(scene: Scene) -> Finding:
    """PostgreSQL answers, and takes writes."""
    if scene.connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on":
        return Finding("database", Level.CRITICAL, "PostgreSQL takes no writes: it is read-only")
    return Finding("database", Level.HEALTHY, "PostgreSQL answers")


def stuck_batches(scene: Scene) -> Finding:
    """Batches that a worker should have brought further: a state is left within minutes, or its lease runs out."""
    limit = scene.settings.sentinel_stuck_minutes
    found = watch.overdue(scene.connection, [state.value for state in _ORDER_OF_STATES], limit)
    count = sum(overdue.count for overdue in found)
    if not count:
        return Finding("stuck_batches", Level.HEALTHY, f"No batch stuck > {limit:g}m", {"threshold_minutes": limit})
    states = ", ".join(f"{overdue.status}({overdue.count})" for overdue in found)
    return Finding(
        "stuck_batches",
        Level.CRITICAL,
        f"{count} {_batches(count)} stuck > {limit:g}m: {states}",
        {"threshold_minutes": limit, "count": count, **_overdue_details(found)},
    )


def error_spike(scene: Scene) -> Finding:
    """The error rate of the rows read within the last 60 minutes, failed batches included."""
    limit = scene.settings.sentinel_error_percent
    rates = _rates(watch.rows_of_last(scene.connection, RATE_MINUTES), limit, lambda rows: (rows.invalid, rows.total))
    return _rate_finding("error_spike", "Error rate", rates, limit)


def schema_cache(scene: Scene) -> Finding:
    """PostgREST knows the schema; where it does not, it is told to read it again."""
    if scene.schema_cache is None:
        return Finding("schema_cache", Level.HEALTHY, "Skipped: POSTGREST_URL is not set", {"skipped": True})
    return scene.schema_cache.check(scene.engine)


def ledger(scene: Scene) -> Finding:
    """The books of finished batches: the last hour's, those that contradict themselves or were wrong before, and the older ones in turn.

    Where all older ones have no more than _LEDGER_ROWS rows together, each run counts all of them.
    """
    before = scene.previous.get("ledger", {}).get("details", {}).get(NEXT, {})
    older, place = _older_books(scene.connection, _place_of(before))
    books = {
        found.batch_id: found
        for found in (
            *watch.books_of_last(scene.connection, RATE_MINUTES, most_rows=_LEDGER_ROWS_OF_LAST),
            *watch.books_that_contradict_themselves(scene.connection),
            *watch.books_of(scene.connection, [UUID(text) for text in before.get("batch_ids", ())]),
            *older,
        )
    }
    wrong = [found for found in books.values() if found.wrong]
    wrong_ids = [str(found.batch_id) for found in wrong[:100]]
    details: dict[str, Any] = {
        "batches_counted": len(books),
        NEXT: {
            "completed_at": None if place is None else place.completed_at.isoformat(),
            "batch_id": None if place is None else str(place.batch_id),
            "batch_ids": wrong_ids,
        },
    }
    if not wrong:
        return Finding("ledger", Level.HEALTHY, f"The books of {len(books)} {_batches(len(books))} balance", details)
    return Finding(
        "ledger",
        Level.CRITICAL,
        f"The books of {len(wrong)} {_batches(len(wrong))} do not balance (0 allowed): {'; '.join(wrong[0].wrong)}",
        {**details, "count": len(wrong), "batch_ids": wrong_ids},
    )


def _place_of(before: Mapping[str, Any]) -> watch.Place | None:
    if before.get("batch_id") is None:
        return None
    return watch.Place(dt.datetime.fromisoformat(before["completed_at"]), UUID(before["batch_id"]))


def _older_books(connection: Connection, place: watch.Place | None) -> tuple[list[watch.Books], watch.Place | None]:
    """The books behind the place, from the oldest on again where they end, and the place from which the next run goes on."""
    found = watch.books_after(connection, place, most_rows=_LEDGER_ROWS)
    left = _LEDGER_ROWS - sum(books.rows for books in found)
    if left <= 0 or len(found) == watch.MOST_BOOKS:
        return found, watch.Place(found[-1].completed_at, found[-1].batch_id)
    if place is None:
        return found, None
    again = watch.books_after(connection, None, most_rows=left)
    if sum(books.rows for books in again) < left and len(again) < watch.MOST_BOOKS:
        return [*found, *again], None
    return [*found, *again], watch.Place(again[-1].completed_at, again[-1].batch_id)


def backlog(scene: Scene) -> Finding:
    """Batches that nobody has taken, or that are sent back again and again."""
    limit = scene.settings.sentinel_backlog_minutes
    found = watch.backlog(scene.connection, limit)
    if found is None:
        return Finding("backlog", Level.HEALTHY, f"No batch waits > {limit:g}m", {"threshold_minutes": limit})
    count, oldest = found.count, found.oldest_seconds
    return Finding(
        "backlog",
        Level.WARNING,
        f"{count} {_batches(count)} waiting > {limit:g}m, the oldest for {oldest / 60:.0f}m",
        {"threshold_minutes": limit, "count": count, **_overdue_details([found])},
    )


def workers(scene: Scene) -> Finding:
    """Workers that fell silent without signing off, and queues from which the canary does not come back."""
    limit = scene.settings.sentinel_worker_seconds
    seen = watch.seen_workers(scene.connection)
    if scene.begins and scene.start_is_known:
        # What an earlier stack left behind tells nothing about this one, whose workers may be starting.
        seen = [worker for worker in seen if worker.last_seen_at >= scene.started_at]
    alive = [worker for worker in seen if worker.silent_seconds <= limit]
    dead = watch.not_replaced([worker for worker in seen if worker.silent_seconds > limit], alive)
    details: dict[str, Any] = {
        "threshold_seconds": limit,
        "alive": len(alive),
        "dead": [{"worker": worker.name, "silent_seconds": round(worker.silent_seconds)} for worker in dead],
    }
    if dead and scene.excuses("workers", limit):
        message = f"Waiting for {len(dead)} of {len(alive) + len(dead)} workers: the database was away"
        return Finding("workers", Level.HEALTHY, message, {**details, "waiting": True})
    if dead:
        longest = max(worker.silent_seconds for worker in dead)
        message = f"{len(dead)} of {len(alive) + len(dead)} workers dead: silent for {longest:.0f}s > {limit:g}s"
        return Finding("workers", Level.CRITICAL, message, details)
    if not alive:
        if scene.begins:
            return Finding("workers", Level.HEALTHY, "Waiting for the first worker", {**details, "waiting": True})
        return Finding("workers", Level.CRITICAL, "0 workers alive, at least 1 expected", details)
    return _canary_finding(scene, alive, details)


def beat(scene: Scene) -> Finding:
    """Beat's scheduler ticks."""
    limit = scene.settings.sentinel_beat_seconds
    silent = watch.silent_seconds(scene.connection, BEAT)
    details = {"threshold_seconds": limit, "silent_seconds": None if silent is None else round(silent)}
    age = (scene.now - scene.started_at).total_seconds()
    is_of_earlier_stack = scene.start_is_known and silent is not None and limit < silent > age
    if scene.begins and (silent is None or is_of_earlier_stack):
        return Finding(BEAT, Level.HEALTHY, "Waiting for beat's first sign of life", {**details, "waiting": True})
    if silent is None:
        return Finding(BEAT, Level.CRITICAL, f"Beat has never been seen, a sign within {limit:g}s expected", details)
    if silent > limit and scene.excuses(BEAT, limit):
        return Finding(BEAT, Level.HEALTHY, "Waiting for beat: the database was away", {**details, "waiting": True})
    if silent > limit:
        return Finding(BEAT, Level.CRITICAL, f"Beat silent for {silent:.0f}s > {limit:g}s", details)
    return Finding(BEAT, Level.HEALTHY, f"Beat was seen {silent:.0f}s ago", details)


def broker(scene: Scene) -> Finding:
    """The broker answers. Without it nothing is lost: the workers' reconcilers go on, more slowly."""
    return broker_finding(scene.broker)


def broker_finding(client: Broker | None) -> Finding:
    """The same without a scene: it needs no database."""
    if client is None:
        return Finding("broker", Level.HEALTHY, "Skipped: REDIS_URL is not set", {"skipped": True})
    try:
        client.ping()
        lengths = {queue: int(client.llen(queue)) for queue in PRIORITIES}
    except CannotRunError as problem:
        return Finding("broker", Level.CRITICAL, f"Cannot run: {problem}", {"cannot_run": True})
    except Exception as problem:
        reason = type(problem).__name__
        return Finding("broker", Level.CRITICAL, f"The broker does not answer: {reason}", {"problem": reason})
    return Finding(
        "broker", Level.HEALTHY, f"The broker answers, messages waiting: {sum(lengths.values())}", {"queues": lengths}
    )


def webhook(scene: Scene) -> Finding:
    """Alerts reach Discord."""
    limit = scene.settings.sentinel_webhook_minutes
    target = webhook_of(scene.settings)
    if target is None:
        return Finding("webhook", Level.HEALTHY, "Skipped: DISCORD_WEBHOOK_URL is not set", {"skipped": True})
    state = alerts.webhook_state(
        scene.connection, target.fingerprint, since=scene.started_at if scene.start_is_known else None
    )
    oldest = state.oldest_waiting_seconds or 0.0
    details = {
        "threshold_minutes": limit,
        "waiting": state.waiting,
        "refused": state.refused,
        "oldest_waiting_seconds": round(oldest),
        "problem": state.last_problem,
    }
    if state.refused:
        what = "The webhook is dead" if state.dead else "The webhook refuses what it is sent"
        why = (state.last_problem or "").removeprefix("dead webhook: ")
        message = f"{what} ({why}): {_alerts(state.refused)} refused, 0 allowed"
        return Finding("webhook", Level.CRITICAL, message, details)
    if oldest > limit * 60:
        message = f"{_alerts(state.waiting)} cannot be sent, the oldest for {oldest / 60:.0f}m > {limit:g}m"
        return Finding("webhook", Level.CRITICAL, message, details)
    return Finding("webhook", Level.HEALTHY, f"{_alerts(state.waiting)} to be sent", details)


def disk_space(scene: Scene) -> Finding:
    """The disks that the workers write to; this machine's home where no worker has told."""
    limit = scene.settings.sentinel_disk_percent
    told = watch.free_disks(scene.connection, silent_seconds=scene.settings.sentinel_worker_seconds)
    if not told and scene.local_disk_free_percent is not None:
        told = {"this machine": scene.local_disk_free_percent}
    details: dict[str, Any] = {"threshold_percent": limit, "free_percent": told}
    if not told:
        if scene.begins:
            return Finding("disk_space", Level.HEALTHY, "Waiting for a worker's figures", {**details, "waiting": True})
        raise CannotRunError("no worker is alive to tell its free disk space")
    host, free = min(told.items(), key=lambda item: item[1])
    if free < limit:
        level = Level.CRITICAL if free < limit / 2 else Level.WARNING
        return Finding("disk_space", level, f"{free:.1f}% of the disk free < {limit:g}% on {host}", details)
    return Finding("disk_space", Level.HEALTHY, f"{free:.1f}% of the fullest disk is free", details)


def duplicate_rate(scene: Scene) -> Finding:
    """Duplicates among the valid rows of the last 60 minutes: a vendor that sends everything again."""
    limit = scene.settings.sentinel_duplicate_percent
    rows = watch.rows_of_last(scene.connection, RATE_MINUTES)
    rates = _rates(rows, limit, lambda counted: (counted.duplicate, counted.valid))
    return _rate_finding("duplicate_rate", "Duplicate rate", rates, limit)


Check = Callable[[Scene], Finding]

CHECKS: Mapping[str, Check] = {
    check.__name__: check
    for check in (
        database,
        stuck_batches,
        error_spike,
        schema_cache,
        ledger,
        backlog,
        workers,
        beat,
        broker,
        webhook,
        disk_space,
        duplicate_rate,
    )
}


@dataclass(frozen=True, slots=True)
class _Rate:
    """Parts of a whole: of one source that has a limit of its own, or of all others together (``source`` is None)."""

    source: str | None
    part: int
    whole: int
    limit: float

    @property
    def percent(self) -> float:
        return 100 * self.part / self.whole if self.whole else 0.0

    @property
    def too_high(self) -> bool:
        return self.percent > self.limit


def _rates(found: Sequence[watch.Rows], limit: Limit, figures: Callable[[watch.Rows], tuple[int, int]]) -> list[_Rate]:
    own = dict(limit.by_source)
    others = [figures(rows) for rows in found if rows.source not in own]
    rates = [_Rate(None, sum(part for part, _ in others), sum(whole for _, whole in others), limit.default)]
    rates += [_Rate(rows.source, *figures(rows), own[rows.source]) for rows in found if rows.source in own]
    return rates


def _rate_finding(check: str, name: str, rates: Sequence[_Rate], limit: Limit) -> Finding:
    details = {
        "window_minutes": RATE_MINUTES,
        "threshold_percent": str(limit),
        "rates": {rate.source or "all": round(rate.percent, 2) for rate in rates},
        "rows": sum(rate.whole for rate in rates),
    }
    high = [rate for rate in rates if rate.too_high]
    if high:
        said = "; ".join(f"{name}{_of(rate)} {_shown(rate)}% > {rate.limit:g}% threshold" for rate in high)
        return Finding(check, Level.WARNING, said, details)
    if not any(rate.whole for rate in rates):
        return Finding(check, Level.HEALTHY, f"No row in the last {RATE_MINUTES}m", details)
    highest = max(rates, key=lambda rate: rate.percent)
    message = f"{name}{_of(highest)} {highest.percent:.1f}% <= {highest.limit:g}% threshold"
    return Finding(check, Level.HEALTHY, message, details)


def _shown(rate: _Rate) -> str:
    """The rate, with as many decimals as it takes to see that it is above its limit."""
    decimals = 1
    while round(rate.percent, decimals) <= rate.limit and decimals < 6:  # noqa: PLR2004
        decimals += 1
    return f"{rate.percent:.{decimals}f}"


def _of(rate: _Rate) -> str:
    return f" of {rate.source}" if rate.source else ""


def _batches(count: int) -> str:
    return "batch" if count == 1 else "batches"


def _alerts(count: int) -> str:
    return f"{count} {'alert' if count == 1 else 'alerts'}"


def _overdue_details(found: Sequence[watch.Overdue]) -> dict[str, Any]:
    return {
        "by_status": {overdue.status: overdue.count for overdue in found},
        "oldest_seconds": round(max(overdue.oldest_seconds for overdue in found)),
        "batch_ids": [str(batch_id) for overdue in found for batch_id in overdue.ids],
    }


def _canary_finding(scene: Scene, alive: Sequence[watch.SeenWorker], details: dict[str, Any]) -> Finding:
    limit = scene.settings.sentinel_canary_seconds
    said = f"{len(alive)} {'worker' if len(alive) == 1 else 'workers'} alive"
    silent_broker = all((worker.broker_silent_seconds or float("inf")) > limit for worker in alive)
    if silent_broker or all(worker.running >= worker.concurrency for worker in alive):
        # Without a broker no canary can go round, and where every hand is busy it has to wait: both are no deaths.
        why = "the broker is silent" if silent_broker else "all are busy"
        return Finding("workers", Level.HEALTHY, f"{said}; canaries are not judged, {why}", details)
    out = canaries.every(scene.connection)
    lost = [canary for canary in out if (canary.waiting_seconds or 0) > limit]
    details = {**details, "canaries": {canary.queue: canary.waiting_seconds for canary in out}}
    if lost and scene.excuses("workers", limit):
        return Finding("workers", Level.HEALTHY, f"{said}; waiting for canaries: the database was away", details)
    if lost:
        longest = max(canary.waiting_seconds or 0 for canary in lost)
        names = ", ".join(canary.queue for canary in lost)
        queues = "1 queue" if len(lost) == 1 else f"{len(lost)} queues"
        message = f"No canary from {queues} ({names}): the oldest is out for {longest:.0f}s > {limit:g}s"
        return Finding("workers", Level.CRITICAL, message, details)
    if not out:
        if scene.begins:
            return Finding("workers", Level.HEALTHY, f"{said}; waiting for the first canary", details)
        return Finding("workers", Level.CRITICAL, f"{said}, but no canary goes round the queues", details)
    return Finding("workers", Level.HEALTHY, f"{said}, every queue's canary comes back", details)
