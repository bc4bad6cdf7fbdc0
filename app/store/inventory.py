"""What the database of this version must hold and who may do what with it, compared with what it really holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from app.store.tables import metadata

SCHEMAS = ("intake", "ops", "public")

VIEWS: Mapping[str, str] = {
    "intake.v_batch_observability": """
        batch_id filename status file_hash row_count_total row_count_valid row_count_invalid row_count_inserted
        row_count_duplicate row_count_conflict error_threshold_percent rejection_reason error_rate_percent
        parse_duration_ms db_duration_ms total_duration_ms rows_per_second error_count unresolved_error_count
        created_at completed_at wall_clock_ms""",
    "intake.v_error_summary": """
        batch_id error_code error_stage occurrence_count first_seen last_seen unresolved_count""",
    "intake.view_batch_metrics": """
        batch_id source status row_count_total row_count_valid row_count_invalid row_count_inserted
        row_count_duplicate error_rate_percent parse_duration_ms db_duration_ms total_duration_ms rows_per_second
        created_at completed_at""",
    "ops.v_batch_performance": """
        hour_bucket total_batches completed_batches failed_batches avg_parse_ms avg_db_ms avg_total_ms total_rows
        inserted_rows skipped_rows error_rows dedupe_rate_pct error_rate_pct""",
    "ops.v_error_distribution": """
        error_code occurrence_count affected_batches sample_message last_seen_at""",
    "ops.v_pipeline_health": """
        status batch_count oldest_batch_at oldest_age_minutes newest_batch_at""",
    "ops.v_error_trend": """
        period bucket batches rows error_rate_pct""",
}
"""View -> the columns that its readers rely on; it may have more."""

_CONSTRAINTS = {
    "intake.batches": """
        batches_pkey batches_source_check batches_file_hash_check batches_file_size_bytes_check
        batches_error_threshold_percent_check batches_priority_check batches_attempts_check batches_setbacks_check
        batches_status_check batches_failed_has_a_reason batches_code_has_a_reason batches_finished_has_an_end
        batches_first_batch_id_fkey""",
    "intake.row_errors": """
        row_errors_pkey row_errors_batch_id_fkey row_errors_batch_id_row_index_key row_errors_error_stage_check""",
    "intake.row_conflicts": "row_conflicts_pkey",
    "intake.error_tallies": """
        error_tallies_pkey error_tallies_batch_id_fkey error_tallies_check error_tallies_occurrence_count_check""",
    "intake.error_totals": """
        error_totals_pkey error_totals_batch_id_fkey error_totals_check error_totals_error_count_check""",
    "public.judgments": "judgments_pkey judgments_case_number_key",
    "ops.api_keys": "api_keys_pkey api_keys_key_hash_key api_keys_key_hash_check",
    "ops.error_codes": "error_codes_pkey",
    "ops.workers": "workers_pkey",
}
_INDEXES = {
    "intake": """
        batches_file_hash_key batches_file_hash_idx batches_created_at_idx batches_status_idx batches_source_idx
        batches_unfinished_idx batches_failed_idx batches_completed_at_idx row_errors_code_idx
        row_conflicts_differing_idx error_tallies_last_seen_idx error_tallies_spread_idx""",
    "ops": """
        alerts_sent_at_idx alerts_waiting_idx sentinel_flips_check_idx sentinel_runs_started_at_idx
        sign_in_links_expires_at_idx ended_sessions_expires_at_idx""",
}
_TRIGGERS = {
    "intake.batches": "guard_batch keep_batch_of_judgments drop_conflicts_of_batch",
    "intake.row_errors": "count_added_errors count_removed_errors count_changed_errors count_no_errors",
}
_PERSONAL = (
    "intake.batches",
    "intake.row_errors",
    "intake.row_conflicts",
    "intake.error_tallies",
    "intake.error_totals",
    "public.judgments",
    "ops.api_keys",
    "ops.sign_in_links",
    "ops.ended_sessions",
    "ops.workers",
)
_OPS_VIEWS = [view for view in VIEWS if view.startswith("ops.")]
_INTAKE_VIEWS = [view for view in VIEWS if view.startswith("intake.")]

_RIGHTS: Mapping[str, Mapping[str, str]] = {
    "service_role": {
        "intake.batches": "SELECT INSERT UPDATE",
        "intake.row_errors": "SELECT INSERT UPDATE DELETE",
        "intake.row_conflicts": "SELECT INSERT DELETE",
        "intake.error_tallies": "SELECT INSERT UPDATE DELETE",
        "intake.error_totals": "SELECT INSERT UPDATE DELETE",
        "public.judgments": "SELECT INSERT",
        "ops.api_keys": "SELECT INSERT UPDATE",
        "ops.error_codes": "SELECT",
        "ops.workers": "SELECT INSERT UPDATE DELETE",
        **dict.fromkeys(VIEWS, "SELECT"),
    },
    "dragonfly_views": {
        "intake.batches": "SELECT",
        "intake.row_errors": "SELECT",
        "intake.error_tallies": "SELECT",
        "ops.error_codes": "SELECT",
    },
    "anon": dict.fromkeys(_OPS_VIEWS, "SELECT"),
}
_FORBIDDEN: Mapping[str, Mapping[str, str]] = {
    # Judgments are evidence, and a batch is what they came from.
    "service_role": {"intake.batches": "DELETE", "public.judgments": "UPDATE DELETE"},
    "anon": dict.fromkeys([*_PERSONAL, *_INTAKE_VIEWS], "SELECT INSERT UPDATE DELETE"),
}

_HELD = """
WITH relations AS (
    SELECT c.oid, c.relname, c.relkind, c.relrowsecurity AND c.relforcerowsecurity AS is_guarded, n.nspname,
        n.nspname || '.' || c.relname AS name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY (:schemas)
)
SELECT 'table ' || name FROM relations WHERE relkind IN ('r', 'p')
UNION ALL SELECT 'view ' || name FROM relations WHERE relkind IN ('v', 'm')
UNION ALL SELECT 'column ' || name || '.' || a.attname FROM relations
    JOIN pg_attribute a ON a.attrelid = relations.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE relkind IN ('r', 'p', 'v', 'm')
