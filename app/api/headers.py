"""What every answer tells a browser: how it may be read, framed and kept."""

from __future__ import annotations

from flask import Flask, Response, request

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "worker-src 'self'",
    )
)
"""Of every page that has none of its own: nothing from elsewhere, and nothing that stands in the page itself, is run."""
_DATA = "/api/v1/"


def install(app: Flask) -> None:
    """Put the headers on every answer of the application, refusals too."""

    def add(response: Response) -> Response:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        if response.mimetype == "text/html":
            response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        if request.path.startswith(_DATA):
            # Rows of people: no browser and no proxy keeps a copy.
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    app.after_request(add)
