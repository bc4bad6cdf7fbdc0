"""How Alembic reaches the database: as the owner, without a pooler; afterwards the error catalogue is written out."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from app.errors import CATALOGUE
from app.settings import Settings
from app.store.database import open_single

# Migrations of one database wait for each other: two stacks may start at once.
_MIGRATION_LOCK = 0x64726167


def _write_catalogue(connection: Connection) -> None:
    """Give the views the catalogue's sentences; app/errors.py stays the one place where they are written."""
    if connection.scalar(text("SELECT to_regclass('ops.error_codes')")) is None:
        return
    connection.execute(
        text(
            "INSERT INTO ops.error_codes (code, scope, sentence, remedy) VALUES (:code, :scope, :sentence, :remedy)"
            " ON CONFLICT (code) DO UPDATE SET scope = excluded.scope, sentence = excluded.sentence,"
            " remedy = excluded.remedy"
        ),
        [
            {"code": entry.code, "scope": entry.scope, "sentence": entry.sentence, "remedy": entry.remedy}
            for entry in CATALOGUE.values()
        ],
    )


def run() -> None:
    """Run the migrations on ``config.attributes['url']``, else on DATABASE_DIRECT_URL."""
    url = context.config.attributes.get("url") or Settings.load().require_database_direct_url()
    engine = open_single(url)
    with engine.connect() as connection, connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        context.configure(connection=connection, transactional_ddl=True)
        context.run_migrations()
        _write_catalogue(connection)


if context.is_offline_mode():
    context.configure(url="postgresql+psycopg://", literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    run()
