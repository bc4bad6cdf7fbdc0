"""How the built front end is served: pages, assets, what a browser is told about them, and what stays the API's."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine
from werkzeug.test import TestResponse

from app.api import create_app
from app.api.headers import CONTENT_SECURITY_POLICY
from app.settings import Settings
from app.store.blobs import Blobs

INDEX = b'<!doctype html><title>Dragonfly</title><script type="module" src="/assets/index-Ab12.js"></script>'
SCRIPT = b"console.log('the front end');\n" * 50
KEY = {"Authorization": "Bearer the-key-of-these-tests-0123456789"}
PERSON = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PROGRAM = {"Accept": "application/json, */*"}
PAGES = ("/", "/batches", "/batches/6f2c", "/judgments", "/judgments/CV-1/2024", "/ops", "/sign-in", "/sign-in?x=1")


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder as the build leaves it, with a secret beside it."""
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_bytes(INDEX)
    (folder / "favicon.svg").write_bytes(b"<svg/>")
    (folder / ".stamp").write_bytes(b"stamp")
    (folder / "assets" / "index-Ab12.js").write_bytes(SCRIPT)
    (folder / "assets" / "index-Cd34.css").write_bytes(b"body{}")
    (folder / "assets" / "mono-Ef56.woff2").write_bytes(b"font")
    (folder / "assets" / ".hidden.js").write_bytes(b"hidden")
    (tmp_path / "secrets.json").write_bytes(b"secret")
    (folder / "assets" / "out.js").symlink_to(tmp_path / "secrets.json")
    return folder


@pytest.fixture
def api(settings: Settings, sent: Any, engine: Engine, blobs: Blobs, built: Path) -> Flask:
    """The application with a built front end."""
    return create_app(settings, sent.enqueue, engine=engine, blobs=blobs, built=built)


@pytest.fixture
def browser(api: Flask) -> FlaskClient:
    """A client that nobody has signed in with."""
    return FlaskClient(api)


def is_problem(response: TestResponse, status: int = 404) -> bool:
    return (response.status_code, response.content_type) == (status, "application/problem+json")


