"""Composition root of the web server: ``gunicorn app.wsgi:app``."""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uuid import UUID

    from flask import Flask

_BROKER_PATIENCE_SECONDS = 0.5


def build() -> Flask:
    """The application with everything that the settings name. Raises SettingsError, StorageError."""
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
    from redis.retry import Retry

    from app import logs, pause
    from app.api.application import create_app, open_connections
    from app.settings import Settings
    from app.store import hinting
    from monitoring.tracing import open_tracing
    from tasks.app import QUEUES, configure
    from tasks.hints import Hinter

    settings = Settings.load()
    logs.configure(settings.env)
    pause.use(settings.pause_folder)
    engine = open_connections(settings)

    def forget_hint(batch_id: UUID) -> None:
        with engine.begin() as connection:
            hinting.forget_hint(connection, batch_id)

    hinter = Hinter(configure(settings), dropped=forget_hint)
    broker = Redis.from_url(
        settings.require_redis_url(),
        socket_timeout=_BROKER_PATIENCE_SECONDS,
        socket_connect_timeout=_BROKER_PATIENCE_SECONDS,
        # Tried once: retries would take longer than whoever asks has time.
        retry=Retry(NoBackoff(), 0),
    )

    def broker_answers() -> bool:
        try:
            return bool(broker.ping())
        except (RedisError, OSError):
            return False

    def queue_lengths() -> dict[str, int]:
        with broker.pipeline(transaction=False) as pipeline:
            for queue in QUEUES:
                pipeline.llen(queue)
            return dict(zip(QUEUES, pipeline.execute(), strict=True))

    traced: dict[str, Any] = {}
    tracing = open_tracing(settings.otel_endpoint, service="dragonfly-web", environment=settings.env)
    if tracing is not None:
        atexit.register(tracing.close)
        traced = {"tell_of_upload": tracing.uploaded}
    return create_app(
        settings,
        hinter.enqueue,
        engine=engine,
        broker_state=broker_answers,
        queue_lengths=queue_lengths,
        **traced,
    )


def __getattr__(name: str) -> Any:
    # Built when the server asks for it, in the process that answers: importing this module touches nothing, and no
    # connection is carried over a fork.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    built = globals()["app"] = build()
    return built
