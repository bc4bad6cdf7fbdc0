"""Resolving a row error, and reopening it: who said so, when, and why."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, text

from app.store.pages import ROW_ERROR_COLUMNS

_RETURNED = ", ".join(column.name for column in ROW_ERROR_COLUMNS)


def resolve(connection: Connection, error_id: int, *, by: str, notes: str | None) -> RowMapping | None:
    """Mark the error as resolved now; notes of None leave those that stand. None where there is no such error."""
    return _write(connection, "resolved_at = clock_timestamp(), resolved_by = :by,", error_id, notes, by=by)


def reopen(connection: Connection, error_id: int, *, notes: str | None) -> RowMapping | None:
    """Take a resolution back; notes of None leave those that stand. None where there is no such error."""
    return _write(connection, "resolved_at = NULL, resolved_by = NULL,", error_id, notes)


def _write(
    connection: Connection, assignments: str, error_id: int, notes: str | None, **values: Any
) -> RowMapping | None:
    return (
        connection.execute(
            text(
                f"""
                UPDATE intake.row_errors SET {assignments} resolution_notes = coalesce(:notes, resolution_notes)
                WHERE id = :id RETURNING {_RETURNED}
                """
            ),
            {"id": error_id, "notes": notes, **values},
        )
        .mappings()
        .one_or_none()
    )
