"""The sentinel: runs the checks, each by itself and within bounds; ``python -m monitoring.sentinel`` is its command."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from app.settings import Settings, read_run_file
from app.store import sentinel, watch
from app.store.database import open_single
from monitoring import bounded, discord, disk
from monitoring.bounded import IDLE_SECONDS
from monitoring.checks import CHECKS, Check, broker_finding
from monitoring.outage import Outage
from monitoring.recording import record
from monitoring.report import NEXT, Finding, Level, Report
from monitoring.scene import Broker, CannotRunError, Scene
from monitoring.schema_cache import SchemaCache

log = structlog.get_logger()

Found = TypeVar("Found")

_STATEMENT_SECONDS = 10.0
_GLANCE_SECONDS = 5.0
_LONG_AGO: dt.datetime | None = dt.datetime.min.replace(tzinfo=dt.UTC)
_CANCELLED = "57014"
"""A statement that took too long: of these, one that waits for a lock."""
_NO_DATABASE = "PostgreSQL does not answer"
_NOT_MIGRATED = "the database lacks Dragonfly's tables: run 'dragonfly migrate'"
_SENTENCES = {
    "42P01": _NOT_MIGRATED,
    "3F000": _NOT_MIGRATED,
    "42501": "DATABASE_URL's role may not read Dragonfly's tables: it is to be service_role",
}
"""By SQLSTATE, where PostgreSQL answers and the schema does not."""


@dataclass(kw_only=True)
class Sentinel:
    """The sentinel of one process.

    ``interval_seconds`` is how often it runs: a check without data is healthy for two of them after the start. The start
    is ``begun`` (time.monotonic) where this process starts with what it watches, else that of the running local stack, else
    the first sign of the deployment on record. ``broker`` is a Redis client with timeouts.
    """

    settings: Settings
    interval_seconds: float
    broker: Broker | None = None
    begun: float | None = None
    _is_away: bool = field(default=False, init=False)
    """Whether the database did not answer when it was asked last."""
    _back_at: dt.datetime | None = field(default=None, init=False)
    """When it was found to answer again, by its own clock."""
    _outage: Outage = field(init=False)

    def __post_init__(self) -> None:
        self._outage = Outage(self.settings.home)

    def run(self, only: Collection[str] = tuple(CHECKS)) -> Report:
        """Run the checks, these only, and record nothing. Never raises: what cannot run is CRITICAL with its reason."""
        timestamp = dt.datetime.now(dt.UTC)
        url = self.settings.database_url
        if url is None:
            reason, problem = _NO_DATABASE, f"DATABASE_URL is not set and no local stack runs on {self.settings.home}"
        else:
            engine = open_single(url, idle_seconds=IDLE_SECONDS)
            try:
                scene = bounded.call(lambda: self._look_around(engine))
                return Report(scene.now, self.settings.env, _judge_all(only, scene))
            except Exception as trouble:
                self.miss_database()
                known = _SENTENCES.get(_sqlstate(trouble))
                reason, problem = known or _NO_DATABASE, known or f"{_NO_DATABASE} ({_reason(trouble)})"
        findings = [
            broker_finding(self.broker)
            if name == "broker"
            else _cannot_run(name, problem if name == "database" else reason)
            for name in CHECKS
            if name in only
        ]
        return Report(timestamp, self.settings.env, findings)

    def miss_database(self) -> None:
        """The database did not answer: whoever is silent when it does again is given the time to speak."""
        self._is_away = True

    def watch(self) -> Report:
        """Run all checks and record what changed, its alerts included; without PostgreSQL, tell so at once. Never raises."""
        began = time.monotonic()
        report = self.run()
        log.info("sentinel ran", status=report.status.value, alerts=[finding.check for finding in report.alerts])
        database = next(finding for finding in report.findings if finding.check == "database")
        webhook = self._webhook()
        if database.level is Level.CRITICAL:
            self._outage.tell(database, self.settings, webhook)
            return report
        engine = open_single(self.settings.require_database_url(), idle_seconds=IDLE_SECONDS)
        took = round((time.monotonic() - began) * 1000)
        try:
            bounded.call(lambda: self._outage.end(engine, self.settings.env))
            bounded.call(lambda: record(engine, report, duration_ms=took))
        except (SQLAlchemyError, TimeoutError) as trouble:
            log.error("sentinel could not record", problem=_reason(trouble))
            self._outage.tell(
                _cannot_run("database", f"the run could not be recorded: {_reason(trouble)}"), self.settings, webhook
            )
        return report

    def deliver(self) -> None:
        """Send the alerts that wait. Takes about a minute at most, however the webhook behaves. Never raises."""
        webhook, url = self._webhook(), self.settings.database_url
        if webhook is None or url is None:
            return
        try:
            engine = open_single(url, idle_seconds=IDLE_SECONDS)
            discord.deliver(engine, webhook, runbook_url=self.settings.runbook_url)
        except SQLAlchemyError as trouble:
            log.warning("alerts wait for the database", problem=_reason(trouble))

    def _webhook(self) -> discord.Webhook | None:
        """None where none is set, or where it is one to which no alert may go: the check of that name says so."""
        try:
            return discord.webhook_of(self.settings)
        except discord.WebhookError as problem:
            log.error("no alert can be sent", problem=str(problem))
            return None

    def _look_around(self, engine: Engine) -> Scene:
        with engine.connect() as connection:
            now = watch.clock(connection)
            last = _on_record(engine, sentinel.last_run, None)
            known_start = self._known_start(now)
            begun = known_start or _on_record(engine, sentinel.first_sign_at, _LONG_AGO)
            if self._is_away:
                self._is_away, self._back_at = False, now
            return Scene(
                settings=self.settings,
                engine=engine,
                connection=connection,
                now=now,
                started_at=begun or now,
                start_is_known=known_start is not None,
                answers_since=self._back_at,
                grace_seconds=2 * self.interval_seconds,
                broker=self.broker,
                schema_cache=self._schema_cache(),
                local_disk_free_percent=disk.free_percent(self.settings),
                previous={} if last is None else last.findings,
            )

    def _known_start(self, now: dt.datetime) -> dt.datetime | None:
        if self.begun is not None:
            return now - dt.timedelta(seconds=time.monotonic() - self.begun)
        stack = read_run_file(self.settings.run_file).get("started_at")
        if isinstance(stack, str):
            return dt.datetime.fromisoformat(stack)
        return None

    def _schema_cache(self) -> SchemaCache | None:
        if self.settings.postgrest_url is None:
            return None
        return SchemaCache(self.settings.postgrest_url, self.settings.database_direct_url)


def _on_record(engine: Engine, ask: Callable[[Connection], Found], otherwise: Found) -> Found:
    """What it gives; ``otherwise`` where somebody else's lock is on a table that it needs. The checks that need it say so."""
    try:
        with engine.begin() as connection:
            connection.execute(text(f"SET LOCAL statement_timeout = '{_GLANCE_SECONDS:g}s'"))
            return ask(connection)
    except SQLAlchemyError as trouble:
        if _sqlstate(trouble) != _CANCELLED:
            raise
        return otherwise


