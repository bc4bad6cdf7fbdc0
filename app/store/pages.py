"""Every read that goes page by page: batches, row errors, conflicts and judgments, by keyset and along an index.

A page is read from the place where the last one ended, never by counting off what came before, so the thousandth page
costs what the first one does. ``next_key`` is that place, or None on the last page.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    Text,
    and_,
    cast,
    exists,
    func,
    or_,
    select,
    text,
    tuple_,
)

from app.batch import FINISHED
from app.store.batches import Batch
from app.store.tables import batches, judgments, row_conflicts, row_errors

Item = TypeVar("Item")
PageKey = TypeVar("PageKey")

RAW_KEY = "_raw"
"""Under this key, and alone, raw data keeps a record that could not be split. A vendor's column of that name has others beside it."""
COUNTED_ERRORS = 10_000
"""A finished batch with more invalid rows than this tells their stored number instead of counting them."""
PAGE_BYTES = 16 * 1024 * 1024
"""A page of row errors ends early when its records are larger than this: they may be 1 MiB each."""
_STREAMED_ROWS = 500

ROW_ERROR_COLUMNS: tuple[ColumnElement[Any], ...] = tuple(
    column for column in row_errors.c if column.name not in ("raw", "batch_id")
)
"""What a reader sees of a row error: all but the record's bytes."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Item, PageKey]):
    """Items in the list's order, and the key from which the next page goes on."""

    items: Sequence[Item]
    next_key: PageKey | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFilter:
    """Which batches; None does not narrow. ``q`` is part of a file name, or the beginning of an id or a hash."""

    status: str | None = None
    source: str | None = None
    file_hash: str | None = None
    q: str | None = None


def batches_page(
    connection: Connection, wanted: BatchFilter, *, limit: int, before: tuple[dt.datetime, UUID] | None
) -> Page[Batch, tuple[dt.datetime, UUID]]:
    """Batches, newest first."""
    rows = connection.execute(_batches(wanted, limit=limit, before=before)).all()
    items = [Batch.from_row(row) for row in rows[:limit]]
    return Page(items, (items[-1].created_at, items[-1].id) if len(rows) > limit else None)


def _batches(wanted: BatchFilter, *, limit: int, before: tuple[dt.datetime, UUID] | None) -> Select[Any]:
    c = batches.c
    query = select(batches).order_by(c.created_at.desc(), c.id.desc()).limit(limit + 1)
    for column, value in ((c.status, wanted.status), (c.source, wanted.source), (c.file_hash, wanted.file_hash)):
        if value is not None:
            query = query.where(column == value)
    if wanted.q:
        query = query.where(
            or_(
                c.filename.icontains(wanted.q, autoescape=True),
                cast(c.id, Text).startswith(wanted.q.lower(), autoescape=True),
                c.file_hash.startswith(wanted.q.lower(), autoescape=True),
            )
        )
    if before is not None:
        query = query.where(tuple_(c.created_at, c.id) < before)
    return query


def row_errors_page(
    connection: Connection, batch_id: UUID, *, error_code: str | None, limit: int, after: int | None
) -> Page[RowMapping, int]:
    """Row errors in the file's order; a page is shorter than ``limit`` where its records are very large."""
    rows = connection.execute(_row_errors(batch_id, error_code=error_code, limit=limit, after=after)).mappings().all()
    is_cut = len(rows) > limit or (bool(rows) and rows[-1]["weight"] > PAGE_BYTES)
    items = rows[:limit]
    return Page(items, items[-1]["row_index"] if is_cut else None)


def _row_errors(batch_id: UUID, *, error_code: str | None, limit: int, after: int | None) -> Select[Any]:
    c = row_errors.c
    conditions = [c.batch_id == batch_id]
    if error_code is not None:
        conditions.append(c.error_code == error_code)
    if after is not None:
        conditions.append(c.row_index > after)
    size = func.coalesce(func.octet_length(c.raw), 0)
    near = (
        select(*ROW_ERROR_COLUMNS, size.label("size"))
        .where(*conditions)
        .order_by(c.row_index)
        .limit(limit + 1)
        .subquery("near")
    )
    weight = func.sum(near.c.size).over(order_by=near.c.row_index)
    weighed = select(near, weight.label("weight")).subquery("weighed")
    # The row that makes the page too large is still taken, or a list would never get past it.
    return select(weighed).where(weighed.c.weight - weighed.c.size <= PAGE_BYTES).order_by(weighed.c.row_index)