class TestPages:
    @pytest.mark.parametrize("path", PAGES)
    @pytest.mark.parametrize("headers", [PERSON, PROGRAM, {}])
    def test_a_page_is_the_front_end_s_and_needs_no_key(
        self, browser: FlaskClient, path: str, headers: dict[str, str]
    ) -> None:
        response = browser.get(path, headers=headers)
        assert (response.status_code, response.data) == (200, INDEX)
        assert response.content_type == "text/html; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"

    def test_a_page_is_not_sent_again_while_it_is_the_same(self, browser: FlaskClient, built: Path) -> None:
        tag = browser.get("/").headers["ETag"]
        again = browser.get("/batches", headers={"If-None-Match": tag})
        assert (again.status_code, again.data) == (304, b"")
        (built / "index.html").write_bytes(b"<!doctype html>rebuilt")
        rebuilt = browser.get("/", headers={"If-None-Match": tag})
        assert (rebuilt.status_code, rebuilt.data) == (200, b"<!doctype html>rebuilt")

    def test_a_page_rebuilt_to_the_same_length_is_seen_too(self, browser: FlaskClient, built: Path) -> None:
        before = browser.get("/").headers["ETag"]
        (built / "index.html").write_bytes(INDEX[::-1])
        os.utime(built / "index.html", ns=(1, 1))
        assert browser.get("/").headers["ETag"] != before

    @pytest.mark.parametrize("path", ["/", "/batches/6f2c", "/assets/index-Ab12.js"])
    def test_head_tells_the_same_without_the_body(self, browser: FlaskClient, path: str) -> None:
        got, head = browser.get(path), browser.head(path)
        assert (head.status_code, head.data) == (200, b"")
        for name in ("Content-Length", "Content-Type", "ETag", "Cache-Control", "Content-Security-Policy"):
            assert head.headers[name] == got.headers[name]

    @pytest.mark.parametrize("path", ["/", "/batches", "/sign-in", "/assets/index-Ab12.js"])
    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
    def test_a_page_takes_nothing(self, browser: FlaskClient, method: str, path: str) -> None:
        assert is_problem(browser.open(path, method=method), 405)

    def test_an_address_that_nobody_knows_shows_a_person_the_front_end_and_tells_a_program(
        self, browser: FlaskClient
    ) -> None:
        shown = browser.get("/nothing/here", headers=PERSON)
        assert (shown.status_code, shown.data) == (404, INDEX)
        assert shown.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
        for headers in (PROGRAM, {}, {"Accept": "text/html;q=0, */*"}):
            assert is_problem(browser.get("/nothing/here", headers=headers))
        assert is_problem(browser.post("/nothing/here", headers=PERSON))

    def test_a_failure_of_a_page_is_logged_without_its_address(
        self, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr("app.api.dashboard._content", fail)
        assert is_problem(browser.get("/judgments/CV-2024-17"), 500)
        written = "".join(capfd.readouterr())
        assert "RuntimeError" in written
        assert "CV-2024-17" not in written

    def test_the_query_and_the_host_change_nothing(self, browser: FlaskClient) -> None:
        response = browser.get("/batches?q=%3Cscript%3E", headers={**PERSON, "Host": "evil.example"})
        assert response.data == INDEX
        assert "evil" not in str(response.headers)


class TestTheApi:
    @pytest.mark.parametrize(
        "path",
        [
            "/api",
            "/api/",
            "/api/nothing",
            "/api/v1",
            "/api/v1/nothing",
            "/api/v1/intake/nothing",
            "/assets",
            "/assets/",
        ],
    )
    def test_below_it_a_person_is_told_by_a_problem_too(self, browser: FlaskClient, path: str) -> None:
        assert is_problem(browser.get(path, headers=PERSON))
        assert is_problem(browser.get(path, headers={**PERSON, **KEY}))

    @pytest.mark.parametrize("path", ["/api/v1/intake/batches", "/api/v1/judgments", "/metrics"])
    def test_its_own_refusals_stay_problems_for_a_person(self, browser: FlaskClient, path: str) -> None:
        assert is_problem(browser.get(path, headers=PERSON), 401)
        one = "/api/v1/intake/batches/00000000-0000-0000-0000-000000000000"
        assert is_problem(browser.get(one, headers={**PERSON, **KEY}))

    def test_health_is_what_it_was(self, browser: FlaskClient) -> None:
        assert browser.get("/healthz", headers=PERSON).get_json() == {"status": "ok"}


class TestAssets:
    def test_an_asset_is_kept_for_ever(self, browser: FlaskClient) -> None:
        response = browser.get("/assets/index-Ab12.js")
        assert (response.status_code, response.data) == (200, SCRIPT)
        assert response.content_type == "text/javascript; charset=utf-8"
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert browser.get("/assets/index-Cd34.css").content_type == "text/css; charset=utf-8"

    def test_it_is_packed_for_who_unpacks_it(self, browser: FlaskClient) -> None:
        plain = browser.get("/assets/index-Ab12.js", headers={"Accept-Encoding": "br, gzip;q=0"})
        packed = browser.get("/assets/index-Ab12.js", headers={"Accept-Encoding": "br, gzip"})
        assert ("Content-Encoding" in plain.headers, packed.headers["Content-Encoding"]) == (False, "gzip")
        assert gzip.decompress(packed.data) == plain.data == SCRIPT
        assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
        assert plain.headers["ETag"] != packed.headers["ETag"]
        font = browser.get("/assets/mono-Ef56.woff2", headers={"Accept-Encoding": "gzip"})
        assert (font.data, "Content-Encoding" in font.headers) == (b"font", False)

    @pytest.mark.parametrize(
        "name",
        [
            "gone.js",
            "../../secrets.json",
            "..%2f..%2fsecrets.json",
            "%2e%2e/%2e%2e/secrets.json",
            "..\\..\\secrets.json",
            "/etc/passwd",
            "%2fetc%2fpasswd",
            "x/../../index.html",
            "out.js",
            ".hidden.js",
            "index-Ab12.js%00.css",
            "%00",
            "",
            ".",
            "%ff",
            "a" * 5000,
        ],
    )
    def test_nothing_else_of_the_machine_is_served(self, browser: FlaskClient, name: str) -> None:
        response = browser.get(f"/assets/{name}", headers=PERSON)
        assert is_problem(response), (response.status_code, response.data[:100])
        assert b"secret" not in response.data

    def test_what_lies_beside_the_page_is_served_and_asked_for_again(self, browser: FlaskClient) -> None:
        icon = browser.get("/favicon.svg")
        assert (icon.status_code, icon.data, icon.content_type) == (200, b"<svg/>", "image/svg+xml")
        assert icon.headers["Cache-Control"] == "no-cache"
        for hidden in ("/.stamp", "/..", "/%2e%2e%2fsecrets.json", "/secrets.json", "/favicon.svg%00"):
            assert is_problem(browser.get(hidden))


class TestTheBrowserIsTold:
    @pytest.mark.parametrize("path", [*PAGES, "/nothing", "/api/docs", "/assets/index-Ab12.js", "/favicon.svg"])
    def test_what_it_may_run(self, browser: FlaskClient, path: str) -> None:
        response = browser.get(path, headers=PERSON)
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "*" not in policy
        for directive in ("frame-ancestors 'none'", "base-uri 'none'", "form-action "):
            assert directive in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"

    def test_the_policy_of_pages(self, browser: FlaskClient) -> None:
        assert browser.get("/").headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
            "font-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'; worker-src 'self'"
        )

    def test_every_open_address_that_answers_html_has_a_policy(self, api: Flask, browser: FlaskClient) -> None:
        seen = 0
        for rule in api.url_map.iter_rules():
            if "GET" in (rule.methods or ()) and not rule.arguments:
                response = browser.get(rule.rule, headers=PERSON)
                if response.mimetype == "text/html":
                    seen += 1
                    assert "default-src 'none'" in response.headers["Content-Security-Policy"], rule.rule
        assert seen > 4


class TestNotBuilt:
    @pytest.fixture
    def built(self, tmp_path: Path) -> Path:
        """Nothing."""
        return tmp_path / "dist"

    def test_the_page_says_how_to_build_it(self, browser: FlaskClient) -> None:
        for path in ("/", "/batches", "/sign-in"):
            response = browser.get(path, headers=PERSON)
            assert (response.status_code, response.mimetype) == (503, "text/html")
            assert "make install" in response.get_data(as_text=True)
            assert response.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY

    def test_all_else_is_as_ever(self, browser: FlaskClient) -> None:
        assert is_problem(browser.get("/nothing", headers=PERSON))
        assert is_problem(browser.get("/assets/index-Ab12.js", headers=PERSON))
        assert browser.get("/api/docs").status_code == 200
        assert browser.get("/api/v1/judgments", headers=KEY).status_code == 200
