"""What goes in and out of the API, one marshmallow schema each; the OpenAPI document is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Length, OneOf, Range

from app.api.fields import CanonicalUuid, FileHash, PlainText, StrictBoolean, UtcTime, WholeNumber
from app.batch import DEFAULT_ERROR_THRESHOLD_PERCENT, DEFAULT_PRIORITY, DEFAULT_SOURCE, PRIORITIES, SOURCES, State
from app.errors import ROW_CODES
from app.judgment import EARLIEST_DATE, JudgmentSchema

MAX_LIMIT = 1000
DEFAULT_LIMIT = 50
_LONGEST_CURSOR = 300
_LENGTH = Length(min=1, max=1000)
_STATES = tuple(state.value for state in State)


def _doc(text: str, **more: Any) -> dict[str, Any]:
    return {"description": text, **more}


class Strict(Schema):
    """A request: an unknown field is refused."""

    class Meta:
        unknown = RAISE


class Paged(Strict):
    """What every list takes."""

    limit = WholeNumber(
        load_default=DEFAULT_LIMIT,
        validate=Range(1, MAX_LIMIT, error=f"Must be from 1 to {MAX_LIMIT:,}."),
        metadata=_doc("The most items of a page."),
    )
    cursor = PlainText(longest=_LONGEST_CURSOR, load_default=None, metadata=_doc("The next_cursor of the page before."))


class ProblemSchema(Schema):
    """RFC 9457 problem details; the catalogue's code says which."""

    type = fields.String(required=True, metadata=_doc("Where the code is documented."))
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True, metadata=_doc("What was found and what to do."))
    code = fields.String(required=True, metadata=_doc("A code of the error catalogue."))
    errors = fields.Dict(
        keys=fields.String(), values=fields.List(fields.String()), metadata=_doc("Which fields break which rules.")
    )
    batch_status = fields.String(metadata=_doc("Where the batch stands, when that is the reason."))


class UploadForm(Strict):
    """The text fields beside an upload's file."""

    source = fields.String(
        load_default=DEFAULT_SOURCE,
        validate=OneOf(SOURCES, error=f"Must be one of {', '.join(SOURCES)}."),
        metadata=_doc("Who sent the file."),
    )
    error_threshold_percent = WholeNumber(
        load_default=DEFAULT_ERROR_THRESHOLD_PERCENT,
        validate=Range(0, 100, error="Must be from 0 to 100."),
        metadata=_doc("Above this share of invalid rows the batch fails."),
    )
    force = fields.Boolean(load_default=False, metadata=_doc("Make a new batch even of bytes that are known."))
    priority = fields.String(
        load_default=DEFAULT_PRIORITY,
        validate=OneOf(PRIORITIES, error=f"Must be one of {', '.join(PRIORITIES)}."),
        metadata=_doc("Which queue the batch waits in."),
    )


class UploadDocument(UploadForm):
    """The whole form, as it is documented."""

    file = fields.Raw(required=True, metadata=_doc("The vendor's CSV file.", type="string", format="binary"))


class ReceiptSchema(Schema):
    """What an upload became."""

    batch_id = fields.UUID(required=True, attribute="batch.id")
    filename = fields.String(required=True, attribute="batch.filename")
    file_hash = fields.String(required=True, attribute="batch.file_hash", metadata=_doc("SHA-256, in hex."))
    status = fields.Enum(State, by_value=True, required=True, attribute="batch.status")
    is_duplicate = fields.Boolean(
        required=True, metadata=_doc("These bytes were known: the batch is the first one made of them.")
    )


class ProgressSchema(Schema):
    """How far the present attempt has come."""

    rows_processed = fields.Integer(required=True)
    bytes_processed = fields.Integer(required=True)
    bytes_total = fields.Integer(required=True)


