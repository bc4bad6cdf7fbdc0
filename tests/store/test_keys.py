"""The API keys: only their hash is stored, and a revoked one is dead for good."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import Engine

from app.store import keys
from tests.conftest import Look


def test_a_new_key_is_recognised_and_only_its_hash_is_stored(database: Engine, look: Look) -> None:
    with database.begin() as connection:
        key, plaintext = keys.create(connection, "desk", created_by="Ada")
        found = keys.authenticate(connection, plaintext)
    assert found is not None
    assert (found.id, found.name, found.created_by) == (key.id, "desk", "Ada")
    assert len(plaintext) >= 40
    assert plaintext not in str(look.rows("SELECT * FROM ops.api_keys"))


def test_two_keys_are_never_alike(database: Engine) -> None:
    with database.begin() as connection:
        assert len({keys.create(connection, "desk")[1] for _ in range(20)}) == 20


def test_an_unknown_key_is_nobody(database: Engine) -> None:
    with database.begin() as connection:
        keys.create(connection, "desk")
        for wrong in ("", "x", "é\ud800", "\x00"):
            assert keys.authenticate(connection, wrong) is None


def test_a_revoked_key_is_nobody_and_keeps_its_first_end(database: Engine) -> None:
    with database.begin() as connection:
        key, plaintext = keys.create(connection, "desk")
        revoked = keys.revoke(connection, key.id)
        assert revoked is not None
        assert revoked.revoked_at is not None
        assert keys.authenticate(connection, plaintext) is None
    with database.begin() as connection:
        again = keys.revoke(connection, key.id)
        assert again is not None
        assert again.revoked_at == revoked.revoked_at
        assert keys.revoke(connection, uuid4()) is None


def test_the_first_key_is_made_once_and_stays_revoked(database: Engine) -> None:
    with database.begin() as connection:
        assert keys.ensure_key(connection, "a-key-of-the-operators-own", "first")
        assert not keys.ensure_key(connection, "a-key-of-the-operators-own", "first")
        (key,) = keys.list_keys(connection)
        keys.revoke(connection, key.id)
        assert not keys.ensure_key(connection, "a-key-of-the-operators-own", "first")
        assert keys.authenticate(connection, "a-key-of-the-operators-own") is None


def test_the_last_use_is_written_at_most_once_a_minute(database: Engine, look: Look) -> None:
    with database.begin() as connection:
        _, plaintext = keys.create(connection, "desk")
        keys.authenticate(connection, plaintext)
    ((first,),) = look.rows("SELECT last_used_at FROM ops.api_keys")
    assert first is not None
    with database.begin() as connection:
        keys.authenticate(connection, plaintext)
    assert look.rows("SELECT last_used_at FROM ops.api_keys") == [(first,)]
    look.change("UPDATE ops.api_keys SET last_used_at = last_used_at - interval '61 seconds'")
    with database.begin() as connection:
        keys.authenticate(connection, plaintext)
    assert look.rows("SELECT last_used_at >= :first FROM ops.api_keys", first=first) == [(True,)]


def test_they_are_listed_oldest_first_the_revoked_ones_too(database: Engine) -> None:
    names = ["a", "b", "c"]
    for name in names:
        with database.begin() as connection:
            key, _ = keys.create(connection, name)
            if name == "b":
                keys.revoke(connection, key.id)
    with database.begin() as connection:
        assert [key.name for key in keys.list_keys(connection)] == names
