"""What a check may look at: the database, the broker, and what is known of the stack's start and of the run before."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection, Engine

from app.settings import Settings
from monitoring.report import Level
from monitoring.schema_cache import SchemaCache


class Broker(Protocol):
    """What the sentinel asks of the broker: a Redis client with timeouts has it."""

    def ping(self) -> Any:
        """Raises where the broker does not answer."""

    def llen(self, name: str) -> Any:
        """The length of a queue."""

    def close(self) -> None:
        """End its connections."""


class CannotRunError(Exception):
    """A check cannot run; the message is the reason, in words, without secrets and without rows."""


@dataclass(frozen=True)
class NoBroker:
    """In a broker's place, where its address is none; the reason says what it should be."""

    reason: str

    def ping(self) -> Any:
        raise CannotRunError(self.reason)

    def llen(self, name: str) -> Any:
        raise CannotRunError(self.reason)

    def close(self) -> None:
        """There are none."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a check may look at. ``now`` and ``started_at`` are by the database's clock.

    ``grace_seconds`` after ``started_at``, a check without data is no longer one that waits for them; ``start_is_known``
    where older data are those of an earlier stack. ``answers_since`` is when the database was found to answer again, where
    it was seen not to: nobody could give it a sign of life before. ``previous`` has the findings of the last recorded run,
    by name.
    """

    settings: Settings
    engine: Engine
    connection: Connection
    now: dt.datetime
    started_at: dt.datetime
    grace_seconds: float
    start_is_known: bool = False
    answers_since: dt.datetime | None = None
    broker: Broker | None = None
    schema_cache: SchemaCache | None = None
    local_disk_free_percent: float | None = None
    previous: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def begins(self) -> bool:
        """Whether data that are not there yet may still come."""
        return (self.now - self.started_at).total_seconds() < self.grace_seconds

    def excuses(self, check: str, seconds: float) -> bool:
        """Whether a silence longer than ``seconds`` may be that of the database, and no incident that was there before."""
        if self.answers_since is None or (self.now - self.answers_since).total_seconds() > seconds:
            return False
        return self.previous.get(check, {}).get("level") != Level.CRITICAL.value
