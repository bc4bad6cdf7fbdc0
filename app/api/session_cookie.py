"""The cookie of a browser that has signed in: made, written, read, and the CSRF token that goes with it."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from itsdangerous import BadData, Signer, URLSafeSerializer

COOKIE = "dragonfly_session"
LIFETIME = dt.timedelta(hours=12)
_ID_BYTES = 16
_SIGNING = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


@dataclass(frozen=True, slots=True)
class Session:
    """One sign-in: whose key it stands for, and until when. ``id`` is no secret, for nothing is granted by it."""

    id: str
    key_id: UUID
    expires_at: dt.datetime


def utc_now() -> dt.datetime:
    """This moment, by the web server's clock."""
    return dt.datetime.now(dt.UTC)


class SessionCookies:
    """Signs with ``secret``: whoever holds it can sign in as anybody, and changing it ends every session."""

    def __init__(self, secret: str, now: Callable[[], dt.datetime] = utc_now) -> None:
        self._now = now
        self._cookies = URLSafeSerializer(secret, salt="dragonfly session", signer_kwargs=_SIGNING)
        self._tokens = Signer(secret, salt="dragonfly csrf", key_derivation="hmac", digest_method=hashlib.sha256)

    def begin(self, key_id: UUID) -> Session:
        """A new session, whatever the browser had before."""
        expires_at = self._now().replace(microsecond=0) + LIFETIME
        return Session(secrets.token_urlsafe(_ID_BYTES), key_id, expires_at)

    def write(self, session: Session) -> str:
        """The cookie's value."""
        return str(self._cookies.dumps([session.id, session.key_id.hex, int(session.expires_at.timestamp())]))

    def read(self, value: str) -> Session | None:
        """The session, or None where the value is not ours, was changed, or has expired."""
        try:
            session_id, key_id, expires = self._cookies.loads(value)
        except BadData:
            return None
        session = Session(session_id, UUID(key_id), dt.datetime.fromtimestamp(expires, dt.UTC))
        return session if self._now() < session.expires_at else None

    def csrf_token(self, session: Session) -> str:
        """What a page of ours sends back with every change, and a page of somebody else's cannot know."""
        return self._tokens.get_signature(session.id).decode()

    def is_csrf_token(self, session: Session, token: str) -> bool:
        """Whether the token is this session's."""
        return hmac.compare_digest(self.csrf_token(session).encode(), token.encode("utf-8", "surrogatepass"))
