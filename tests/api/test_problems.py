"""Every refusal is a problem document with a code, and none of them tells what it should not."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, exc

from app.api import create_app
from app.errors import CATALOGUE
from app.local.postgres import Postgres
from app.settings import Settings
from app.store.blobs import Blobs
from app.store.database import open_engine

BATCHES = "/api/v1/intake/batches"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing/here", 404, "NOT_FOUND"),
        ("GET", "/api//openapi.json", 404, "NOT_FOUND"),
        ("DELETE", BATCHES, 405, "METHOD_NOT_ALLOWED"),
        ("GET", f"{BATCHES}/00000000-0000-0000-0000-000000000000", 404, "NOT_FOUND"),
        ("GET", f"{BATCHES}/not-a-uuid", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}/00000000000000000000000000000000", 422, "INVALID_FIELD"),
        ("POST", f"{BATCHES}/not-a-uuid/retry", 422, "INVALID_FIELD"),
        ("POST", f"{BATCHES}/00000000-0000-0000-0000-000000000000/cancel", 404, "NOT_FOUND"),
        ("GET", f"{BATCHES}/00000000-0000-0000-0000-000000000000/errors.csv", 404, "NOT_FOUND"),
        ("GET", f"{BATCHES}?limit=1001", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?limit=0", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?limit=ten", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?cursor=garbage", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?cursor=WyJiYXRjaGVzIiwgIngiLCAieSJd", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?cursor=", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?colour=red", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?status=lost", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?source=lost", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?file_hash=abc", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?file_hash={'ab' * 32}%0A", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?file_hash={'AB' * 32}", 422, "INVALID_FIELD"),
        ("GET", "/api/v1/judgments?batch_id=00000000-0000-0000-0000-000000000000%0A", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}/00000000-0000-0000-0000-000000000000%0A", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?limit=1%0A", 422, "INVALID_FIELD"),
        ("GET", "/api/v1/ops/errors?from=2026-05-04T12:00:00Z%0A", 422, "INVALID_FIELD"),
        ("GET", f"{BATCHES}?q=%00", 422, "INVALID_FIELD"),
        ("GET", "/api/v1/judgments?batch_id=x", 422, "INVALID_FIELD"),
        ("GET", "/api/v1/judgments?case_number=", 422, "INVALID_FIELD"),
        ("GET", "/api/v1/judgments?case_number=%E2%80%8B", 422, "INVALID_FIELD"),
        ("GET", f"/api/v1/judgments?case_number={'9' * 101}", 422, "INVALID_FIELD"),
        ("PATCH", "/api/v1/intake/errors/x", 422, "INVALID_FIELD"),
        ("PATCH", "/api/v1/intake/errors/1%0A", 422, "INVALID_FIELD"),
        ("PATCH", "/api/v1/intake/errors/9223372036854775808", 422, "INVALID_FIELD"),
    ],
)
def test_a_refusal_has_the_status_and_code_of_the_catalogue(
    client: FlaskClient, method: str, path: str, status: int, code: str
) -> None:
    body = {"resolved": True} if method == "PATCH" else None
    response = client.open(path, method=method, json=body)
    document = response.get_json()
    assert (response.status_code, document["code"]) == (status, code)
    assert document["status"] == status == CATALOGUE[code].http_status
    assert document["title"] == CATALOGUE[code].sentence
    assert document["type"] == f"/api/docs#{code}"
    assert document["detail"]


def test_a_wrong_method_is_told_the_right_ones(client: FlaskClient) -> None:
    assert "GET" in client.delete(BATCHES).headers["Allow"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[1]", "application/json", 422),
        (b'{"error_threshold_percent": "20"}', "application/json", 422),
        (b'{"error_threshold_percent": 20.5}', "application/json", 422),
        (b'{"error_threshold_percent": true}', "application/json", 422),
        (b'{"error_threshold_percent": 101}', "application/json", 422),
        (b'{"threshold": 20}', "application/json", 422),
        (b'{"error_threshold_percent": 20}', "text/plain", 400),
        (b'{"error_threshold_percent": ' + b" " * 1_100_000 + b"20}", "application/json", 413),
    ],
)
def test_a_json_body_that_breaks_a_rule_is_refused(
    client: FlaskClient, stored: Any, body: bytes, content_type: str, status: int
) -> None:
    response = client.post(f"{BATCHES}/{stored.failed()}/retry", data=body, content_type=content_type)
    assert response.status_code == status


@pytest.mark.parametrize("value", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, f"-{'9' * 5000}", '"\xff', "nul"])
@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "/api/v1/session", "key"),
        ("PATCH", "/api/v1/intake/errors/1", "resolved"),
        ("POST", f"{BATCHES}/00000000-0000-0000-0000-000000000000/retry", "error_threshold_percent"),
    ],
)
def test_json_that_cannot_be_read_is_malformed_whatever_the_reason(
    client: FlaskClient, method: str, path: str, field: str, value: str
) -> None:
    body = f'{{"{field}": {value}}}'.encode("latin-1")
    response = client.open(path, method=method, data=body, content_type="application/json")
    assert (response.status_code, response.get_json()["code"]) == (400, "MALFORMED_REQUEST")
    assert response.get_json()["errors"].keys() == {"json"}


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 4000, '"\\ud800"', '"\\u0000"', "[[[]]]"]
)
@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "/api/v1/session", "key"),
        ("POST", "/api/v1/session", "token"),
        ("PATCH", "/api/v1/intake/errors/1", "resolved"),
        ("PATCH", "/api/v1/intake/errors/1", "resolution_notes"),
        ("POST", f"{BATCHES}/00000000-0000-0000-0000-000000000000/retry", "error_threshold_percent"),
    ],
)
def test_no_value_in_json_is_a_failure_of_ours(
    client: FlaskClient, method: str, path: str, field: str, value: str
) -> None:
    body = f'{{"{field}": {value}}}'
    response = client.open(path, method=method, data=body, content_type="application/json")
    assert response.status_code in (401, 422)


ONE_ID = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    "values",
    [
        ["errors", 2**31],
        ["errors", 2**63],
        ["errors", -2],
        ["errors", 1.5],
        ["errors", True],
        ["errors", "1"],
        ["errors", None],
        ["errors", [1]],
        ["errors", 1, 2],
        ["conflicts", 2**31],
        ["conflicts", -(2**70)],
        ["judgments", 2**63],
        ["judgments", -2],
        ["batches", "10000-01-01T00:00:00+00:00", ONE_ID],
        ["batches", "2026-05-04T12:00:00", ONE_ID],
        ["batches", "infinity", ONE_ID],
        ["batches", 20260504, ONE_ID],
        ["batches", ["2026-05-04T12:00:00+00:00"], ONE_ID],
        ["batches", "2026-05-04T12:00:00+00:00", "\0" * 32],
        ["batches", "2026-05-04T12:00:00+00:00", 1],
        ["batches", "2026-05-04T12:00:00+00:00", None],
        ["bat\0ches", "2026-05-04T12:00:00+00:00", ONE_ID],
    ],
)
def test_a_cursor_that_no_list_gives_out_is_refused(client: FlaskClient, stored: Any, values: list[Any]) -> None:
    batch = stored.failed(row_count_conflict=1)
    lists = {
        "errors": f"{BATCHES}/{batch}/errors",
        "conflicts": f"{BATCHES}/{batch}/conflicts",
        "judgments": "/api/v1/judgments",
    }
    response = client.get(lists.get(values[0], BATCHES), query_string={"cursor": cursor_of(values)})
    assert (response.status_code, response.get_json()["code"]) == (422, "INVALID_FIELD")
    assert response.get_json()["errors"].keys() == {"cursor"}


@pytest.mark.parametrize(
    "values",
    [
        ["errors", 2**31 - 1],
        ["conflicts", 2**31 - 1],
        ["judgments", 2**63 - 1],
        ["batches", "0001-01-01T00:00:00+00:00", ONE_ID],
        ["batches", "9999-12-31T23:59:59.999999+00:00", "ff" * 16],
        ["batches", "0001-01-01T00:00:00+23:59", ONE_ID],
        ["batches", "9999-12-31T23:59:59-23:59", ONE_ID],
        ["batches", "2026-05-04T12:00:00+23:59:59.999999", ONE_ID],
    ],
)
def test_a_cursor_at_the_bounds_of_its_list_leads_to_a_page(
    client: FlaskClient, stored: Any, values: list[Any]
) -> None:
    batch = stored.failed(row_count_conflict=1)
    lists = {
        "errors": f"{BATCHES}/{batch}/errors",
        "conflicts": f"{BATCHES}/{batch}/conflicts",
        "judgments": "/api/v1/judgments",
    }
    assert client.get(lists.get(values[0], BATCHES), query_string={"cursor": cursor_of(values)}).status_code == 200


def cursor_of(values: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def test_the_field_that_breaks_its_rule_is_named(client: FlaskClient) -> None:
    document = client.get(f"{BATCHES}?limit=1001&colour=red").get_json()
    assert set(document["errors"]) == {"limit", "colour"}
    assert "limit: Must be from 1 to 1,000." in document["detail"]


@pytest.fixture
def failing(api: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> Any:
    def fail_with(problem: Exception) -> FlaskClient:
        def refuse(*args: object) -> None:
            raise problem

        monkeypatch.setattr("app.store.batches.get", refuse)
        return client

    return fail_with


SECRET_CELL = "Ada Marlow owes 12,500.00"
ONE_BATCH = f"{BATCHES}/00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (exc.OperationalError("SELECT", {}, psycopg.OperationalError(SECRET_CELL)), 503),
        (exc.InterfaceError("SELECT", {}, psycopg.InterfaceError(SECRET_CELL)), 503),
        (exc.TimeoutError(SECRET_CELL), 503),
        (psycopg.OperationalError(SECRET_CELL), 503),
        (exc.IntegrityError("INSERT", {}, psycopg.IntegrityError(SECRET_CELL)), 500),
        (RuntimeError(SECRET_CELL), 500),
    ],
)
def test_a_failure_of_ours_is_answered_without_its_words_in_answer_or_log(
    failing: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, problem: Exception, status: int
) -> None:
    response = failing(problem).get(ONE_BATCH)
    assert response.status_code == status
    assert response.get_json()["code"] == ("DATABASE_UNAVAILABLE" if status == 503 else "INTERNAL_ERROR")
    assert ("Retry-After" in response.headers) is (status == 503)
    written = "".join(capfd.readouterr())
    assert type(getattr(problem, "orig", None) or problem).__name__ in written
    for text in (response.get_data(as_text=True), written, caplog.text):
        assert "Ada Marlow" not in text


@pytest.fixture
def stopped_engine(api_postgres: Postgres) -> Iterator[Engine]:
    url = api_postgres.url("service_role", "x").replace(str(api_postgres.sockets), "/nonexistent")
    engine = open_engine(url)
    yield engine
    engine.dispose()


def test_without_its_database_the_application_says_so_and_when_to_come_back(
    settings: Settings, sent: Any, blobs: Blobs, stopped_engine: Engine
) -> None:
    app = create_app(settings, sent.enqueue, engine=stopped_engine, blobs=blobs)
    client = app.test_client()
    response = client.post("/api/v1/intake/upload", headers={"Authorization": "Bearer any"}, data=b"x" * 100)
    assert (response.status_code, response.get_json()["code"]) == (503, "DATABASE_UNAVAILABLE")
    assert int(response.headers["Retry-After"]) > 0
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").get_json()["database"] == "down"
