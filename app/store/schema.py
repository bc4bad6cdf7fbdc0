"""Bringing a database to the schema that this version needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory


def migrate(direct_url: str, revision: str = "head") -> None:
    """Upgrade the database to ``revision`` as its owner; does nothing where it is there already.

    ``direct_url`` must reach PostgreSQL without a pooler: an advisory lock keeps two migrations apart.
    """
    command.upgrade(_config(direct_url), revision)


def migrate_down(direct_url: str, revision: str = "base") -> None:
    """Take the database back to ``revision``. The data of what is dropped is gone."""
    command.downgrade(_config(direct_url), revision)


def newest_revision() -> str | None:
    """The revision to which ``migrate`` goes."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config(direct_url: str | None = None) -> Config:
    found = importlib.util.find_spec("migrations")
    if found is None or found.origin is None:
        raise RuntimeError("the migrations are not installed beside the application")
    config = Config()
    config.set_main_option("script_location", str(Path(found.origin).parent))
    config.attributes["url"] = direct_url
    return config
