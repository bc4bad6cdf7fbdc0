"""The migrations, up and down: each step alone, and what the database is like after every one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

import migrations
from app.errors import CATALOGUE
from app.local.postgres import Postgres
from app.store.schema import migrate, migrate_down

numbers = itertools.count(1)

CONTENTS = """
SELECT 'relation', n.nspname || '.' || c.relname, c.relkind::text || coalesce(c.reloptions::text, '')
    || c.relrowsecurity || c.relforcerowsecurity
    || CASE WHEN n.nspname = 'public' AND c.relname LIKE 'alembic%' THEN '' ELSE coalesce(c.relacl::text, '') END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('intake', 'ops', 'public')
UNION ALL
SELECT 'column', c.oid::regclass || '.' || a.attname,
    format_type(a.atttypid, a.atttypmod) || a.attnotnull || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
    || coalesce(a.attacl::text, '')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE n.nspname IN ('intake', 'ops', 'public') AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'v')
UNION ALL
SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace::regnamespace::text IN ('intake', 'ops', 'public')
UNION ALL
SELECT 'index', schemaname || '.' || indexname, indexdef FROM pg_indexes WHERE schemaname IN ('intake', 'ops', 'public')
UNION ALL
SELECT 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'policy', schemaname || '.' || tablename || '.' || policyname, roles::text || cmd || qual FROM pg_policies
UNION ALL
SELECT 'function', p.oid::regprocedure::text, coalesce(p.proacl::text, '') || md5(p.prosrc)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname IN ('intake', 'ops', 'public')
UNION ALL
SELECT 'schema', nspname, CASE WHEN nspname = 'public' THEN '' ELSE coalesce(nspacl::text, '') END
FROM pg_namespace WHERE nspname IN ('intake', 'ops', 'public')
UNION ALL
SELECT 'default rights', defaclnamespace::regnamespace::text, defaclacl::text FROM pg_default_acl
"""
"""What a database holds beside its rows, in words that can be compared."""


def revisions() -> list[str]:
    """Every revision, the first one first."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    script = ScriptDirectory.from_config(config)
    return [found.revision for found in script.walk_revisions()][::-1]


def contents(url: str) -> set[tuple[str, ...]]:
    with psycopg.connect(url) as connection:
        return {tuple(row) for row in connection.execute(CONTENTS) if "alembic_version" not in row[1]}


@pytest.fixture
def empty_database(postgres_server: Postgres) -> Iterator[str]:
    """The owner's address of a new database; the roles are the server's and exist already."""
    name = f"migrated_{next(numbers)}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield postgres_server.url(database=name)
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_the_first_ones_are_those_that_operators_know() -> None:
    assert revisions()[:3] == ["20250102_initial", "20250103_ingest_hardening", "20250104_ops_views"]


def test_there_is_one_line_of_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1


def test_every_step_can_be_taken_back_and_taken_again(empty_database: str) -> None:
    steps = ["base", *revisions()]
    for before, after in itertools.pairwise(steps):
        at_first = contents(empty_database)
        migrate(empty_database, after)
        changed = contents(empty_database)
        assert changed != at_first, f"{after} changes nothing"
        migrate_down(empty_database, before)
        assert contents(empty_database) - at_first == set(), f"{after} leaves something behind"
        assert at_first - contents(empty_database) == set(), f"{after} takes away more than it brought"
        migrate(empty_database, after)
        assert contents(empty_database) == changed, f"{after} does not come back as it was"


def test_the_way_down_to_nothing_and_up_again_ends_where_it_began(empty_database: str) -> None:
    migrate(empty_database)
    complete = contents(empty_database)
    migrate_down(empty_database)
    assert {name for kind, name, _ in contents(empty_database) if kind == "schema"} == {"public"}
    migrate(empty_database)
    assert contents(empty_database) == complete


def test_migrating_again_changes_nothing(empty_database: str) -> None:
    migrate(empty_database)
    complete = contents(empty_database)
    migrate(empty_database)
    assert contents(empty_database) == complete


def test_the_error_catalogue_is_written_out_and_brought_up_to_date(empty_database: str) -> None:
    migrate(empty_database)
    with psycopg.connect(empty_database) as connection:
        connection.execute("UPDATE ops.error_codes SET sentence = 'stale'")
    migrate(empty_database)
    with psycopg.connect(empty_database) as connection:
        found = connection.execute("SELECT code, scope, sentence, remedy FROM ops.error_codes").fetchall()
    assert set(found) == {(entry.code, entry.scope, entry.sentence, entry.remedy) for entry in CATALOGUE.values()}


def test_an_owner_who_is_no_superuser_can_migrate_where_the_roles_exist(
    empty_database: str, postgres_server: Postgres
) -> None:
    """Hosted PostgreSQL gives nobody a superuser."""
    name = empty_database.split("?", maxsplit=1)[0].rpartition("/")[2]
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE hosted LOGIN CREATEROLE PASSWORD 'hosted'")
        try:
            for role in ("service_role", "dragonfly_views", "anon", "authenticator"):
                connection.execute(f"GRANT {role} TO hosted WITH ADMIN OPTION")
            connection.execute(f"ALTER DATABASE {name} OWNER TO hosted")
            url = postgres_server.url("hosted", "hosted", name)
            migrate(url)
            with psycopg.connect(url) as owner:
                row = owner.execute("SELECT count(*) FROM ops.v_pipeline_health").fetchone()
            assert row == (0,)
            migrate_down(url)
        finally:
            with psycopg.connect(empty_database, autocommit=True) as inside:
                inside.execute("REASSIGN OWNED BY hosted TO postgres")
                inside.execute("DROP OWNED BY hosted")
            connection.execute(f"ALTER DATABASE {name} OWNER TO postgres")
            connection.execute("DROP ROLE hosted")
