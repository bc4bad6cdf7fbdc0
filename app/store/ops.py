"""What the ops page shows: the views' own rows, or the same figures of another span of time; queues, workers, the sentinel.

Where a span is given, the statements here are those of the views with its ends in place of "the last seven days"; a test
holds the two together.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from app.batch import PRIORITIES
from app.store import watch
from app.store.claims import CLAIMABLE

Rows = Sequence[Mapping[str, Any]]

LAST_HOURS = 168
"""How far the views look back."""

_PERFORMANCE = """
SELECT
    hour_bucket,
    count(*) AS total_batches,
    count(*) FILTER (WHERE status = 'completed') AS completed_batches,
    count(*) FILTER (WHERE status = 'failed') AS failed_batches,
    round(avg(parse_duration_ms), 1) AS avg_parse_ms,
    round(avg(db_duration_ms), 1) AS avg_db_ms,
    round(avg(parse_duration_ms + db_duration_ms), 1) AS avg_total_ms,
    sum(row_count_total) AS total_rows,
    sum(row_count_inserted) AS inserted_rows,
    sum(row_count_duplicate) AS skipped_rows,
    sum(row_count_invalid) AS error_rows,
    round(100.0 * sum(row_count_duplicate) / nullif(sum(row_count_valid), 0), 2) AS dedupe_rate_pct,
    round(100.0 * sum(row_count_invalid) / nullif(sum(row_count_total), 0), 2) AS error_rate_pct
FROM (
    SELECT
        date_bin('1 hour', created_at, timestamptz '2000-01-01 00:00:00+00') AS hour_bucket,
        status,
        parse_duration_ms,
        db_duration_ms,
        row_count_total,
        row_count_valid,
        row_count_invalid,
        row_count_inserted,
        row_count_duplicate
    FROM intake.batches
    WHERE created_at >= :start AND created_at < :end
    OFFSET 0
) AS b
GROUP BY hour_bucket
ORDER BY hour_bucket DESC
"""

_DISTRIBUTION = """
WITH seen AS NOT MATERIALIZED (
    SELECT batch_id, error_code, error_stage, occurrence_count::bigint AS occurrences, last_seen
    FROM intake.error_tallies WHERE last_seen >= :start AND last_seen < :end AND first_seen >= :start
    UNION ALL
    SELECT t.batch_id, t.error_code, t.error_stage, e.occurrences, e.last_seen
    FROM intake.error_tallies t
    CROSS JOIN LATERAL (
        SELECT count(*) AS occurrences, max(e.created_at) AS last_seen FROM intake.row_errors e
        WHERE e.batch_id = t.batch_id AND e.error_code = t.error_code AND e.error_stage = t.error_stage
            AND e.created_at >= :start AND e.created_at < :end
    ) AS e
    WHERE t.last_seen >= :start AND t.first_seen < :end AND (t.first_seen < t.last_seen) IS TRUE
        AND (t.first_seen < :start OR t.last_seen >= :end) AND e.occurrences > 0
), by_stage AS (
    SELECT error_code, sum(occurrences) AS occurrences, count(*) AS batches, max(last_seen) AS last_seen
    FROM seen GROUP BY error_code, error_stage
), by_code AS (
    SELECT error_code, min(occurrences) AS occurrences, min(batches) AS batches, min(last_seen) AS last_seen
    FROM by_stage GROUP BY error_code HAVING count(*) = 1
    UNION ALL
    SELECT error_code, sum(occurrences), count(DISTINCT batch_id), max(last_seen)
    FROM seen
    WHERE error_code IN (SELECT error_code FROM by_stage GROUP BY error_code HAVING count(*) > 1)
    GROUP BY error_code
)
SELECT
    f.error_code,
    f.occurrences::bigint AS occurrence_count,
    f.batches AS affected_batches,
    c.sentence AS sample_message,
    f.last_seen AS last_seen_at
FROM by_code f
LEFT JOIN ops.error_codes c ON c.code = f.error_code
ORDER BY occurrence_count DESC, f.error_code
"""

_TREND = """
SELECT
    period,
    date_trunc(period, day, 'UTC') AS bucket,
    sum(days.batches)::bigint AS batches,
    sum(days.rows) AS rows,
    round(100.0 * sum(days.invalid) / nullif(sum(days.rows), 0), 2) AS error_rate_pct
FROM (
    SELECT day, count(*) AS batches, sum(row_count_total) AS rows, sum(row_count_invalid) AS invalid
    FROM (
        SELECT
            date_bin('24 hours', created_at, timestamptz '2000-01-01 00:00:00+00') AS day,
            row_count_total,
            row_count_invalid
        FROM intake.batches
        WHERE created_at >= coalesce(:start, timestamptz '-infinity') AND created_at < :end
        OFFSET 0
    ) AS b
    GROUP BY day
) AS days
CROSS JOIN (VALUES ('week'), ('month')) AS periods (period)
GROUP BY period, bucket
ORDER BY period, bucket DESC
"""

# The index on unfinished batches serves this: what is finished is not read.
_QUEUES = f"""
SELECT priority, count(*) FILTER (WHERE {CLAIMABLE}) AS claimable,
    count(*) FILTER (WHERE status = 'uploaded' AND not_before > clock_timestamp()) AS backing_off,
    extract(epoch FROM clock_timestamp() - min(created_at) FILTER (WHERE {CLAIMABLE})) AS oldest_age_seconds
