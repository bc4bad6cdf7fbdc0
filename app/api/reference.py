"""The API's reference page, made from the OpenAPI document: ``python -m app.api.reference > docs/reference/api.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, cast

from app.api.application import create_app
from app.api.docs import operations
from app.settings import Settings
from app.store.blobs import Blobs
from app.store.database import open_engine

_INTRODUCTION = """# The HTTP API

Made from the OpenAPI document by `python -m app.api.reference > docs/reference/api.md`; a test holds this page to it.
A running server shows the whole of it, schemas included, at `/api/docs`, and as data at `/api/openapi.json`.

- Send the key as `Authorization: Bearer <key>`; `dragonfly keys create NAME` makes one. What is marked open needs none.
- Every refusal is `application/problem+json` with `type`, `title`, `status`, `detail` and a `code` of the
  [catalogue](error-codes.md); 422 names the fields in `errors`; 503 and 429 say in `Retry-After` when to come back.
- What a call does not declare is refused with 422: another parameter or member, and a parameter that is given twice.
- Lists take `limit` (50, at most 1,000) and `cursor`, the `next_cursor` of the page before; the last page has `null`.
  A page of row errors may be shorter than its limit where the records are very large.
- Moments are ISO 8601 in UTC, amounts are strings, counts are whole numbers.
"""


def reference() -> str:
    """The page as Markdown."""
    # Nothing is connected to: the document needs the routes alone.
    app = create_app(Settings(), lambda *_: None, engine=open_engine(""), blobs=cast(Blobs, object()))
    document = app.extensions["dragonfly.api"].spec.to_dict()
    schemas = document["components"]["schemas"]
    return "\n".join([_INTRODUCTION, *(line for each in operations(document) for line in _section(each, schemas))])


def _section(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    is_open = " (open)" if operation.get("security") == [] else ""
    yield f"## `{operation['method'].upper()} {operation['path']}`{is_open}"
    yield ""
    yield f"{operation['summary']}. {operation.get('description', '')}".strip().replace("\n", " ")
    yield ""
    taken = [*_parameters(operation), *_members(operation, schemas)]
    if taken:
        yield "| takes | |"
        yield "|---|---|"
        yield from taken
        yield ""
    statuses = sorted(status for status in operation["responses"] if status != "default")
    yield f"Answers {', '.join(f'`{status}`' for status in statuses)}."
    yield ""


def _parameters(operation: dict[str, Any]) -> Iterator[str]:
    for parameter in operation["parameters"]:
        if parameter["in"] == "query" and parameter["name"] not in ("limit", "cursor"):
            yield _row(parameter["name"], parameter["schema"], parameter.get("description"))


def _members(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    for content in operation["body"].values():
        name = content["schema"]["$ref"].rsplit("/", 1)[1]
        for member, schema in schemas[name]["properties"].items():
            yield _row(member, schema, schema.get("description"))


def _row(name: str, schema: dict[str, Any], description: str | None) -> str:
    choices = [str(choice) for choice in schema.get("enum", ()) if choice is not None]
    said = [description or "", f"One of {', '.join(choices)}." if choices else ""]
    if schema.get("default") is not None:
        default = schema["default"]
        said.append(f"Default: {str(default).lower() if isinstance(default, bool) else default}.")
    return f"| `{name}` | {' '.join(part for part in said if part)} |"


if __name__ == "__main__":
    sys.stdout.write(reference())
