"""What goes in and out of the ops calls, one marshmallow schema each."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from marshmallow import Schema, fields
from marshmallow.validate import OneOf, Range

from app.api.fields import UtcTime, WholeNumber
from app.api.schemas import DEFAULT_LIMIT, MAX_LIMIT, Strict
from app.batch import PRIORITIES, State

LEVELS = ("HEALTHY", "WARNING", "CRITICAL")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?([Zz]|[+-][0-9]{2}:?[0-9]{2})",
    re.ASCII,
)
_FIRST_YEAR, _LAST_YEAR = 1970, 2999


def _doc(text: str, **more: Any) -> dict[str, Any]:
    return {"description": text, **more}


class Moment(fields.String):
    """A moment in ISO 8601 that says its offset from UTC; handed on in UTC."""

    default_error_messages = {  # noqa: RUF012
        "moment": "Must be a moment in ISO 8601 with Z or an offset, such as 2025-03-09T07:00:00Z (in an address, + is"
        " written %2B).",
        "year": f"Must be a moment from {_FIRST_YEAR} to {_LAST_YEAR}.",
    }

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str) or not _MOMENT.fullmatch(value):
            raise self.make_error("moment")
        try:
            moment = dt.datetime.fromisoformat(value.upper())
        except ValueError:
            raise self.make_error("moment") from None
        if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
            raise self.make_error("year")
        return moment.astimezone(dt.UTC)


class SpanQuery(Strict):
    """Of which span of time the figures are."""

    from_ = Moment(
        data_key="from",
        load_default=None,
        metadata=_doc("Batches and errors from this moment on; ISO 8601 with Z or an offset.", format="date-time"),
    )
    to = Moment(
        load_default=None,
        metadata=_doc(
            "Up to this moment, which is not itself in the span; now where it is not given.", format="date-time"
        ),
    )


class _Span(Schema):
    """The span that the figures are of."""

    from_ = UtcTime(data_key="from", required=True, allow_none=True, metadata=_doc("null: from the beginning on."))
    to = UtcTime(required=True)


class HourSchema(Schema):
    """The batches that were uploaded within one hour."""

    hour_bucket = UtcTime(required=True, metadata=_doc("The beginning of the hour, in UTC."))
    total_batches = fields.Integer(required=True)
    completed_batches = fields.Integer(required=True)
    failed_batches = fields.Integer(required=True)
    avg_parse_ms = fields.Float(required=True, allow_none=True)
    avg_db_ms = fields.Float(required=True, allow_none=True)
    avg_total_ms = fields.Float(required=True, allow_none=True)
    total_rows = fields.Integer(required=True)
    inserted_rows = fields.Integer(required=True)
    skipped_rows = fields.Integer(required=True, metadata=_doc("Duplicates."))
    error_rows = fields.Integer(required=True)
    dedupe_rate_pct = fields.Float(required=True, allow_none=True, metadata=_doc("Of the valid rows."))
    error_rate_pct = fields.Float(required=True, allow_none=True, metadata=_doc("Of all rows."))


class PerformanceSchema(_Span):
    """Throughput and error rate by hour; an hour without a batch is not among the items."""

    items = fields.List(fields.Nested(HourSchema), required=True)


class ErrorCodeSchema(Schema):
    """How often rows were refused with one code."""

    error_code = fields.String(required=True)
    occurrence_count = fields.Integer(required=True)
    affected_batches = fields.Integer(required=True)
    sample_message = fields.String(
        required=True, allow_none=True, metadata=_doc("The catalogue's sentence, never a row's.")
    )
    last_seen_at = UtcTime(required=True)


class ErrorsSchema(_Span):
    """Which row codes occurred, the most frequent first."""

    items = fields.List(fields.Nested(ErrorCodeSchema), required=True)


class TrendItemSchema(Schema):
    """The batches that were uploaded within one week or month."""

    period = fields.String(required=True, validate=OneOf(("week", "month")))
    bucket = UtcTime(required=True, metadata=_doc("Its beginning, in UTC; weeks begin on Monday."))
    batches = fields.Integer(required=True)
    rows = fields.Integer(required=True)
    error_rate_pct = fields.Float(required=True, allow_none=True)


class TrendsSchema(_Span):
    """Error rates by month and by week; what has no batch is not among the items."""

    items = fields.List(fields.Nested(TrendItemSchema), required=True)


class PipelineSchema(Schema):
    """The batches in one state."""

    status = fields.String(required=True, validate=OneOf([state.value for state in State]))
    batch_count = fields.Integer(required=True)
    oldest_batch_at = UtcTime(required=True)
    oldest_age_minutes = fields.Float(required=True)
    newest_batch_at = UtcTime(required=True)


class QueueSchema(Schema):
    """What waits in one priority, by the database, of which the broker's queues are only hints."""

    priority = fields.String(required=True, validate=OneOf(PRIORITIES))
    claimable = fields.Integer(
        required=True, metadata=_doc("Uploaded and due, or left behind by a worker that has fallen silent.")
    )
    backing_off = fields.Integer(required=True, metadata=_doc("Uploaded, and not to be tried again yet."))
    oldest_age_seconds = fields.Float(
        required=True, allow_none=True, metadata=_doc("Since the upload of the oldest claimable one.")
    )


