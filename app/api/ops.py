"""What the ops page shows: throughput, errors, trends, how the pipeline stands, and the sentinel."""

from __future__ import annotations

import datetime as dt
from typing import Any

from app.api.blueprints import Blueprint
from app.api.parts import parts
from app.api.problems import invalid
from app.api.schemas_ops import (
    ErrorsSchema,
    HealthSchema,
    PerformanceSchema,
    SentinelQuery,
    SentinelSchema,
    SpanQuery,
    TrendsSchema,
)
from app.store import ops
from app.store.ops import Span

blueprint = Blueprint("ops", __name__, url_prefix="/api/v1/ops", description="What the ops page shows")

LONGEST_DAYS = 92
"""The longest span of figures by hour, and of counted row errors: a quarter of a year."""


@blueprint.route("/performance", methods=["GET"])
@blueprint.arguments(SpanQuery, location="query")
@blueprint.response(200, PerformanceSchema)
@blueprint.refuses()
def performance(query: dict[str, Any]) -> Any:
    """Show throughput and error rate by hour

    A batch counts in the hour of its upload, in UTC. The newest hour comes first; hours without a batch are left out, and
    the first and the last hour hold what lies within the span. Without from and to, the last seven days; at most 92 days.
    """
    with parts().engine.connect() as connection:
        span = _span(query, ops.now(connection))
        return _shown(span, ops.performance(connection, _asked(query, span)))


@blueprint.route("/errors", methods=["GET"])
@blueprint.arguments(SpanQuery, location="query")
@blueprint.response(200, ErrorsSchema)
@blueprint.refuses()
def errors(query: dict[str, Any]) -> Any:
    """Show how often each row code occurred

    The most frequent first. Without from and to, within the last seven days; at most 92 days.
    """
    with parts().engine.connect() as connection:
        span = _span(query, ops.now(connection))
        return _shown(span, ops.error_distribution(connection, _asked(query, span)))


@blueprint.route("/trends", methods=["GET"])
@blueprint.arguments(SpanQuery, location="query")
@blueprint.response(200, TrendsSchema)
@blueprint.refuses()
def trends(query: dict[str, Any]) -> Any:
    """Show error rates by month and by week

    The newest first; weeks and months without a batch are left out, and the first and the last hold what lies within the
    span. Without from and to, of all time.
    """
    with parts().engine.connect() as connection:
        span = Span(query["from_"], query["to"] or ops.now(connection))
        _require_order(span)
        return _shown(span, ops.error_trend(connection, _asked(query, span)))


@blueprint.route("/health", methods=["GET"])
@blueprint.response(200, HealthSchema)
@blueprint.refuses()
def health() -> Any:
    """Show how the pipeline stands

    How many batches are in each state and how old they are, what waits in each priority, and how many workers there are.
    """
    own = parts()
    with own.engine.connect() as connection:
        return {
            "pipeline": ops.pipeline_health(connection),
            "queues": ops.queues(connection),
            "workers": ops.workers(connection, silent_after_seconds=own.settings.sentinel_worker_seconds),
        }


@blueprint.route("/sentinel", methods=["GET"])
@blueprint.arguments(SentinelQuery, location="query")
@blueprint.response(200, SentinelSchema)
@blueprint.refuses()
def sentinel(query: dict[str, Any]) -> Any:
    """Show what the sentinel says

    Its last run, how each check stands and since when, the last changes of state, and the alerts that still wait.
    """
    with parts().engine.connect() as connection:
        return ops.sentinel(connection, flips=query["limit"])


def _span(query: dict[str, Any], now: dt.datetime) -> Span:
    """The span asked for: up to now, and seven days long, unless it says otherwise. Raises ProblemError."""
    end = query["to"] or now
    start = query["from_"] or end - dt.timedelta(hours=ops.LAST_HOURS)
    span = Span(start, end)
    _require_order(span)
    if end - start > dt.timedelta(days=LONGEST_DAYS):
        raise invalid("from", f"Must be at most {LONGEST_DAYS} days before to.")
    return span


def _require_order(span: Span) -> None:
    if span.start is not None and span.start >= span.end:
        raise invalid("from", "Must be before to, which is now where it is not given.")


def _asked(query: dict[str, Any], span: Span) -> Span | None:
    """None where nothing was asked for: then the view itself answers."""
    return None if query["from_"] is None and query["to"] is None else span


def _shown(span: Span, items: ops.Rows) -> dict[str, Any]:
    return {"from_": span.start, "to": span.end, "items": items}
