"""The fields of requests and answers, each as strict as the API's documentation says."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any
from uuid import UUID

from marshmallow import fields
from marshmallow.validate import Length
from werkzeug.routing import UnicodeConverter

from app.api.problems import invalid

_WHOLE = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
# NUL and lone surrogates cannot be stored or searched for; the other controls have no place in a line of text.
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
MAX_ID = 2**63 - 1
MAX_ROW_INDEX = 2**31 - 1


class UtcTime(fields.DateTime):
    """A moment, always shown in UTC as ISO 8601 with Z."""

    def _serialize(self, value: dt.datetime | None, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        if value is None:
            return None
        return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


class PlainText(fields.String):
    """Text without control characters, at most ``longest`` characters."""

    default_error_messages = {"control": "Must not hold control characters."}  # noqa: RUF012

    def __init__(self, *, longest: int, **kwargs: Any) -> None:
        super().__init__(validate=Length(max=longest), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if isinstance(text, str) and _NO_TEXT.search(text):
            raise self.make_error("control")
        return text


class WholeNumber(fields.Integer):
    """A whole number written in ASCII digits, in a query or a form."""

    def _validated(self, value: Any) -> Any:
        if isinstance(value, str) and not _WHOLE.fullmatch(value):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class StrictBoolean(fields.Boolean):
    """JSON's own true or false, nothing that looks like it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class CanonicalUuid(fields.String):
    """A UUID in its usual form of 36 characters."""

    default_error_messages = {"uuid": "Must be a UUID."}  # noqa: RUF012

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str) or not _UUID.fullmatch(value):
            raise self.make_error("uuid")
        return UUID(value)


class FileHash(fields.String):
    """A SHA-256 in lower-case hex."""

    FORM = "^[0-9a-f]{64}$"
    """As the OpenAPI document says it; in Python, $ lets a line feed follow, so the whole text is compared."""
    default_error_messages = {"hash": "Must be a SHA-256 in lower-case hex."}  # noqa: RUF012

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, str) or not re.fullmatch(self.FORM, value):
            raise self.make_error("hash")
        return value


class IdConverter(UnicodeConverter):
    """An id in an address, documented as a UUID; ``parse_uuid`` refuses what is none with a sentence, not a 404."""


def parse_uuid(name: str, text: str) -> UUID:
    """The id, or a ProblemError that names the field."""
    if not _UUID.fullmatch(text):
        raise invalid(name, "Must be a UUID.")
    return UUID(text)


def parse_id(name: str, text: str) -> int:
    """The number of a row error, or a ProblemError that names the field."""
    if not re.fullmatch("[0-9]{1,19}", text) or not 1 <= int(text) <= MAX_ID:
        raise invalid(name, "Must be a whole number from 1 on.")
    return int(text)
