"""The catalogue: every code with which a file, a row or a request can be refused, its sentence and its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["file", "row", "request"]


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One way to be refused.

    ``sentence`` is what happened, free of any cell of any row, so it may stand in views and alerts.
    ``remedy`` is what the reader can do next. ``http_status`` is set for request codes only.
    """

    code: str
    scope: Scope
    sentence: str
    remedy: str
    http_status: int | None = None


_CATALOGUE = (
    # Row codes, in the order of the contract's fields: a row with several faults stands under the first.
    ErrorCode(
        "PARSE_ERROR",
        "row",
        "The record could not be split into the header's columns.",
        "Correct the quotes, delimiters or encoding of this record in the source file.",
    ),
    ErrorCode("MISSING_CASE_NUMBER", "row", "The case number is empty.", "Fill in the court's case number."),
    ErrorCode(
        "INVALID_CASE_NUMBER",
        "row",
        "The case number is longer than 100 characters.",
        "Check that the column really holds the case number.",
    ),
    ErrorCode("MISSING_DEFENDANT", "row", "The defendant's name is empty.", "Fill in the defendant's name."),
    ErrorCode(
        "INVALID_DEFENDANT",
        "row",
        "The defendant's name is longer than 500 characters.",
        "Check that the column really holds the defendant's name.",
    ),
    ErrorCode("MISSING_AMOUNT", "row", "The judgment amount is empty.", "Fill in the amount in US dollars."),
    ErrorCode(
        "INVALID_AMOUNT",
        "row",
        "The judgment amount is not an amount in US dollars from 0 up to below 1,000,000,000,000.",
        "Write the amount as 1234.50, 1,234.50 or $1,234.50.",
    ),
    ErrorCode(
        "INVALID_DATE",
        "row",
        "The judgment date is not a date from 1900-01-01 on in a form that can be read without guessing.",
        "Write the date as YYYY-MM-DD or M/D/YYYY.",
    ),
    ErrorCode("FUTURE_DATE", "row", "The judgment date lies after the day of upload.", "Correct the judgment date."),
    ErrorCode(
        "INVALID_TEXT",
        "row",
        "A text cell holds control or invisible characters, or is longer than 500 characters.",
        "Remove the characters, or check that the column holds what its header says.",
    ),
    ErrorCode(
        "INSERT_FAILED",
        "row",
        "The database itself refused the row.",
        "Ask an engineer to look at the database's own rules; the row is kept as it came.",
    ),
    # File codes, in the order in which they apply.
    ErrorCode(
        "INTEGRITY_ERROR",
        "file",
        "The stored file is missing or no longer has the SHA-256 it was received with.",
        "Upload the file again from the original; tell an engineer, for storage has changed it.",
    ),
    ErrorCode(
        "UNREADABLE_FILE",
        "file",
        "The file is not a delimited text file in UTF-8.",
        "Export it as CSV (UTF-8) and upload it again.",
    ),
    ErrorCode(
        "LIMIT_EXCEEDED",
        "file",
        "The file goes beyond a limit of the reader.",
        "Split the file, or correct the quote that makes one record swallow the rest.",
    ),
    ErrorCode(
        "MISSING_COLUMNS",
        "file",
        "A required column is not among the headers.",
        "Name the columns as the documentation lists them and upload the file again.",
    ),
    ErrorCode("EMPTY_FILE", "file", "The file has no data rows.", "Check the export and upload it again."),
    ErrorCode(
        "CONTROL_TOTAL_MISMATCH",
        "file",
        "The file's own control total differs from its rows.",
        "Ask the vendor for a complete file.",
    ),
    ErrorCode(
        "ERROR_BUDGET_EXCEEDED",
        "file",
        "The share of invalid rows is above the batch's budget.",
        "Correct the listed rows and upload the file again, or retry the batch with a higher budget.",
    ),
    ErrorCode(
        "POISONED",
        "file",
        "Processing ended without a result three times.",
        "Ask an engineer: the worker died or failed each time. Nothing of the file was loaded.",
    ),
    # Request codes.
    ErrorCode(
        "MALFORMED_REQUEST", "request", "The request could not be understood.", "See the API documentation.", 400
    ),
    ErrorCode(
        "UNAUTHENTICATED",
        "request",
        "A valid API key or a session is required.",
        "Send the header 'Authorization: Bearer <key>', or sign in; 'dragonfly keys create' makes a key.",
        401,
    ),
    ErrorCode("FORBIDDEN", "request", "This key may not do that.", "Use a key with the right to do it.", 403),
    ErrorCode(
        "CSRF_FAILED",
        "request",
        "A change was asked for with a session cookie and without its CSRF token.",
        "Send the csrf_token of GET /api/v1/session as the header X-CSRF-Token, or a key in place of the cookie.",
        403,
    ),
    ErrorCode("NOT_FOUND", "request", "There is no such thing here.", "Check the address and the id.", 404),
    ErrorCode(
        "METHOD_NOT_ALLOWED", "request", "The address does not take this method.", "See the API documentation.", 405
    ),
    ErrorCode(
        "BODY_TOO_SLOW",
        "request",
        "The body came slower than 1 KiB/s for 30 seconds.",
        "Try again on a better connection.",
        408,
    ),
    ErrorCode(
        "CONFLICT", "request", "The state of the thing does not allow this.", "Look at its present state first.", 409
    ),
    ErrorCode(
        "UPLOAD_TOO_LARGE",
        "request",
        "The file is larger than the server takes.",
        "Split the file and upload its parts.",
        413,
    ),
    ErrorCode(
        "INVALID_FIELD",
        "request",
        "A field breaks its rule.",
        "Correct the named field and send the request again.",
        422,
    ),
    ErrorCode(
        "TOO_MANY_ATTEMPTS",
        "request",
        "Too many failed sign-ins from this address.",
        "Wait as long as Retry-After says, then use a valid key.",
        429,
    ),
    ErrorCode(
        "INTERNAL_ERROR",
        "request",
        "Something failed on our side.",
        "Try again; if it stays, give an engineer the time and the address of the request.",
        500,
    ),
    ErrorCode(
        "DATABASE_UNAVAILABLE",
        "request",
        "The database cannot be reached just now.",
        "Nothing was stored; try again as Retry-After says.",
        503,
    ),
    ErrorCode(
        "STORAGE_UNAVAILABLE",
        "request",
        "The file store cannot be reached just now.",
        "Nothing was stored; try again as Retry-After says.",
        503,
    ),
    ErrorCode(
        "BUSY", "request", "As many uploads as the server takes are under way.", "Try again as Retry-After says.", 503
    ),
    ErrorCode(
        "STORAGE_FULL",
        "request",
        "The server's disk is full.",
        "Nothing was stored; tell an engineer, then try again.",
        507,
    ),
)

