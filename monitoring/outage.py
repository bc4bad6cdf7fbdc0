"""When PostgreSQL itself is gone: the alert goes straight to Discord, and a file in the home remembers what was told."""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import structlog
from sqlalchemy import Engine

from app.settings import Settings
from monitoring import discord
from monitoring.recording import REMINDER, record_outage
from monitoring.report import Finding, Level

log = structlog.get_logger()

_FILE = "sentinel.json"
_LOCK_SECONDS, _GLANCE_SECONDS = 60.0, 0.1
"""Longer than an alert takes to be sent, and tried again."""


class Outage:
    """The outage that the sentinels of one home have met; the processes of a home take turns."""

    def __init__(self, home: Path) -> None:
        self._path = home / _FILE

    def tell(self, finding: Finding, settings: Settings, webhook: discord.Webhook | None) -> None:
        """Send the alert, once, and a reminder every hour. Never raises."""
        now = dt.datetime.now(dt.UTC)
        try:
            with self._opened() as file:
                known = _read(file)
                if known is None:
                    known = {"since": now.isoformat(), "told_at": None, "finding": finding.as_json()}
                    _write(file, known)
                told_at = known["told_at"]
                if webhook is None or (told_at and now - dt.datetime.fromisoformat(told_at) < REMINDER):
                    return
                sent = discord.send_directly(
                    webhook,
                    finding,
                    kind="reminder" if told_at else "raised",
                    environment=settings.env,
                    happened_at=now,
                    unhealthy_since=dt.datetime.fromisoformat(known["since"]),
                    runbook_url=settings.runbook_url,
                )
                if sent:
                    _write(file, {**known, "told_at": now.isoformat()})
        except OSError as problem:
            log.error("outage not kept", problem=type(problem).__name__)

    def end(self, engine: Engine, environment: str) -> None:
        """PostgreSQL answers: put an outage that was met on record. Raises SQLAlchemyError: then it stays to be recorded."""
        if not self._path.exists():
            return
        try:
            with self._opened() as file:
                known = _read(file)
                if known is not None:
                    kept = known["finding"]
                    record_outage(
                        engine,
                        environment=environment,
                        finding=Finding(kept["check"], Level(kept["level"]), kept["message"], kept["details"]),
                        since=dt.datetime.fromisoformat(known["since"]),
                        told=known["told_at"] is not None,
                    )
                self._path.unlink(missing_ok=True)
        except OSError as problem:
            log.error("outage not recorded", problem=type(problem).__name__)

    @contextmanager
    def _opened(self) -> Iterator[IO[str]]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            _lock(file)
            yield file


def _lock(file: IO[str]) -> None:
    """Raises TimeoutError where whoever has the lock neither ends nor gives up: another process, or a call left behind."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(_GLANCE_SECONDS)
        else:
            return


def _read(file: IO[str]) -> dict[str, Any] | None:
    file.seek(0)
    try:
        found = json.load(file)
    except ValueError:
        # Empty when new; damaged by a crash, it tells no more than that there was an outage.
        return None
    return found if isinstance(found, dict) else None


def _write(file: IO[str], known: dict[str, Any]) -> None:
    file.seek(0)
    file.truncate()
    json.dump(known, file)
    file.flush()
    os.fsync(file.fileno())
