"""The front end's types and names, made from the OpenAPI document: ``python -m app.dashboard.generate``.

Writes ``src/api/schema.d.ts`` (by openapi-typescript) and ``src/api/names.ts``; a test holds both to the document.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, cast

from app.api.application import create_app
from app.dashboard.build_hook import lay_tools, npm
from app.settings import Settings
from app.store.blobs import Blobs
from app.store.database import open_engine

FOLDER = Path(__file__).parent
TYPES, NAMES = Path("src/api/schema.d.ts"), Path("src/api/names.ts")
_QUERIES = {
    "STATES": ("/api/v1/intake/batches", "status"),
    "SOURCES": ("/api/v1/intake/batches", "source"),
    "ROW_CODES": ("/api/v1/intake/batches/{batch_id}/errors", "error_code"),
}
"""Each list of names, and the query parameter whose values it is."""


def generate(into: Path) -> None:
    """Write both files below ``into``."""
    lay_tools(FOLDER)
    document = _document()
    (into / NAMES).parent.mkdir(parents=True, exist_ok=True)
    (into / NAMES).write_text(_names(document), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "openapi.json"
        source.write_text(json.dumps(document), encoding="utf-8")
        npm(FOLDER, "exec", "--offline", "--", "openapi-typescript", str(source), "--output", str(into / TYPES))


def _document() -> dict[str, Any]:
    # Nothing is connected to: the document needs the routes alone.
    app = create_app(Settings(), lambda *_: None, engine=open_engine(""), blobs=cast(Blobs, object()))
    return cast("dict[str, Any]", app.extensions["dragonfly.api"].spec.to_dict())


def _names(document: dict[str, Any]) -> str:
    lines = ["// Made from the OpenAPI document by `python -m app.dashboard.generate`; a test holds it to that.", ""]
    for name, (path, parameter) in _QUERIES.items():
        declared = document["paths"][path]["get"]["parameters"]
        values = next(each["schema"]["enum"] for each in declared if each.get("name") == parameter)
        members = "".join(f"  {json.dumps(value)},\n" for value in values if value is not None)
        lines += [f"export const {name} = [\n{members}] as const;", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    generate(FOLDER)
