"""Beat's scheduler: fires only while it holds the one lock, so that two beats never fire both."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import structlog
from celery.beat import PersistentScheduler
from sqlalchemy.exc import SQLAlchemyError

from app.store import watch
from app.store.database import connect
from monitoring.checks import BEAT
from tasks import process
from tasks.sentinel import Watch

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
        self._seen = False
        super().__init__(*args, **kwargs)
        self._watch = Watch(self.app)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Fire what is due and return the seconds until the next is; on standby fire nothing.

        The sentinel runs from here as well, even while the database, and with it the lock, cannot be asked.
        """
        held = self._holds_the_lock()
        if held is False:
            self._watch.pause()
        else:
            self._watch.go()
        if held:
            self._show_life()
            return float(super().tick(*args, **kwargs))
        return _STANDBY_SECONDS

    def close(self) -> None:
        """Give the lock up, and with it the sentinel."""
        self._watch.end()
        super().close()
        if self._connection is not None:
            self._connection.close()

    def _show_life(self) -> None:
        try:
            with process.engine().begin() as connection:
                watch.beat(connection, BEAT, begins=not self._seen)
            self._seen = True
        except SQLAlchemyError as trouble:
            log.warning("beat could not show that it lives", trouble=type(trouble).__name__)

    def _holds_the_lock(self) -> bool | None:
        """Whether the lock is ours; None where the database does not say."""
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
            return None
        if held and held[0]:
            self._told.clear()
            return True
        if not self._told.is_set():
            log.info("another beat is at work: standing by")
            self._told.set()
        return False
