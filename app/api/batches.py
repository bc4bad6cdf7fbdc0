"""Batches: listed, shown, tried again, cancelled; and the duplicates in them that differ."""

from __future__ import annotations

from typing import Any

from app.api import cursors
from app.api.blueprints import Blueprint
from app.api.fields import MAX_ROW_INDEX, parse_uuid
from app.api.parts import find_batch, no_batch, parts
from app.api.problems import ProblemError
from app.api.schemas import BatchQuery, BatchSchema, ConflictSchema, Paged, RetryBody, paged
from app.api.shapes import batch_shape
from app.observer import Change, Why, tell
from app.store import batches, pages

blueprint = Blueprint("batches", __name__, url_prefix="/api/v1/intake/batches", description="What became of files")

_BATCHES, _CONFLICTS = "batches", "conflicts"


@blueprint.route("", methods=["GET"])
@blueprint.arguments(BatchQuery, location="query")
@blueprint.response(200, paged(BatchSchema))
@blueprint.refuses()
def index(query: dict[str, Any]) -> Any:
    """List batches, newest first"""
    before = cursors.read_moment(_BATCHES, query.pop("cursor"))
    limit = query.pop("limit")
    with parts().engine.connect() as connection:
        page = pages.batches_page(connection, pages.BatchFilter(**query), limit=limit, before=before)
    cursor = None if page.next_key is None else cursors.write(_BATCHES, page.next_key[0].isoformat(), page.next_key[1])
    return {"items": [batch_shape(batch) for batch in page.items], "next_cursor": cursor}


@blueprint.route("/<id:batch_id>", methods=["GET"])
@blueprint.response(200, BatchSchema)
@blueprint.refuses(404)
def show(batch_id: str) -> Any:
    """Show a batch"""
    return batch_shape(find_batch(parse_uuid("batch_id", batch_id)))


@blueprint.route("/<id:batch_id>/retry", methods=["POST"])
@blueprint.arguments(RetryBody, location="json", required=False)
@blueprint.response(202, BatchSchema)
@blueprint.refuses(404, 409)
def retry(body: dict[str, Any], batch_id: str) -> Any:
    """Try a failed batch again

    Its counts and row errors are cleared; a new error budget may be given.
    """
    own = parts()
    wanted = parse_uuid("batch_id", batch_id)
    with own.engine.begin() as connection:
        found = batches.hold(connection, wanted)
        batch = batches.retry(connection, wanted, body["error_threshold_percent"])
    if found is None or batch is None:
        raise _not_now(found, "only a failed batch can be tried again")
    tell(Change(batch, found.status, batch.status, Why.RETRIED))
    own.enqueue(batch.id, batch.priority)
    return batch_shape(batch)


@blueprint.route("/<id:batch_id>/cancel", methods=["POST"])
@blueprint.response(202, BatchSchema)
@blueprint.refuses(404, 409)
def cancel(batch_id: str) -> Any:
    """Cancel an unfinished batch"""
    wanted = parse_uuid("batch_id", batch_id)
    with parts().engine.begin() as connection:
        found = batches.hold(connection, wanted)
        batch = batches.cancel(connection, wanted)
    if found is None or batch is None:
        raise _not_now(found, "only an unfinished batch can be cancelled")
    tell(Change(batch, found.status, batch.status, Why.CANCELLED))
    return batch_shape(batch)


@blueprint.route("/<id:batch_id>/conflicts", methods=["GET"])
@blueprint.arguments(Paged, location="query")
@blueprint.response(200, paged(ConflictSchema))
@blueprint.refuses(404)
def conflicts(query: dict[str, Any], batch_id: str) -> Any:
    """List the duplicates that differ from the row that stands"""
    after = cursors.read_number(_CONFLICTS, query["cursor"], most=MAX_ROW_INDEX)
    batch = find_batch(parse_uuid("batch_id", batch_id))
    with parts().engine.connect() as connection:
        page = pages.conflicts_page(connection, batch, limit=query["limit"], after=after)
    cursor = None if page.next_key is None else cursors.write(_CONFLICTS, page.next_key)
    return {"items": [dict(row) for row in page.items], "next_cursor": cursor}


def _not_now(present: batches.Batch | None, rule: str) -> ProblemError:
    if present is None:
        return no_batch()
    return ProblemError("CONFLICT", f"The batch is {present.status.value}; {rule}.", batch_status=present.status.value)
