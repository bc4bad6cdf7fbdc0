"""Lists stay fast at any size: with 100,000 batches and 300,000 row errors no list reads or sorts a whole table."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, Engine, event, text

from app.store import batches, pages
from app.store.backlog import intake_state

BIG_TABLES = {"batches", "row_errors", "row_conflicts", "judgments"}
FEW_ROWS = 2_000
"""What a list may sort: a page, never a table."""

_FILL = """
INSERT INTO intake.batches (id, filename, source, file_hash, status, rejection_reason, completed_at, created_at,
    row_count_invalid, row_count_conflict, first_judgment_id, last_judgment_id)
SELECT md5(n::text)::uuid, 'export ' || n || '.csv', (ARRAY['simplicity', 'jbi', 'foil', 'manual'])[n % 4 + 1],
    encode(sha256(n::text::bytea), 'hex'),
    CASE n % 100 WHEN 0 THEN 'failed' WHEN 1 THEN 'uploaded' ELSE 'completed' END,
    CASE n % 100 WHEN 0 THEN 'reason' END,
    CASE n % 100 WHEN 1 THEN NULL ELSE now() END,
    timestamptz '2026-01-01' + n * interval '1 second', 10, 10, n * 3, n * 3 + 2
FROM generate_series(1, 100000) n;
INSERT INTO intake.row_errors (batch_id, row_index, error_code, error_message, error_stage, raw_data, raw)
SELECT b.id, n, CASE n % 3 WHEN 0 THEN 'PARSE_ERROR' ELSE 'INVALID_DATE' END, 'm', 'validate', '{"a": "b"}', 'ab'
FROM (SELECT id FROM intake.batches ORDER BY created_at DESC LIMIT 3) b, generate_series(1, 100000) n;
INSERT INTO public.judgments (id, case_number, defendant_name, judgment_amount, batch_id, row_index)
SELECT b.first_judgment_id + place, 'C-' || b.first_judgment_id + place, 'd', 1, b.id, place
FROM (SELECT * FROM intake.batches ORDER BY created_at LIMIT 30000) b, generate_series(0, 2) place;
INSERT INTO intake.row_conflicts (batch_id, row_index, case_number, kept_batch_id, kept_row_index, fields)
SELECT b.id, n, 'C', b.id, 0, '{"court": ["a", "b"]}'
FROM (SELECT id FROM intake.batches ORDER BY created_at DESC LIMIT 3) b, generate_series(1, 10000) n;
"""


@pytest.fixture(scope="module")
def full(service_engine: Engine, owner_engine: Engine) -> Iterator[Engine]:
    """The application's engine on full tables."""
    with owner_engine.begin() as connection:
        connection.execute(text("TRUNCATE intake.batches, public.judgments CASCADE"))
        # Without the foreign keys' triggers, which would look each row's batch up.
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql(_FILL.replace("%", "%%"))
        connection.exec_driver_sql("ANALYZE intake.batches, intake.row_errors, public.judgments, intake.row_conflicts")
    yield service_engine
    with owner_engine.begin() as connection:
        connection.execute(text("TRUNCATE intake.batches, public.judgments CASCADE"))


Read = Callable[[Connection, UUID], object]
MIDDLE = dt.datetime(2026, 1, 1, 14, tzinfo=dt.UTC)


def batches_like(**wanted: str) -> Read:
    return lambda connection, _: pages.batches_page(
        connection, pages.BatchFilter(**wanted), limit=50, before=(MIDDLE, uuid4())
    )


def errors_from(after: int | None, code: str | None = None) -> Read:
    return lambda connection, batch: pages.row_errors_page(connection, batch, error_code=code, limit=1000, after=after)


def judgments_like(**wanted: Any) -> Read:
    return lambda connection, _: pages.judgments_page(
        connection, **{"case_number": None, "batch_id": None, **wanted}, limit=1000, before=50_000
    )


def conflicts(connection: Connection, batch: UUID) -> object:
    found = batches.get(connection, batch)
    assert found is not None
    return pages.conflicts_page(connection, found, limit=1000, after=5000)


def judgments_of_a_batch(connection: Connection, _: UUID) -> object:
    batch = connection.scalar(text("SELECT batch_id FROM public.judgments WHERE id = 3000"))
    page = pages.judgments_page(connection, case_number=None, batch_id=batch, limit=1000, before=None)
    assert len(page.items) == 3
    return page


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(batches_like(), id="batches"),
        pytest.param(batches_like(status="failed"), id="batches by status"),
        pytest.param(batches_like(source="jbi"), id="batches by source"),
        pytest.param(batches_like(file_hash="ab" * 32), id="batches by hash"),
        pytest.param(batches_like(q="export"), id="batches by name"),
        pytest.param(errors_from(None), id="errors, first page"),
        pytest.param(errors_from(90_000), id="errors, late page"),
        pytest.param(errors_from(90_000, "INVALID_DATE"), id="errors by code"),
        pytest.param(pages.has_unsplit_records, id="unsplit records"),
        pytest.param(conflicts, id="conflicts"),
        pytest.param(judgments_like(), id="judgments"),
        pytest.param(judgments_like(case_number="C-3000"), id="judgments by case number"),
        pytest.param(judgments_of_a_batch, id="judgments of a batch"),
    ],
)
def test_a_list_walks_an_index(full: Engine, read: Read) -> None:
    for scanned, node, rows in walk(full, read):
        assert not (node == "Seq Scan" and scanned in BIG_TABLES), f"reads all of {scanned}"
        assert "Sort" not in node or rows <= FEW_ROWS, f"sorts {rows} rows"
        assert node != "Bitmap Heap Scan" or rows <= FEW_ROWS, f"gathers {rows} rows of {scanned}"


def test_the_state_counts_the_backlog_without_reading_what_is_finished(full: Engine) -> None:
    read = [(scanned, node) for scanned, node, _ in walk(full, lambda connection, _: intake_state(connection))]
    assert ("batches", "Seq Scan") not in read


def test_a_late_page_is_as_full_as_the_first(full: Engine) -> None:
    with full.connect() as connection:
        batch = newest_batch(connection)
        page = pages.row_errors_page(connection, batch, error_code=None, limit=1000, after=99_000)
        assert [row["row_index"] for row in page.items] == list(range(99_001, 100_001))
        assert page.next_key is None


def newest_batch(connection: Connection) -> UUID:
    found = connection.scalar(text("SELECT id FROM intake.batches ORDER BY created_at DESC, id DESC LIMIT 1"))
    assert isinstance(found, UUID)
    return found


def walk(engine: Engine, read: Read) -> list[tuple[str | None, str, int]]:
    """The nodes of the plans of every statement that ``read`` executes: table, kind, rows expected."""
    statements: list[tuple[str, Any]] = []

    def keep(_1: object, _2: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    with engine.connect() as connection:
        batch = newest_batch(connection)
        event.listen(engine, "before_cursor_execute", keep)
        try:
            read(connection, batch)
        finally:
            event.remove(engine, "before_cursor_execute", keep)
        assert statements
        found = []
        for statement, parameters in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
            found += list(nodes(plan[0]["Plan"]))
    return found


def nodes(plan: dict[str, Any]) -> Iterator[tuple[str | None, str, int]]:
    yield plan.get("Relation Name"), plan["Node Type"], plan["Plan Rows"]
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)
