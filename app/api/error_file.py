"""errors.csv: the refused rows as the vendor's own columns, written as they are read, page by page."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from urllib.parse import quote

import structlog
from sqlalchemy import Engine, RowMapping

from app.api.multipart import display_name
from app.columns import distinct_keys
from app.store import pages
from app.store.batches import Batch

_BOM = "\ufeff"
_CALCULATED = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a cell that begins so for a formula."""
_OWN_COLUMNS = ("row_number", "error_code", "error_message")
_LONGEST_STEM = 150
_SUFFIX = "-errors.csv"
_READ_DIFFERENTLY = re.compile(r'["\\%/]')
"""What browsers do not all read alike within the quotes of a file name: RFC 6266, appendix D."""
_ATTR_CHARS = "!#$&+-.^_`|~"
"""What RFC 5987 lets stand beside letters and digits."""

_log = structlog.get_logger(__name__)


class FileCutShortError(Exception):
    """The rest of the rows could not be read; the connection is broken off, so that nobody takes this for the end."""


def stream(engine: Engine, batch: Batch, *, raw: bool) -> Iterator[bytes]:
    """The file in pieces. What fails at the first page is raised here, before the answer has begun."""
    headers = [str(header) for header in batch.reading.get("headers", ())]
    with engine.connect() as connection:
        has_unsplit = pages.has_unsplit_records(connection, batch.id)
    keys = distinct_keys(headers)
    if has_unsplit:
        # The vendor may have a column of that name.
        headers.append(distinct_keys([*headers, pages.RAW_KEY])[-1])
    read = pages.stream_row_errors(engine, batch.id)
    first = next(read)
    return _written(headers, keys, chain([first], read), raw=raw, batch=batch)


def names_for(filename: str) -> dict[str, str]:
    """The name under which the file is saved, as parameters of Content-Disposition, which takes ASCII alone.

    ``filename*`` (RFC 5987) says it in full where ``filename`` cannot.
    """
    stem = display_name(filename).rsplit(".", 1)[0][:_LONGEST_STEM] or "upload"
    decomposed = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    plain = _READ_DIFFERENTLY.sub("_", decomposed).strip() or "upload"
    names = {"filename": plain + _SUFFIX}
    if plain != stem:
        names["filename*"] = f"UTF-8''{quote(stem + _SUFFIX, safe=_ATTR_CHARS)}"
    return names


def defuse(cell: str) -> str:
    """The cell as text for a spreadsheet."""
    return f"'{cell}" if cell.startswith(_CALCULATED) else cell


def _written(
    headers: Sequence[str],
    keys: Sequence[str],
    read: Iterable[Sequence[RowMapping]],
    *,
    raw: bool,
    batch: Batch,
) -> Iterator[bytes]:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")

    def write(cells: Iterable[str]) -> None:
        writer.writerow(cells if raw else [defuse(cell) for cell in cells])

    buffer.write(_BOM)
    write([*headers, *_OWN_COLUMNS])
    try:
        for page in read:
            for row in page:
                held = row["raw_data"] or {}
                cells = [""] * len(headers)
                if len(headers) > len(keys) and pages.is_unsplit(row):
                    cells[-1] = _text(held[pages.RAW_KEY])
                else:
                    cells[: len(keys)] = (_text(held.get(key)) for key in keys)
                write([*cells, *(_text(row[name]) for name in _OWN_COLUMNS)])
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    except Exception as problem:
        # The text of a database error may repeat cells: only its kind is written down.
        _log.warning("errors_csv_cut_short", batch_id=str(batch.id), kind=type(problem).__qualname__)
        raise FileCutShortError from None


def _text(value: object) -> str:
    return "" if value is None else str(value)
