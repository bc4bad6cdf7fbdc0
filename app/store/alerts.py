"""The outbox of the sentinel's alerts: what waits, what is on its way, what the webhook took, and what it refused."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

_CLAIM_LOCK = 0x616C7274
_KEPT_DAYS = 30
_REFUSAL_TOLD = "1 day"
_WEBHOOK = "webhook"
_WITHOUT_WEBHOOK = "1 day"
"""Where nobody has had a webhook for so long, the next one is a first one."""

# An alert's ``problem`` says what its last attempt met. These beginnings and this ending mean something to the queries.
_ON_ITS_WAY = "no answer yet"
_LIMITED = "rate limited: "
_DEAD = "dead webhook: "
_DOUBT = "an attempt was never answered"

_DEAD_MARK = f"sent_at IS NULL AND failed_at IS NOT NULL AND webhook = :webhook AND starts_with(problem, '{_DEAD}')"
# What nobody has tried to send, but for the newest alert of a check that is unhealthy still, and for what stands behind one
# that was tried.
_HISTORY = """
    old.sent_at IS NULL AND old.attempts = 0
    AND (old.level = 'HEALTHY'
        OR EXISTS (SELECT FROM ops.alerts later WHERE later.check_name = old.check_name AND later.id > old.id))
    AND NOT EXISTS (
        SELECT FROM ops.alerts tried
        WHERE tried.check_name = old.check_name AND tried.sent_at IS NULL AND tried.attempts > 0)
"""
WAITS_SINCE = f"""
    CASE WHEN attempts > 0 THEN created_at ELSE (
        SELECT greatest(created_at, started_at) FROM ops.heartbeats
        WHERE name = '{_WEBHOOK}' AND seen_at > clock_timestamp() - interval '{_WITHOUT_WEBHOOK}') END
