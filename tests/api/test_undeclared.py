"""What a call does not declare it does not take: parameters, members of a body, a second value."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

BATCHES = "/api/v1/intake/batches"
ONE_ID = "00000000-0000-0000-0000-000000000000"


def calls_of(app: Flask) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, address and documentation of every call that the OpenAPI document has."""
    for path, item in app.extensions["dragonfly.api"].spec.to_dict()["paths"].items():
        address = path.replace("{batch_id}", ONE_ID).replace("{error_id}", "1")
        for method in item.keys() - {"parameters"}:
            yield method.upper(), address, item[method]


def test_no_call_takes_a_parameter_that_it_does_not_declare(api: Flask, signed_in: FlaskClient) -> None:
    asked = [(method, path) for method, path, _ in calls_of(api) if path.startswith("/api/v1/")]
    assert len(asked) > 18
    for method, path in asked:
        response = signed_in.open(path, method=method, query_string={"colour": "red", "limit": "5"})
        assert (response.status_code, response.get_json()["code"]) == (422, "INVALID_FIELD"), (method, path)
        assert response.get_json()["errors"]["colour"] == ["Unknown field."]


def test_no_call_takes_a_parameter_twice(api: Flask, client: FlaskClient) -> None:
    asked = 0
    for method, path, operation in calls_of(api):
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query":
                asked += 1
                query = [(parameter["name"], value) for value in ("1", "1")]
                response = client.open(path, method=method, query_string=query)
                assert (response.status_code, response.get_json()["code"]) == (422, "INVALID_FIELD"), (method, path)
                assert response.get_json()["errors"] == {parameter["name"]: ["Given more than once."]}
    assert asked > 15


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/api/openapi.json", "/api/docs", "/batches"])
def test_what_is_no_call_of_the_data_looks_at_no_parameter(client: FlaskClient, path: str) -> None:
    plain, asked = client.get(path), client.get(f"{path}?colour=red&colour=blue")
    assert asked.status_code == plain.status_code != 422


def test_the_form_s_fields_in_the_address_are_refused_and_no_batch_is_made(
    client: FlaskClient, sent: Any, engine: Engine
) -> None:
    response = client.post("/api/v1/intake/upload?force=true", data={"file": (io.BytesIO(b"a,b\r\n"), "a.csv")})
    assert (response.status_code, response.get_json()["errors"]) == (422, {"force": ["Unknown field."]})
    assert sent.batches == []
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM intake.batches")) == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 202, None),
        (b"{}", 202, None),
        (b'{"reason": "late"}', 422, "INVALID_FIELD"),
        (b"[]", 422, "INVALID_FIELD"),
        (b"null", 422, "INVALID_FIELD"),
        (b"{", 400, "MALFORMED_REQUEST"),
        (b"[" * 100_000, 400, "MALFORMED_REQUEST"),
    ],
)
def test_a_call_without_a_body_takes_an_empty_one_at_most(
    signed_in: FlaskClient, stored: Any, body: bytes, status: int, code: str | None
) -> None:
    batch = stored.batch()
    response = signed_in.post(f"{BATCHES}/{batch}/cancel", data=body, content_type="application/json")
    assert (response.status_code, response.get_json().get("code")) == (status, code)
    shown = signed_in.get(f"{BATCHES}/{batch}").get_json()["status"]
    assert shown == ("cancelled" if status == 202 else "uploaded")
    response = signed_in.delete("/api/v1/session", data=body, content_type="application/json")
    assert response.status_code == (204 if status == 202 else status)
