"""A real database, a real store of files, and a client that holds every answer to the OpenAPI document."""

from __future__ import annotations

import datetime as dt
import json
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from app.api import create_app
from app.local.postgres import Postgres
from app.settings import Settings
from app.store import keys
from app.store.blobs import Blobs

KEY = "the-key-of-these-tests-0123456789"
KEY_NAME = "tests"


@pytest.fixture(scope="session")
def api_postgres(postgres_server: Postgres) -> Postgres:
    """The server of the whole run."""
    return postgres_server


@pytest.fixture
def engine(database: Engine, owner_engine: Engine) -> Engine:
    """The application's engine on empty tables with one valid key."""
    with owner_engine.begin() as connection:
        keys.ensure_key(connection, KEY, KEY_NAME)
    return database


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a small upload limit."""
    return Settings(home=tmp_path, storage_url=str(tmp_path / "blobs"), max_upload_bytes=1_000_000)


@dataclass
class Sent:
    """What was enqueued."""

    batches: list[tuple[UUID, str]] = field(default_factory=list)

    def enqueue(self, batch_id: UUID, priority: str) -> None:
        self.batches.append((batch_id, priority))


@pytest.fixture
def sent() -> Sent:
    """The hints that the application gives."""
    return Sent()


@pytest.fixture
def api(settings: Settings, sent: Sent, engine: Engine, blobs: Blobs) -> Flask:
    """The application on real parts."""
    return create_app(settings, sent.enqueue, engine=engine, blobs=blobs)


@pytest.fixture
def anonymous(api: Flask) -> FlaskClient:
    """A client without a key, each of whose answers is held to the OpenAPI document."""
    api.test_client_class = HeldClient
    return api.test_client()


@pytest.fixture
def client(api: Flask) -> FlaskClient:
    """The same with the key."""
    api.test_client_class = HeldClient
    found = api.test_client()
    found.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    return found


@pytest.fixture
def signed_in(api: Flask) -> FlaskClient:
    """A browser that has signed in, and whose pages send the session's CSRF token."""
    api.test_client_class = HeldClient
    found = api.test_client()
    answer = found.post("/api/v1/session", json={"key": KEY})
    assert answer.status_code == 200
    found.environ_base["HTTP_X_CSRF_TOKEN"] = answer.get_json()["csrf_token"]
    return found


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class HeldClient(FlaskClient):
    """Fails a test whose answer the OpenAPI document does not declare, or whose body breaks the declared schema."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        response = super().open(*args, **kwargs)
        hold_to_document(self.application, response)
        return response


def hold_to_document(app: Flask, response: TestResponse) -> None:
    """Assert that the document declares this answer."""
    request = response.request
    if response.mimetype == "text/html":
        assert "default-src 'none'" in response.headers["Content-Security-Policy"], request.path
        assert "unsafe" not in response.headers["Content-Security-Policy"], request.path
    if is_of_the_front_end(app, request.path):
        return
    if response.status_code >= 400:
        assert response.content_type == "application/problem+json", (request.path, response.content_type)
    document = app.extensions["dragonfly.api"].spec.to_dict()
    operation = operation_of(app, document, request.path, request.method)
    if operation is None:
        assert response.status_code in (404, 405, 401), request.path
        return
    declared = operation["responses"].get(str(response.status_code))
    assert declared is not None, f"{request.method} {request.path} answers {response.status_code}, which is undeclared"
    if "$ref" in declared:
        declared = resolve(document, declared["$ref"])
    content = declared.get("content", {})
    if response.status_code == 204:
        assert (response.data, content) == (b"", {})
        return
    found = response.content_type.split(";")[0]
    assert found in content, f"{request.path}: {found} is not among {sorted(content)}"
    if found.endswith("json"):
        check_schema(document, content[found]["schema"], response.get_json(), request.path)


def is_of_the_front_end(app: Flask, path: str) -> bool:
    """Whether a page or an asset is served under this address, which is no call of the API's."""
    try:
        endpoint, _ = app.url_map.bind("localhost").match(path, "GET")
    except HTTPException:
        return False
    return str(endpoint).startswith("dashboard.")


def operation_of(app: Flask, document: dict[str, Any], path: str, method: str) -> dict[str, Any] | None:
    try:
        rule, _ = app.url_map.bind("localhost").match(path, method, return_rule=True)
    except HTTPException:
        return None
    documented = re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", rule.rule)
    return document["paths"].get(documented, {}).get(method.lower())


