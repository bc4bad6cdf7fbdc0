"""What a database holds, table by table and view by view, to be compared before and after."""

from __future__ import annotations

from collections.abc import Collection

import psycopg

_NOW_COLUMNS = frozenset({"oldest_age_minutes"})
"""Figures of a view that change by themselves as time passes."""
_TOUCHED_BY_ASKING = frozenset({"ops.api_keys.last_used_at"})


def remains(owner_url: str, *, without: Collection[str] = ()) -> dict[str, tuple[int, str]]:
    """Relation -> its number of rows and a hash of all of them, for every table and view but those ``without``."""
    found = {}
    with psycopg.connect(owner_url) as connection:
        relations = connection.execute(
            """
            SELECT c.oid::int, n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('intake', 'ops', 'public') AND c.relkind IN ('r', 'v', 'm') ORDER BY 2
            """
        ).fetchall()
        for oid, name in relations:
            if name in without:
                continue
            columns = [
                column
                for (column,) in connection.execute(
                    "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped", [oid]
                )
                if column not in _NOW_COLUMNS and f"{name}.{column}" not in _TOUCHED_BY_ASKING
            ]
            row = connection.execute(
                f"SELECT count(*), coalesce(md5(string_agg(line, E'\\n' ORDER BY line)), '')"
                f" FROM (SELECT ROW({', '.join(columns)})::text AS line FROM {name}) AS lines"
            ).fetchone()
            assert row is not None
            found[name] = (row[0], row[1])
    assert {"intake.batches", "public.judgments", "ops.v_batch_performance", "ops.v_error_trend"} <= found.keys()
    return found
