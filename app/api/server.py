"""The server itself: what a front end has to know of it before it sends a file."""

from __future__ import annotations

from typing import Any

from flask import current_app

from app.api.blueprints import Blueprint
from app.api.parts import parts
from app.api.schemas import ServerSchema
from app.batch import DEFAULT_ERROR_THRESHOLD_PERCENT

blueprint = Blueprint("server", __name__, url_prefix="/api/v1/server", description="Limits and addresses")


@blueprint.route("", methods=["GET"])
@blueprint.response(200, ServerSchema)
@blueprint.refuses()
def show() -> Any:
    """Show the server's version, its limits, and where Flower is"""
    settings = parts().settings
    return {
        "version": current_app.config["API_VERSION"],
        "environment": settings.env,
        "max_upload_bytes": settings.max_upload_bytes,
        "default_error_threshold_percent": DEFAULT_ERROR_THRESHOLD_PERCENT,
        "flower_url": settings.flower_url,
    }
