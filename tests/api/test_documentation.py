"""The OpenAPI document and the routes are the same thing said twice."""

from __future__ import annotations

import re
from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient

from app.api.reference import reference
from app.errors import CATALOGUE


def test_every_route_is_documented_and_every_documented_path_is_routed(api: Flask, anonymous: FlaskClient) -> None:
    document = anonymous.get("/api/openapi.json").get_json()
    documented = {
        (path, method.upper()) for path, item in document["paths"].items() for method in item if method != "parameters"
    }
    routed = {
        (re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", rule.rule), method)
        for rule in api.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert documented == routed


def test_every_operation_that_needs_a_key_says_so_and_how_it_refuses(anonymous: FlaskClient) -> None:
    document = anonymous.get("/api/openapi.json").get_json()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            is_open = path in ("/healthz", "/readyz", "/api/openapi.json", "/api/docs")
            assert (operation.get("security") == []) is is_open, path
            assert operation["operationId"], path
            assert operation["summary"], path
            if not is_open:
                assert {"400", "401", "422", "429", "500", "503"} <= operation["responses"].keys(), path


def test_problems_are_documented_as_problem_json(anonymous: FlaskClient) -> None:
    document = anonymous.get("/api/openapi.json").get_json()
    assert set(document["components"]["responses"]["UNAUTHORIZED"]["content"]) == {"application/problem+json"}


def test_every_reference_of_the_document_leads_somewhere(anonymous: FlaskClient) -> None:
    response = anonymous.get("/api/openapi.json")
    document = response.get_json()
    for path in set(re.findall(r'"\$ref":\s*"#/([^"]+)"', response.get_data(as_text=True))):
        found = document
        for part in path.split("/"):
            found = found[part]
        assert found


def test_the_upload_form_is_documented_field_by_field(anonymous: FlaskClient) -> None:
    document = anonymous.get("/api/openapi.json").get_json()
    body = document["paths"]["/api/v1/intake/upload"]["post"]["requestBody"]["content"]["multipart/form-data"]
    form = document["components"]["schemas"][body["schema"]["$ref"].rsplit("/", 1)[1]]
    assert set(form["properties"]) == {"file", "source", "error_threshold_percent", "force", "priority"}
    assert form["properties"]["file"]["format"] == "binary"
    assert form["required"] == ["file"]


def test_the_readable_page_shows_every_call_and_code_and_loads_nothing_from_elsewhere(anonymous: FlaskClient) -> None:
    document = anonymous.get("/api/openapi.json").get_json()
    response = anonymous.get("/api/docs")
    page = response.get_data(as_text=True)
    for path, item in document["paths"].items():
        assert path in page
        for method, operation in item.items():
            if method != "parameters":
                assert f'id="{operation["operationId"]}"' in page
    for code in CATALOGUE:
        assert f'id="{code}"' in page
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", page)
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


def test_the_reference_page_is_the_document_s() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m app.api.reference > docs/reference/api.md"
