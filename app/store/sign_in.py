"""Signing in with a browser: links that work once, and sessions that were ended before their time.

Of a link only the SHA-256 of its token is stored. A session is no row: it is in the browser's signed cookie, and only
one that somebody signed out of is remembered, until it would have ended anyway.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from uuid import UUID

from sqlalchemy import Connection, text

from app.store.keys import IS_STALE, Key, mark_used

LINK_MINUTES = 15
_TOKEN_BYTES = 32
_KEY = "k.id, k.name, k.created_at, k.created_by, k.last_used_at, k.revoked_at"


def make_token(connection: Connection, key_id: UUID) -> str | None:
    """The token of a new link that signs in with this key, once and within LINK_MINUTES; None for a key that is not valid."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    connection.execute(text("DELETE FROM ops.sign_in_links WHERE expires_at <= clock_timestamp()"))
    made = connection.execute(
        text(
            """
            INSERT INTO ops.sign_in_links (token_hash, key_id, expires_at)
            SELECT :hash, id, clock_timestamp() + make_interval(mins => :minutes)
            FROM ops.api_keys WHERE id = :key AND revoked_at IS NULL
            """
        ),
        {"hash": _hash(token), "minutes": LINK_MINUTES, "key": key_id},
    )
    return token if made.rowcount else None


def redeem(connection: Connection, token: str) -> Key | None:
    """The key of the link with this token, which is now used up; None where it is unknown, used, too old or its key revoked."""
    row = connection.execute(
        text(
            f"""
            WITH used AS (DELETE FROM ops.sign_in_links WHERE token_hash = :hash RETURNING key_id, expires_at)
            SELECT {_KEY} FROM used JOIN ops.api_keys k ON k.id = used.key_id
            WHERE used.expires_at > clock_timestamp() AND k.revoked_at IS NULL
            """
        ),
        {"hash": _hash(token)},
    ).one_or_none()
    return None if row is None else Key.from_row(row)


def key_of_session(connection: Connection, key_id: UUID, session_id: str) -> Key | None:
    """The key that the session stands for; None where the key was revoked or the session ended."""
    row = connection.execute(
        text(
            f"""
            SELECT {_KEY}, {IS_STALE} AS is_stale FROM ops.api_keys k
            WHERE k.id = :key AND k.revoked_at IS NULL
                AND NOT EXISTS (SELECT FROM ops.ended_sessions WHERE id = :session)
            """
        ),
        {"key": key_id, "session": session_id},
    ).one_or_none()
    if row is None:
        return None
    if row.is_stale:
        mark_used(connection, row.id)
    return Key.from_row(row)


def end_session(connection: Connection, session_id: str, expires_at: dt.datetime) -> None:
    """Refuse the session from now on; what would have ended by itself is forgotten."""
    connection.execute(text("DELETE FROM ops.ended_sessions WHERE expires_at < clock_timestamp() - interval '1 hour'"))
    connection.execute(
        text("INSERT INTO ops.ended_sessions (id, expires_at) VALUES (:id, :expires) ON CONFLICT (id) DO NOTHING"),
        {"id": session_id, "expires": expires_at},
    )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