class BatchSchema(Schema):
    """One batch, as a person may see it."""

    batch_id = fields.UUID(required=True)
    filename = fields.String(required=True)
    source = fields.String(required=True, validate=OneOf(SOURCES))
    file_hash = fields.String(required=True)
    forced = fields.Boolean(required=True)
    first_batch_id = fields.UUID(required=True, allow_none=True)
    file_size_bytes = fields.Integer(required=True)
    status = fields.Enum(State, by_value=True, required=True)
    state_since = UtcTime(required=True)
    priority = fields.String(required=True, validate=OneOf(PRIORITIES))
    error_threshold_percent = fields.Integer(required=True)
    rejection_code = fields.String(required=True, allow_none=True)
    rejection_reason = fields.String(required=True, allow_none=True)
    rows_processed = fields.Integer(required=True)
    bytes_processed = fields.Integer(required=True)
    row_count_total = fields.Integer(required=True)
    row_count_valid = fields.Integer(required=True)
    row_count_invalid = fields.Integer(required=True)
    row_count_inserted = fields.Integer(required=True)
    row_count_duplicate = fields.Integer(required=True)
    row_count_conflict = fields.Integer(
        required=True, metadata=_doc("Duplicates that differ from the row that stands.")
    )
    parse_duration_ms = fields.Integer(required=True, allow_none=True)
    db_duration_ms = fields.Integer(required=True, allow_none=True)
    reading = fields.Dict(keys=fields.String(), required=True, metadata=_doc("How the file was read."))
    first_judgment_id = fields.Integer(required=True, allow_none=True)
    last_judgment_id = fields.Integer(required=True, allow_none=True)
    attempts = fields.Integer(required=True)
    created_at = UtcTime(required=True)
    created_by = fields.String(required=True, allow_none=True, metadata=_doc("The name of the key."))
    started_at = UtcTime(required=True, allow_none=True)
    completed_at = UtcTime(required=True, allow_none=True)
    error_rate_percent = fields.Float(required=True, allow_none=True)
    rows_per_second = fields.Float(required=True, allow_none=True)
    progress = fields.Nested(ProgressSchema, required=True)


class BatchQuery(Paged):
    """Which batches to list."""

    status = fields.String(load_default=None, validate=OneOf(_STATES, error=f"Must be one of {', '.join(_STATES)}."))
    source = fields.String(load_default=None, validate=OneOf(SOURCES, error=f"Must be one of {', '.join(SOURCES)}."))
    file_hash = FileHash(
        load_default=None, metadata=_doc("SHA-256 of the file, in lower-case hex.", pattern=FileHash.FORM)
    )
    q = PlainText(
        longest=255, load_default=None, metadata=_doc("Part of a file name, or the beginning of an id or a hash.")
    )


class RetryBody(Strict):
    """How to try a failed batch again."""

    error_threshold_percent = fields.Integer(
        strict=True,
        load_default=None,
        validate=Range(0, 100, error="Must be from 0 to 100."),
        metadata=_doc("A new error budget; without one the old one stays."),
    )


class RowErrorSchema(Schema):
    """One row that was refused."""

    id = fields.Integer(required=True)
    row_index = fields.Integer(required=True, metadata=_doc("The data row, from 0 on."))
    row_number = fields.Integer(required=True, allow_none=True, metadata=_doc("The row as a spreadsheet counts it."))
    line_number = fields.Integer(required=True, allow_none=True, metadata=_doc("The file's line, from 1 on."))
    error_code = fields.String(required=True)
    error_message = fields.String(required=True)
    error_stage = fields.String(required=True, validate=OneOf(("parse", "validate", "upsert")))
    raw_data = fields.Dict(required=True, allow_none=True, metadata=_doc("Header to cell, as it came."))
    faulty_columns = fields.List(
        fields.String(),
        required=True,
        metadata=_doc("The keys in raw_data of the cells that break a rule; the row stands under the first one's."),
    )
    created_at = UtcTime(required=True)
    resolved_at = UtcTime(required=True, allow_none=True)
    resolved_by = fields.String(required=True, allow_none=True)
    resolution_notes = fields.String(required=True, allow_none=True)


class RowErrorQuery(Paged):
    """Which row errors to list."""

    error_code = fields.String(load_default=None, validate=OneOf(ROW_CODES, error="Must be a row code."))


class CsvQuery(Strict):
    """How to write the cells."""

    raw = fields.Boolean(load_default=False, metadata=_doc("Leave cells that a spreadsheet would calculate."))


class ResolutionBody(Strict):
    """What became of a row error."""

    resolved = StrictBoolean(required=True, metadata=_doc("true resolves the error, false reopens it."))
    resolution_notes = PlainText(
        longest=2000, load_default=None, allow_none=True, metadata=_doc("Why; without it, what was noted before stays.")
    )


class ConflictSchema(Schema):
    """A duplicate that differs from the row that stands."""

    row_index = fields.Integer(required=True)
    case_number = fields.String(required=True)
    kept_batch_id = fields.UUID(required=True)
    kept_row_index = fields.Integer(required=True)
    fields_ = fields.Dict(
        data_key="fields", attribute="fields", required=True, metadata=_doc("Field to [kept value, refused value].")
    )


