"""The views: per batch for the application and its engineers, aggregates without personal data for everyone else."""

from __future__ import annotations

from alembic import op

revision = "20250104_ops_views"
down_revision = "20250103_ingest_hardening"
branch_labels = None
depends_on = None

# The intake views show file names and reasons: they run with the reader's own rights (security_invoker).
_INTAKE = """
CREATE VIEW intake.v_batch_observability WITH (security_invoker = true) AS
SELECT
    b.id AS batch_id,
    b.filename,
    b.status,
    b.file_hash,
    b.row_count_total,
    b.row_count_valid,
    b.row_count_invalid,
    b.row_count_inserted,
    b.row_count_duplicate,
    b.row_count_conflict,
    b.error_threshold_percent,
    b.rejection_reason,
    round(100.0 * b.row_count_invalid / nullif(b.row_count_total, 0), 2) AS error_rate_percent,
    b.parse_duration_ms,
    b.db_duration_ms,
    b.parse_duration_ms + b.db_duration_ms AS total_duration_ms,
    round(1000.0 * b.row_count_total / nullif(b.parse_duration_ms + b.db_duration_ms, 0), 1) AS rows_per_second,
    (SELECT count(*) FROM intake.row_errors e WHERE e.batch_id = b.id) AS error_count,
    (SELECT count(*) FROM intake.row_errors e WHERE e.batch_id = b.id AND e.resolved_at IS NULL)
        AS unresolved_error_count,
    b.created_at,
    b.completed_at,
    (extract(epoch FROM b.completed_at - b.created_at) * 1000)::bigint AS wall_clock_ms
FROM intake.batches b;

CREATE VIEW intake.v_error_summary WITH (security_invoker = true) AS
SELECT
    batch_id,
    error_code,
    error_stage,
    count(*) AS occurrence_count,
    min(created_at) AS first_seen,
    max(created_at) AS last_seen,
    count(*) FILTER (WHERE resolved_at IS NULL) AS unresolved_count
FROM intake.row_errors
GROUP BY batch_id, error_code, error_stage;

CREATE VIEW intake.view_batch_metrics WITH (security_invoker = true) AS
SELECT
    id AS batch_id,
    source,
    status,
    row_count_total,
    row_count_valid,
    row_count_invalid,
    row_count_inserted,
    row_count_duplicate,
    round(100.0 * row_count_invalid / nullif(row_count_total, 0), 2) AS error_rate_percent,
    parse_duration_ms,
    db_duration_ms,
    parse_duration_ms + db_duration_ms AS total_duration_ms,
    round(1000.0 * row_count_total / nullif(parse_duration_ms + db_duration_ms, 0), 1) AS rows_per_second,
    created_at,
    completed_at
FROM intake.batches;

GRANT SELECT ON intake.v_batch_observability, intake.v_error_summary, intake.view_batch_metrics TO service_role;
"""

