"""What a process of Dragonfly's own holds: its settings, its database connections, its workshop; made once per process."""

from __future__ import annotations

import importlib
import os
import secrets
import socket

from sqlalchemy import Engine

from app.engine.tuning import tune
from app.formats.csv import Limits
from app.observer import Observer, Observers
from app.settings import Settings
from app.store.blobs import open_blobs
from app.store.database import open_engine
from app.workshop import Workshop
from monitoring import tracing
from monitoring.tally import Tally

_IDLE_SECONDS = 60.0
"""A transaction that waits for its process longer than this is ended by the server; a load is bounded by its lease instead."""

_name = ""
_tally: Tally | None = None
_tracing: tracing.Tracing | None = None
_settings: Settings | None = None
_made: tuple[int, Workshop] | None = None


def begin(settings: Settings) -> None:
    """Called by the composition root, in the main process, before it forks.

    What an attempt would import at its first use is imported here: a pool's child that is forked while a thread of the
    main process imports a module waits for that module for ever.
    """
    global _settings, _name  # noqa: PLW0603
    _settings = settings
    tune()
    importlib.import_module("sqlalchemy.dialects.postgresql.psycopg")
    if settings.otel_endpoint is not None:
        tracing.load()
    # The last part tells containers apart that share a host name and all have process 1.
    _name = f"{socket.gethostname()}/{os.getpid()}-{secrets.token_hex(3)}/"


def settings() -> Settings:
    """The settings that the composition root gave. Raises RuntimeError without one."""
    if _settings is None:
        raise RuntimeError("no composition root has begun this process: start workers with 'celery -A tasks.worker'")
    return _settings


def count_with(tally: Tally) -> None:
    """Called by a worker's composition root, in the main process, before it forks."""
    global _tally  # noqa: PLW0603
    _tally = tally


def repaired(how: str, batches: int = 1) -> None:
    """The reconciler has put so many batches right: ``hinted`` or ``ingested``."""
    if _tally is not None:
        _tally.repaired(how, batches)


def tell_that_it_is_ready() -> None:
    """Create the file, if one is named, for which the supervisor waits."""
    ready_file = settings().ready_file
    if ready_file is not None:
        ready_file.touch()


def worker_prefix() -> str:
    """What the names of all processes of this worker begin with, as they stand in lease_owner."""
    return _name


def workshop() -> Workshop:
    """This process's workshop. Connections are never carried over a fork: a child makes its own."""
    global _made  # noqa: PLW0603
    if _made is None or _made[0] != os.getpid():
        _made = (os.getpid(), _make(settings()))
    return _made[1]


def engine() -> Engine:
    """This process's connections."""
    return workshop().engine


def _make(chosen: Settings) -> Workshop:
    return Workshop(
        # An attempt's settlement, its heartbeat, what it asks meanwhile (two at most), one to spare for the reconciler.
        engine=open_engine(chosen.require_database_url(), pool_size=5, pool_timeout=30, idle_seconds=_IDLE_SECONDS),
        blobs=open_blobs(chosen.storage),
        spool=chosen.spool,
        limits=Limits(max_record_bytes=chosen.max_record_bytes, max_columns=chosen.max_columns),
        lease_seconds=chosen.lease_seconds,
        owner=f"{worker_prefix()}{os.getpid()}",
        observer=_observer(chosen),
    )


def _observer(chosen: Settings) -> Observer:
    """Whoever watches a worker's process; beat, which works on no batch, is not watched."""
    global _tracing  # noqa: PLW0603
    if _tally is None:
        return Observers()
    _tracing = tracing.open_tracing(chosen.otel_endpoint, service="dragonfly-worker", environment=chosen.env)
    return _tally if _tracing is None else Observers(_tally, _tracing)


def close() -> None:
    """The process ends: what it has traced is sent, within moments."""
    if _tracing is not None:
        _tracing.close()
