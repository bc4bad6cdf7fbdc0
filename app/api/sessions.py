"""Signing in and out: a key or a link's token is exchanged for a cookie that no script can read."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flask import Response, after_this_request, request

from app.api.auth import current_session, failed_attempt, refuse_other_sites, require_csrf_token, require_session
from app.api.blueprints import Blueprint
from app.api.parts import parts
from app.api.schemas import SessionSchema, SignInBody
from app.api.session_cookie import COOKIE, LIFETIME, Session
from app.store import keys, sign_in
from app.store.keys import Key

blueprint = Blueprint("sessions", __name__, url_prefix="/api/v1/session", description="Signing in with a browser")

_WRONG_KEY = "The key is unknown or revoked: check it, or ask for another."
_WRONG_TOKEN = "The link was used before, or is too old: 'dragonfly sign-in' prints another."  # noqa: S105 - a sentence
_BY_COOKIE: list[dict[str, list[str]]] = [{"session": []}]
_SET_COOKIE = {"Set-Cookie": {"description": "The session, for 12 hours", "schema": {"type": "string"}}}


@blueprint.route("", methods=["POST"])
@blueprint.arguments(SignInBody, location="json")
@blueprint.response(200, SessionSchema, headers=_SET_COOKIE)
@blueprint.refuses(400, 401, 408, 413, 422, 429, 500, 503, open_to_all=True)
def sign_in_with(body: dict[str, Any]) -> Any:
    """Sign in with a key or with the token of a sign-in link

    The answer sets the cookie dragonfly_session, which then stands in place of the key. A link's token works once. The
    session that the browser had before ends.
    """
    refuse_other_sites()
    own = parts()
    before = own.sessions.read(request.cookies.get(COOKIE, ""))
    with own.engine.begin() as connection:
        if body["key"] is not None:
            key = keys.authenticate(connection, body["key"])
        else:
            key = sign_in.redeem(connection, body["token"])
        if key is not None and before is not None:
            sign_in.end_session(connection, before.id, before.expires_at)
    if key is None:
        raise failed_attempt(_WRONG_KEY if body["token"] is None else _WRONG_TOKEN)
    session = own.sessions.begin(key.id)

    @after_this_request
    def give_cookie(response: Response) -> Response:
        response.set_cookie(
            COOKIE,
            own.sessions.write(session),
            max_age=LIFETIME,
            path="/",
            secure=_is_https(),
            httponly=True,
            samesite="Strict",
        )
        return response

    return _shape(session, key)


@blueprint.route("", methods=["GET"])
@blueprint.response(200, SessionSchema)
@blueprint.refuses()
@blueprint.doc(security=_BY_COOKIE)
def show() -> Any:
    """Show who is signed in, and the session's CSRF token"""
    return _shape(*require_session())


@blueprint.route("", methods=["DELETE"])
@blueprint.response(204)
@blueprint.refuses()
@blueprint.doc(security=_BY_COOKIE)
def sign_out() -> Any:
    """Sign out

    The session is refused from then on, also where somebody has copied its cookie. Where there is none, or none any more,
    only the cookie is cleared.
    """
    found = current_session()
    if found is not None:
        session, _ = found
        require_csrf_token(session)
        with parts().engine.begin() as connection:
            sign_in.end_session(connection, session.id, session.expires_at)

    @after_this_request
    def take_cookie(response: Response) -> Response:
        response.delete_cookie(COOKIE, path="/", secure=_is_https(), httponly=True, samesite="Strict")
        return response


def _shape(session: Session, key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "csrf_token": parts().sessions.csrf_token(session),
        "expires_at": session.expires_at,
    }


def _is_https() -> bool:
    """Whether the browser came by https; a proxy that ends TLS is known by the address in DRAGONFLY_URL."""
    public = urlsplit(parts().settings.dragonfly_url or "")
    return request.is_secure or (public.scheme == "https" and public.netloc.lower() == request.host.lower())
