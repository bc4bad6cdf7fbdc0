"""Whether the process lives, whether it can work, and its numbers for Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, current_app, g, request
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.api.blueprints import Blueprint
from app.api.parts import parts
from app.api.problems import ProblemError
from app.api.schemas import LivenessSchema, ReadinessSchema
from app.store.blobs import StorageError
from monitoring.metrics import REQUEST_SECONDS, REQUESTS

CACHE_SECONDS = 2.0

UP, DOWN, NOT_WATCHED = "up", "down", "not watched"
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

blueprint = Blueprint("health", __name__, description="Liveness and readiness, open to all")
metrics_blueprint = Blueprint("metrics", __name__, description="Numbers for Prometheus")


class Remembered:
    """The answer of a probe, asked again after ``seconds`` at the earliest, and by one thread at a time."""

    def __init__(self, probe: Callable[[], str], seconds: float = CACHE_SECONDS) -> None:
        self._probe = probe
        self._seconds = seconds
        self._asked: float | None = None
        self._answer = ""
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            if self._asked is None or time.monotonic() - self._asked > self._seconds:
                self._answer = self._probe()
                self._asked = time.monotonic()
            return self._answer


class Metrics:
    """Counts requests by method, route and status, never by anything that a client can make up; and shows ``figures``."""

    def __init__(self, figures: Collector) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(figures)
        self._requests = REQUESTS.counter(self.registry)
        self._seconds = REQUEST_SECONDS.histogram(self.registry)

    def watch(self, app: Flask) -> None:
        """Count the application's requests."""

        def begin() -> None:
            g.began = time.perf_counter()

        def count(response: Response) -> Response:
            method = request.method if request.method in _KNOWN_METHODS else "other"
            route = request.url_rule.rule if request.url_rule is not None else "none"
            self._requests.labels(method, route, str(response.status_code)).inc()
            if "began" in g:
                self._seconds.labels(method, route).observe(time.perf_counter() - g.began)
            return response

        app.before_request(begin)
        app.after_request(count)


def install(app: Flask, *, broker_state: Callable[[], bool] | None, metrics: Metrics) -> None:
    """Give the views below what they ask."""

    def storage() -> str:
        try:
            parts_of_app.blobs.check()
        except StorageError:
            return DOWN
        return UP

    def broker() -> str:
        if broker_state is None:
            return NOT_WATCHED
        return UP if broker_state() else DOWN

    parts_of_app = app.extensions["dragonfly"]
    app.extensions["dragonfly.health"] = (Remembered(storage), Remembered(broker))
    app.extensions["dragonfly.metrics"] = metrics


@blueprint.route("/healthz", methods=["GET"])
@blueprint.response(200, LivenessSchema)
@blueprint.refuses(500, open_to_all=True)
def live() -> Any:
    """Say that the process answers"""
    return {"status": "ok"}


@blueprint.route("/readyz", methods=["GET"])
@blueprint.response(200, ReadinessSchema)
@blueprint.refuses(500, 503, open_to_all=True)
def ready() -> Any:
    """Say whether uploads can be taken

    The database and the store of files have to be up; the broker is reported only, for nothing is lost without it.
    """
    storage, broker = current_app.extensions["dragonfly.health"]
    found = {"database": _database(), "storage": storage(), "broker": broker()}
    if found["database"] == DOWN:
        raise ProblemError("DATABASE_UNAVAILABLE", **found)
    if found["storage"] == DOWN:
        raise ProblemError("STORAGE_UNAVAILABLE", **found)
    return {"status": "ready", **found}


@metrics_blueprint.route("/metrics", methods=["GET"])
@metrics_blueprint.response(200, {"type": "string"}, content_type="text/plain")
@metrics_blueprint.refuses()
def show() -> Response:
    """Show the figures of the intake, of the requests and of the process

    They answer within seconds whatever the database does, without its figures if need be.
    """
    metrics = current_app.extensions["dragonfly.metrics"]
    return Response(generate_latest(metrics.registry), content_type=CONTENT_TYPE_LATEST)


def _database() -> str:
    try:
        with parts().engine.connect() as connection:
            connection.execute(select(1))
    except SQLAlchemyError:
        return DOWN
    return UP
