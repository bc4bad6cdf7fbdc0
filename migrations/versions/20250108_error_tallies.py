"""Row errors counted as they are written, so that no view has to read and count the rows themselves."""

from __future__ import annotations

from alembic import op

revision = "20250108_error_tallies"
down_revision = "20250107_the_watch"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE intake.error_tallies (
    batch_id uuid NOT NULL REFERENCES intake.batches (id) ON DELETE CASCADE,
    error_code text NOT NULL,
    error_stage text NOT NULL,
    occurrence_count integer NOT NULL CHECK (occurrence_count > 0),
    unresolved_count integer NOT NULL CHECK (unresolved_count BETWEEN 0 AND occurrence_count),
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL,
    PRIMARY KEY (batch_id, error_code, error_stage)
);
COMMENT ON TABLE intake.error_tallies IS 'kept by triggers of intake.row_errors, never written by hand';
CREATE INDEX error_tallies_last_seen_idx ON intake.error_tallies (last_seen);
-- A batch stores its errors in one transaction, so this is empty but for rows that were written by hand. The planner
-- knows that by these statistics alone, and by them only where the condition is written with IS TRUE.
CREATE INDEX error_tallies_spread_idx ON intake.error_tallies (last_seen) WHERE (first_seen < last_seen) IS TRUE;
CREATE STATISTICS intake.error_tallies_spread ON ((first_seen < last_seen)) FROM intake.error_tallies;
CREATE TABLE intake.error_totals (
    batch_id uuid PRIMARY KEY REFERENCES intake.batches (id) ON DELETE CASCADE,
    error_count integer NOT NULL CHECK (error_count > 0),
    unresolved_count integer NOT NULL CHECK (unresolved_count BETWEEN 0 AND error_count)
);
COMMENT ON TABLE intake.error_totals IS 'kept by triggers of intake.row_errors, never written by hand';
"""

# With row_security off, a caller who would not see every row is refused instead of leaving a wrong count behind.
_FUNCTIONS = """
CREATE FUNCTION intake.recount_errors(counted uuid[]) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog SET row_security = off AS $$
BEGIN
    -- Here as below, the total comes first: it is the lock that keeps two writers from counting past each other.
    PERFORM FROM intake.error_totals WHERE batch_id = ANY (counted) ORDER BY batch_id FOR UPDATE;
    DELETE FROM intake.error_tallies WHERE batch_id = ANY (counted);
    INSERT INTO intake.error_tallies
        (batch_id, error_code, error_stage, occurrence_count, unresolved_count, first_seen, last_seen)
    SELECT batch_id, error_code, error_stage, count(*), count(*) FILTER (WHERE resolved_at IS NULL),
        min(created_at), max(created_at)
    FROM intake.row_errors WHERE batch_id = ANY (counted)
    GROUP BY batch_id, error_code, error_stage;
    DELETE FROM intake.error_totals t WHERE batch_id = ANY (counted)
        AND NOT EXISTS (SELECT FROM intake.error_tallies WHERE batch_id = t.batch_id);
    INSERT INTO intake.error_totals (batch_id, error_count, unresolved_count)
    SELECT batch_id, sum(occurrence_count), sum(unresolved_count)
    FROM intake.error_tallies WHERE batch_id = ANY (counted)
    GROUP BY batch_id
    ON CONFLICT (batch_id) DO UPDATE SET
        error_count = excluded.error_count, unresolved_count = excluded.unresolved_count;
END $$;
COMMENT ON FUNCTION intake.recount_errors IS 'counts the row errors of these batches anew';

CREATE FUNCTION intake.count_added_errors() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog SET row_security = off AS $$
BEGIN
    INSERT INTO intake.error_totals AS kept (batch_id, error_count, unresolved_count)
    SELECT batch_id, count(*), count(*) FILTER (WHERE resolved_at IS NULL) FROM added GROUP BY batch_id
    ON CONFLICT (batch_id) DO UPDATE SET
        error_count = kept.error_count + excluded.error_count,
        unresolved_count = kept.unresolved_count + excluded.unresolved_count;
    INSERT INTO intake.error_tallies AS kept
        (batch_id, error_code, error_stage, occurrence_count, unresolved_count, first_seen, last_seen)
    SELECT batch_id, error_code, error_stage, count(*), count(*) FILTER (WHERE resolved_at IS NULL),
        min(created_at), max(created_at)
    FROM added GROUP BY batch_id, error_code, error_stage
    ON CONFLICT (batch_id, error_code, error_stage) DO UPDATE SET
        occurrence_count = kept.occurrence_count + excluded.occurrence_count,
        unresolved_count = kept.unresolved_count + excluded.unresolved_count,
        first_seen = least(kept.first_seen, excluded.first_seen),
        last_seen = greatest(kept.last_seen, excluded.last_seen);
    RETURN NULL;
END $$;