FROM intake.batches
WHERE status IN ('uploaded', 'staging', 'validating', 'inserting')
GROUP BY priority
"""


@dataclass(frozen=True, slots=True)
class Span:
    """From ``start`` on, up to but without ``end``; no ``start`` is from the beginning on."""

    start: dt.datetime | None
    end: dt.datetime


@dataclass(frozen=True, slots=True)
class Sentinel:
    """``checks`` are in the order of the last run; ``since`` is None where a check has not changed yet."""

    last_run: Mapping[str, Any] | None
    checks: Rows
    flips: Rows
    alerts: Mapping[str, Any]


def now(connection: Connection) -> dt.datetime:
    """The moment from which this transaction's views look back, in UTC."""
    found: dt.datetime = connection.execute(text("SELECT now()")).scalar_one()
    return found.astimezone(dt.UTC)


def performance(connection: Connection, span: Span | None = None) -> Rows:
    """Batches, times and rows by hour of upload, the newest first; hours without a batch are left out."""
    return _of(connection, _PERFORMANCE, "ops.v_batch_performance ORDER BY hour_bucket DESC", span)


def error_distribution(connection: Connection, span: Span | None = None) -> Rows:
    """How often each row code occurred, the most frequent first."""
    view = "ops.v_error_distribution ORDER BY occurrence_count DESC, error_code"
    return _of(connection, _DISTRIBUTION, view, span)


def error_trend(connection: Connection, span: Span | None = None) -> Rows:
    """Batches, rows and error rate by week and by month, the newest first; without a span, of all time."""
    return _of(connection, _TREND, "ops.v_error_trend ORDER BY period, bucket DESC", span)


def pipeline_health(connection: Connection) -> Rows:
    """The batches in each state, and how old they are."""
    return _rows(connection, "SELECT * FROM ops.v_pipeline_health ORDER BY status")


def queues(connection: Connection) -> Rows:
    """What may be claimed, by priority: the truth of which a broker's queues are only hints."""
    found = {row["priority"]: row for row in _rows(connection, _QUEUES)}
    empty = {"claimable": 0, "backing_off": 0, "oldest_age_seconds": None}
    return [{**empty, **found.get(priority, {}), "priority": priority} for priority in PRIORITIES]


def workers(connection: Connection, *, silent_after_seconds: float) -> Mapping[str, int]:
    """How many workers live, how many fell silent in whose place nobody has started, how many batches the living take."""
    seen = watch.seen_workers(connection)
    alive = [worker for worker in seen if worker.silent_seconds <= silent_after_seconds]
    silent = watch.not_replaced([worker for worker in seen if worker not in alive], alive)
    return {"alive": len(alive), "silent": len(silent), "places": sum(worker.concurrency for worker in alive)}


def sentinel(connection: Connection, *, flips: int) -> Sentinel:
    """The last run, how each check stands, the last ``flips`` changes of state, and what the outbox holds."""
    runs = _rows(
        connection,
        """
        SELECT started_at, extract(epoch FROM clock_timestamp() - started_at) AS age_seconds, duration_ms, environment,
            host, overall_status, findings
        FROM ops.sentinel_runs ORDER BY started_at DESC, id DESC LIMIT 1
        """,
    )
    flipped = _rows(
        connection,
        """
        SELECT DISTINCT ON (check_name) check_name AS check, level_after AS level, message, at AS since,
            CASE WHEN level_after <> 'HEALTHY' THEN unhealthy_since END AS unhealthy_since
        FROM ops.sentinel_flips ORDER BY check_name, id DESC
        """,
    )
    last = runs[0] if runs else None
    return Sentinel(
        last_run=last,
        checks=_standing([] if last is None else last["findings"], flipped),
        flips=_rows(
            connection,
            """
            SELECT id, check_name AS check, level_before, level_after, at, unhealthy_since, message, details
            FROM ops.sentinel_flips ORDER BY id DESC LIMIT :limit
            """,
            limit=flips,
        ),
        alerts=_rows(
            connection,
            """
            SELECT count(*) FILTER (WHERE failed_at IS NULL) AS waiting,
                extract(epoch FROM clock_timestamp() - min(created_at) FILTER (WHERE failed_at IS NULL))
                    AS oldest_waiting_seconds,
                count(*) FILTER (WHERE failed_at IS NOT NULL) AS refused,
                (SELECT max(sent_at) FROM ops.alerts) AS last_sent_at
            FROM ops.alerts WHERE sent_at IS NULL
            """,
        )[0],
    )


def _standing(findings: Rows, flipped: Rows) -> Rows:
    """A check stands as its last flip left it, and says what the last run found; without a flip it never changed."""
    names = ("check", "level", "message")
    checks = {
        finding["check"]: {**{name: finding[name] for name in names}, "since": None, "unhealthy_since": None}
        for finding in findings
    }
    for flip in flipped:
        said = checks.get(flip["check"], flip)["message"]
        checks[flip["check"]] = {**flip, "message": said}
    return list(checks.values())


def _of(connection: Connection, statement: str, view: str, span: Span | None) -> Rows:
    if span is None:
        return _rows(connection, f"SELECT * FROM {view}")
    return _rows(connection, statement, start=span.start, end=span.end)


def _rows(connection: Connection, statement: str, **values: Any) -> Rows:
    """The rows by column; moments in UTC, for an hour that comes twice in the session's time zone equals no other."""
    return [
        {name: value.astimezone(dt.UTC) if isinstance(value, dt.datetime) else value for name, value in row.items()}
        for row in connection.execute(text(statement), values).mappings()
    ]
