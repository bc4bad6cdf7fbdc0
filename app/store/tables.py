"""The tables as SQLAlchemy knows them, for queries that are put together; a test holds them to the database."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    UUID,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()
_TIME = DateTime(timezone=True)

batches = Table(
    "batches",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("filename", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("file_hash", Text, nullable=False),
    Column("storage_key", Text),
    Column("file_size_bytes", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("error_threshold_percent", Integer, nullable=False),
    Column("rejection_code", Text),
    Column("rejection_reason", Text),
    Column("row_count_total", BigInteger, nullable=False),
    Column("row_count_valid", BigInteger, nullable=False),
    Column("row_count_invalid", BigInteger, nullable=False),
    Column("row_count_inserted", BigInteger, nullable=False),
    Column("row_count_duplicate", BigInteger, nullable=False),
    Column("row_count_conflict", BigInteger, nullable=False),
    Column("rows_processed", BigInteger, nullable=False),
    Column("bytes_processed", BigInteger, nullable=False),
    Column("parse_duration_ms", BigInteger),
    Column("db_duration_ms", BigInteger),
    Column("reading", JSONB, nullable=False),
    Column("first_judgment_id", BigInteger),
    Column("last_judgment_id", BigInteger),
    Column("created_at", _TIME, nullable=False),
    Column("created_by", Text),
    Column("started_at", _TIME),
    Column("completed_at", _TIME),
    Column("forced", Boolean, nullable=False),
    Column("first_batch_id", UUID),
    Column("priority", Text, nullable=False),
    Column("state_since", _TIME, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("lease_until", _TIME),
    Column("lease_owner", Text),
    Column("attempts", Integer, nullable=False),
    Column("setbacks", Integer, nullable=False),
    Column("not_before", _TIME),
    Column("hinted_at", _TIME),
    schema="intake",
)

row_errors = Table(
    "row_errors",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("batch_id", UUID, nullable=False),
    Column("row_index", Integer, nullable=False),
    Column("line_number", Integer),
    Column("row_number", Integer),
    Column("error_code", Text, nullable=False),
    Column("error_message", Text, nullable=False),
    Column("error_stage", Text, nullable=False),
    Column("raw_data", JSONB),
    Column("raw", LargeBinary),
    Column("created_at", _TIME, nullable=False),
    Column("resolved_at", _TIME),
    Column("resolved_by", Text),
    Column("resolution_notes", Text),
    schema="intake",
)

error_tallies = Table(
    "error_tallies",
    metadata,
    Column("batch_id", UUID, primary_key=True),
    Column("error_code", Text, primary_key=True),
    Column("error_stage", Text, primary_key=True),
    Column("occurrence_count", Integer, nullable=False),
    Column("unresolved_count", Integer, nullable=False),
    Column("first_seen", _TIME, nullable=False),
    Column("last_seen", _TIME, nullable=False),
    schema="intake",
)

error_totals = Table(
    "error_totals",
    metadata,
    Column("batch_id", UUID, primary_key=True),
    Column("error_count", Integer, nullable=False),
    Column("unresolved_count", Integer, nullable=False),
    schema="intake",
)

row_conflicts = Table(
    "row_conflicts",
    metadata,
    Column("batch_id", UUID),
    Column("row_index", Integer),
    Column("case_number", Text),
    Column("kept_batch_id", UUID, nullable=False),
    Column("kept_row_index", Integer, nullable=False),
    Column("fields", JSONB, nullable=False),
    PrimaryKeyConstraint("batch_id", "case_number", "row_index"),
    schema="intake",
)

judgments = Table(
    "judgments",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("case_number", Text, nullable=False),
    Column("plaintiff_name", Text),
    Column("defendant_name", Text, nullable=False),
    Column("judgment_amount", Numeric(14, 2), nullable=False),
    Column("judgment_date", Date),
    Column("court", Text),
    Column("county", Text),
    Column("batch_id", UUID, nullable=False),
    Column("row_index", Integer, nullable=False),
    Column("line_number", Integer),
    Column("created_at", _TIME, nullable=False),
    Column("updated_at", _TIME, nullable=False),
    schema="public",
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("key_hash", Text, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("created_by", Text),
    Column("last_used_at", _TIME),
    Column("revoked_at", _TIME),
    schema="ops",
)

sign_in_links = Table(
    "sign_in_links",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("key_id", UUID, nullable=False),
    Column("created_at", _TIME, nullable=False),
    Column("expires_at", _TIME, nullable=False),
    schema="ops",
)

ended_sessions = Table(
    "ended_sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("expires_at", _TIME, nullable=False),
    schema="ops",
)

error_codes = Table(
    "error_codes",
    metadata,
    Column("code", Text, primary_key=True),
    Column("scope", Text, nullable=False),
    Column("sentence", Text, nullable=False),
    Column("remedy", Text, nullable=False),
    schema="ops",
)

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("queues", ARRAY(Text), nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("broker_seen_at", _TIME),
    Column("started_at", _TIME, nullable=False),
    Column("last_seen_at", _TIME, nullable=False),
    Column("disk_free_percent", Numeric(5, 2)),
    Column("replaces", Text),
    schema="ops",
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("name", Text, primary_key=True),
    Column("started_at", _TIME, nullable=False),
    Column("seen_at", _TIME, nullable=False),
    schema="ops",
)

canaries = Table(
    "canaries",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("sent_at", _TIME, nullable=False),
    Column("answered_at", _TIME),
    Column("answered_by", Text),
    schema="ops",
)

sentinel_runs = Table(
    "sentinel_runs",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("started_at", _TIME, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("environment", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("overall_status", Text, nullable=False),
    Column("findings", JSONB, nullable=False),
    schema="ops",
)

sentinel_flips = Table(
    "sentinel_flips",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("check_name", Text, nullable=False),
    Column("level_before", Text, nullable=False),
    Column("level_after", Text, nullable=False),
    Column("at", _TIME, nullable=False),
    Column("unhealthy_since", _TIME),
    Column("message", Text, nullable=False),
    Column("details", JSONB, nullable=False),
    schema="ops",
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("dedupe_key", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("check_name", Text, nullable=False),
    Column("level", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("details", JSONB, nullable=False),
    Column("happened_at", _TIME, nullable=False),
    Column("unhealthy_since", _TIME),
    Column("created_at", _TIME, nullable=False),
    Column("not_before", _TIME, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("sent_at", _TIME),
    Column("failed_at", _TIME),
    Column("problem", Text),
    Column("webhook", Text),
    schema="ops",
)

leftovers = Table(
    "leftovers",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("removed", BigInteger, nullable=False),
    Column("removed_bytes", BigInteger, nullable=False),
    Column("position", Text, nullable=False),
    Column("passed_at", _TIME),
    schema="ops",
)