CATALOGUE: dict[str, ErrorCode] = {entry.code: entry for entry in _CATALOGUE}
"""Every code, in the order in which row and file codes apply."""

ROW_CODES: tuple[str, ...] = tuple(entry.code for entry in _CATALOGUE if entry.scope == "row")
FILE_CODES: tuple[str, ...] = tuple(entry.code for entry in _CATALOGUE if entry.scope == "file")
REQUEST_CODES: tuple[str, ...] = tuple(entry.code for entry in _CATALOGUE if entry.scope == "request")


class FileRefusedError(Exception):
    """A whole file is refused; ``code`` is one of FILE_CODES and ``reason`` says it in words.

    The reason may name the headers found, which in a file without a header are the cells of its first row: it is shown
    to those who may see the batch, and never logged.
    """

    def __init__(self, code: str, reason: str) -> None:
        if code not in FILE_CODES:
            raise ValueError(f"{code} is not a file code")
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.reading: dict[str, object] = {}
        """How the file was read as far as it was, where its reader could not be opened."""


_SCOPE_TITLES: dict[Scope, str] = {
    "row": "Rows",
    "file": "Whole files",
    "request": "Requests to the API",
}


def catalogue_as_markdown() -> str:
    """The catalogue as docs/reference/error-codes.md shows it: one table per scope, codes in the order of the catalogue."""
    lines = [
        "# Error codes",
        "",
        "Every code with which a row, a file or a request is refused. Made from the catalogue in `app/errors.py` by",
        "`python -m app.errors > docs/reference/error-codes.md`; a test holds this page to it.",
    ]
    for scope, title in _SCOPE_TITLES.items():
        status = scope == "request"
        lines += ["", f"## {title}", ""]
        lines += [f"| code |{' HTTP status |' if status else ''} what happened | what to do |"]
        lines += ["|---|---|---|---|" if status else "|---|---|---|"]
        lines += [
            f"| `{entry.code}` |{f' {entry.http_status} |' if status else ''} {_cell(entry.sentence)} | {_cell(entry.remedy)} |"
            for entry in CATALOGUE.values()
            if entry.scope == scope
        ]
    return "\n".join(lines) + "\n"


def _cell(sentence: str) -> str:
    # Markdown would swallow <key> as a tag.
    return sentence.replace("<", "&lt;")


if __name__ == "__main__":
    print(catalogue_as_markdown(), end="")