class WorkersSchema(Schema):
    """How many workers there are."""

    alive = fields.Integer(required=True)
    silent = fields.Integer(required=True, metadata=_doc("Not heard of for too long, and not stopped in good order."))
    places = fields.Integer(required=True, metadata=_doc("How many batches the living ones work on at once."))


class HealthSchema(Schema):
    """How the pipeline stands; a state without a batch is not among its states."""

    pipeline = fields.List(fields.Nested(PipelineSchema), required=True)
    queues = fields.List(fields.Nested(QueueSchema), required=True)
    workers = fields.Nested(WorkersSchema, required=True)


class SentinelQuery(Strict):
    """How many flips to show."""

    limit = WholeNumber(
        load_default=DEFAULT_LIMIT,
        validate=Range(1, MAX_LIMIT, error=f"Must be from 1 to {MAX_LIMIT:,}."),
        metadata=_doc("The most flips to show."),
    )


class FindingSchema(Schema):
    """What one check found."""

    check = fields.String(required=True)
    level = fields.String(required=True, validate=OneOf(LEVELS))
    message = fields.String(required=True)
    details = fields.Dict(keys=fields.String(), required=True, metadata=_doc("Its figures."))


class RunSchema(Schema):
    """One run of the sentinel."""

    started_at = UtcTime(required=True)
    age_seconds = fields.Float(required=True)
    duration_ms = fields.Integer(required=True)
    environment = fields.String(required=True)
    host = fields.String(required=True)
    overall_status = fields.String(required=True, validate=OneOf(("healthy", "degraded", "critical")))
    findings = fields.List(fields.Nested(FindingSchema), required=True)


class CheckSchema(Schema):
    """How one check stands."""

    check = fields.String(required=True)
    level = fields.String(required=True, validate=OneOf(LEVELS))
    message = fields.String(required=True)
    since = UtcTime(required=True, allow_none=True, metadata=_doc("null: it has not changed since it first ran."))
    unhealthy_since = UtcTime(required=True, allow_none=True)


class FlipSchema(Schema):
    """One change of a check's state."""

    id = fields.Integer(required=True)
    check = fields.String(required=True)
    level_before = fields.String(required=True, validate=OneOf(LEVELS))
    level_after = fields.String(required=True, validate=OneOf(LEVELS))
    at = UtcTime(required=True)
    unhealthy_since = UtcTime(
        required=True, allow_none=True, metadata=_doc("The beginning of the incident that it is part of.")
    )
    message = fields.String(required=True)
    details = fields.Dict(keys=fields.String(), required=True)


class OutboxSchema(Schema):
    """The alerts that the webhook has not taken."""

    waiting = fields.Integer(required=True)
    oldest_waiting_seconds = fields.Float(required=True, allow_none=True)
    refused = fields.Integer(required=True, metadata=_doc("Refused for good: they wait for another webhook."))
    last_sent_at = UtcTime(required=True, allow_none=True)


class SentinelSchema(Schema):
    """The sentinel's state: its last run, each check, the last changes, its outbox."""

    last_run = fields.Nested(RunSchema, required=True, allow_none=True, metadata=_doc("null: it has never run."))
    checks = fields.List(fields.Nested(CheckSchema), required=True)
    flips = fields.List(fields.Nested(FlipSchema), required=True, metadata=_doc("The newest first."))
    alerts = fields.Nested(OutboxSchema, required=True)