class JudgmentItem(Schema):
    """One judgment and the row it came from."""

    id = fields.Integer(required=True)
    case_number = fields.String(required=True)
    plaintiff_name = fields.String(required=True, allow_none=True)
    defendant_name = fields.String(required=True)
    judgment_amount = fields.Decimal(as_string=True, required=True, metadata=_doc("US dollars.", type="string"))
    judgment_date = fields.Date(required=True, allow_none=True)
    court = fields.String(required=True, allow_none=True)
    county = fields.String(required=True, allow_none=True)
    batch_id = fields.UUID(required=True)
    filename = fields.String(required=True)
    file_hash = fields.String(required=True)
    row_index = fields.Integer(required=True)
    line_number = fields.Integer(required=True, allow_none=True)
    created_at = UtcTime(required=True)
    updated_at = UtcTime(required=True)


class CaseNumberFilter(PlainText):
    """A case number in any spelling that the row contract takes, brought into its one form."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            return JudgmentSchema(today=EARLIEST_DATE).fields["case_number"].deserialize(text)
        except ValidationError:
            # The contract's own words repeat the cell, which has no place in the answer to a bad request.
            raise ValidationError("Must be a case number as the row contract takes it.") from None


class JudgmentQuery(Paged):
    """Which judgments to list."""

    case_number = CaseNumberFilter(
        longest=500, load_default=None, metadata=_doc("In any spelling that the row contract takes.")
    )
    batch_id = CanonicalUuid(load_default=None, metadata=_doc("Those that this batch inserted.", format="uuid"))


class WaitingSchema(Schema):
    """The unfinished batches in one state."""

    status = fields.Enum(State, by_value=True, required=True)
    count = fields.Integer(required=True)
    oldest_age_seconds = fields.Float(required=True, allow_none=True)


class WorkerSchema(Schema):
    """A worker that has been seen."""

    name = fields.String(required=True)
    host = fields.String(required=True)
    pid = fields.Integer(required=True)
    queues = fields.List(fields.String(), required=True)
    concurrency = fields.Integer(required=True)
    version = fields.String(required=True)
    broker_seen_at = UtcTime(required=True, allow_none=True)
    started_at = UtcTime(required=True)
    last_seen_at = UtcTime(required=True)
    seen_seconds_ago = fields.Float(required=True)


class IntakeStateSchema(Schema):
    """How the intake stands."""

    backlog = fields.List(fields.Nested(WaitingSchema), required=True)
    workers = fields.List(fields.Nested(WorkerSchema), required=True)
    last_failure = fields.Nested(BatchSchema, required=True, allow_none=True)


class SignInBody(Strict):
    """What somebody signs in with: one of the two."""

    key = fields.String(load_default=None, validate=_LENGTH, metadata=_doc("An API key."))
    token = fields.String(load_default=None, validate=_LENGTH, metadata=_doc("The token of a sign-in link."))

    @validates_schema
    def one_of_the_two(self, data: Mapping[str, Any], **_: Any) -> None:
        if (data["key"] is None) == (data["token"] is None):
            raise ValidationError("Send one of the two.", "key")


class SessionSchema(Schema):
    """A browser that has signed in."""

    name = fields.String(required=True, metadata=_doc("The name of the key."))
    csrf_token = fields.String(
        required=True, metadata=_doc("Goes into the header X-CSRF-Token of every call but GET and HEAD.")
    )
    expires_at = UtcTime(required=True)


class ServerSchema(Schema):
    """What a front end has to know of this server beforehand."""

    version = fields.String(required=True)
    environment = fields.String(required=True, validate=OneOf(("dev", "prod")))
    max_upload_bytes = fields.Integer(required=True, metadata=_doc("The largest file taken."))
    default_error_threshold_percent = fields.Integer(
        required=True, metadata=_doc("The error budget of an upload that names none.")
    )
    flower_url = fields.String(required=True, allow_none=True, metadata=_doc("Where Flower is, if that is known."))


class LivenessSchema(Schema):
    """The process answers."""

    status = fields.String(required=True, validate=OneOf(("ok",)))


class ReadinessSchema(Schema):
    """What the application depends on; the broker is reported and not required."""

    status = fields.String(required=True, validate=OneOf(("ready",)))
    database = fields.String(required=True)
    storage = fields.String(required=True)
    broker = fields.String(required=True)


def paged(item: type[Schema], **more: fields.Field[Any]) -> type[Schema]:
    """The schema of a page of these items."""
    members: Mapping[str, Any] = {
        "items": fields.List(fields.Nested(item), required=True),
        "next_cursor": fields.String(
            required=True,
            allow_none=True,
            validate=Length(max=_LONGEST_CURSOR),
            metadata=_doc("null on the last page."),
        ),
        **more,
    }
    name = f"{item.__name__.removesuffix('Schema').removesuffix('Item')}Page"
    return type(name, (Schema,), {"__doc__": f"One page of {name.removesuffix('Page')} items.", **members})
