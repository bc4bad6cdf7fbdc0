"""How stored things are shown: the shape that the schemas of the answers read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from app.batch import error_rate_percent
from app.store.batches import Batch


def batch_shape(batch: Batch) -> dict[str, Any]:
    """The batch with what is worked out from its counts and times."""
    parse_ms, load_ms = batch.parse_duration_ms, batch.db_duration_ms
    worked_ms = None if parse_ms is None or load_ms is None else parse_ms + load_ms
    return {
        **{field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)},
        "batch_id": batch.id,
        "error_rate_percent": error_rate_percent(total=batch.row_count_total, invalid=batch.row_count_invalid),
        "rows_per_second": round(1000 * batch.row_count_total / worked_ms, 1) if worked_ms else None,
        "progress": {
            "rows_processed": batch.rows_processed,
            "bytes_processed": batch.bytes_processed,
            "bytes_total": batch.file_size_bytes,
        },
    }


def row_error_shape(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row error with the keys of those cells of its raw data that its message names."""
    return {**row, "faulty_columns": _faulty_columns(row["error_message"], row["raw_data"] or {})}


def _faulty_columns(message: str, raw_data: Mapping[str, Any]) -> list[str]:
    # "Row 12, column Amount: found ..., expected ...; column Date: found ...", as app.engine.refusals writes it.
    _, comma, faults = message.partition(", column ")
    named = [fault.partition(": found ")[0].strip() for fault in faults.split("; column ")] if comma else []
    return list(dict.fromkeys(name for name in named if name in raw_data))
