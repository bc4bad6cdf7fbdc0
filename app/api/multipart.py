"""The multipart form of an upload: its fields to memory, its one file straight to where it is kept, no temporary file."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, cast

from flask import Request
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import File

from app.api.body import body_of, too_large
from app.api.problems import ProblemError, invalid
from app.store.blobs import Incoming

FILE_FIELD = "file"
DEFAULT_FILENAME = "upload.csv"
LONGEST_FILENAME = 255
_FORM_BYTES = 256 * 1024
"""What the text fields may take; also the parser's buffer, so it must be above twice a read of 64 KiB."""
_MOST_PARTS = 50


@dataclass(frozen=True, slots=True)
class Form:
    """An upload's fields (name -> every value given) and its file, written but not yet kept."""

    fields: dict[str, list[str]]
    filename: str
    incoming: Incoming


def read_form(request: Request, open_incoming: Callable[[], Incoming], *, max_file_bytes: int) -> Form:
    """Read the body to its end. Raises ProblemError or StorageError; whatever was written is then discarded."""
    mimetype, options = parse_options_header(request.headers.get("Content-Type"))
    boundary = options.get("boundary", "")
    if mimetype != "multipart/form-data" or not boundary or not boundary.isascii():
        raise ProblemError(
            "MALFORMED_REQUEST", "The body must be multipart/form-data with the file in a part named 'file'."
        )
    what = f"files of at most {max_file_bytes:,} bytes"
    body = body_of(request, most=max_file_bytes + _FORM_BYTES, what=what)
    reader = _FormReader(open_incoming, max_file_bytes, what)
    try:
        fields, _ = reader.parse(cast(IO[bytes], body), boundary.encode(), request.content_length)
        return reader.form(fields)
    except BaseException as problem:
        reader.discard()
        if isinstance(problem, RequestEntityTooLarge):
            raise ProblemError("UPLOAD_TOO_LARGE", "The form's text fields are too long or too many.") from None
        if isinstance(problem, ValueError):
            # The parser's own words for a body that is cut short or is no multipart.
            raise ProblemError("MALFORMED_REQUEST", "The multipart body is broken or ends too early.") from None
        raise


def display_name(sent: str | None) -> str:
    """A file name to show: the last part of what was sent, without control and invisible characters, 255 at most."""
    last = (sent or "").replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(character for character in last if unicodedata.category(character)[0] != "C").strip()
    return DEFAULT_FILENAME if shown in ("", ".", "..") else shown[:LONGEST_FILENAME]


class _Counted:
    """The file part on its way to the store, refused as soon as it is larger than a file may be."""

    def __init__(self, incoming: Incoming, most: int, what: str) -> None:
        self.incoming = incoming
        self._most = most
        self._what = what

    def write(self, data: bytes) -> int:
        if self.incoming.size + len(data) > self._most:
            raise too_large(self._what)
        return self.incoming.write(data) if data else 0

    def seek(self, place: int) -> int:
        """The parser rewinds a part when it is complete; nobody reads this one again."""
        return place


class _FormReader(MultiPartParser):
    def __init__(self, open_incoming: Callable[[], Incoming], max_file_bytes: int, what: str) -> None:
        super().__init__(max_form_memory_size=_FORM_BYTES, max_form_parts=_MOST_PARTS)
        self._open_incoming = open_incoming
        self._most = max_file_bytes
        self._what = what
        self.file: _Counted | None = None
        self.filename: str | None = None

    def start_file_streaming(self, event: File, total_content_length: int | None) -> IO[bytes]:
        if event.name != FILE_FIELD:
            raise invalid(str(event.name or "file part"), "Unknown field; the file's part is named 'file'.")
        if self.file is not None:
            raise invalid(FILE_FIELD, "Exactly one file per upload; found two.")
        self.filename = event.filename
        self.file = _Counted(self._open_incoming(), self._most, self._what)
        return cast(IO[bytes], self.file)

    def form(self, fields: MultiDict[str, str]) -> Form:
        if self.file is None:
            raise invalid(FILE_FIELD, "Send the CSV file as a part with this name and a file name.")
        if not self.filename and not self.file.incoming.size:
            raise invalid(FILE_FIELD, "No file was chosen.")
        named = {str(name): fields.getlist(name) for name in fields}
        return Form(named, display_name(self.filename), self.file.incoming)

    def discard(self) -> None:
        if self.file is not None:
            self.file.incoming.discard()


def single_values(fields: dict[str, list[str]]) -> dict[str, Any]:
    """The fields with their one value. Raises ProblemError for a field given twice."""
    for name, values in fields.items():
        if len(values) > 1:
            raise invalid(name, "Given more than once.")
    return {name: values[0] for name, values in fields.items()}
