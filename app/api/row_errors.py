"""Row errors: listed, written as the vendor's own columns, resolved and reopened."""

from __future__ import annotations

from typing import Any

from flask import Response
from marshmallow import fields

from app.api import cursors, error_file
from app.api.auth import caller
from app.api.blueprints import Blueprint
from app.api.fields import MAX_ROW_INDEX, parse_id, parse_uuid
from app.api.parts import find_batch, parts
from app.api.problems import ProblemError
from app.api.schemas import CsvQuery, ResolutionBody, RowErrorQuery, RowErrorSchema, paged
from app.api.shapes import row_error_shape
from app.store import pages, resolutions

blueprint = Blueprint("errors", __name__, url_prefix="/api/v1/intake", description="Rows that were refused")

_ERRORS = "errors"
_CSV = "text/csv; charset=utf-8"


@blueprint.route("/batches/<id:batch_id>/errors", methods=["GET"])
@blueprint.arguments(RowErrorQuery, location="query")
@blueprint.response(200, paged(RowErrorSchema, total=fields.Integer(required=True)))
@blueprint.refuses(404)
def index(query: dict[str, Any], batch_id: str) -> Any:
    """List a batch's row errors, in the file's order"""
    after = cursors.read_number(_ERRORS, query["cursor"], most=MAX_ROW_INDEX)
    batch = find_batch(parse_uuid("batch_id", batch_id))
    code = query["error_code"]
    with parts().engine.connect() as connection:
        page = pages.row_errors_page(connection, batch.id, error_code=code, limit=query["limit"], after=after)
        total = pages.count_row_errors(connection, batch, error_code=code)
    cursor = None if page.next_key is None else cursors.write(_ERRORS, page.next_key)
    return {"items": [row_error_shape(dict(row)) for row in page.items], "next_cursor": cursor, "total": total}


@blueprint.route("/batches/<id:batch_id>/errors.csv", methods=["GET"])
@blueprint.arguments(CsvQuery, location="query")
@blueprint.response(200, {"type": "string"}, content_type="text/csv", description="Every row error, streamed")
@blueprint.refuses(404)
def download(query: dict[str, Any], batch_id: str) -> Response:
    """Download every row error as the vendor's own columns

    UTF-8 with a byte order mark. A cell that a spreadsheet would calculate gets a leading ' unless raw is true.
    """
    batch = find_batch(parse_uuid("batch_id", batch_id))
    lines = error_file.stream(parts().engine, batch, raw=query["raw"])
    response = Response(lines, content_type=_CSV)
    response.headers.set("Content-Disposition", "attachment", **error_file.names_for(batch.filename))
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@blueprint.route("/errors/<string:error_id>", methods=["PATCH"])
@blueprint.arguments(ResolutionBody, location="json")
@blueprint.response(200, RowErrorSchema)
@blueprint.refuses(404)
def resolve(body: dict[str, Any], error_id: str) -> Any:
    """Resolve a row error, or reopen it"""
    wanted = parse_id("error_id", error_id)
    notes = body["resolution_notes"]
    with parts().engine.begin() as connection:
        if body["resolved"]:
            row = resolutions.resolve(connection, wanted, by=caller(), notes=notes)
        else:
            row = resolutions.reopen(connection, wanted, notes=notes)
    if row is None:
        raise ProblemError("NOT_FOUND", "There is no row error with this id.")
    return row_error_shape(dict(row))
