"""Nobody without a right sees personal data: every column that could hold some is marked, and anon reads all that it can."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from app.batch import State
from app.local.postgres import Postgres
from tests.store.conftest import NOW, Batches

MARK = "Ada Marlow 4711"
KEY = "6f2c1a9e-0000-4000-8000-000000000001"
FREE = {"text": "%s", "jsonb": "to_jsonb(%s::text)", "bytea": "convert_to(%s, 'UTF8')", "text[]": "ARRAY[%s]"}
"""The types that may hold anything, and how the mark is written in each."""
CODES = {"intake.row_errors.error_code", "intake.error_tallies.error_code"}
"""Free text that holds codes of the catalogue only, and that anon may see."""


@pytest.fixture
def marked(made: Batches, postgres_server: Postgres) -> set[str]:
    """The columns that hold the mark now."""
    batch_id = made.put(State.FAILED)
    made.put_error(batch_id, 1)
    made.put_judgment(batch_id, 1)
    rows: dict[str, dict[str, object]] = {
        "intake.row_conflicts": {
            "batch_id": batch_id, "row_index": 1, "case_number": "c", "kept_batch_id": batch_id, "kept_row_index": 0,
        },
        "ops.api_keys": {"id": KEY, "name": "k", "key_hash": "ab" * 32},
        "ops.sign_in_links": {"token_hash": "ab" * 32, "key_id": KEY, "expires_at": NOW},
        "ops.ended_sessions": {"id": "s", "expires_at": NOW},
        "ops.workers": {"name": "w", "host": "h", "pid": 1, "concurrency": 1, "version": "1"},
        "ops.heartbeats": {"name": "beat"},
        "ops.canaries": {"queue": "high"},
        "ops.leftovers": {"kind": "blob"},
        "ops.sentinel_runs": {
            "started_at": NOW, "duration_ms": 1, "environment": "dev", "host": "h", "overall_status": "healthy",
            "findings": {},
        },
        "ops.sentinel_flips": {
            "check_name": "beat", "level_before": "HEALTHY", "level_after": "WARNING", "at": NOW, "message": "m",
        },
        "ops.alerts": {
            "dedupe_key": "k", "kind": "raised", "check_name": "beat", "level": "WARNING", "environment": "dev",
            "message": "m", "happened_at": NOW,
        },
    }  # fmt: skip
    for table, values in rows.items():
        made.put_row(table, values)
    columns: set[str] = set()
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        for table in tables(connection) - {"ops.error_codes", "public.alembic_version"}:
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,), f"{table} has no row"
            for column, kind in columns_of(connection, table):
                if kind in FREE and f"{table}.{column}" not in CODES:
                    try:
                        connection.execute(f"UPDATE {table} SET {column} = {FREE[kind]}", (MARK,))
                    except errors.CheckViolation:
                        # Words of a list, or hex: it cannot hold anything else.
                        continue
                    columns.add(f"{table}.{column}")
        # What the planner keeps of a column are pieces of it.
        connection.execute("ANALYZE")
    return columns


def test_the_mark_stands_wherever_a_row_a_file_or_a_person_is_named(marked: set[str]) -> None:
    assert marked >= {
        "intake.batches.filename", "intake.batches.reading", "intake.batches.rejection_reason",
        "intake.batches.created_by", "intake.batches.storage_key", "intake.row_errors.raw", "intake.row_errors.raw_data",
        "intake.row_errors.error_message", "intake.row_errors.resolved_by", "intake.row_errors.resolution_notes",
        "intake.row_conflicts.case_number", "intake.row_conflicts.fields", "public.judgments.case_number",
        "public.judgments.plaintiff_name", "public.judgments.defendant_name", "public.judgments.court",
        "public.judgments.county", "ops.api_keys.name", "ops.workers.host", "ops.alerts.message", "ops.alerts.details",
        "ops.sentinel_runs.findings", "ops.sentinel_flips.details",
    }  # fmt: skip


def test_the_owner_would_see_it(marked: set[str], postgres_server: Postgres) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        shown = {relation for relation, shows in read_everything(connection).items() if shows}
    assert {"intake.batches", "intake.row_errors", "public.judgments", "intake.v_batch_observability"} <= shown
    assert {"pg_catalog.pg_stats", "pg_catalog.pg_statistic"} <= shown


def test_anon_sees_it_nowhere(marked: set[str], logged_in: psycopg.Connection) -> None:
    before = read_everything(logged_in)
    logged_in.execute("SET ROLE anon")
    read = read_everything(logged_in)
    assert set(read) - set(before) == {
        "ops.v_batch_performance",
        "ops.v_error_distribution",
        "ops.v_error_trend",
        "ops.v_pipeline_health",
    }
    assert [relation for relation, shows in {**before, **read}.items() if shows] == []


def tables(connection: psycopg.Connection) -> set[str]:
    """Every table of ours, those included that were made since this was written."""
    found = connection.execute(
        "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class"
        " WHERE relkind IN ('r', 'p', 'm', 'f') AND relnamespace::regnamespace::text IN ('intake', 'ops', 'public')"
    )
    return {name for (name,) in found}


def columns_of(connection: psycopg.Connection, table: str) -> list[tuple[str, str]]:
    """Name and type of each column that can be written."""
    return connection.execute(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
        (table,),
    ).fetchall()


def read_everything(connection: psycopg.Connection) -> dict[str, bool]:
    """The tables and views that this session can read, the server's own included, and whether each shows it the mark."""
    readable = connection.execute(
        """
        SELECT n.nspname || '.' || c.relname,
            string_agg(format('CAST(%I AS text)', a.attname), ', ' ORDER BY a.attnum)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_(toast|temp)'
            AND a.attnum > 0 AND NOT a.attisdropped
            AND has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
        GROUP BY 1
        """
    ).fetchall()
    found = {}
    for relation, columns in readable:
        try:
            rows = connection.execute(f"SELECT {columns} FROM {relation}").fetchall()
        except psycopg.Error:
            # Some of the server's own views ask for more than the right to read them.
            assert relation.startswith("pg_catalog."), relation
            continue
        shown = repr(rows)
        found[relation] = MARK in shown or MARK.encode().hex() in shown
        assert rows or not relation.startswith("ops.v_"), f"{relation} is empty"
    return found
