"""Row conflicts as fast as they can be kept: no foreign key to check, and a key in the order in which they arrive."""

from __future__ import annotations

from alembic import op

revision = "20250106_many_conflicts"
down_revision = "20250105_quick_lists"
branch_labels = None
depends_on = None

# The fenced UPDATE of the batch in the loading transaction proves that it exists, as it does for the judgments.
# A load keeps them in the order of their case numbers; by row index, each would go to another page of the index.
_UP = """
ALTER TABLE intake.row_conflicts
    DROP CONSTRAINT row_conflicts_batch_id_fkey,
    DROP CONSTRAINT row_conflicts_pkey,
    ADD PRIMARY KEY (batch_id, case_number, row_index);
CREATE FUNCTION intake.drop_conflicts_of_batch() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    DELETE FROM intake.row_conflicts WHERE batch_id = OLD.id;
    RETURN OLD;
END $$;
REVOKE ALL ON FUNCTION intake.drop_conflicts_of_batch() FROM PUBLIC;
CREATE TRIGGER drop_conflicts_of_batch AFTER DELETE ON intake.batches
    FOR EACH ROW EXECUTE FUNCTION intake.drop_conflicts_of_batch();
"""

_DOWN = """
DROP TRIGGER drop_conflicts_of_batch ON intake.batches;
DROP FUNCTION intake.drop_conflicts_of_batch();
DELETE FROM intake.row_conflicts c WHERE NOT EXISTS (SELECT FROM intake.batches b WHERE b.id = c.batch_id);
ALTER TABLE intake.row_conflicts
    DROP CONSTRAINT row_conflicts_pkey,
    ADD PRIMARY KEY (batch_id, row_index),
    ADD FOREIGN KEY (batch_id) REFERENCES intake.batches (id) ON DELETE CASCADE;
"""


def upgrade() -> None:
    """Order the primary key by case number; let a trigger remove a deleted batch's conflicts in place of the foreign key."""
    op.execute(_UP)


def downgrade() -> None:
    """Bring both back."""
    op.execute(_DOWN)
