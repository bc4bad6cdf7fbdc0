"""PostgREST's schema cache: asked with one request, told to reload at most once a minute, and asked again whether it helped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import structlog
from sqlalchemy import Engine

from app.store import watch
from app.store.database import connect
from monitoring.report import Finding, Level

log = structlog.get_logger()

CHECK = "schema_cache"
NO_CACHE = "PGRST002"
NOT_IN_CACHE = frozenset({"PGRST205", "PGRST202"})
"""A relation or function that the cache lacks: for a moment that is so while PostgREST reloads, so it is asked twice."""

RELOAD_SECONDS = 60.0
_TURN = "schema cache reload"
_TIMEOUT_SECONDS = 5.0
_AGAIN_SECONDS = 1.0
_VERIFY_SECONDS = 10.0
_VERIFY_PAUSE_SECONDS = 0.5
_PATH = "/v_pipeline_health?select=status&limit=1"
_HEADERS = {"Accept-Profile": "ops", "Accept": "application/json"}


class SchemaCache:
    """The cache of the PostgREST at ``url``; ``direct_url`` is the database without a pooler, for NOTIFY."""

    def __init__(self, url: str, direct_url: str | None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._url = url.rstrip("/") + _PATH
        self._direct_url = direct_url
        self._sleep = sleep

    def check(self, engine: Engine) -> Finding:
        """CRITICAL in the run that saw it, whether the reload helped or not. Raises httpx.HTTPError."""
        with httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False, headers=_HEADERS) as client:
            status, code = self._ask(client)
            if code in NOT_IN_CACHE:
                self._sleep(_AGAIN_SECONDS)
                status, code = self._ask(client)
            if code == NO_CACHE or code in NOT_IN_CACHE:
                return self._reload(client, engine, code)
        if status == httpx.codes.OK:
            return Finding(
                CHECK, Level.HEALTHY, "PostgREST answers with the schema in its cache", {"http_status": status}
            )
        answered = f"PostgREST answers {status}{f' {code}' if code else ''}, 200 expected"
        return Finding(CHECK, Level.CRITICAL, answered, {"http_status": status, "code": code})

    def _reload(self, client: httpx.Client, engine: Engine, code: str) -> Finding:
        reload = self._notify(engine)
        verified = reload == "sent" and self._verified(client)
        outcome = {
            "sent": "the reload helped" if verified else f"the reload did not help within {_VERIFY_SECONDS:g}s",
        }.get(reload, f"no reload: {reload}")
        return Finding(
            CHECK,
            Level.CRITICAL,
            f"PostgREST's schema cache is gone ({code}); {outcome}",
            {"code": code, "reload": reload, "reload_verified": verified},
        )

    def _notify(self, engine: Engine) -> str:
        """Tell PostgREST to reload: ``sent``, else why not."""
        if self._direct_url is None:
            return "DATABASE_DIRECT_URL is not set"
        try:
            # The turn is taken only where the reload is sent: whatever fails before gives it back.
            with connect(self._direct_url) as direct, engine.begin() as connection:
                if not watch.take_turn(connection, _TURN, seconds=RELOAD_SECONDS):
                    return f"one was sent within the last {RELOAD_SECONDS:g}s"
                direct.execute("NOTIFY pgrst, 'reload schema'")
                direct.commit()
        except psycopg.Error as problem:
            return f"DATABASE_DIRECT_URL does not answer ({type(problem).__name__})"
        log.info("schema cache reload sent")
        return "sent"

    def _verified(self, client: httpx.Client) -> bool:
        deadline = time.monotonic() + _VERIFY_SECONDS
        while True:
            try:
                if self._ask(client)[0] == httpx.codes.OK:
                    return True
            except httpx.HTTPError:
                pass
            if time.monotonic() >= deadline:
                return False
            self._sleep(_VERIFY_PAUSE_SECONDS)

    def _ask(self, client: httpx.Client) -> tuple[int, str | None]:
        answer = client.get(self._url)
        try:
            body: Any = answer.json()
        except ValueError:
            body = None
        code = body.get("code") if isinstance(body, dict) else None
        # Only PostgREST's own codes are taken up: whatever else stands there might be data.
        known = isinstance(code, str) and code.startswith("PGRST") and code[5:].isalnum() and len(code) < 12  # noqa: PLR2004
        return answer.status_code, code if known else None
