"""Signing in with a browser: links that work once, and sessions that were ended before their time."""

from __future__ import annotations

from alembic import op

revision = "20250109_sign_in"
down_revision = "20250108_quick_views"
branch_labels = None
depends_on = None

_TABLES = """
CREATE TABLE ops.sign_in_links (
    token_hash text PRIMARY KEY CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    key_id uuid NOT NULL REFERENCES ops.api_keys ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE ops.sign_in_links IS 'links that nobody has used yet; a used one is deleted';
COMMENT ON COLUMN ops.sign_in_links.token_hash IS 'SHA-256 of the token, in hex';
CREATE INDEX sign_in_links_expires_at_idx ON ops.sign_in_links (expires_at);
CREATE TABLE ops.ended_sessions (
    id text PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE ops.ended_sessions IS 'sessions that somebody signed out of; forgotten once they would have expired';
CREATE INDEX ended_sessions_expires_at_idx ON ops.ended_sessions (expires_at);
"""

# As on ops.api_keys: whoever is given SELECT by mistake sees no row.
_RIGHTS = """
ALTER TABLE ops.sign_in_links ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE ops.ended_sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, DELETE ON ops.sign_in_links, ops.ended_sessions TO service_role;
"""


def upgrade() -> None:
    """Add the tables of the sign-in."""
    for statement in (_TABLES, _RIGHTS):
        op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TABLE ops.ended_sessions, ops.sign_in_links")
