"""Every answer that is not a success: `application/problem+json` with a code of the catalogue, made in this one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
import structlog
from flask import Flask, Response, json, request
from sqlalchemy import exc as database
from werkzeug.exceptions import HTTPException

from app.errors import CATALOGUE
from app.store.blobs import StorageError, StorageFullError

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
DOCS_PATH = "/api/docs"

_CODES = {
    401: "UNAUTHENTICATED",
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "BODY_TOO_SLOW",
    409: "CONFLICT",
    413: "UPLOAD_TOO_LARGE",
    422: "INVALID_FIELD",
    429: "TOO_MANY_ATTEMPTS",
    507: "STORAGE_FULL",
}
_CLIENT_ERROR, _SERVER_ERROR = 400, 500
_UNAVAILABLE = 503

_log = structlog.get_logger(__name__)


class ProblemError(Exception):
    """The request is refused: ``code`` of the catalogue, ``detail`` what was found and expected.

    ``fields`` go into the document beside the standard members; ``headers`` onto the answer.
    """

    def __init__(
        self, code: str, detail: str | None = None, *, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.fields = fields


def invalid(field: str, rule: str) -> ProblemError:
    """One field breaks its rule; ``rule`` is a sentence about it that does not repeat the value."""
    return ProblemError("INVALID_FIELD", f"{field}: {rule}", errors={field: [rule]})


def answer(problem: ProblemError) -> Response:
    """The problem as a response."""
    entry = CATALOGUE[problem.code]
    status = entry.http_status or _SERVER_ERROR
    document = {
        "type": f"{DOCS_PATH}#{entry.code}",
        "title": entry.sentence,
        "status": status,
        "detail": problem.detail or entry.remedy,
        "code": entry.code,
        **problem.fields,
    }
    response = Response(json.dumps(document), status=status, content_type=CONTENT_TYPE)
    response.headers.update(problem.headers)
    if status == _UNAVAILABLE:
        response.headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
    if entry.code == "UNAUTHENTICATED":
        response.headers.setdefault("WWW-Authenticate", 'Bearer realm="Dragonfly"')
    return response


def register(app: Flask) -> None:
    """Answer every exception that reaches the application; HTTPException comes by the Api."""
    app.register_error_handler(ProblemError, answer)
    app.register_error_handler(StorageError, _storage)
    for kind in (
        database.OperationalError,
        database.InterfaceError,
        database.TimeoutError,
        psycopg.OperationalError,
        psycopg.InterfaceError,
    ):
        app.register_error_handler(kind, _database_unavailable)
    app.register_error_handler(Exception, _internal)


def from_http(error: HTTPException) -> Response:
    """What Flask, Werkzeug and webargs refuse, by status."""
    status = error.code or _SERVER_ERROR
    if status >= _SERVER_ERROR:
        return _internal(getattr(error, "original_exception", None) or error)
    problem = ProblemError(_CODES.get(status, "MALFORMED_REQUEST"))
    messages = getattr(error, "data", {}).get("messages")
    if messages:
        problem.fields["errors"] = fields = _by_field(messages)
        problem.detail = " ".join(f"{name}: {' '.join(found)}" for name, found in fields.items())
    elif status == _CLIENT_ERROR:
        problem.detail = error.description
    elif status not in _CODES:
        problem.detail = f"{error.name}."
    allowed = error.get_response().headers.get("Allow")
    if allowed:
        problem.headers["Allow"] = allowed
    return answer(problem)


def _by_field(messages: Any) -> dict[str, list[str]]:
    """webargs' messages ({location: {field: [sentence]}}, or deeper) as {field: [sentence]}."""
    found: dict[str, list[str]] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(name if key == "_schema" else str(key), inner)
        elif isinstance(value, list):
            found.setdefault(name, []).extend(str(sentence) for sentence in value)
        else:
            found.setdefault(name, []).append(str(value))

    for location, value in messages.items():
        walk(str(location), value)
    return found


def _storage(error: StorageError) -> Response:
    _log.warning("storage_refused", path=_path(), cause=str(error))
    return answer(ProblemError("STORAGE_FULL" if isinstance(error, StorageFullError) else "STORAGE_UNAVAILABLE"))


def _database_unavailable(error: Exception) -> Response:
    # The text of a database error repeats cells of rows: only its kind is written down.
    _log.warning("database_refused", path=_path(), kind=_kind(error))
    return answer(ProblemError("DATABASE_UNAVAILABLE"))


def _internal(error: BaseException) -> Response:
    _log.error("request_failed", method=request.method, path=_path(), kind=_kind(error), at=_place(error))
    return answer(ProblemError("INTERNAL_ERROR"))


def _path() -> str:
    """What was asked for: of a page only its pattern, for its address may hold a case number."""
    if request.url_rule is None or request.path.startswith("/api/"):
        return request.path
    return str(request.url_rule.rule)


def _kind(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__module__}.{type(cause).__qualname__}"


def _place(error: BaseException) -> str | None:
    """Where in the code it was raised: a traceback's last lines, without the values that its message holds."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(frames[-6:]) or None
