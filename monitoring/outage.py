"""When PostgreSQL itself is gone: the alert goes straight to Discord, and a file in the home remembers what was told.

Where that file cannot be used, the process itself remembers: an alert is worth more than its memory.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

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


@dataclass(frozen=True, slots=True)
class _Known:
    """An outage as it was met first, and when it was told last."""

    since: dt.datetime
    told_at: dt.datetime | None
    finding: Finding


class Outage:
    """The outage that the sentinels of one home have met; the processes of a home take turns."""

    def __init__(self, home: Path) -> None:
        self._path = home / _FILE
        self._unkept: _Known | None = None
        """What this process knows and no file keeps."""

    def tell(self, finding: Finding, settings: Settings, webhook: discord.Webhook | None) -> None:
        """Send the alert, once, and a reminder every hour. Never raises."""
        now = dt.datetime.now(dt.UTC)
        known = self._unkept
        try:
            with self._opened() as file:
                known = _later(_read(file), known) or _Known(now, None, finding)
                _write(file, known)
                known = _told(known, finding, settings, webhook, now)
                _write(file, known)
                self._unkept = None
        except OSError as problem:
            log.error("outage not kept", problem=type(problem).__name__)
            # What was sent before the file failed is not sent again.
            self._unkept = _told(known or _Known(now, None, finding), finding, settings, webhook, now)

    def end(self, engine: Engine, environment: str) -> None:
        """PostgreSQL answers: put an outage that was met on record. Raises SQLAlchemyError: then it stays to be recorded."""
        known = self._unkept
        try:
            if self._path.exists():
                with self._opened() as file:
                    known = _later(_read(file), known)
                    _record(engine, environment, known)
                    # Emptied first: it may be one that cannot be removed.
                    file.truncate(0)
                    self._path.unlink(missing_ok=True)
                    known = None
        except OSError as problem:
            log.error("outage not recorded", problem=type(problem).__name__)
        _record(engine, environment, known)
        self._unkept = None

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


def _told(
    known: _Known, finding: Finding, settings: Settings, webhook: discord.Webhook | None, now: dt.datetime
) -> _Known:
    """Tell it if that is due; what is known then."""
    is_due = known.told_at is None or not dt.timedelta(0) <= now - known.told_at < REMINDER
    if webhook is None or not is_due:
        return known
    sent = discord.send_directly(
        webhook,
        finding,
        kind="raised" if known.told_at is None else "reminder",
        environment=settings.env,
        happened_at=now,
        unhealthy_since=known.since,
        runbook_url=settings.runbook_url,
    )
    return replace(known, told_at=now) if sent else known


def _later(kept: _Known | None, known: _Known | None) -> _Known | None:
    """Of the file and of this process, whichever knows of the later alert."""
    found = [one for one in (kept, known) if one is not None]
    return max(found, key=lambda one: (one.told_at is not None, one.told_at or one.since), default=None)


def _record(engine: Engine, environment: str, known: _Known | None) -> None:
    """Once it is on record, doing so again changes nothing."""
    if known is not None:
        record_outage(
            engine,
            environment=environment,
            finding=known.finding,
            since=known.since,
            told=known.told_at is not None,
        )


def _read(file: IO[str]) -> _Known | None:
    file.seek(0)
    try:
        found = json.load(file)
        kept = found["finding"]
        known = _Known(
            _moment(found["since"]),
            None if found["told_at"] is None else _moment(found["told_at"]),
            Finding(str(kept["check"]), Level(kept["level"]), str(kept["message"]), dict(kept["details"])),
        )
    except (ValueError, TypeError, LookupError):
        # Empty when new; damaged by a crash or by hand, it tells no more than that there was an outage.
        return None
    return known


def _moment(written: str) -> dt.datetime:
    """Raises ValueError, TypeError where it is none."""
    moment = dt.datetime.fromisoformat(written)
    if moment.tzinfo is None:
        raise ValueError
    return moment


def _write(file: IO[str], known: _Known) -> None:
    file.seek(0)
    file.truncate()
    json.dump(
        {
            "since": known.since.isoformat(),
            "told_at": None if known.told_at is None else known.told_at.isoformat(),
            "finding": known.finding.as_json(),
        },
        file,
    )
    file.flush()
    os.fsync(file.fileno())
