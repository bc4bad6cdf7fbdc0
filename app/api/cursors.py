"""The cursor of a list: where its last page ended, as a text that only this module reads."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
from typing import Any
from uuid import UUID

from app.api.problems import ProblemError, invalid

_LONGEST = 300


def write(kind: str, *values: object) -> str:
    """A cursor of the list ``kind``."""
    document = json.dumps([kind, *(value if isinstance(value, int) else str(value) for value in values)])
    return base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")


def read_number(kind: str, cursor: str | None, *, most: int) -> int | None:
    """The number that the cursor holds, ``most`` or less. Raises ProblemError where this list has given out no such cursor."""
    if cursor is None:
        return None
    values = _values(kind, cursor, 1)
    if type(values[0]) is not int or not -1 <= values[0] <= most:
        raise _refusal()
    return values[0]


def read_moment(kind: str, cursor: str | None) -> tuple[dt.datetime, UUID] | None:
    """The moment and id that the cursor holds. Raises ProblemError where this list has given out no such cursor."""
    if cursor is None:
        return None
    moment, batch_id = _values(kind, cursor, 2)
    try:
        found = dt.datetime.fromisoformat(moment), UUID(batch_id)
    except (TypeError, ValueError, AttributeError):
        raise _refusal() from None
    if found[0].tzinfo is None:
        raise _refusal()
    return found


def _values(kind: str, cursor: str, count: int) -> list[Any]:
    if len(cursor) > _LONGEST:
        raise _refusal()
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        document = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeError, binascii.Error, ValueError, RecursionError):
        raise _refusal() from None
    if not isinstance(document, list) or len(document) != count + 1 or document[0] != kind:
        raise _refusal()
    return document[1:]


def _refusal() -> ProblemError:
    return invalid("cursor", "Must be the next_cursor of an earlier page of this list.")