"""
"""Of an alert that waits: since when it could have been sent. NULL while there is no webhook."""
# ``heads`` are the alerts that may go: of each check the oldest that waits, so that none overtakes an earlier one.
# ``holds`` are those that keep every other one back: one that is on its way, and one that met a rate limit.
_QUEUE = f"""
    WITH waiting AS (
        SELECT id, check_name, not_before, problem, webhook FROM ops.alerts WHERE sent_at IS NULL AND failed_at IS NULL
    ), heads AS (
        SELECT DISTINCT ON (check_name) id, not_before, problem FROM waiting ORDER BY check_name, id
    ), holds AS (
        SELECT not_before FROM waiting
        WHERE not_before > clock_timestamp()
            AND (problem = '{_ON_ITS_WAY}' OR (webhook = :webhook AND starts_with(problem, '{_LIMITED}')))
    ), dead AS (SELECT FROM ops.alerts WHERE {_DEAD_MARK})
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert to be sent, for the ``attempt``-th time.

    ``id`` is None where it never was in the outbox. ``may_repeat``: the webhook may have taken a former attempt, whose
    answer nobody has read.
    """

    id: int | None = None
    kind: str
    check_name: str
    level: str
    environment: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)
    happened_at: dt.datetime
    unhealthy_since: dt.datetime | None = None
    attempt: int = 1
    may_repeat: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookState:
    """How the outbox stands with one webhook.

    ``waiting`` counts what is still to be sent, and the oldest has waited since there was a webhook; ``refused`` what the webhook refused for good: a single alert within the
    last day, or, when it is ``dead``, the one at which that was found. ``last_problem`` is a sentence of ours: a status
    code, a kind of failure.
    """

    waiting: int
    oldest_waiting_seconds: float | None
    refused: int
    dead: bool
    last_problem: str | None
    last_sent_at: dt.datetime | None


def add(
    connection: Connection,
    *,
    dedupe_key: str,
    kind: str,
    check_name: str,
    level: str,
    environment: str,
    message: str,
    details: Mapping[str, Any],
    happened_at: dt.datetime,
    unhealthy_since: dt.datetime | None = None,
) -> bool:
    """Put an alert into the outbox, unless one with this key was ever put there; True where it was new.

    ``kind`` is raised, worsened, eased, recovered or reminder; ``details`` are JSON types.
    """
    added = connection.execute(
        text(
            """
            INSERT INTO ops.alerts
                (dedupe_key, kind, check_name, level, environment, message, details, happened_at, unhealthy_since)
            VALUES (:dedupe_key, :kind, :check_name, :level, :environment, :message, CAST(:details AS jsonb),
                :happened_at, :unhealthy_since)
            ON CONFLICT (dedupe_key) DO NOTHING
            """
        ),
        {
            "dedupe_key": dedupe_key,
            "kind": kind,
            "check_name": check_name,
            "level": level,
            "environment": environment,
            "message": message,
            "details": json.dumps(dict(details)),
            "happened_at": happened_at,
            "unhealthy_since": unhealthy_since,
        },
    )
    return bool(added.rowcount)


def meet_webhook(connection: Connection) -> int:
    """A sign of whoever has a webhook to send to. Returns how many alerts were dropped, for nobody had one before.

    Those are of incidents that are over; one that goes on is told by the newest alert of its check.
    """
    is_first = connection.execute(
        text(
            f"""
            INSERT INTO ops.heartbeats (name) VALUES (:name)
            ON CONFLICT (name) DO UPDATE SET started_at = clock_timestamp(), seen_at = clock_timestamp()
                WHERE heartbeats.seen_at <= clock_timestamp() - interval '{_WITHOUT_WEBHOOK}'
            """
        ),
        {"name": _WEBHOOK},
    ).rowcount
    if is_first:
        return connection.execute(text(f"DELETE FROM ops.alerts old WHERE {_HISTORY}")).rowcount
    connection.execute(
        text("UPDATE ops.heartbeats SET seen_at = clock_timestamp() WHERE name = :name"), {"name": _WEBHOOK}
    )
    return 0


def claim(connection: Connection, webhook: str, *, lease_seconds: float) -> Alert | None:
    """The next alert to send to this webhook (its fingerprint); commit before sending. None where there is nothing to do.

    That is the oldest one that is due, no earlier one of whose check waits. Nothing is given out while another alert is
    on its way, a rate limit holds, or the webhook is dead: so one alert is under way at a time, whoever delivers.

    A claim is a lease: it counts the attempt and pushes ``not_before`` ahead, and is committed before the request. A row
    lock held during the request would be simpler, but a deliverer that dies would take its count with it, and the alert
    would go out again as if for the first time; and a slow webhook would hold a transaction, and a pooler's connection,
    open. So when a deliverer dies, its alert, and with it the queue, waits until the lease has run out, and is then sent
    again and says that it may be a repeat.
    """
    if not connection.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _CLAIM_LOCK}):
        # Somebody claims at this moment: the work is theirs.
        return None
    row = connection.execute(
        text(
            f"""
            {_QUEUE}
            UPDATE ops.alerts SET attempts = attempts + 1, webhook = :webhook, problem = '{_ON_ITS_WAY}',
                not_before = clock_timestamp() + make_interval(secs => :lease)
            FROM heads
            WHERE alerts.id = heads.id
                AND heads.id = (SELECT min(id) FROM heads WHERE not_before <= clock_timestamp())
                AND NOT EXISTS (SELECT FROM holds) AND NOT EXISTS (SELECT FROM dead)
                -- Asked of the row once more in case an answer that came late has just changed it.
                AND alerts.sent_at IS NULL AND alerts.failed_at IS NULL AND alerts.not_before <= clock_timestamp()
            RETURNING alerts.id, kind, check_name, level, environment, message, details, happened_at, unhealthy_since,
                attempts, heads.problem AS problem_before
            """
        ),
        {"webhook": webhook, "lease": lease_seconds},
    ).one_or_none()
    if row is None:
        return None
    before = row.problem_before or ""
    return Alert(
        id=row.id,
        kind=row.kind,
        check_name=row.check_name,
        level=row.level,
        environment=row.environment,
        message=row.message,
        details=row.details,
        happened_at=row.happened_at.astimezone(dt.UTC),
        unhealthy_since=None if row.unhealthy_since is None else row.unhealthy_since.astimezone(dt.UTC),
        attempt=row.attempts,
        may_repeat=before == _ON_ITS_WAY or before.endswith(_DOUBT),
    )


def seconds_to_next(connection: Connection, webhook: str) -> float | None:
    """After how many seconds something can be claimed (0 for now); None where nothing waits or the webhook is dead."""
    seconds = connection.scalar(
        text(
            f"""
            {_QUEUE}
            SELECT extract(epoch FROM greatest((SELECT min(not_before) FROM heads), (SELECT max(not_before) FROM holds))
                - clock_timestamp())
            WHERE NOT EXISTS (SELECT FROM dead)
            """
        ),
        {"webhook": webhook},
    )
    return None if seconds is None else max(float(seconds), 0.0)


def mark_sent(connection: Connection, alert: Alert) -> None:
    """The webhook took it. That is true whoever has claimed it since, so no claim is asked for."""
    connection.execute(
        text(
            """
            UPDATE ops.alerts SET sent_at = clock_timestamp(), failed_at = NULL, problem = NULL
            WHERE id = :id AND sent_at IS NULL
            """
        ),
        {"id": alert.id},
    )


def put_off(
    connection: Connection, alert: Alert, *, problem: str, seconds: float, answered: bool, limited: bool = False
) -> None:
    """It was not taken: send it again after so many seconds. ``limited``: until then nothing else either."""
    _settle(
        connection,
        alert,
        "not_before = clock_timestamp() + make_interval(secs => :seconds)",
        problem=f"{_LIMITED if limited else ''}{problem}",
        answered=answered,
        seconds=seconds,
    )


def refuse(connection: Connection, alert: Alert, *, problem: str) -> None:
    """The webhook will never take this one: it waits for another webhook."""
    _settle(connection, alert, "failed_at = clock_timestamp()", problem=problem, answered=True)


def mark_dead(connection: Connection, alert: Alert, *, problem: str, probe_after_seconds: float) -> None:
    """The webhook takes nothing any more, as this alert met it: nothing is sent to it until ``revive`` or another one."""
    _settle(
        connection,
        alert,
        "failed_at = clock_timestamp(), not_before = clock_timestamp() + make_interval(secs => :seconds)",
        problem=f"{_DEAD}{problem}",
        answered=True,
        seconds=probe_after_seconds,
    )


def claim_probe(connection: Connection, webhook: str, *, again_after_seconds: float) -> bool:
    """Whether the dead webhook is to be asked if it lives; then nobody else asks for so many seconds."""
    claimed = connection.execute(
        text(
            f"""
            UPDATE ops.alerts SET not_before = clock_timestamp() + make_interval(secs => :seconds)
            WHERE {_DEAD_MARK} AND not_before <= clock_timestamp()
            """
        ),
        {"webhook": webhook, "seconds": again_after_seconds},
    )
    return bool(claimed.rowcount)


def revive(connection: Connection, webhook: str) -> None:
    """The webhook lives after all: what was refused because it was dead waits again."""
    connection.execute(
        text(f"UPDATE ops.alerts SET failed_at = NULL, not_before = clock_timestamp() WHERE {_DEAD_MARK}"),
        {"webhook": webhook},
    )


def resume(connection: Connection, webhook: str) -> None:
    """The webhook takes alerts again: what was put off because it failed is due now, so that order is kept."""
    connection.execute(
        text(
            f"""
            UPDATE ops.alerts SET not_before = clock_timestamp()
            WHERE sent_at IS NULL AND failed_at IS NULL AND not_before > clock_timestamp() AND webhook = :webhook
                AND problem <> '{_ON_ITS_WAY}' AND NOT starts_with(problem, '{_LIMITED}')
            """
        ),
        {"webhook": webhook},
    )


def requeue(connection: Connection, webhook: str) -> int:
    """Make due what another webhook than this one refused or could not take; returns how many alerts that were."""
    return connection.execute(
        text(
            f"""
            UPDATE ops.alerts SET failed_at = NULL, not_before = clock_timestamp()
            WHERE sent_at IS NULL AND webhook <> :webhook
                AND (failed_at IS NOT NULL OR (not_before > clock_timestamp() AND problem <> '{_ON_ITS_WAY}'))
            """
        ),
        {"webhook": webhook},
    ).rowcount


def webhook_state(connection: Connection, webhook: str, *, since: dt.datetime | None = None) -> WebhookState:
    """How the outbox stands with the webhook of this fingerprint, which may be there only ``since`` then."""
    row = connection.execute(
        text(
            f"""
            WITH unsent AS (
                SELECT id, failed_at, problem, failed_at IS NULL OR webhook <> :webhook AS waits,
                    CASE WHEN attempts = 0 AND {WAITS_SINCE} < CAST(:since AS timestamptz) THEN :since
                        ELSE {WAITS_SINCE} END AS waits_since,
                    {_DEAD_MARK} AS dead
                FROM ops.alerts WHERE sent_at IS NULL
            ), told AS (
                SELECT * FROM unsent
                WHERE waits OR dead OR failed_at > clock_timestamp() - interval '{_REFUSAL_TOLD}'
            )
            SELECT count(*) FILTER (WHERE waits) AS waiting,
                extract(epoch FROM clock_timestamp() - min(waits_since) FILTER (WHERE waits)) AS oldest,
                count(*) FILTER (WHERE NOT waits) AS refused,
                coalesce(bool_or(dead), false) AS dead,
                (
                    SELECT problem FROM told WHERE problem IS NOT NULL
                    ORDER BY dead DESC, failed_at DESC NULLS LAST, id LIMIT 1
                ) AS last_problem,
                (SELECT max(sent_at) FROM ops.alerts WHERE webhook = :webhook) AS last_sent_at
            FROM told
            """
        ),
        {"webhook": webhook, "since": since},
    ).one()
    return WebhookState(
        waiting=row.waiting,
        oldest_waiting_seconds=None if row.oldest is None else float(row.oldest),
        refused=row.refused,
        dead=row.dead,
        last_problem=row.last_problem,
        last_sent_at=None if row.last_sent_at is None else row.last_sent_at.astimezone(dt.UTC),
    )


def prune(connection: Connection) -> int:
    """Remove the alerts that were sent 30 days ago, and, where nobody has a webhook, what is a day old.

    The first webhook to be set is not sent the history of the pipeline, so none is kept for it. Returns how many.
    """
    return connection.execute(
        text(
            f"""
            DELETE FROM ops.alerts old WHERE sent_at < statement_timestamp() - make_interval(days => :days)
                OR (created_at < statement_timestamp() - interval '{_WITHOUT_WEBHOOK}' AND {_HISTORY}
                    AND NOT EXISTS (
                        SELECT FROM ops.heartbeats
                        WHERE name = :name AND seen_at > clock_timestamp() - interval '{_WITHOUT_WEBHOOK}'))
            """
        ),
        {"days": _KEPT_DAYS, "name": _WEBHOOK},
    ).rowcount


def _settle(
    connection: Connection, alert: Alert, change: str, *, problem: str, answered: bool, **values: float
) -> None:
    """End a claim without success; one that was taken over meanwhile is left to whoever holds it now."""
    doubt = alert.may_repeat or not answered
    connection.execute(
        text(
            f"""
            UPDATE ops.alerts SET problem = :problem, {change}
            WHERE id = :id AND attempts = :attempt AND sent_at IS NULL AND failed_at IS NULL
            """
        ),
        {
            "id": alert.id,
            "attempt": alert.attempt,
            "problem": f"{problem}; {_DOUBT}" if doubt else problem,
            **values,
        },
    )
