"""Signing in with a browser: the cookie, the CSRF token, the link that works once, and how all of them end."""

from __future__ import annotations

import datetime as dt
import re
import threading
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from io import BytesIO
from typing import Any
from uuid import UUID

import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from itsdangerous import URLSafeSerializer
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from app.api import create_app
from app.api.auth import FAILURES_PER_MINUTE
from app.api.session_cookie import COOKIE, SessionCookies
from app.settings import Settings, SettingsError
from app.store import keys, sign_in
from app.store.blobs import Blobs
from tests.conftest import Look

SESSION = "/api/v1/session"
BATCHES = "/api/v1/intake/batches"
UPLOAD = "/api/v1/intake/upload"
KEY = "the-key-of-these-tests-0123456789"
SECRET = "the-secret-of-these-tests-0123456789"
CSV = b"Case Number,Defendant,Amount\r\nC-1,Ada Marlow,10.00\r\n"


@dataclass
class Clock:
    """The web server's clock, for tests to turn."""

    now: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def __call__(self) -> dt.datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(settings: Settings, sent: Any, engine: Engine, blobs: Blobs, clock: Clock) -> Flask:
    """The application with a secret that the tests know, by a clock that they turn."""
    known = Settings(
        home=settings.home,
        storage_url=settings.storage_url,
        max_upload_bytes=settings.max_upload_bytes,
        secret_key=SECRET,
        dragonfly_url="https://dragonfly.example.com",
    )
    return create_app(known, sent.enqueue, engine=engine, blobs=blobs, now=clock)


def morsel_of(response: TestResponse) -> Any:
    (header,) = response.headers.getlist("Set-Cookie")
    return SimpleCookie(header)[COOKIE]


def cookie_of(client: FlaskClient) -> str:
    found = client.get_cookie(COOKIE)
    assert found is not None
    return str(found.value)


def link_token(engine: Engine, key: str = KEY) -> str:
    with engine.begin() as connection:
        found = keys.authenticate(connection, key)
        assert found is not None
        token = sign_in.make_token(connection, found.id)
    assert token is not None
    return token


