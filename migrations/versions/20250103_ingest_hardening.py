"""Leases and fences, idempotency, the guard on states, row level security, conflicts and the workers' heartbeat."""

from __future__ import annotations

from alembic import op

revision = "20250103_ingest_hardening"
down_revision = "20250102_initial"
branch_labels = None
depends_on = None

_COLUMNS = """
ALTER TABLE intake.batches
    ADD COLUMN forced boolean NOT NULL DEFAULT false,
    ADD COLUMN first_batch_id uuid REFERENCES intake.batches (id),
    ADD COLUMN priority text NOT NULL DEFAULT 'normal' CHECK (priority IN ('high', 'normal', 'low')),
    ADD COLUMN state_since timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN fence bigint NOT NULL DEFAULT 0,
    ADD COLUMN lease_until timestamptz,
    ADD COLUMN lease_owner text,
    ADD COLUMN attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    ADD COLUMN setbacks integer NOT NULL DEFAULT 0 CHECK (setbacks >= 0),
    ADD COLUMN not_before timestamptz,
    ADD COLUMN hinted_at timestamptz;
COMMENT ON COLUMN intake.batches.setbacks IS
    'attempts in a row that ended early and were given back: they set the backoff';
COMMENT ON COLUMN intake.batches.not_before IS 'the end of that backoff: not claimable earlier';
CREATE UNIQUE INDEX batches_file_hash_key ON intake.batches (file_hash) WHERE NOT forced;
-- What the reconciler looks for: few rows of many, whatever the table's size.
CREATE INDEX batches_unfinished_idx ON intake.batches (created_at)
    WHERE status IN ('uploaded', 'staging', 'validating', 'inserting');
"""

_CHECKS = """
ALTER TABLE intake.batches
    ADD CONSTRAINT batches_status_check CHECK (status IN (
        'uploaded', 'staging', 'validating', 'awaiting_approval', 'inserting',
        'completed', 'failed', 'cancelled', 'reverted')),
    ADD CONSTRAINT batches_failed_has_a_reason CHECK ((status = 'failed') = (rejection_reason IS NOT NULL)),
    ADD CONSTRAINT batches_code_has_a_reason CHECK (rejection_code IS NULL OR rejection_reason IS NOT NULL),
    ADD CONSTRAINT batches_finished_has_an_end CHECK (
        (status IN ('completed', 'failed', 'cancelled', 'reverted')) = (completed_at IS NOT NULL));
"""

_GUARD = """
CREATE FUNCTION intake.guard_batch() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF NEW.fence < OLD.fence THEN
        RAISE EXCEPTION 'batch %: the fence may not fall from % to %', OLD.id, OLD.fence, NEW.fence
            USING ERRCODE = 'check_violation', CONSTRAINT = 'batches_fence_rises';
    END IF;
    IF NEW.status = OLD.status AND NEW.fence = OLD.fence THEN
        RETURN NEW;
    END IF;
    IF NEW.status <> OLD.status OR NEW.status = 'staging' THEN
        IF NOT (CASE OLD.status
            WHEN 'uploaded' THEN NEW.status IN ('staging', 'failed', 'cancelled')
            WHEN 'staging' THEN NEW.status IN ('validating', 'uploaded', 'failed', 'cancelled')
                OR (NEW.status = 'staging' AND NEW.fence > OLD.fence)
            WHEN 'validating' THEN
                NEW.status IN ('inserting', 'awaiting_approval', 'uploaded', 'failed', 'cancelled')
                OR (NEW.status = 'staging' AND NEW.fence > OLD.fence)
            WHEN 'awaiting_approval' THEN NEW.status IN ('inserting', 'failed', 'cancelled')
            WHEN 'inserting' THEN NEW.status IN ('completed', 'uploaded', 'failed', 'cancelled')
                OR (NEW.status = 'staging' AND NEW.fence > OLD.fence)
            WHEN 'completed' THEN NEW.status = 'reverted'
            WHEN 'failed' THEN NEW.status = 'uploaded'
            ELSE false
        END) THEN
            RAISE EXCEPTION 'batch %: % -> % is no transition', OLD.id, OLD.status, NEW.status
                USING ERRCODE = 'check_violation', CONSTRAINT = 'batches_transition';
        END IF;
    END IF;
    IF NEW.state_since IS NOT DISTINCT FROM OLD.state_since THEN
        NEW.state_since := clock_timestamp();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_batch BEFORE UPDATE OF status, fence ON intake.batches
    FOR EACH ROW EXECUTE FUNCTION intake.guard_batch();

CREATE FUNCTION intake.keep_batch_of_judgments() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF EXISTS (
        SELECT FROM public.judgments
        WHERE id BETWEEN OLD.first_judgment_id AND OLD.last_judgment_id AND batch_id = OLD.id
    -- Only a batch that was loaded has judgments; one without a block was not loaded by the application.
    ) OR (OLD.first_judgment_id IS NULL AND OLD.status IN ('completed', 'reverted') AND EXISTS (
        SELECT FROM public.judgments WHERE batch_id = OLD.id)
    ) THEN
        RAISE EXCEPTION 'batch % has judgments and may not be deleted', OLD.id
            USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'judgments_batch_id';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER keep_batch_of_judgments BEFORE DELETE ON intake.batches
    FOR EACH ROW EXECUTE FUNCTION intake.keep_batch_of_judgments();
"""