# The ops views belong to dragonfly_views, which alone sees through the row level security, and only these columns.
_OPS = """
GRANT USAGE ON SCHEMA intake, ops TO dragonfly_views;
GRANT SELECT (
    id, status, created_at, completed_at, parse_duration_ms, db_duration_ms, row_count_total, row_count_valid,
    row_count_invalid, row_count_inserted, row_count_duplicate
) ON intake.batches TO dragonfly_views;
GRANT SELECT (batch_id, error_code, created_at) ON intake.row_errors TO dragonfly_views;
GRANT SELECT ON ops.error_codes TO dragonfly_views;
CREATE POLICY dragonfly_views_read ON intake.batches FOR SELECT TO dragonfly_views USING (true);
CREATE POLICY dragonfly_views_read ON intake.row_errors FOR SELECT TO dragonfly_views USING (true);

CREATE VIEW ops.v_batch_performance AS
SELECT
    date_trunc('hour', created_at, 'UTC') AS hour_bucket,
    count(*) AS total_batches,
    count(*) FILTER (WHERE status = 'completed') AS completed_batches,
    count(*) FILTER (WHERE status = 'failed') AS failed_batches,
    round(avg(parse_duration_ms), 1) AS avg_parse_ms,
    round(avg(db_duration_ms), 1) AS avg_db_ms,
    round(avg(parse_duration_ms + db_duration_ms), 1) AS avg_total_ms,
    sum(row_count_total) AS total_rows,
    sum(row_count_inserted) AS inserted_rows,
    sum(row_count_duplicate) AS skipped_rows,
    sum(row_count_invalid) AS error_rows,
    round(100.0 * sum(row_count_duplicate) / nullif(sum(row_count_valid), 0), 2) AS dedupe_rate_pct,
    round(100.0 * sum(row_count_invalid) / nullif(sum(row_count_total), 0), 2) AS error_rate_pct
FROM intake.batches
WHERE created_at >= now() - interval '7 days'
GROUP BY 1
ORDER BY 1 DESC;

CREATE VIEW ops.v_error_distribution AS
SELECT
    e.error_code,
    count(*) AS occurrence_count,
    count(DISTINCT e.batch_id) AS affected_batches,
    min(c.sentence) AS sample_message,
    max(e.created_at) AS last_seen_at
FROM intake.row_errors e
LEFT JOIN ops.error_codes c ON c.code = e.error_code
WHERE e.created_at >= now() - interval '7 days'
GROUP BY e.error_code
ORDER BY occurrence_count DESC;

CREATE VIEW ops.v_pipeline_health AS
SELECT
    status,
    count(*) AS batch_count,
    min(created_at) AS oldest_batch_at,
    round(extract(epoch FROM now() - min(created_at)) / 60, 1) AS oldest_age_minutes,
    max(created_at) AS newest_batch_at
FROM intake.batches
GROUP BY status;

CREATE VIEW ops.v_error_trend AS
SELECT
    period,
    date_trunc(period, created_at, 'UTC') AS bucket,
    count(*) AS batches,
    sum(row_count_total) AS rows,
    round(100.0 * sum(row_count_invalid) / nullif(sum(row_count_total), 0), 2) AS error_rate_pct
FROM intake.batches
CROSS JOIN (VALUES ('week'), ('month')) AS periods (period)
GROUP BY period, bucket
ORDER BY period, bucket DESC;

GRANT CREATE ON SCHEMA ops TO dragonfly_views;
GRANT dragonfly_views TO CURRENT_USER;
ALTER VIEW ops.v_batch_performance OWNER TO dragonfly_views;
ALTER VIEW ops.v_error_distribution OWNER TO dragonfly_views;
ALTER VIEW ops.v_pipeline_health OWNER TO dragonfly_views;
ALTER VIEW ops.v_error_trend OWNER TO dragonfly_views;
REVOKE CREATE ON SCHEMA ops FROM dragonfly_views;
GRANT USAGE ON SCHEMA ops TO anon;
GRANT SELECT ON ops.v_batch_performance, ops.v_error_distribution, ops.v_pipeline_health, ops.v_error_trend
    TO anon, service_role;
"""


def upgrade() -> None:
    """Create the views and let anon read those of ops."""
    op.execute(_INTAKE)
    op.execute(_OPS)


def downgrade() -> None:
    """Drop the views and the rights they needed."""
    op.execute(
        """
        DROP VIEW ops.v_error_trend, ops.v_pipeline_health, ops.v_error_distribution, ops.v_batch_performance;
        DROP POLICY dragonfly_views_read ON intake.row_errors;
        DROP POLICY dragonfly_views_read ON intake.batches;
        REVOKE ALL ON SCHEMA ops FROM anon;
        REVOKE ALL ON ALL TABLES IN SCHEMA intake FROM dragonfly_views;
        REVOKE SELECT (
            id, status, created_at, completed_at, parse_duration_ms, db_duration_ms, row_count_total, row_count_valid,
            row_count_invalid, row_count_inserted, row_count_duplicate
        ) ON intake.batches FROM dragonfly_views;
        REVOKE SELECT (batch_id, error_code, created_at) ON intake.row_errors FROM dragonfly_views;
        REVOKE ALL ON ops.error_codes FROM dragonfly_views;
        REVOKE ALL ON SCHEMA intake, ops FROM dragonfly_views;
        DROP VIEW intake.view_batch_metrics, intake.v_error_summary, intake.v_batch_observability;
        """
    )
