"""The state of the intake: backlog, workers, last failure."""

from __future__ import annotations

from typing import Any

from app.api.blueprints import Blueprint
from app.api.parts import parts
from app.api.schemas import IntakeStateSchema
from app.api.shapes import batch_shape
from app.store import backlog

blueprint = Blueprint("state", __name__, url_prefix="/api/v1/intake", description="How the intake stands")


@blueprint.route("/state", methods=["GET"])
@blueprint.response(200, IntakeStateSchema)
@blueprint.refuses()
def show() -> Any:
    """Show what waits, who works and what failed last"""
    with parts().engine.connect() as connection:
        found = backlog.intake_state(connection)
    return {
        "backlog": found.backlog,
        "workers": [dict(row) for row in found.workers],
        "last_failure": None if found.last_failure is None else batch_shape(found.last_failure),
    }
