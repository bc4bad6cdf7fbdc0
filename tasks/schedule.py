"""Beat's scheduler: fires only while it holds the one lock, so that two beats never fire both."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import structlog
from celery.beat import PersistentScheduler

from app.store.database import connect
from tasks import process

log = structlog.get_logger()

_BEAT_LOCK = 0x62656174
_STANDBY_SECONDS = 5.0


class SingleScheduler(PersistentScheduler):  # type: ignore[misc]
    """Holds a session advisory lock on DATABASE_DIRECT_URL; without it, it stands by and asks again every 5 s.

    A pooler in transaction mode keeps no session, so a direct connection is required: SettingsError without one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._url = process.settings().require_database_direct_url()
        self._connection: psycopg.Connection[Any] | None = None
        self._told = threading.Event()
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Fire what is due and return the seconds until the next is; on standby fire nothing."""
        if self._holds_the_lock():
            return float(super().tick(*args, **kwargs))
        return _STANDBY_SECONDS

    def close(self) -> None:
        """Give the lock up."""
        super().close()
        if self._connection is not None:
            self._connection.close()

    def _holds_the_lock(self) -> bool:
        try:
            if self._connection is None:
                self._connection = connect(self._url)
                self._connection.autocommit = True
            held = self._connection.execute(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %(lock)s AND granted"
                " AND pid = pg_backend_pid()) OR pg_try_advisory_lock(%(lock)s)",
                {"lock": _BEAT_LOCK},
            ).fetchone()
        except psycopg.Error as trouble:
            log.warning("beat waits for the database", trouble=type(trouble).__name__)
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return False
        if held and held[0]:
            self._told.clear()
            return True
        if not self._told.is_set():
            log.info("another beat is at work: standing by")
            self._told.set()
        return False
