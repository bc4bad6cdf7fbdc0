"""Judgments: what stands, and the file, batch and row it came from."""

from __future__ import annotations

from typing import Any

from app.api import cursors
from app.api.blueprints import Blueprint
from app.api.fields import MAX_ID
from app.api.parts import parts
from app.api.schemas import JudgmentItem, JudgmentQuery, paged
from app.store import pages

blueprint = Blueprint("judgments", __name__, url_prefix="/api/v1/judgments", description="What stands")

_JUDGMENTS = "judgments"


@blueprint.route("", methods=["GET"])
@blueprint.arguments(JudgmentQuery, location="query")
@blueprint.response(200, paged(JudgmentItem))
@blueprint.refuses()
def index(query: dict[str, Any]) -> Any:
    """List judgments with their lineage, newest first"""
    before = cursors.read_number(_JUDGMENTS, query.pop("cursor"), most=MAX_ID)
    with parts().engine.connect() as connection:
        page = pages.judgments_page(connection, before=before, **query)
    cursor = None if page.next_key is None else cursors.write(_JUDGMENTS, page.next_key)
    return {"items": [dict(row) for row in page.items], "next_cursor": cursor}