def _judge_all(only: Collection[str], scene: Scene) -> list[Finding]:
    """Each check's finding. Raises what the database does where it has ceased to answer: then none of them tells anything."""
    findings = []
    for name, check in CHECKS.items():
        if name in only:
            finding = _judge(name, check, scene)
            if finding.details.get("cannot_run"):
                bounded.call(lambda: _ask(scene.engine))
            findings.append(finding)
    return findings


def _ask(engine: Engine) -> None:
    with engine.connect() as connection:
        watch.clock(connection)


def _judge(name: str, check: Check, scene: Scene) -> Finding:
    def work() -> Finding:
        with scene.engine.begin() as connection:
            connection.execute(text(f"SET LOCAL statement_timeout = '{_STATEMENT_SECONDS:g}s'"))
            return check(dataclasses.replace(scene, connection=connection))

    try:
        return bounded.call(work)
    except Exception as problem:
        before = scene.previous.get(name, {}).get("details", {})
        return _cannot_run(name, _reason(problem), {NEXT: before[NEXT]} if NEXT in before else {})


def _cannot_run(check: str, reason: str, kept: Mapping[str, Any] | None = None) -> Finding:
    return Finding(check, Level.CRITICAL, f"Cannot run: {reason}", {"cannot_run": True, **(kept or {})})


def _sqlstate(problem: Exception) -> str:
    return getattr(getattr(problem, "orig", None), "sqlstate", None) or ""


def _reason(problem: Exception) -> str:
    """In words where they are our own; else only the kind: a text of others may hold data or a password."""
    if isinstance(problem, CannotRunError | discord.WebhookError):
        return str(problem)
    if isinstance(problem, TimeoutError):
        return f"no answer within {bounded.LONGEST_SECONDS:g}s"
    sqlstate = _sqlstate(problem)
    return f"{type(problem).__name__}{f', SQLSTATE {sqlstate}' if sqlstate else ''}"


if __name__ == "__main__":
    from monitoring.command import main

    main()
