"""Recording a run: it is compared with how each check stood, and what changed becomes a flip and an alert, in one transaction."""

from __future__ import annotations

import datetime as dt
import socket

from sqlalchemy import Connection, Engine

from app.store import alerts, sentinel, watch
from monitoring.report import Finding, Level, Report

REMINDER = dt.timedelta(hours=1)
"""How often an alert is repeated while its check stays CRITICAL."""


def record(engine: Engine, report: Report, *, duration_ms: int) -> None:
    """Keep a full run. One at a time, so that two sentinels never tell of the same change.

    Raises SQLAlchemyError: then nothing is kept, and the next run sees the same change.
    """
    with engine.begin() as connection:
        sentinel.lock(connection)
        standings = sentinel.standings(connection)
        for finding in report.findings:
            _compare(connection, report, finding, standings.get(finding.check))
        sentinel.add_run(
            connection,
            started_at=report.timestamp,
            duration_ms=duration_ms,
            environment=report.environment,
            host=socket.gethostname(),
            overall_status=report.status.value,
            findings=[finding.as_json() for finding in report.findings],
        )
        alerts.prune(connection)


def record_outage(engine: Engine, *, environment: str, finding: Finding, since: dt.datetime, told: bool) -> None:
    """PostgreSQL is back: keep its outage as an incident that is over by now. ``told`` when its alert was sent already."""
    with engine.begin() as connection:
        sentinel.lock(connection)
        if sentinel.flipped_after(connection, finding.check, since):
            # Another sentinel met the same outage and has recorded it.
            return
        now = watch.clock(connection)
        for before, after, at in ((Level.HEALTHY, finding.level, since), (finding.level, Level.HEALTHY, now)):
            ended = after is Level.HEALTHY
            message = "PostgreSQL answers again" if ended else finding.message
            flip_id = sentinel.add_flip(
                connection,
                check=finding.check,
                before=before.value,
                after=after.value,
                at=at,
                unhealthy_since=since,
                message=message,
                details=finding.details,
            )
            if ended or not told:
                alerts.add(
                    connection,
                    dedupe_key=f"flip:{flip_id}",
                    kind="recovered" if ended else "raised",
                    check_name=finding.check,
                    level=after.value,
                    environment=environment,
                    message=message,
                    details=finding.details,
                    happened_at=at,
                    unhealthy_since=since,
                )


def _compare(connection: Connection, report: Report, finding: Finding, standing: sentinel.Standing | None) -> None:
    before = Level.HEALTHY if standing is None else Level(standing.level)
    if finding.level is before:
        if standing is not None and finding.level is Level.CRITICAL:
            hours = int((report.timestamp - standing.since) / REMINDER)
            if hours >= 1:
                key = f"reminder:{standing.flip_id}:{hours}"
                _tell(connection, report, finding, key=key, kind="reminder", since=standing.unhealthy_since)
        return
    since = report.timestamp if before is Level.HEALTHY or standing is None else standing.unhealthy_since
    flip_id = sentinel.add_flip(
        connection,
        check=finding.check,
        before=before.value,
        after=finding.level.value,
        at=report.timestamp,
        unhealthy_since=since,
        message=finding.message,
        details=finding.details,
    )
    _tell(connection, report, finding, key=f"flip:{flip_id}", kind=_kind(before, finding.level), since=since)


def _kind(before: Level, after: Level) -> str:
    if after is Level.HEALTHY:
        return "recovered"
    if before is Level.HEALTHY:
        return "raised"
    return "worsened" if after.rank > before.rank else "eased"


def _tell(
    connection: Connection, report: Report, finding: Finding, *, key: str, kind: str, since: dt.datetime | None
) -> None:
    alerts.add(
        connection,
        dedupe_key=key,
        kind=kind,
        check_name=finding.check,
        level=finding.level.value,
        environment=report.environment,
        message=finding.message,
        details=finding.details,
        happened_at=report.timestamp,
        unhealthy_since=since,
    )
