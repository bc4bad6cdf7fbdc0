"""The HTTP API: parses, calls one function of the intake or the store, and shapes the answer."""

from app.api.application import create_app

__all__ = ["create_app"]