_CONFLICTS = """
CREATE TABLE intake.row_conflicts (
    batch_id uuid NOT NULL REFERENCES intake.batches (id) ON DELETE CASCADE,
    row_index integer NOT NULL,
    case_number text COLLATE "C" NOT NULL,
    kept_batch_id uuid NOT NULL,
    kept_row_index integer NOT NULL,
    fields jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (batch_id, row_index)
);
CREATE TABLE ops.workers (
    name text PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    queues text[] NOT NULL DEFAULT '{}',
    concurrency integer NOT NULL,
    version text NOT NULL,
    broker_seen_at timestamptz,
    started_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now()
);
"""

_SECURITY = """
ALTER TABLE intake.batches ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE intake.row_errors ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE intake.row_conflicts ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE public.judgments ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE ops.api_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE ops.workers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
REVOKE ALL ON FUNCTION intake.guard_batch(), intake.keep_batch_of_judgments() FROM PUBLIC;
GRANT SELECT, INSERT, DELETE ON intake.row_conflicts TO service_role;
GRANT SELECT, INSERT, UPDATE, DELETE ON ops.workers TO service_role;
DO $$
BEGIN
    -- Everybody may make temporary tables by default; of the roles here only service_role needs them.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END $$;
"""


def upgrade() -> None:
    """Add what makes a batch survive the death of its worker."""
    for statement in (_COLUMNS, _CHECKS, _GUARD, _CONFLICTS, _SECURITY):
        op.execute(statement)


def downgrade() -> None:
    """Take it all back, down to the initial tables."""
    op.execute(
        """
        ALTER TABLE public.judgments DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE intake.row_errors DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE intake.batches DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
        ALTER TABLE ops.api_keys DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
        DROP TABLE ops.workers, intake.row_conflicts;
        DO $$
        BEGIN
            EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO PUBLIC', current_database());
        END $$;
        DROP TRIGGER keep_batch_of_judgments ON intake.batches;
        DROP TRIGGER guard_batch ON intake.batches;
        DROP FUNCTION intake.keep_batch_of_judgments();
        DROP FUNCTION intake.guard_batch();
        ALTER TABLE intake.batches
            DROP CONSTRAINT batches_status_check,
            DROP CONSTRAINT batches_failed_has_a_reason,
            DROP CONSTRAINT batches_code_has_a_reason,
            DROP CONSTRAINT batches_finished_has_an_end;
        DROP INDEX intake.batches_unfinished_idx, intake.batches_file_hash_key;
        ALTER TABLE intake.batches
            DROP COLUMN forced, DROP COLUMN first_batch_id, DROP COLUMN priority, DROP COLUMN state_since,
            DROP COLUMN fence, DROP COLUMN lease_until, DROP COLUMN lease_owner, DROP COLUMN attempts,
            DROP COLUMN setbacks, DROP COLUMN not_before, DROP COLUMN hinted_at;
        """
    )
