"""What the sentinel keeps: its runs, the changes of state it saw, the alerts to be sent; and the signs of life it reads."""

from __future__ import annotations

from alembic import op

revision = "20250107_the_watch"
down_revision = "20250106_many_conflicts"
branch_labels = None
depends_on = None

_SIGNS_OF_LIFE = """
CREATE TABLE ops.heartbeats (
    name text PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE ops.heartbeats IS 'of what there is one only, such as beat';
CREATE TABLE ops.canaries (
    queue text PRIMARY KEY,
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    answered_at timestamptz,
    answered_by text
);
COMMENT ON COLUMN ops.canaries.sent_at IS 'of the oldest canary that has not come back, else of the last one';
ALTER TABLE ops.workers ADD COLUMN disk_free_percent numeric(5, 2), ADD COLUMN replaces text;
COMMENT ON COLUMN ops.workers.disk_free_percent IS 'the fullest of the disks that this worker writes to';
COMMENT ON COLUMN ops.workers.replaces IS 'the worker that died on this host before, and whose row is gone';
"""

_SENTINEL = """
CREATE TABLE ops.sentinel_runs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at timestamptz NOT NULL,
    duration_ms integer NOT NULL,
    environment text NOT NULL,
    host text NOT NULL,
    overall_status text NOT NULL CHECK (overall_status IN ('healthy', 'degraded', 'critical')),
    findings jsonb NOT NULL
);
COMMENT ON COLUMN ops.sentinel_runs.findings IS 'every check of the run: check, level, message, details';
CREATE INDEX sentinel_runs_started_at_idx ON ops.sentinel_runs (started_at);
CREATE TABLE ops.sentinel_flips (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    check_name text NOT NULL,
    level_before text NOT NULL CHECK (level_before IN ('HEALTHY', 'WARNING', 'CRITICAL')),
    level_after text NOT NULL CHECK (level_after IN ('HEALTHY', 'WARNING', 'CRITICAL')),
    at timestamptz NOT NULL,
    unhealthy_since timestamptz,
    message text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    CHECK (level_before <> level_after)
);
COMMENT ON COLUMN ops.sentinel_flips.unhealthy_since IS
    'when the check last left HEALTHY: the beginning of the incident that this flip is part of';
CREATE INDEX sentinel_flips_check_idx ON ops.sentinel_flips (check_name, id DESC);
"""

_ALERTS = """
CREATE TABLE ops.alerts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dedupe_key text NOT NULL UNIQUE,
    kind text NOT NULL CHECK (kind IN ('raised', 'worsened', 'eased', 'recovered', 'reminder')),
    check_name text NOT NULL,
    level text NOT NULL CHECK (level IN ('HEALTHY', 'WARNING', 'CRITICAL')),
    environment text NOT NULL,
    message text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}',
    happened_at timestamptz NOT NULL,
    unhealthy_since timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    not_before timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL DEFAULT 0,
    sent_at timestamptz,
    failed_at timestamptz,
    problem text,
    webhook text,
    CHECK (sent_at IS NULL OR failed_at IS NULL)
);
COMMENT ON TABLE ops.alerts IS 'the outbox: written with the flip, sent afterwards';
COMMENT ON COLUMN ops.alerts.failed_at IS 'refused for good by the webhook: it waits for another one';
COMMENT ON COLUMN ops.alerts.webhook IS 'fingerprint of the webhook that was last tried; its address is a secret';
CREATE INDEX alerts_waiting_idx ON ops.alerts (id) WHERE sent_at IS NULL;
CREATE INDEX alerts_sent_at_idx ON ops.alerts (sent_at);
"""

# The rates of the last 60 minutes are asked for every minute, by the time at which a batch ended.
_INDEX = """
CREATE INDEX batches_completed_at_idx ON intake.batches (completed_at) WHERE completed_at IS NOT NULL;
"""

_RIGHTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON ops.heartbeats, ops.canaries, ops.sentinel_runs, ops.sentinel_flips, ops.alerts
    TO service_role;
"""


def upgrade() -> None:
    """Add the tables of the watch."""
    for statement in (_SIGNS_OF_LIFE, _SENTINEL, _ALERTS, _INDEX, _RIGHTS):
        op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.execute(
        """
        DROP TABLE ops.alerts, ops.sentinel_flips, ops.sentinel_runs, ops.canaries, ops.heartbeats;
        DROP INDEX intake.batches_completed_at_idx;
        ALTER TABLE ops.workers DROP COLUMN disk_free_percent, DROP COLUMN replaces;
        """
    )
