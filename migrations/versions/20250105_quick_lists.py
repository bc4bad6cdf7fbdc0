"""Indexes for two lists that would otherwise sort or walk what they do not show."""

from __future__ import annotations

from alembic import op

revision = "20250105_quick_lists"
down_revision = "20250104_ops_views"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The last failure, and the duplicates that differ."""
    op.execute(
        """
        CREATE INDEX batches_failed_idx ON intake.batches (completed_at DESC) WHERE status = 'failed';
        CREATE INDEX row_conflicts_differing_idx ON intake.row_conflicts (batch_id, row_index)
            WHERE fields <> '{}'::jsonb;
        """
    )


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP INDEX intake.row_conflicts_differing_idx; DROP INDEX intake.batches_failed_idx")
