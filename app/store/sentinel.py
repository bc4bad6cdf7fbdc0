"""What the sentinel keeps of itself: its runs, and every change of a check's state."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

_RECORDING_LOCK = 0x73656E74
_KEPT_DAYS = 30


@dataclass(frozen=True, slots=True)
class Standing:
    """How a check stands since its last flip."""

    flip_id: int
    level: str
    since: dt.datetime
    unhealthy_since: dt.datetime | None


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest recorded run; ``findings`` are by the check's name."""

    age_seconds: float
    findings: Mapping[str, Mapping[str, Any]]


def lock(connection: Connection) -> None:
    """Hold, to the end of the transaction, what lets one run at a time compare and record."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _RECORDING_LOCK})


def standings(connection: Connection) -> dict[str, Standing]:
    """Every check that has flipped at least once."""
    rows = connection.execute(
        text(
            """
            SELECT DISTINCT ON (check_name) check_name, id, level_after, at, unhealthy_since
            FROM ops.sentinel_flips ORDER BY check_name, id DESC
            """
        )
    )
    return {row.check_name: Standing(row.id, row.level_after, row.at, row.unhealthy_since) for row in rows}


def add_flip(
    connection: Connection,
    *,
    check: str,
    before: str,
    after: str,
    at: dt.datetime,
    unhealthy_since: dt.datetime | None,
    message: str,
    details: Mapping[str, Any],
) -> int:
    """Keep a change of state; returns its id."""
    flip_id: int = connection.execute(
        text(
            """
            INSERT INTO ops.sentinel_flips
                (check_name, level_before, level_after, at, unhealthy_since, message, details)
            VALUES (:check, :before, :after, :at, :unhealthy_since, :message, CAST(:details AS jsonb))
            RETURNING id
            """
        ),
        {
            "check": check,
            "before": before,
            "after": after,
            "at": at,
            "unhealthy_since": unhealthy_since,
            "message": message,
            "details": json.dumps(dict(details)),
        },
    ).scalar_one()
    return flip_id


def flipped_after(connection: Connection, check: str, moment: dt.datetime) -> bool:
    """Whether the check has changed its state after a moment."""
    found: bool = connection.execute(
        text("SELECT EXISTS (SELECT FROM ops.sentinel_flips WHERE check_name = :check AND at > :moment)"),
        {"check": check, "moment": moment},
    ).scalar_one()
    return found


def add_run(
    connection: Connection,
    *,
    started_at: dt.datetime,
    duration_ms: int,
    environment: str,
    host: str,
    overall_status: str,
    findings: Sequence[Mapping[str, Any]],
) -> None:
    """Keep a run, and drop those that are 30 days old."""
    connection.execute(
        text(
            """
            INSERT INTO ops.sentinel_runs (started_at, duration_ms, environment, host, overall_status, findings)
            VALUES (:started_at, :duration_ms, :environment, :host, :overall_status, CAST(:findings AS jsonb))
            """
        ),
        {
            "started_at": started_at,
            "duration_ms": duration_ms,
            "environment": environment,
            "host": host,
            "overall_status": overall_status,
            "findings": json.dumps(list(findings)),
        },
    )
    connection.execute(
        text("DELETE FROM ops.sentinel_runs WHERE started_at < statement_timestamp() - make_interval(days => :days)"),
        {"days": _KEPT_DAYS},
    )


def last_run(connection: Connection) -> LastRun | None:
    """The newest run, or None."""
    row = connection.execute(
        text(
            """
            SELECT extract(epoch FROM clock_timestamp() - started_at) AS age, findings
            FROM ops.sentinel_runs ORDER BY started_at DESC LIMIT 1
            """
        )
    ).one_or_none()
    if row is None:
        return None
    return LastRun(float(row.age), {finding["check"]: finding for finding in row.findings})


def first_sign_at(connection: Connection) -> dt.datetime | None:
    """When the first thing happened that is on record: a run, a batch, a key."""
    found: dt.datetime | None = connection.execute(
        text(
            """
            SELECT least((SELECT min(started_at) FROM ops.sentinel_runs), (SELECT min(created_at) FROM intake.batches),
                (SELECT min(created_at) FROM ops.api_keys))
            """
        )
    ).scalar()
    return None if found is None else found.astimezone(dt.UTC)