class TestSigningIn:
    def test_a_key_is_exchanged_for_a_cookie_that_no_script_can_read(self, anonymous: FlaskClient) -> None:
        response = anonymous.post(SESSION, json={"key": KEY})
        assert response.status_code == 200
        cookie = morsel_of(response)
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
        assert (cookie["domain"], cookie["secure"], int(cookie["max-age"])) == ("", "", 12 * 3600)
        assert response.headers["Cache-Control"] == "no-store"
        assert KEY not in response.get_data(as_text=True)
        assert KEY not in cookie.value

    def test_the_answer_says_who_and_until_when(self, anonymous: FlaskClient, clock: Clock) -> None:
        document = anonymous.post(SESSION, json={"key": KEY}).get_json()
        assert document["name"] == "tests"
        expires_at = dt.datetime.fromisoformat(document["expires_at"])
        assert expires_at == clock.now.replace(microsecond=0) + dt.timedelta(hours=12)
        assert anonymous.get(SESSION).get_json() == document

    @pytest.mark.parametrize("address", ["https://localhost", "http://dragonfly.example.com"])
    def test_the_cookie_is_secure_where_the_browser_came_by_https(self, anonymous: FlaskClient, address: str) -> None:
        response = anonymous.post(SESSION, json={"key": KEY}, base_url=address)
        assert morsel_of(response)["secure"] is (True if "example" in address or "https" in address else "")

    def test_the_cookie_stands_in_place_of_the_key(self, signed_in: FlaskClient) -> None:
        for path in (BATCHES, "/api/v1/judgments", "/api/v1/intake/state", "/api/v1/server"):
            assert signed_in.get(path).status_code == 200

    def test_what_is_done_with_it_is_done_in_the_key_s_name(self, signed_in: FlaskClient, look: Look) -> None:
        assert signed_in.post(UPLOAD, data={"file": (BytesIO(CSV), "a.csv")}).status_code == 202
        assert look.rows("SELECT created_by FROM intake.batches") == [("tests",)]
        assert look.rows("SELECT last_used_at IS NOT NULL FROM ops.api_keys") == [(True,)]

    @pytest.mark.parametrize(
        "body", [{"key": "wrong"}, {"token": "wrong"}, {"key": "\ud800"}, {"key": "schl\u00fcssel"}]
    )
    def test_a_wrong_one_is_refused_and_sets_nothing(self, anonymous: FlaskClient, body: dict[str, str]) -> None:
        response = anonymous.post(SESSION, json=body)
        assert (response.status_code, response.get_json()["code"]) == (401, "UNAUTHENTICATED")
        assert "Set-Cookie" not in response.headers

    @pytest.mark.parametrize(
        "body",
        [{}, {"key": KEY, "token": "x"}, {"key": None}, {"key": ""}, {"key": 1}, {"name": "x"}, {"key": "x" * 1001}],
    )
    def test_neither_both_nor_none_is_a_way_to_sign_in(self, anonymous: FlaskClient, body: dict[str, Any]) -> None:
        response = anonymous.post(SESSION, json=body)
        assert (response.status_code, response.get_json()["code"]) == (422, "INVALID_FIELD")
        assert KEY not in response.get_data(as_text=True)

    @pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
    def test_what_a_form_of_another_site_can_send_signs_nobody_in(
        self, anonymous: FlaskClient, content_type: str
    ) -> None:
        response = anonymous.post(SESSION, data=f'{{"key": "{KEY}"}}', content_type=content_type)
        assert response.status_code == 400
        assert "Set-Cookie" not in response.headers

    @pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200)])
    def test_a_page_of_another_site_signs_nobody_in(self, anonymous: FlaskClient, site: str, status: int) -> None:
        response = anonymous.post(SESSION, json={"key": KEY}, headers={"Sec-Fetch-Site": site})
        assert response.status_code == status
        assert ("Set-Cookie" in response.headers) is (status == 200)

    def test_failures_are_limited_and_a_valid_key_always_works(self, anonymous: FlaskClient) -> None:
        bodies = [{"key": f"guess {n}"} if n % 2 else {"token": f"guess {n}"} for n in range(FAILURES_PER_MINUTE)]
        assert {anonymous.post(SESSION, json=body).status_code for body in bodies} == {401}
        limited = anonymous.post(SESSION, json={"key": "one too many"})
        assert (limited.status_code, limited.get_json()["code"]) == (429, "TOO_MANY_ATTEMPTS")
        assert 0 < int(limited.headers["Retry-After"]) <= 61
        # The same limit as that of the header: nobody gets a second set of guesses.
        assert anonymous.get(BATCHES, headers={"Authorization": "Bearer guess"}).status_code == 429
        assert anonymous.post(SESSION, json={"key": KEY}).status_code == 200

    def test_a_session_that_ended_is_no_guess(self, signed_in: FlaskClient, clock: Clock) -> None:
        clock.now += dt.timedelta(hours=13)
        for path in (BATCHES, SESSION) * FAILURES_PER_MINUTE:
            response = signed_in.get(path)
            assert (response.status_code, response.get_json()["code"]) == (401, "UNAUTHENTICATED")
        assert "sign in again" in response.get_json()["detail"]

    def test_a_session_planted_beforehand_is_not_the_one_that_is_signed_in(self, anonymous: FlaskClient) -> None:
        anonymous.post(SESSION, json={"key": KEY})
        planted = cookie_of(anonymous)
        anonymous.post(SESSION, json={"key": KEY})
        assert cookie_of(anonymous) != planted
        assert anonymous.get(SESSION).status_code == 200
        anonymous.set_cookie(COOKIE, planted)
        assert anonymous.get(SESSION).status_code == 401

    @pytest.mark.parametrize("planted", ["", "x", "a.b", "a.b.c", "\u00fc", "x" * 3000])
    def test_signing_in_is_not_disturbed_by_a_cookie_that_is_not_ours(
        self, anonymous: FlaskClient, planted: str
    ) -> None:
        anonymous.set_cookie(COOKIE, planted)
        assert anonymous.get(SESSION).status_code == 401
        assert anonymous.post(SESSION, json={"key": KEY}).status_code == 200
        assert anonymous.get(SESSION).status_code == 200


