"""Sending alerts to Discord: from the outbox, or directly when PostgreSQL is gone."""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from app.store import alerts
from app.store.alerts import Alert
from monitoring.report import Finding
from monitoring.webhook import (
    LONGEST_REQUEST_SECONDS,
    Answer,
    Outcome,
    Webhook,
    WebhookError,
    lives,
    opened,
    send,
    webhook_of,
)

__all__ = ["Delivered", "Webhook", "WebhookError", "deliver", "send_directly", "webhook_of"]

log = structlog.get_logger()

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 300.0
_JITTER = 0.2
_SHORTEST_LIMIT_SECONDS = 0.5
_PROBE_SECONDS = 3600.0
_FAILURES_OF_THE_WEBHOOK = 3
_SETTLE_TRIES, _SETTLE_PAUSE_SECONDS = 5, 2.0

_random = secrets.SystemRandom()

Sleep = Callable[[float], object]
"""Waits so many seconds; a true answer, as ``Event.wait`` gives one, ends the sending."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """How many attempts ended how. What is put off stays in the outbox; what is refused does, for another webhook."""

    sent: int = 0
    put_off: int = 0
    refused: int = 0


def deliver(
    engine: Engine,
    webhook: Webhook,
    *,
    runbook_url: str | None = None,
    seconds: float = 30.0,
    client: httpx.Client | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Sleep = time.sleep,
) -> Delivered:
    """Send what is due, oldest first, and wait for what becomes due within ``seconds``; end then, or with nothing left.

    Three failures with nothing sent end it too: that is the webhook, and another call finds what was put off. The last
    request may take some 40 seconds more. Any number of processes may call this at once: the claim lets one alert be
    under way at a time, and a caller that meets one leaves the work to whoever has it.

    Each alert is taken exactly once, with one exception. Where an attempt was sent and its answer never read (a timeout,
    a broken connection, a gateway that gave up, a process or a database that died in between), the alert is sent again,
    and its footer says that it may be a repeat. Discord gives a webhook no means to prevent that.

    A rate limit holds back everything. A webhook that is gone (401, 403, 404, 405, 410, a redirect) is sent nothing until
    its address changes, or until a GET, once an hour, finds it alive.

    Raises SQLAlchemyError where the database cannot be used.
    """
    end = clock() + seconds
    ended: Counter[Outcome] = Counter()
    failures = 0
    with opened(client) as http:
        _prepare(engine, webhook, http)
        while (ended[Outcome.TAKEN] or failures < _FAILURES_OF_THE_WEBHOOK) and clock() < end:
            with engine.begin() as connection:
                alert = alerts.claim(connection, webhook.fingerprint, lease_seconds=LONGEST_REQUEST_SECONDS)
                pause = None if alert else alerts.seconds_to_next(connection, webhook.fingerprint)
            if alert is not None:
                answer = send(http, webhook, alert, runbook_url)
                _settle(engine, webhook, alert, answer, has_sent=ended[Outcome.TAKEN] > 0, sleep=sleep)
                ended[answer.outcome] += 1
                failures += answer.outcome is Outcome.LATER and not answer.limited
                pause = answer.seconds if answer.outcome is Outcome.TAKEN else 0.0
                if not pause:
                    continue
            # A claim that was missed by a moment is tried again after another.
            if pause is None or clock() + pause >= end or sleep(max(pause, 0.05)):
                break
    return Delivered(ended[Outcome.TAKEN], ended[Outcome.LATER], ended[Outcome.REFUSED] + ended[Outcome.DEAD])


def send_directly(
    webhook: Webhook,
    finding: Finding,
    *,
    kind: str,
    environment: str,
    happened_at: dt.datetime,
    unhealthy_since: dt.datetime | None = None,
    runbook_url: str | None = None,
    seconds: float = 30.0,
    client: httpx.Client | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Sleep = time.sleep,
) -> bool:
    """Send an alert that is not in the outbox, because PostgreSQL is gone; whether the webhook took it. Never raises.

    It is tried again as in ``deliver`` while ``seconds`` last, and no longer: whoever calls keeps what was told.
    """
    end = clock() + seconds
    attempt, may_repeat = 1, False
    with opened(client) as http:
        while True:
            alert = Alert(
                kind=kind,
                check_name=finding.check,
                level=finding.level.value,
                environment=environment,
                message=finding.message,
                details=finding.details,
                happened_at=happened_at,
                unhealthy_since=unhealthy_since,
                attempt=attempt,
                may_repeat=may_repeat,
            )
            answer = send(http, webhook, alert, runbook_url)
            _tell(alert, webhook, answer)
            if answer.outcome is not Outcome.LATER:
                return answer.outcome is Outcome.TAKEN
            pause = _pause(answer, attempt)
            if clock() + pause >= end or sleep(pause):
                return False
            attempt += 1
            may_repeat = may_repeat or not answer.answered


def _prepare(engine: Engine, webhook: Webhook, http: httpx.Client) -> None:
    """Leave out what was over before there was a webhook, take over what another one refused, and ask a dead one, once an
    hour, if it lives."""
    with engine.begin() as connection:
        dropped = alerts.meet_webhook(connection)
        alerts.requeue(connection, webhook.fingerprint)
        is_to_be_asked = alerts.claim_probe(connection, webhook.fingerprint, again_after_seconds=_PROBE_SECONDS)
    if dropped:
        log.info("alerts of before the webhook dropped", alerts=dropped)
    if is_to_be_asked and lives(http, webhook):
        log.info("the webhook lives again", webhook=webhook.fingerprint)
        with engine.begin() as connection:
            alerts.revive(connection, webhook.fingerprint)


def _settle(engine: Engine, webhook: Webhook, alert: Alert, answer: Answer, *, has_sent: bool, sleep: Sleep) -> None:
    """Write down what became of an attempt; a database that fails now would have a taken alert sent again, so insist."""
    _tell(alert, webhook, answer)
    for left in reversed(range(_SETTLE_TRIES)):
        try:
            with engine.begin() as connection:
                _write(connection, webhook, alert, answer, has_sent=has_sent)
        except SQLAlchemyError:
            if not left:
                raise
            sleep(_SETTLE_PAUSE_SECONDS)
        else:
            return


def _write(connection: Connection, webhook: Webhook, alert: Alert, answer: Answer, *, has_sent: bool) -> None:
    if answer.outcome is Outcome.TAKEN:
        alerts.mark_sent(connection, alert)
        if not has_sent:
            alerts.resume(connection, webhook.fingerprint)
    elif answer.outcome is Outcome.REFUSED:
        alerts.refuse(connection, alert, problem=answer.problem)
    elif answer.outcome is Outcome.DEAD:
        alerts.mark_dead(connection, alert, problem=answer.problem, probe_after_seconds=_PROBE_SECONDS)
    else:
        alerts.put_off(
            connection,
            alert,
            problem=answer.problem,
            seconds=_pause(answer, alert.attempt),
            answered=answer.answered,
            limited=answer.limited,
        )


def _pause(answer: Answer, attempt: int) -> float:
    """After how many seconds an alert is sent again: what the webhook asks for, else doubling, with jitter."""
    if answer.limited and answer.seconds is not None:
        return max(answer.seconds, _SHORTEST_LIMIT_SECONDS)
    doubled = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(attempt - 1, 10), _LONGEST_PAUSE_SECONDS)
    return max(answer.seconds or 0.0, doubled * _random.uniform(1 - _JITTER, 1 + _JITTER))


def _tell(alert: Alert, webhook: Webhook, answer: Answer) -> None:
    """Every attempt is one line in the log."""
    about = {
        "alert": alert.id,
        "check": alert.check_name,
        "kind": alert.kind,
        "attempt": alert.attempt,
        "webhook": webhook.fingerprint,
    }
    if answer.outcome is Outcome.TAKEN:
        log.info("alert sent", **about)
    else:
        log.warning(f"alert {answer.outcome.value}", problem=answer.problem, **about)
