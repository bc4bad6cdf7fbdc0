"""The sentinel: runs the checks, each by itself and within bounds; ``python -m monitoring.sentinel`` is its command."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

import structlog
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from app.settings import Settings, read_run_file
from app.store import sentinel, watch
from app.store.database import open_single
from monitoring import discord, disk
from monitoring.checks import CHECKS, Broker, CannotRunError, Check, Scene, broker_finding
from monitoring.outage import Outage
from monitoring.recording import record
from monitoring.report import Finding, Level, Report
from monitoring.schema_cache import SchemaCache

log = structlog.get_logger()
Found = TypeVar("Found")

CHECK_SECONDS = 25.0
"""A check that takes longer cannot run."""
_STATEMENT_SECONDS = 10
_NO_DATABASE = "PostgreSQL does not answer"


@dataclass(frozen=True, kw_only=True)
class Sentinel:
    """The sentinel of one process.

    ``interval_seconds`` is how often it runs: a check without data is healthy for two of them after the start. The start
    is ``begun`` (time.monotonic) where this process starts with what it watches, else that of the running local stack, else
    the first run on record. ``broker`` is a Redis client with timeouts.
    """

    settings: Settings
    interval_seconds: float
    broker: Broker | None = None
    begun: float | None = None

    def run(self, only: Collection[str] = tuple(CHECKS)) -> Report:
        """Run the checks, these only, and record nothing. Never raises: what cannot run is CRITICAL with its reason."""
        timestamp = dt.datetime.now(dt.UTC)
        scene: Scene | None = None
        problem = ""
        url = self.settings.database_url
        if url is None:
            problem = f"DATABASE_URL is not set and no local stack runs on {self.settings.home}"
        else:
            engine = open_single(url)
            try:
                scene = _bounded(lambda: self._look_around(engine))
            except Exception as trouble:
                problem = f"{_NO_DATABASE} ({_reason(trouble)})"
        if scene is not None:
            seen = scene
            findings = [_judge(name, check, seen) for name, check in CHECKS.items() if name in only]
            return Report(scene.now, self.settings.env, findings)
        findings = [
            broker_finding(self.broker)
            if name == "broker"
            else _cannot_run(name, problem if name == "database" else _NO_DATABASE)
            for name in CHECKS
            if name in only
        ]
        return Report(timestamp, self.settings.env, findings)

    def watch(self) -> Report:
        """Run all checks and record what changed, its alerts included; without PostgreSQL, tell so at once. Never raises."""
        began = time.monotonic()
        report = self.run()
        log.info("sentinel ran", status=report.status.value, alerts=[finding.check for finding in report.alerts])
        database = next(finding for finding in report.findings if finding.check == "database")
        webhook = self._webhook()
        outage = Outage(self.settings.home)
        if database.level is Level.CRITICAL:
            outage.tell(database, self.settings, webhook)
            return report
        engine = open_single(self.settings.require_database_url())
        try:
            outage.end(engine, self.settings.env)
            record(engine, report, duration_ms=round((time.monotonic() - began) * 1000))
        except SQLAlchemyError as trouble:
            log.error("sentinel could not record", problem=_reason(trouble))
            outage.tell(
                _cannot_run("database", f"the run could not be recorded: {_reason(trouble)}"), self.settings, webhook
            )
        return report

    def deliver(self) -> None:
        """Send the alerts that wait. Takes about a minute at most, however the webhook behaves. Never raises."""
        webhook, url = self._webhook(), self.settings.database_url
        if webhook is None or url is None:
            return
        try:
            discord.deliver(open_single(url), webhook, runbook_url=self.settings.runbook_url)
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
            last = sentinel.last_run(connection)
            return Scene(
                settings=self.settings,
                engine=engine,
                connection=connection,
                now=now,
                started_at=self._started_at(now, sentinel.first_run_at(connection)),
                grace_seconds=2 * self.interval_seconds,
                broker=self.broker,
                schema_cache=self._schema_cache(),
                local_disk_free_percent=disk.free_percent(self.settings),
                previous={} if last is None else last.findings,
            )

    def _started_at(self, now: dt.datetime, first_run: dt.datetime | None) -> dt.datetime:
        if self.begun is not None:
            return now - dt.timedelta(seconds=time.monotonic() - self.begun)
        stack = read_run_file(self.settings.run_file).get("started_at")
        if isinstance(stack, str):
            return dt.datetime.fromisoformat(stack)
        return now if first_run is None else first_run

    def _schema_cache(self) -> SchemaCache | None:
        if self.settings.postgrest_url is None:
            return None
        return SchemaCache(self.settings.postgrest_url, self.settings.database_direct_url)


def _judge(name: str, check: Check, scene: Scene) -> Finding:
    def work() -> Finding:
        with scene.engine.begin() as connection:
            connection.execute(text(f"SET LOCAL statement_timeout = '{_STATEMENT_SECONDS}s'"))
            return check(dataclasses.replace(scene, connection=connection))

    try:
        return _bounded(work)
    except Exception as problem:
        return _cannot_run(name, _reason(problem))


def _cannot_run(check: str, reason: str) -> Finding:
    return Finding(check, Level.CRITICAL, f"Cannot run: {reason}", {"cannot_run": True})


def _reason(problem: Exception) -> str:
    """In words where they are our own; else only the kind: a text of others may hold data or a password."""
    if isinstance(problem, CannotRunError | discord.WebhookError):
        return str(problem)
    if isinstance(problem, TimeoutError):
        return f"no answer within {CHECK_SECONDS:g}s"
    sqlstate = getattr(getattr(problem, "orig", None), "sqlstate", None)
    return f"{type(problem).__name__}{f', SQLSTATE {sqlstate}' if sqlstate else ''}"


def _bounded(call: Callable[[], Found]) -> Found:
    """The call's result; TimeoutError where a peer keeps silent for too long. Its thread is left behind then."""
    results: list[Found] = []
    problems: list[Exception] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as problem:
            problems.append(problem)

    thread = threading.Thread(target=work, name="check", daemon=True)
    thread.start()
    thread.join(CHECK_SECONDS)
    if problems:
        raise problems[0]
    if not results:
        raise TimeoutError
    return results[0]


if __name__ == "__main__":
    from monitoring.command import main

    main()
