from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient


def test_health_needs_no_key(anonymous: FlaskClient) -> None:
    assert anonymous.get("/healthz").get_json() == {"status": "ok"}