def resolve(document: dict[str, Any], reference: str) -> dict[str, Any]:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def check_schema(document: dict[str, Any], schema: dict[str, Any], value: Any, at: str) -> None:
    """Assert that the value is what the schema says: enough of JSON Schema for this document."""
    if "$ref" in schema:
        check_schema(document, resolve(document, schema["$ref"]), value, at)
        return
    if "anyOf" in schema:
        # apispec's way of writing a reference that may be null.
        if value is not None:
            check_schema(document, schema["anyOf"][-1], value, at)
        return
    if value is None:
        assert schema.get("nullable"), f"{at} is null"
        return
    for inner in schema.get("allOf", ()):
        check_schema(document, inner, value, at)
    assert value in schema.get("enum", [value]), f"{at} is {value!r}"
    kinds: dict[Any, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
    }
    kind = schema.get("type")
    assert isinstance(value, kinds.get(kind, object)), f"{at} is {type(value).__name__}, not {kind}"
    if isinstance(value, dict) and "properties" in schema:
        missing = set(schema.get("required", ())) - value.keys()
        assert not missing, f"{at} lacks {missing}"
        # A problem may carry further members, as RFC 9457 allows.
        if "code" not in value:
            assert not value.keys() - schema["properties"].keys(), f"{at} has undocumented members"
        for name in schema["properties"].keys() & value.keys():
            check_schema(document, schema["properties"][name], value[name], f"{at}.{name}")
    for place, inner in enumerate(value if isinstance(value, list) else ()):
        check_schema(document, schema["items"], inner, f"{at}[{place}]")


@dataclass(frozen=True)
class Stored:
    """Puts things into the database as a worker would have left them."""

    engine: Engine

    def batch(self, **overrides: Any) -> UUID:
        """A batch; uploaded unless the overrides say otherwise."""
        values = {"filename": "export.csv", "file_hash": uuid4().hex * 2, "created_by": KEY_NAME, **overrides}
        names = ", ".join(values)
        marks = ", ".join(f"CAST(:{name} AS jsonb)" if name == "reading" else f":{name}" for name in values)
        if isinstance(values.get("reading"), dict):
            values["reading"] = json.dumps(values["reading"])
        with self.engine.begin() as connection:
            found = connection.scalar(
                text(f"INSERT INTO intake.batches ({names}) VALUES ({marks}) RETURNING id"), values
            )
        assert isinstance(found, UUID)
        return found

    def failed(self, **overrides: Any) -> UUID:
        """A failed batch."""
        return self.batch(
            **{
                "status": "failed",
                "rejection_code": "ERROR_BUDGET_EXCEEDED",
                "rejection_reason": "Error rate 15.0% exceeded the 10% budget (150 of 1,000 rows)",
                "completed_at": dt.datetime.now(dt.UTC),
                **overrides,
            }
        )

    def completed(self, **overrides: Any) -> UUID:
        """A completed batch."""
        return self.batch(**{"status": "completed", "completed_at": dt.datetime.now(dt.UTC), **overrides})

    def error(self, batch_id: UUID, row_index: int, **overrides: Any) -> int:
        """A row error."""
        values = {
            "batch_id": batch_id,
            "row_index": row_index,
            "row_number": row_index + 2,
            "line_number": row_index + 2,
            "error_code": "INVALID_AMOUNT",
            "error_message": 'judgment_amount: found "x", expected an amount',
            "error_stage": "validate",
            "raw_data": {"Case Number": f"C-{row_index}", "Amount": "x"},
            **overrides,
        }
        values["raw_data"] = json.dumps(values["raw_data"])
        names = ", ".join(values)
        marks = ", ".join(f"CAST(:{name} AS jsonb)" if name == "raw_data" else f":{name}" for name in values)
        with self.engine.begin() as connection:
            found = connection.scalar(
                text(f"INSERT INTO intake.row_errors ({names}) VALUES ({marks}) RETURNING id"), values
            )
        assert isinstance(found, int)
        return found

    def judgments(self, batch_id: UUID, first: int, case_numbers: list[str]) -> None:
        """Judgments of the batch, and the block of ids that it owns."""
        with self.engine.begin() as connection:
            for place, case_number in enumerate(case_numbers):
                connection.execute(
                    text(
                        """
                        INSERT INTO public.judgments
                            (id, case_number, defendant_name, judgment_amount, judgment_date, batch_id, row_index, line_number)
                        VALUES (:id, :case_number, 'Ada Marlow', 1234.5, '2024-01-31', :batch, :row, :line)
                        """
                    ),
                    {
                        "id": first + place,
                        "case_number": case_number,
                        "batch": batch_id,
                        "row": place,
                        "line": place + 2,
                    },
                )
            connection.execute(
                text("UPDATE intake.batches SET first_judgment_id = :first, last_judgment_id = :last WHERE id = :id"),
                {"id": batch_id, "first": first, "last": first + len(case_numbers) - 1},
            )


@pytest.fixture
def stored(engine: Engine) -> Stored:
    """Rows that a test puts in place."""
    return Stored(engine)
