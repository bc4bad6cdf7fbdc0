"""The OpenAPI document and the routes are the same thing said twice."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
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
        if rule.endpoint.split(".")[0] != "dashboard"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert documented == routed


def test_every_operation_that_needs_a_key_says_so_and_how_it_refuses(anonymous: FlaskClient) -> None:
    document = anonymous.get("/api/openapi.json").get_json()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            is_open = path in ("/healthz", "/readyz", "/api/openapi.json", "/api/docs") or (method, path) == (
                "post",
                "/api/v1/session",
            )
            assert (operation.get("security") == []) is is_open, path
            assert operation["operationId"], path
            assert operation["summary"], path
            if not is_open:
                assert {"400", "401", "422", "429", "500", "503"} <= operation["responses"].keys(), path


def test_a_key_and_a_session_s_cookie_are_documented_and_so_is_the_refusal_of_a_change_without_its_token(
    anonymous: FlaskClient,
) -> None:
    document = anonymous.get("/api/openapi.json").get_json()
    assert document["security"] == [{"key": []}, {"session": []}]
    schemes = document["components"]["securitySchemes"]
    assert (schemes["session"]["in"], schemes["session"]["name"]) == ("cookie", "dragonfly_session")
    assert schemes["key"]["scheme"] == "bearer"
    for path, item in document["paths"].items():
        for method in item.keys() - {"parameters"}:
            assert ("403" in item[method]["responses"]) is (method != "get"), (method, path)


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
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    assert f"'sha256-{b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert "style=" not in page


def test_the_reference_page_is_the_document_s() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m app.api.reference > docs/reference/api.md"
