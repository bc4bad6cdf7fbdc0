"""The web application put together from its parts; nothing is read from the environment here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flask import Flask
from sqlalchemy import Engine

from app.api import (
    auth,
    batches,
    body,
    dashboard,
    docs,
    headers,
    health,
    judgments,
    ops,
    parts,
    problems,
    row_errors,
    server,
    sessions,
    state,
    uploads,
)
from app.api.blueprints import Api
from app.api.capacity import Slots
from app.api.fields import IdConverter
from app.api.session_cookie import COOKIE, SessionCookies, utc_now
from app.settings import Settings
from app.store.blobs import Blobs, open_blobs
from app.store.database import open_engine
from monitoring.collector import FiguresCollector

WEB_THREADS = 32
"""The threads of the web server; uploads take at most three quarters of them."""
_POOL_SIZE = WEB_THREADS
"""One for each thread: receiving a file holds a connection while an object store copies it."""
_IDLE_SECONDS = 600.0
"""So long the database waits for a web server that stands still; an object store may take minutes over a large file."""
_OPEN_BLUEPRINTS = frozenset({"health", "docs", "sessions", "dashboard"})
"""They need no key; that of the sessions looks at the cookie by itself."""
_STEADFAST_BLUEPRINTS = frozenset({"metrics"})
"""They answer while the database does not."""
_DESCRIPTION = (
    "Takes vendor exports of court judgments in and tells what became of every row. "
    "Send the key as 'Authorization: Bearer <key>'. A browser sends the cookie that it got by signing in instead, and with "
    "every call but GET and HEAD the session's csrf_token in the header X-CSRF-Token. A refusal is a Problem with a code of the catalogue below."
)


def open_connections(settings: Settings) -> Engine:
    """The web server's connections. Raises SettingsError where DATABASE_URL is not set."""
    return open_engine(settings.require_database_url(), pool_size=_POOL_SIZE, idle_seconds=_IDLE_SECONDS)


def create_app(
    settings: Settings,
    enqueue: parts.Enqueue,
    *,
    engine: Engine | None = None,
    blobs: Blobs | None = None,
    broker_state: Callable[[], bool] | None = None,
    queue_lengths: Callable[[], Mapping[str, int]] | None = None,
    tell_of_upload: parts.TellOfUpload = lambda *_, **__: None,
    web_threads: int = WEB_THREADS,
    body_window_seconds: float = body.WINDOW_SECONDS,
    built: Path = dashboard.BUILT,
    now: Callable[[], dt.datetime] = utc_now,
) -> Flask:
    """The application.

    ``enqueue`` hands a batch on and never blocks; ``broker_state`` says within a moment whether the broker answers, and
    ``queue_lengths`` how many messages wait in each queue; it raises where the broker does not answer. ``tell_of_upload``
    is told of every upload that was taken.
    ``body_window_seconds`` is the time over which a body has to keep its pace. ``built`` is the folder of the built front
    end, ``now`` the clock by which sessions expire. Raises SettingsError where sessions could not be signed.
    """
    app = Flask("app.api", static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.url_map.converters["id"] = IdConverter
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config.update(
        API_TITLE="Dragonfly",
        API_VERSION=_version(),
        OPENAPI_VERSION="3.0.3",
        API_SPEC_OPTIONS={
            "info": {"description": _DESCRIPTION},
            "components": {
                "securitySchemes": {
                    "key": {"type": "http", "scheme": "bearer"},
                    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                }
            },
            "security": [{"key": []}, {"session": []}],
        },
    )
    own = parts.Parts(
        settings=settings,
        engine=engine or open_connections(settings),
        blobs=open_blobs(settings.storage) if blobs is None else blobs,
        enqueue=enqueue,
        upload_slots=Slots(max(1, web_threads * 3 // 4)),
        tell_of_upload=tell_of_upload,
        sessions=SessionCookies(settings.require_secret_key(), now),
    )
    parts.install(app, own)
    metrics = health.Metrics(
        FiguresCollector(
            own.engine, worker_silent_seconds=settings.sentinel_worker_seconds, queue_lengths=queue_lengths
        )
    )
    health.install(app, broker_state=broker_state, metrics=metrics)
    headers.install(app)
    # The order is the rule: count, watch the pace, ask for the key (and so for the database), then read the body.
    metrics.watch(app)
    body.watch_pace(app, body_window_seconds)
    auth.require_key(app, own.engine, _OPEN_BLUEPRINTS, auth.FailureLimit(), steadfast=_STEADFAST_BLUEPRINTS)
    body.read_small_bodies(app, frozenset({uploads.STREAMED_ENDPOINT}))
    problems.register(app)
    dashboard.install(app, built)
    app.register_blueprint(dashboard.blueprint)
    api = Api(app)
    api.document_ids()
    docs.install(app, api)
    for noun in (
        sessions.blueprint,
        server.blueprint,
        uploads.blueprint,
        batches.blueprint,
        row_errors.blueprint,
        judgments.blueprint,
        state.blueprint,
        ops.blueprint,
        health.blueprint,
        health.metrics_blueprint,
        docs.blueprint,
    ):
        api.register_blueprint(noun)
    return app


def _version() -> str:
    try:
        return version("dragonfly")
    except PackageNotFoundError:
        return "0"
