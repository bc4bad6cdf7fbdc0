"""The API keys: made, listed, revoked and recognised. Only the SHA-256 of a key is stored; the key is shown once."""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Connection, Row, text

_KEY_BYTES = 32
_LISTED = "id, name, created_at, created_by, last_used_at, revoked_at"
IS_STALE = "coalesce(k.last_used_at < clock_timestamp() - interval '1 minute', true)"
"""Of a key ``k``: whether its last use was written down more than a minute ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key, without the secret."""

    id: UUID
    name: str
    created_at: dt.datetime
    created_by: str | None
    last_used_at: dt.datetime | None
    revoked_at: dt.datetime | None

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        values = {name: row._mapping[name] for name in cls.__slots__}
        for name, value in values.items():
            if isinstance(value, dt.datetime):
                values[name] = value.astimezone(dt.UTC)
        return cls(**values)


def create(connection: Connection, name: str, *, created_by: str | None = None) -> tuple[Key, str]:
    """Make a key; the second value is its plaintext, which nothing can show again."""
    plaintext = secrets.token_urlsafe(_KEY_BYTES)
    row = connection.execute(
        text(
            f"INSERT INTO ops.api_keys (name, key_hash, created_by) VALUES (:name, :hash, :created_by) RETURNING {_LISTED}"
        ),
        {"name": name, "hash": _hash(plaintext), "created_by": created_by},
    ).one()
    return Key.from_row(row), plaintext


def ensure_key(connection: Connection, plaintext: str, name: str) -> bool:
    """Make this very key valid unless it is known already; True where it was new. A revoked key stays revoked."""
    made = connection.execute(
        text("INSERT INTO ops.api_keys (name, key_hash) VALUES (:name, :hash) ON CONFLICT (key_hash) DO NOTHING"),
        {"name": name, "hash": _hash(plaintext)},
    )
    return bool(made.rowcount)


def list_keys(connection: Connection) -> list[Key]:
    """Every key, the revoked ones too, oldest first."""
    rows = connection.execute(text(f"SELECT {_LISTED} FROM ops.api_keys ORDER BY created_at, id"))
    return [Key.from_row(row) for row in rows]


def revoke(connection: Connection, key_id: UUID) -> Key | None:
    """End a key for good, from the next request on; None where there is none with this id."""
    row = connection.execute(
        text(
            "UPDATE ops.api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp())"
            f" WHERE id = :id RETURNING {_LISTED}"
        ),
        {"id": key_id},
    ).one_or_none()
    return None if row is None else Key.from_row(row)


def authenticate(connection: Connection, plaintext: str) -> Key | None:
    """The valid key with this plaintext, or None.

    Found by its hash, so no comparison of secrets takes longer for a better guess. ``last_used_at`` is written at
    most once a minute, so that a busy key costs one read per request.
    """
    hashed = _hash(plaintext)
    row = connection.execute(
        text(
            f"""
            SELECT {_LISTED}, {IS_STALE} AS is_stale
            FROM ops.api_keys k WHERE key_hash = :hash AND revoked_at IS NULL
            """
        ),
        {"hash": hashed},
    ).one_or_none()
    if row is None:
        return None
    if row.is_stale:
        mark_used(connection, row.id)
    return Key.from_row(row)


def mark_used(connection: Connection, key_id: UUID) -> None:
    """Write down that the key has been used; to be called where IS_STALE says so."""
    connection.execute(text("UPDATE ops.api_keys SET last_used_at = clock_timestamp() WHERE id = :id"), {"id": key_id})


def _hash(plaintext: str) -> str:
    return hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).hexdigest()
