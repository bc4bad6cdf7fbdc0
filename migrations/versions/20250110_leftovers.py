"""What the collector keeps: how much it has removed, and how far it has come."""

from __future__ import annotations

from alembic import op

revision = "20250110_leftovers"
down_revision = "20250109_sign_in"
branch_labels = None
depends_on = None

_UP = """
CREATE TABLE ops.leftovers (
    kind text PRIMARY KEY CHECK (kind IN ('blob', 'arrival', 'spool', 'connection')),
    removed bigint NOT NULL DEFAULT 0,
    removed_bytes bigint NOT NULL DEFAULT 0,
    position text NOT NULL DEFAULT '',
    passed_at timestamptz
);
COMMENT ON TABLE ops.leftovers IS 'what attempts and uploads that died have left, as far as it was removed';
COMMENT ON COLUMN ops.leftovers.position IS 'the key of the last file that was looked at; empty between two passes';
COMMENT ON COLUMN ops.leftovers.passed_at IS 'when the last pass over all files ended';
GRANT SELECT, INSERT, UPDATE, DELETE ON ops.leftovers TO service_role;
"""


def upgrade() -> None:
    """Add the table."""
    op.execute(_UP)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE ops.leftovers")
