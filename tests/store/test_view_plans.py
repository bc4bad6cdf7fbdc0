"""The views stay quick: with 100,000 batches and 300,000 row errors none counts errors, looks up row by row, or sorts them all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from app.store import ops

OPS_VIEWS = ("ops.v_batch_performance", "ops.v_error_distribution", "ops.v_pipeline_health", "ops.v_error_trend")
INTAKE_VIEWS = ("intake.v_batch_observability", "intake.v_error_summary", "intake.view_batch_metrics")
FEW_ROWS = 2_000
"""What a view may sort or look up one by one: what it shows, never what it counts."""
COMPILED = 100_000
"""From this cost on PostgreSQL compiles a plan (jit_above_cost), which takes longer than reading a view."""

# Ten weeks of batches, and three errors in each.
_FILL = """
INSERT INTO intake.batches (id, filename, source, file_hash, status, rejection_reason, completed_at, created_at,
    row_count_total, row_count_valid, row_count_invalid, row_count_inserted, parse_duration_ms, db_duration_ms)
SELECT md5(n::text)::uuid, 'export ' || n || '.csv', 'manual', encode(sha256(n::text::bytea), 'hex'),
    CASE n % 100 WHEN 0 THEN 'failed' WHEN 1 THEN 'uploaded' ELSE 'completed' END,
    CASE n % 100 WHEN 0 THEN 'reason' END, CASE n % 100 WHEN 1 THEN NULL ELSE now() END,
    now() - n * interval '1 minute', 10, 7, 3, 7, n % 100, n % 50
FROM generate_series(1, 100000) n;
INSERT INTO intake.row_errors (batch_id, row_index, error_code, error_message, error_stage, created_at)
SELECT b.id, n, (ARRAY['PARSE_ERROR', 'INVALID_DATE', 'INVALID_AMOUNT'])[n], 'm',
    (ARRAY['parse', 'validate', 'validate'])[n], b.created_at
FROM intake.batches b, generate_series(1, 3) n;
ANALYZE intake.batches, intake.row_errors, intake.error_tallies, intake.error_totals;
"""


@pytest.fixture(scope="module")
def full(owner_engine: Engine) -> Iterator[Engine]:
    """The owner's engine on full tables."""
    empty = text("TRUNCATE intake.batches, public.judgments CASCADE")
    with owner_engine.begin() as connection:
        connection.execute(empty)
        connection.exec_driver_sql(_FILL.replace("%", "%%"))
    yield owner_engine
    with owner_engine.begin() as connection:
        connection.execute(empty)


def executed(engine: Engine, role: str, statement: str, **values: Any) -> list[dict[str, Any]]:
    """Every node of the plan by which the role's statement was executed, without the help of other processes."""
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL max_parallel_workers_per_gather = 0"))
        connection.execute(text(f"SET LOCAL ROLE {role}"))
        explain = text(f"EXPLAIN (ANALYZE, TIMING OFF, BUFFERS, FORMAT JSON) {statement}")
        return list(nodes(connection.execute(explain, values).scalar_one()[0]["Plan"]))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def faults(plan: list[dict[str, Any]]) -> list[str]:
    """What would make the plan slow, in words."""
    found = []
    for node in plan:
        kind, rows, times = node["Node Type"], node["Actual Rows"], node["Actual Loops"]
        if node.get("Relation Name") == "row_errors" and times:
            found.append("reads row errors")
        if times > FEW_ROWS:
            found.append(f"{kind} {times} times")
        if kind == "Sort" and rows > FEW_ROWS:
            found.append(f"sorts {rows:.0f} rows")
        if node.get("Planned Partitions"):
            found.append("expects more groups than fit into memory")
    if plan[0]["Total Cost"] > COMPILED:
        found.append("would be compiled first")
    if plan[0]["Temp Written Blocks"]:
        found.append("writes to the disk")
    return found


@pytest.mark.parametrize("view", OPS_VIEWS)
def test_anon_reads_an_ops_view_without_a_slow_step(full: Engine, view: str) -> None:
    assert faults(executed(full, "anon", f"SELECT * FROM {view}")) == []


@pytest.mark.parametrize("view", INTAKE_VIEWS)
def test_the_application_reads_all_of_an_intake_view_without_a_slow_step(full: Engine, view: str) -> None:
    plan = executed(full, "service_role", f"SELECT * FROM {view}")
    assert faults(plan) == []
    assert plan[0]["Actual Rows"] >= 100_000


def test_a_slow_step_is_seen(full: Engine) -> None:
    slow = """
        SELECT b.id, (SELECT count(*) FROM intake.row_errors e WHERE e.batch_id = b.id)
        FROM intake.batches b ORDER BY b.filename
    """
    found = " ".join(faults(executed(full, "service_role", slow)))
    for fault in ("reads row errors", "100000 times", "sorts 100000 rows", "writes to the disk", "compiled"):
        assert fault in found


def test_the_week_is_read_along_the_index_and_nothing_older(full: Engine) -> None:
    read = {"batches": 0, "error_tallies": 0}
    for view in ("ops.v_batch_performance", "ops.v_error_distribution"):
        for node in executed(full, "anon", f"SELECT * FROM {view}"):
            if node.get("Relation Name") in read and node["Actual Loops"]:
                assert node["Node Type"] != "Seq Scan", view
                read[node["Relation Name"]] += round(node["Actual Rows"] * node["Actual Loops"])
    # One batch a minute; some have grown too old since they were made.
    week, aged = 7 * 24 * 60, 60
    assert week - aged <= read["batches"] <= week + aged
    assert 3 * (week - aged) <= read["error_tallies"] <= 3 * week


@pytest.mark.parametrize("narrowed", ["ORDER BY created_at DESC LIMIT 100", "WHERE batch_id = md5('7')::uuid"])
def test_a_few_batches_are_observed_without_reading_the_others(full: Engine, narrowed: str) -> None:
    plan = executed(full, "service_role", f"SELECT * FROM intake.v_batch_observability {narrowed}")
    assert faults(plan) == []
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in plan) <= FEW_ROWS


def test_what_waits_is_counted_without_reading_what_is_finished(full: Engine) -> None:
    with full.connect() as connection:
        (_, normal, _) = ops.queues(connection)
        assert normal["claimable"] == 1_000
    plan = executed(full, "service_role", ops._QUEUES)
    assert faults(plan) == []
    assert max(node["Actual Rows"] for node in plan) <= FEW_ROWS


@pytest.mark.parametrize(
    "statement", [ops._PERFORMANCE, ops._DISTRIBUTION, ops._TREND], ids=["performance", "distribution", "trend"]
)
def test_another_span_than_the_views_has_no_slow_step_either(full: Engine, statement: str) -> None:
    with full.connect() as connection:
        now = ops.now(connection)
    plan = executed(full, "service_role", statement, start=now - dt.timedelta(days=400), end=now)
    assert faults(plan) == []