class TestTheCookie:
    def test_a_changed_one_is_nobody_s(self, signed_in: FlaskClient) -> None:
        value = cookie_of(signed_in)
        for place in range(len(value)):
            if value[place] == ".":
                continue
            changed = value[:place] + ("A" if value[place] != "A" else "B") + value[place + 1 :]
            signed_in.set_cookie(COOKIE, changed)
            status = signed_in.get(SESSION).status_code
            # The last character of a part has bits that its decoding leaves out.
            assert status == 401 or value[place + 1 :][:1] in ("", "."), place
        signed_in.set_cookie(COOKIE, value)
        assert signed_in.get(SESSION).status_code == 200

    def test_one_signed_with_another_secret_or_for_another_purpose_is_nobody_s(
        self, signed_in: FlaskClient, engine: Engine, clock: Clock
    ) -> None:
        with engine.begin() as connection:
            key = keys.authenticate(connection, KEY)
        assert key is not None
        others = SessionCookies("another-secret-of-32-characters-or-more", clock)
        session = others.begin(key.id)
        payload = [session.id, key.id.hex, int(session.expires_at.timestamp())]
        for value in (others.write(session), URLSafeSerializer(SECRET, salt="another purpose").dumps(payload)):
            signed_in.set_cookie(COOKIE, str(value))
            assert signed_in.get(SESSION).status_code == 401
        signed_in.set_cookie(COOKIE, SessionCookies(SECRET, clock).write(session))
        assert signed_in.get(SESSION).status_code == 200

    def test_it_ends_after_twelve_hours_and_not_before(self, signed_in: FlaskClient, clock: Clock) -> None:
        clock.now += dt.timedelta(hours=11, minutes=59)
        assert signed_in.get(BATCHES).status_code == 200
        clock.now += dt.timedelta(minutes=1)
        assert signed_in.get(BATCHES).status_code == 401
        assert signed_in.get(SESSION).status_code == 401

    def test_it_ends_with_its_key(self, signed_in: FlaskClient, engine: Engine) -> None:
        with engine.begin() as connection:
            (key,) = keys.list_keys(connection)
            keys.revoke(connection, key.id)
        assert signed_in.get(BATCHES).status_code == 401
        assert signed_in.get(SESSION).status_code == 401
        assert signed_in.post(UPLOAD, data={"file": (BytesIO(CSV), "a.csv")}).status_code == 401

    def test_it_holds_no_secret(self, signed_in: FlaskClient) -> None:
        payload = URLSafeSerializer(SECRET, salt="dragonfly session").load_payload(
            cookie_of(signed_in).rpartition(".")[0].encode()
        )
        assert [type(part) for part in payload] == [str, str, int]
        assert UUID(payload[1])
        assert signed_in.get(SESSION).get_json()["csrf_token"] not in cookie_of(signed_in)

    def test_a_key_beside_it_wins_and_needs_no_token(self, signed_in: FlaskClient, stored: Any) -> None:
        del signed_in.environ_base["HTTP_X_CSRF_TOKEN"]
        path = f"{BATCHES}/{stored.batch()}/cancel"
        assert signed_in.post(path).status_code == 403
        assert signed_in.get(BATCHES, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert signed_in.post(path, headers={"Authorization": f"Bearer {KEY}"}).status_code == 202

    def test_a_proxy_s_own_password_beside_it_does_not_disturb(self, signed_in: FlaskClient) -> None:
        assert signed_in.get(BATCHES, headers={"Authorization": "Basic cHJveHk6cHJveHk="}).status_code == 200

    def test_a_secret_that_was_changed_ends_every_session(
        self, signed_in: FlaskClient, settings: Settings, engine: Engine, blobs: Blobs
    ) -> None:
        value = cookie_of(signed_in)
        for _ in range(2):
            # In dev, where none is set, each process makes one.
            other = create_app(settings, lambda *_: None, engine=engine, blobs=blobs).test_client()
            other.set_cookie(COOKIE, value)
            assert other.get(SESSION).status_code == 401

    def test_in_prod_there_has_to_be_a_secret(self, engine: Engine, blobs: Blobs) -> None:
        with pytest.raises(SettingsError, match="DRAGONFLY_SECRET_KEY is not set, and in prod it must be"):
            create_app(Settings(env="prod"), lambda *_: None, engine=engine, blobs=blobs)


def unsafe_calls(app: Flask) -> list[tuple[str, str]]:
    """Every method of every route that may change something."""
    return sorted(
        (method, re.sub("<[^>]+>", "00000000-0000-0000-0000-000000000000", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}
    )


class TestCsrf:
    def test_every_change_by_cookie_needs_the_token(self, api: Flask, signed_in: FlaskClient) -> None:
        token = signed_in.environ_base.pop("HTTP_X_CSRF_TOKEN")
        calls = unsafe_calls(api)
        assert {
            ("POST", UPLOAD),
            ("DELETE", SESSION),
            ("PATCH", "/api/v1/intake/errors/00000000-0000-0000-0000-000000000000"),
        } <= set(calls)
        for method, path in calls:
            if (method, path) == ("POST", SESSION):
                # Signing in looks at no cookie.
                continue
            for wrong in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": token[:-1]}, {"X-CSRF-Token": "\u00fc"}):
                response = signed_in.open(path, method=method, headers=wrong)
                assert (response.status_code, response.get_json()["code"]) == (403, "CSRF_FAILED"), (method, path)
        for method, path in calls:
            response = signed_in.open(path, method=method, headers={"X-CSRF-Token": token})
            assert response.status_code != 403, (method, path)

    def test_the_token_of_another_session_is_none(self, api: Flask, signed_in: FlaskClient, stored: Any) -> None:
        other = api.test_client().post(SESSION, json={"key": KEY}).get_json()["csrf_token"]
        path = f"{BATCHES}/{stored.batch()}/cancel"
        assert other != signed_in.environ_base["HTTP_X_CSRF_TOKEN"]
        assert signed_in.post(path, headers={"X-CSRF-Token": other}).status_code == 403
        assert signed_in.post(path).status_code == 202

    def test_nothing_is_read_of_a_body_that_comes_without_it(self, signed_in: FlaskClient, look: Look) -> None:
        del signed_in.environ_base["HTTP_X_CSRF_TOKEN"]
        body = Unread()
        response = signed_in.post(
            UPLOAD, input_stream=body, content_length=1000, content_type="multipart/form-data; boundary=x"
        )
        assert (response.status_code, body.reads) == (403, 0)
        assert look.count("intake.batches") == 0

    def test_no_reading_call_needs_it(self, api: Flask, signed_in: FlaskClient) -> None:
        plain = as_plain_client(api, signed_in)
        assert plain.get(BATCHES).status_code == 200
        assert plain.head(BATCHES).status_code == 200

    def test_no_other_site_is_let_in_by_a_header_of_ours(self, api: Flask, signed_in: FlaskClient) -> None:
        plain = as_plain_client(api, signed_in)
        for path in (BATCHES, SESSION, "/", "/api/openapi.json"):
            for method in ("GET", "OPTIONS"):
                response = plain.open(path, method=method, headers={"Origin": "https://evil.example"})
                assert not [name for name, _ in response.headers if name.lower().startswith("access-control")]


def as_plain_client(api: Flask, client: FlaskClient) -> FlaskClient:
    """The same browser, whose answers are not held to the document: it does not list HEAD and OPTIONS."""
    plain = FlaskClient(api)
    plain.set_cookie(COOKIE, cookie_of(client))
    return plain


class Unread(BytesIO):
    """A body that counts how often somebody reads it."""

    reads = 0

    def read(self, *_: Any) -> bytes:
        self.reads += 1
        return b""


class TestSigningOut:
    def test_the_cookie_is_cleared_and_a_copy_of_it_is_refused(self, signed_in: FlaskClient, look: Look) -> None:
        copied = cookie_of(signed_in)
        response = signed_in.delete(SESSION)
        assert response.status_code == 204
        cookie = morsel_of(response)
        assert (cookie.value, cookie["max-age"], cookie["path"], cookie["httponly"]) == ("", "0", "/", True)
        assert signed_in.get_cookie(COOKIE) is None
        signed_in.set_cookie(COOKIE, copied)
        assert signed_in.get(BATCHES).status_code == 401
        assert look.count("ops.ended_sessions") == 1

    def test_the_key_s_other_sessions_stay(self, api: Flask, signed_in: FlaskClient) -> None:
        other = api.test_client()
        other.post(SESSION, json={"key": KEY})
        assert signed_in.delete(SESSION).status_code == 204
        assert other.get(SESSION).status_code == 200

    def test_without_a_session_only_the_cookie_is_cleared(
        self, anonymous: FlaskClient, signed_in: FlaskClient, clock: Clock, look: Look
    ) -> None:
        assert anonymous.delete(SESSION).status_code == 204
        clock.now += dt.timedelta(hours=13)
        del signed_in.environ_base["HTTP_X_CSRF_TOKEN"]
        response = signed_in.delete(SESSION)
        assert (response.status_code, morsel_of(response)["max-age"]) == (204, "0")
        assert look.count("ops.ended_sessions") == 0

    def test_what_would_have_ended_by_itself_is_forgotten(self, signed_in: FlaskClient, look: Look) -> None:
        look.change("INSERT INTO ops.ended_sessions VALUES ('old', now() - interval '61 minutes'), ('new', now())")
        signed_in.delete(SESSION)
        assert sorted(look.rows("SELECT id = 'new' FROM ops.ended_sessions")) == [(False,), (True,)]
        assert look.rows("SELECT id FROM ops.ended_sessions WHERE id = 'old'") == []


class TestLinks:
    def test_a_link_signs_in_once(self, anonymous: FlaskClient, engine: Engine) -> None:
        token = link_token(engine)
        first = anonymous.post(SESSION, json={"token": token})
        assert (first.status_code, first.get_json()["name"]) == (200, "tests")
        assert anonymous.get(BATCHES).status_code == 200
        again = anonymous.post(SESSION, json={"token": token})
        assert again.status_code == 401
        assert "dragonfly sign-in" in again.get_json()["detail"]
        # The session that is there is left alone.
        assert anonymous.get(BATCHES).status_code == 200

    def test_of_many_who_use_it_at_once_one_is_signed_in(self, api: Flask, engine: Engine) -> None:
        token = link_token(engine)
        statuses: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: statuses.append(api.test_client().post(SESSION, json={"token": token}).status_code)
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] + [401] * 7

    @pytest.mark.parametrize(("minutes", "status"), [(14, 200), (15, 401)])
    def test_a_link_is_good_for_fifteen_minutes(
        self, anonymous: FlaskClient, engine: Engine, look: Look, minutes: int, status: int
    ) -> None:
        token = link_token(engine)
        look.change("UPDATE ops.sign_in_links SET expires_at = expires_at - make_interval(mins => :ago)", ago=minutes)
        assert anonymous.post(SESSION, json={"token": token}).status_code == status
        assert look.count("ops.sign_in_links") == 0

    def test_a_link_ends_with_its_key(self, anonymous: FlaskClient, engine: Engine) -> None:
        token = link_token(engine)
        with engine.begin() as connection:
            (key,) = keys.list_keys(connection)
            keys.revoke(connection, key.id)
            assert sign_in.make_token(connection, key.id) is None
        assert anonymous.post(SESSION, json={"token": token}).status_code == 401

    def test_a_token_is_stored_as_its_hash_only_and_forgotten_when_it_is_too_old(
        self, engine: Engine, look: Look
    ) -> None:
        token = link_token(engine)
        assert len(token) >= 43
        assert token not in str(look.rows("SELECT * FROM ops.sign_in_links"))
        look.change("UPDATE ops.sign_in_links SET expires_at = clock_timestamp()")
        link_token(engine)
        assert look.count("ops.sign_in_links") == 1

    def test_a_token_is_no_key_and_a_key_no_token(self, anonymous: FlaskClient, engine: Engine) -> None:
        token = link_token(engine)
        assert anonymous.get(BATCHES, headers={"Authorization": f"Bearer {token}"}).status_code == 401
        assert anonymous.post(SESSION, json={"key": token}).status_code == 401
        assert anonymous.post(SESSION, json={"token": KEY}).status_code == 401


@pytest.fixture
def broken(api: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"{KEY} {request.get_data(as_text=True)}")

    monkeypatch.setattr("app.store.keys.authenticate", fail)
    monkeypatch.setattr("app.store.sign_in.redeem", fail)


def test_no_secret_is_written_to_a_log(
    api: Flask,
    anonymous: FlaskClient,
    engine: Engine,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    token = link_token(engine)
    used = link_token(engine)
    csrf = anonymous.post(SESSION, json={"token": used}).get_json()["csrf_token"]
    cookie = cookie_of(anonymous)
    answers = [
        anonymous.post(SESSION, json={"key": KEY, "token": token}),
        anonymous.post(SESSION, data=f'{{"key": "{KEY}", "token": "{token}"', content_type="application/json"),
        anonymous.post(SESSION, json={"key": [KEY]}),
        anonymous.post(f"{BATCHES}/x/cancel"),
        anonymous.delete(SESSION, headers={"X-CSRF-Token": csrf}),
    ]
    assert [answer.status_code for answer in answers] == [422, 400, 422, 403, 204]
    written = "".join(capfd.readouterr()) + caplog.text
    for secret in (KEY, token, used, cookie, csrf, SECRET):
        assert secret not in written
        assert not [answer for answer in answers if secret in answer.get_data(as_text=True)]


@pytest.mark.usefixtures("broken")
def test_a_failure_of_ours_while_somebody_signs_in_is_told_without_what_they_sent(
    anonymous: FlaskClient, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for body in ({"key": KEY}, {"token": "the-token-of-a-link"}):
        response = anonymous.post(SESSION, json=body)
        assert (response.status_code, response.get_json()["code"]) == (500, "INTERNAL_ERROR")
        written = "".join(capfd.readouterr()) + caplog.text + response.get_data(as_text=True)
        assert "RuntimeError" in written
        assert KEY not in written
        assert "the-token-of-a-link" not in written


def test_the_server_says_what_a_page_has_to_know_before_it_sends_a_file(client: FlaskClient) -> None:
    document = client.get("/api/v1/server").get_json()
    assert document["max_upload_bytes"] == 1_000_000
    assert document["default_error_threshold_percent"] == 10
    assert (document["environment"], document["flower_url"]) == ("dev", None)
    assert document["version"]


def test_no_answer_with_rows_of_people_is_kept_by_a_browser(signed_in: FlaskClient, stored: Any) -> None:
    batch = stored.failed(row_count_invalid=1)
    stored.error(batch, 0)
    for path in (BATCHES, f"{BATCHES}/{batch}/errors", f"{BATCHES}/{batch}/errors.csv", f"{BATCHES}/nothing"):
        response = signed_in.get(path)
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_a_session_is_asked_for_in_one_statement(signed_in: FlaskClient, engine: Engine) -> None:
    from sqlalchemy import event

    signed_in.get(SESSION)
    seen: list[str] = []

    def count(_1: Any, _2: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", count)
    try:
        signed_in.get(SESSION)
    finally:
        event.remove(engine, "before_cursor_execute", count)
    assert len(seen) == 1
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM ops.api_keys")) == 1
