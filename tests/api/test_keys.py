"""Who may ask: keys by their hash, and failures counted by address."""

from __future__ import annotations

import hashlib

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from app.api.auth import FAILURES_PER_MINUTE, FailureLimit
from app.store import keys

BATCHES = "/api/v1/intake/batches"
KEY = "the-key-of-these-tests-0123456789"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(""), {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}]
)
def test_without_a_valid_key_a_call_is_refused_and_told_how(anonymous: FlaskClient, headers: dict[str, str]) -> None:
    response = anonymous.get(BATCHES, headers=headers)
    assert (response.status_code, response.get_json()["code"]) == (401, "UNAUTHENTICATED")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/docs", "/api/openapi.json"])
def test_health_and_documentation_are_open(anonymous: FlaskClient, path: str) -> None:
    assert anonymous.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/judgments", "/api/v1/intake/state"])
def test_everything_else_needs_the_key(anonymous: FlaskClient, client: FlaskClient, path: str) -> None:
    assert anonymous.get(path).status_code == 401
    assert client.get(path).status_code == 200


def test_only_failures_are_limited_and_a_valid_key_always_works(anonymous: FlaskClient) -> None:
    statuses = [anonymous.get(BATCHES, headers=bearer(f"guess {n}")).status_code for n in range(FAILURES_PER_MINUTE)]
    assert set(statuses) == {401}
    limited = anonymous.get(BATCHES, headers=bearer("one too many"))
    assert (limited.status_code, limited.get_json()["code"]) == (429, "TOO_MANY_ATTEMPTS")
    assert 0 < int(limited.headers["Retry-After"]) <= 61
    for _ in range(FAILURES_PER_MINUTE * 2):
        assert anonymous.get(BATCHES, headers=bearer(KEY)).status_code == 200
    assert anonymous.get(BATCHES, headers=bearer("x"), environ_base={"REMOTE_ADDR": "10.9.8.7"}).status_code == 401


def test_an_address_is_forgiven_after_a_minute() -> None:
    now = [0.0]
    limit = FailureLimit(most=2, clock=lambda: now[0])
    assert [limit.record("a") for _ in range(3)] == [None, None, 61]
    now[0] = 61
    assert limit.record("a") is None


def test_a_made_key_works_until_it_is_revoked_and_is_stored_as_its_hash_only(
    anonymous: FlaskClient, engine: Engine
) -> None:
    with engine.begin() as connection:
        key, plaintext = keys.create(connection, "vendor desk")
    assert anonymous.get(BATCHES, headers=bearer(plaintext)).status_code == 200
    with engine.begin() as connection:
        row = connection.execute(text("SELECT * FROM ops.api_keys WHERE id = :id"), {"id": key.id}).mappings().one()
        assert row["key_hash"] == hashlib.sha256(plaintext.encode()).hexdigest()
        assert plaintext not in str(dict(row))
        assert len(plaintext) >= 43
        revoked = keys.revoke(connection, key.id)
        assert revoked is not None
        assert revoked.revoked_at is not None
    assert anonymous.get(BATCHES, headers=bearer(plaintext)).status_code == 401


def test_a_revoked_key_is_not_brought_back_by_ensuring_it(engine: Engine) -> None:
    with engine.begin() as connection:
        assert keys.ensure_key(connection, "a-key-of-twenty-characters", "first") is True
        assert keys.ensure_key(connection, "a-key-of-twenty-characters", "again") is False
        key = keys.authenticate(connection, "a-key-of-twenty-characters")
        assert key is not None
        assert key.name == "first"
        keys.revoke(connection, key.id)
        assert keys.ensure_key(connection, "a-key-of-twenty-characters", "again") is False
        assert keys.authenticate(connection, "a-key-of-twenty-characters") is None


def test_the_last_use_of_a_key_is_written_at_most_once_a_minute(engine: Engine) -> None:
    def last_use(seconds_ago: int | None = None) -> object:
        with engine.begin() as connection:
            if seconds_ago is not None:
                connection.execute(
                    text("UPDATE ops.api_keys SET last_used_at = now() - make_interval(secs => :ago)"),
                    {"ago": seconds_ago},
                )
            before = connection.scalar(text("SELECT last_used_at FROM ops.api_keys"))
            keys.authenticate(connection, KEY)
            return connection.scalar(text("SELECT last_used_at FROM ops.api_keys")) == before

    assert last_use() is False
    assert last_use(seconds_ago=50) is True
    assert last_use(seconds_ago=70) is False


def test_keys_are_listed_without_a_secret(engine: Engine) -> None:
    with engine.begin() as connection:
        keys.create(connection, "second")
        listed = keys.list_keys(connection)
    assert [key.name for key in listed] == ["tests", "second"]
    assert "hash" not in str(listed)