CREATE FUNCTION intake.count_removed_errors() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog SET row_security = off AS $$
BEGIN
    -- A deleted batch takes its errors along in the name of the tables' owner, who may see none of the tallies.
    IF EXISTS (SELECT FROM removed) THEN
        -- A batch that is tried again loses all its errors at once, so there is next to nothing left to count.
        PERFORM intake.recount_errors(ARRAY(SELECT DISTINCT batch_id FROM removed));
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION intake.count_changed_errors() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog SET row_security = off AS $$
BEGIN
    -- People resolve and reopen errors, one of perhaps 100,000. Nothing else is ever changed, but by hand.
    IF EXISTS (
        SELECT id, batch_id, error_code, error_stage, created_at FROM removed
        EXCEPT SELECT id, batch_id, error_code, error_stage, created_at FROM added
    ) THEN
        PERFORM intake.recount_errors(ARRAY(SELECT batch_id FROM removed UNION SELECT batch_id FROM added));
        RETURN NULL;
    END IF;
    UPDATE intake.error_totals kept SET unresolved_count = kept.unresolved_count + reopened.errors
    FROM (
        SELECT batch_id, sum(one) AS errors FROM (
            SELECT batch_id, 1 AS one FROM added WHERE resolved_at IS NULL
            UNION ALL SELECT batch_id, -1 FROM removed WHERE resolved_at IS NULL) open
        GROUP BY batch_id HAVING sum(one) <> 0) reopened
    WHERE kept.batch_id = reopened.batch_id;
    UPDATE intake.error_tallies kept SET unresolved_count = kept.unresolved_count + reopened.errors
    FROM (
        SELECT batch_id, error_code, error_stage, sum(one) AS errors FROM (
            SELECT batch_id, error_code, error_stage, 1 AS one FROM added WHERE resolved_at IS NULL
            UNION ALL SELECT batch_id, error_code, error_stage, -1 FROM removed WHERE resolved_at IS NULL) open
        GROUP BY batch_id, error_code, error_stage HAVING sum(one) <> 0) reopened
    WHERE kept.batch_id = reopened.batch_id AND kept.error_code = reopened.error_code
        AND kept.error_stage = reopened.error_stage;
    RETURN NULL;
END $$;

CREATE FUNCTION intake.count_no_errors() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog SET row_security = off AS $$
BEGIN
    -- Not truncated: they may be under truncation themselves.
    DELETE FROM intake.error_totals;
    DELETE FROM intake.error_tallies;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION intake.recount_errors(uuid[]), intake.count_added_errors(), intake.count_removed_errors(),
    intake.count_changed_errors(), intake.count_no_errors() FROM PUBLIC;
"""

# An owner who is no superuser sees no row error, but for the length of this transaction, which locks the table.
_COUNT_WHAT_IS_THERE = """
ALTER TABLE intake.row_errors NO FORCE ROW LEVEL SECURITY;
SELECT intake.recount_errors(ARRAY(SELECT DISTINCT batch_id FROM intake.row_errors));
ALTER TABLE intake.row_errors FORCE ROW LEVEL SECURITY;
"""

# For each statement, not for each row: storing 200,000 errors takes a twentieth longer.
_TRIGGERS = """
CREATE TRIGGER count_added_errors AFTER INSERT ON intake.row_errors REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION intake.count_added_errors();
CREATE TRIGGER count_removed_errors AFTER DELETE ON intake.row_errors REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION intake.count_removed_errors();
CREATE TRIGGER count_changed_errors AFTER UPDATE ON intake.row_errors
    REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION intake.count_changed_errors();
CREATE TRIGGER count_no_errors AFTER TRUNCATE ON intake.row_errors
    FOR EACH STATEMENT EXECUTE FUNCTION intake.count_no_errors();
"""

# The triggers run with the rights of whoever writes the row errors.
_SECURITY = """
ALTER TABLE intake.error_tallies ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE intake.error_totals ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, UPDATE, DELETE ON intake.error_tallies, intake.error_totals TO service_role;
GRANT EXECUTE ON FUNCTION intake.recount_errors(uuid[]) TO service_role;
"""


def upgrade() -> None:
    """Make the tallies, count what is there, and keep counting."""
    for statement in (_TABLES, _FUNCTIONS, _COUNT_WHAT_IS_THERE, _TRIGGERS, _SECURITY):
        op.execute(statement)


def downgrade() -> None:
    """Drop the tallies and what keeps them."""
    op.execute(
        """
        DROP TRIGGER count_added_errors ON intake.row_errors;
        DROP TRIGGER count_removed_errors ON intake.row_errors;
        DROP TRIGGER count_changed_errors ON intake.row_errors;
        DROP TRIGGER count_no_errors ON intake.row_errors;
        DROP FUNCTION intake.count_added_errors(), intake.count_removed_errors(), intake.count_changed_errors(),
            intake.count_no_errors(), intake.recount_errors(uuid[]);
        DROP TABLE intake.error_totals, intake.error_tallies;
        """
    )