def count_row_errors(connection: Connection, batch: Batch, *, error_code: str | None) -> int:
    """How many row errors the batch has, of this code or of any."""
    if batch.status in FINISHED and batch.row_count_invalid > COUNTED_ERRORS and error_code is None:
        return batch.row_count_invalid
    query = select(func.count()).select_from(row_errors).where(row_errors.c.batch_id == batch.id)
    if error_code is not None:
        query = query.where(row_errors.c.error_code == error_code)
    return connection.scalar(query) or 0


def has_unsplit_records(connection: Connection, batch_id: UUID) -> bool:
    """Whether some record of the batch could not be split, so that its raw data is one text under RAW_KEY."""
    c = row_errors.c
    is_alone = c.raw_data.op("-")(RAW_KEY) == text("'{}'::jsonb")
    unsplit = exists().where(
        c.batch_id == batch_id, c.error_code == "PARSE_ERROR", c.raw_data.has_key(RAW_KEY), is_alone
    )
    return bool(connection.scalar(select(unsplit)))


def is_unsplit(row: RowMapping) -> bool:
    """Whether this row error's record could not be split."""
    return row["error_code"] == "PARSE_ERROR" and (row["raw_data"] or {}).keys() == {RAW_KEY}


def stream_row_errors(engine: Engine, batch_id: UUID) -> Iterator[Sequence[RowMapping]]:
    """Every row error of the batch, page by page, each read in a transaction of its own."""
    after: int | None = None
    while True:
        with engine.connect() as connection:
            page = row_errors_page(connection, batch_id, error_code=None, limit=_STREAMED_ROWS, after=after)
        yield page.items
        if page.next_key is None:
            return
        after = page.next_key


def conflicts_page(connection: Connection, batch: Batch, *, limit: int, after: int | None) -> Page[RowMapping, int]:
    """The batch's duplicates that differ from the row that stands, in the file's order."""
    if batch.status in FINISHED and not batch.row_count_conflict:
        return Page([], None)
    c = row_conflicts.c
    query = select(row_conflicts).where(c.batch_id == batch.id, text("fields <> '{}'::jsonb"))
    if after is not None:
        query = query.where(c.row_index > after)
    rows = connection.execute(query.order_by(c.row_index).limit(limit + 1)).mappings().all()
    return Page(rows[:limit], rows[limit - 1]["row_index"] if len(rows) > limit else None)


def judgments_page(
    connection: Connection,
    *,
    case_number: str | None,
    batch_id: UUID | None,
    limit: int,
    before: int | None,
) -> Page[RowMapping, int]:
    """Judgments with where they came from, newest first. ``case_number`` must be in the contract's own form."""
    ids: tuple[int, int] | None = None
    if batch_id is not None:
        found = connection.execute(
            select(batches.c.first_judgment_id, batches.c.last_judgment_id).where(batches.c.id == batch_id)
        ).one_or_none()
        if found is None or found[0] is None or found[1] is None:
            return Page([], None)
        ids = (found[0], found[1])
    query = _judgments(case_number=case_number, batch_id=batch_id, ids=ids, limit=limit, before=before)
    rows = connection.execute(query).mappings().all()
    return Page(rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else None)


def _judgments(
    *, case_number: str | None, batch_id: UUID | None, ids: tuple[int, int] | None, limit: int, before: int | None
) -> Select[Any]:
    c = judgments.c
    query = select(judgments)
    if case_number is not None:
        query = query.where(c.case_number == case_number)
    if ids is not None:
        # A batch owns one block of ids, so this is a range of the primary key; batch_id itself has no index.
        query = query.where(and_(c.id.between(*ids), c.batch_id == batch_id))
    if before is not None:
        query = query.where(c.id < before)
    page = query.order_by(c.id.desc()).limit(limit + 1).subquery("page")
    return (
        select(page, batches.c.filename, batches.c.file_hash)
        .join(batches, batches.c.id == page.c.batch_id)
        .order_by(page.c.id.desc())
    )
