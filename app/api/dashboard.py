"""The front end as it was built: its pages, and its assets under names that change with their content.

Everything is looked up in one folder and read anew only when it has changed. An address that nobody knows gets the front
end's own page for it if a person asks, and a Problem if a program does; below /api only programs ask.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.exceptions import NotFound
from werkzeug.security import safe_join

import app as package
from app.api import problems
from app.api.headers import CONTENT_SECURITY_POLICY

BUILT = Path(package.__file__).parent / "dashboard" / "dist"
PAGES = ("/", "/batches", "/batches/<path:rest>", "/judgments", "/judgments/<path:rest>", "/ops", "/sign-in")
"""The addresses that the front end has pages for."""
NOT_BUILT = """<!doctype html>
<html lang="en">
<title>Dragonfly: the front end is not built</title>
<p>The front end has not been built in this checkout. Run <code>make install</code>, then start again.</p>
<p>The API works without it: <a href="/api/docs">/api/docs</a>.</p>
</html>
"""
_INDEX = "index.html"
_FOREVER = "public, max-age=31536000, immutable"
_ASK_FIRST = "no-cache"
_HTML = "text/html; charset=utf-8"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": _HTML,
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
"""Named here, for what a machine's own list says differs from one to the next."""
_PACKED = frozenset({".ico", ".png", ".woff2"})
_EXTENSION = "dragonfly.dashboard"

blueprint = Blueprint("dashboard", __name__)


@dataclass(frozen=True, slots=True)
class Content:
    """A file's bytes, as they are and packed; ``tag`` changes with them."""

    plain: bytes
    zipped: bytes | None
    tag: str


def install(app: Flask, folder: Path) -> None:
    """Serve what was built into ``folder``."""
    app.extensions[_EXTENSION] = folder
    app.register_error_handler(NotFound, _unknown)


def _page(**_: str) -> Response:
    index = _find(_INDEX)
    if index is None:
        return Response(NOT_BUILT, status=503, content_type=_HTML)
    return _answer(index, keep=_ASK_FIRST)


for rule in PAGES:
    blueprint.add_url_rule(rule, endpoint="page", view_func=_page, methods=["GET"])


@blueprint.route("/assets/<path:name>", methods=["GET"])
def asset(name: str) -> Response:
    """A file of the front end whose name changes with its content."""
    found = _find(f"assets/{name}")
    if found is None:
        raise problems.ProblemError("NOT_FOUND")
    return _answer(found, keep=_FOREVER)


def _unknown(error: NotFound) -> Response:
    if request.routing_exception is not error or request.method not in ("GET", "HEAD"):
        return problems.from_http(error)
    name = request.path.removeprefix("/")
    if name.split("/", 1)[0] in ("api", "assets"):
        return problems.from_http(error)
    # What lies beside the front end's page, such as its icon.
    beside = _find(name) if "/" not in name and name != _INDEX else None
    if beside is not None:
        return _answer(beside, keep=_ASK_FIRST)
    index = _find(_INDEX)
    if index is None or not _asked_by_a_person():
        return problems.from_http(error)
    response = _answer(index, keep=_ASK_FIRST)
    response.status_code = 404
    return response


def _asked_by_a_person() -> bool:
    return any(kind == "text/html" and quality > 0 for kind, quality in request.accept_mimetypes)


def _find(name: str) -> Path | None:
    """The file with this name in the folder, or None; hidden ones and what lies outside are not there."""
    folder: Path = current_app.extensions[_EXTENSION]
    joined = safe_join(str(folder), name)
    if joined is None or "\0" in name or any(part.startswith(".") for part in name.split("/")):
        return None
    path = Path(joined)
    try:
        is_ours = path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except OSError:
        # No file has so long a name.
        return None
    return path if is_ours else None


def _answer(path: Path, *, keep: str) -> Response:
    found = path.stat()
    content = _content(path, found.st_mtime_ns, found.st_size)
    zipped = content.zipped if request.accept_encodings.quality("gzip") > 0 else None
    response = Response(content.plain if zipped is None else zipped, content_type=_type(path))
    if zipped is not None:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Cache-Control"] = keep
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.set_etag(content.tag if zipped is None else f"{content.tag}-gzip")
    response.make_conditional(request)
    return response


def _type(path: Path) -> str:
    return _TYPES.get(path.suffix, "application/octet-stream")


@lru_cache(maxsize=256)
def _content(path: Path, _changed: int, _size: int) -> Content:
    plain = path.read_bytes()
    zipped = None if path.suffix in _PACKED else gzip.compress(plain, mtime=0)
    return Content(plain, zipped, hashlib.sha256(plain).hexdigest()[:32])
