"""The API's documentation: the OpenAPI document, and the same as one page to read that loads nothing from elsewhere."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Any

from flask import Flask, Response, current_app, jsonify, render_template

from app.api.blueprints import Api, Blueprint
from app.errors import CATALOGUE

blueprint = Blueprint("docs", __name__, url_prefix="/api", description="This documentation, open to all")

_METHODS = ("get", "post", "put", "patch", "delete")


def install(app: Flask, api: Api) -> None:
    """Show this Api's document."""
    app.extensions["dragonfly.api"] = api


@blueprint.route("/openapi.json", methods=["GET"])
@blueprint.response(200, {"type": "object"})
@blueprint.refuses(500, open_to_all=True)
def openapi() -> Response:
    """The OpenAPI document"""
    return jsonify(_document())


@blueprint.route("/docs", methods=["GET"])
@blueprint.response(200, {"type": "string"}, content_type="text/html")
@blueprint.refuses(500, open_to_all=True)
def page() -> Response:
    """The documentation as a page"""
    document = _document()
    style = render_template("api_docs.css")
    html = render_template(
        "api_docs.html",
        document=document,
        operations=operations(document),
        schemas=document["components"]["schemas"],
        codes=CATALOGUE.values(),
    )
    response = Response(html, content_type="text/html; charset=utf-8")
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
    )
    return response


def _document() -> dict[str, Any]:
    found: dict[str, Any] = current_app.extensions["dragonfly.api"].spec.to_dict()
    return found


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every operation with all it takes, references resolved."""
    found = []
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                operation = item[method]
                parameters = [*item.get("parameters", ()), *operation.get("parameters", ())]
                body = operation.get("requestBody", {}).get("content", {})
                found.append({**operation, "path": path, "method": method, "parameters": parameters, "body": body})
    return found