UNION ALL SELECT 'constraint ' || k.conname || ' of ' || name FROM relations
    JOIN pg_constraint k ON k.conrelid = relations.oid AND k.convalidated
UNION ALL SELECT 'index ' || name FROM relations JOIN pg_index i ON i.indexrelid = relations.oid AND i.indisvalid
UNION ALL SELECT 'trigger ' || t.tgname || ' of ' || name FROM relations
    JOIN pg_trigger t ON t.tgrelid = relations.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
UNION ALL SELECT 'forced row level security of ' || name FROM relations WHERE is_guarded
UNION ALL SELECT 'role ' || rolname FROM pg_roles
UNION ALL SELECT 'BYPASSRLS of ' || rolname FROM pg_roles WHERE rolbypassrls
UNION ALL SELECT r.rolname || ' may ' || may || ' ' || name FROM relations
    CROSS JOIN pg_roles r CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS may
    WHERE r.rolname = ANY (:roles) AND relkind IN ('r', 'p', 'v', 'm')
        AND CASE may WHEN 'DELETE' THEN has_table_privilege(r.oid, relations.oid, may)
            ELSE has_any_column_privilege(r.oid, relations.oid, may) END
"""
"""In the words of ``expected`` and ``_forbidden``."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """``missing`` and ``forbidden`` name each thing that should be there and is not, and the reverse; ``found`` counts."""

    missing: Sequence[str]
    forbidden: Sequence[str]
    found: Mapping[str, int]


def take(connection: Connection) -> Inventory:
    """Compare the database with what this version needs. Reads the catalogue only, so any role may ask."""
    held = held_by(connection)
    needed = list(expected())
    missing = [name for name in needed if name not in held]
    # What is not there has neither columns nor rights; one line says it.
    gone = {name.split(" ", 1)[1] for name in missing if name.startswith(("table ", "view ", "role "))}
    missing = [name for name in missing if not _belongs_to(name, gone)]
    found: dict[str, int] = {}
    for name in needed:
        if name in held:
            kind = "right" if " may " in name else name.split(" ", 1)[0]
            found[kind] = found.get(kind, 0) + 1
    return Inventory(missing, [name for name in _forbidden() if name in held], found)


def held_by(connection: Connection) -> set[str]:
    """Everything the database holds, each in words."""
    rows = connection.execute(text(_HELD), {"schemas": list(SCHEMAS), "roles": list(_RIGHTS)})
    return {name for (name,) in rows}


def is_migrated(connection: Connection) -> bool:
    """Whether any migration has ever reached this database."""
    found: bool = connection.execute(
        text(
            """
            SELECT EXISTS (
                SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE (n.nspname, c.relname) IN (('intake', 'batches'), ('public', 'alembic_version'))
            )
            """
        )
    ).scalar_one()
    return found


def revision(connection: Connection) -> str | None:
    """The migration at which the database stands."""
    found: str | None = connection.execute(text("SELECT version_num FROM public.alembic_version")).scalar_one_or_none()
    return found


def expected() -> Iterator[str]:
    """Everything this version needs, each in words."""
    for table in metadata.sorted_tables:
        yield f"table {table.fullname}"
        yield from (f"column {table.fullname}.{column.name}" for column in table.columns)
    for view, columns in VIEWS.items():
        yield f"view {view}"
        yield from (f"column {view}.{column}" for column in columns.split())
    for table_name, names in _CONSTRAINTS.items():
        yield from (f"constraint {name} of {table_name}" for name in names.split())
    for schema, names in _INDEXES.items():
        yield from (f"index {schema}.{name}" for name in names.split())
    for table_name, names in _TRIGGERS.items():
        yield from (f"trigger {name} of {table_name}" for name in names.split())
    yield from (f"forced row level security of {table_name}" for table_name in _PERSONAL)
    yield from (f"role {role}" for role in (*_RIGHTS, "authenticator"))
    yield "BYPASSRLS of service_role"
    yield from _rights(_RIGHTS)


def _forbidden() -> Iterator[str]:
    yield from _rights(_FORBIDDEN)


def _rights(rights: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for role, relations in rights.items():
        for relation, words in relations.items():
            yield from (f"{role} may {word} {relation}" for word in words.split())


def _belongs_to(name: str, gone: set[str]) -> bool:
    kind, _, rest = name.partition(" ")
    if kind in ("table", "view", "role"):
        return False
    if kind == "column":
        return rest.rpartition(".")[0] in gone
    return kind in gone or name.rpartition(" ")[2] in gone
