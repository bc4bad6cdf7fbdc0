"""Who may do what: the application no more than it needs, everybody else the aggregates of the ops views only."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

from app.batch import State
from app.local.postgres import Postgres
from tests.conftest import Look
from tests.store.conftest import Batches

PERSONAL = (
    "intake.batches",
    "intake.row_errors",
    "intake.row_conflicts",
    "public.judgments",
    "ops.api_keys",
    "ops.sign_in_links",
    "ops.ended_sessions",
    "ops.workers",
    # Counts of the rows beside them.
    "intake.error_tallies",
    "intake.error_totals",
)
_THE_WATCH = (
    "figures, codes, times, names of hosts and queues: by monitoring.report's rule no cell of a row, no file name, no"
    " secret. Nobody but the application has a right to it, so there is nothing for a second lock to hold; and an owner"
    " who is no superuser may look after it."
)
NOT_PERSONAL = {
    "ops.error_codes": "the catalogue, as it is printed in the documentation",
    "ops.alerts": _THE_WATCH,
    "ops.canaries": _THE_WATCH,
    "ops.heartbeats": _THE_WATCH,
    "ops.leftovers": "counts, times, and the SHA-256 of a file without its content",
    "ops.sentinel_flips": _THE_WATCH,
    "ops.sentinel_runs": _THE_WATCH,
    "public.alembic_version": "the name of a migration",
}
"""The tables without row level security, and why they need none."""
OPS_VIEWS = ("v_batch_performance", "v_error_distribution", "v_error_trend", "v_pipeline_health")
OUR_SCHEMAS = ("intake", "ops", "public")
VIEWS_OWNER_READS = {
    "intake.batches": "id status created_at completed_at parse_duration_ms db_duration_ms row_count_total row_count_valid"
    " row_count_invalid row_count_inserted row_count_duplicate",
    "intake.row_errors": "batch_id error_code error_stage created_at",
    "intake.error_tallies": "batch_id error_code error_stage occurrence_count first_seen last_seen",
    "ops.error_codes": "code scope sentence remedy",
}

RELATION_RIGHTS = """
SELECT n.nspname || '.' || c.relname || ': ' || right_name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS right_name
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'v', 'm', 'p', 'f')
    AND (has_table_privilege(%(role)s, c.oid, right_name)
        OR CASE WHEN right_name IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
            THEN has_any_column_privilege(%(role)s, c.oid, right_name) ELSE false END)
UNION ALL
SELECT n.nspname || '.' || c.relname || ': ' || right_name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS right_name
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind = 'S' AND has_sequence_privilege(%(role)s, c.oid, right_name)
UNION ALL
SELECT p.oid::regprocedure || ': EXECUTE'
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = ANY(%(schemas)s) AND has_function_privilege(%(role)s, p.oid, 'EXECUTE')
"""


def rights(server: Postgres, role: str) -> set[str]:
    """All that the role may do with anything in the application's schemas."""
    with psycopg.connect(server.url()) as connection:
        found = connection.execute(RELATION_RIGHTS, {"role": role, "schemas": list(OUR_SCHEMAS)})
        return {line for (line,) in found}


@pytest.fixture
def as_service(service_url: str, made: Batches) -> Iterator[psycopg.Connection]:
    """A session of the application, with one batch, one error and one judgment."""
    batch_id = made.put(State.COMPLETED)
    made.put_error(batch_id, 1)
    made.put_judgment(batch_id, 1)
    with psycopg.connect(service_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def as_anon(logged_in: psycopg.Connection, made: Batches) -> psycopg.Connection:
    """The same once it has become anon, with one batch, one error and one judgment."""
    batch_id = made.put(State.COMPLETED)
    made.put_error(batch_id, 1)
    made.put_judgment(batch_id, 1)
    logged_in.execute("SET ROLE anon")
    return logged_in


class TestTheApplication:
    def test_it_has_exactly_these_rights(self, postgres_server: Postgres) -> None:
        expected = {
            "intake.batches": "SELECT INSERT UPDATE",
            "intake.row_errors": "SELECT INSERT UPDATE DELETE",
            "intake.row_conflicts": "SELECT INSERT DELETE",
            "intake.error_tallies": "SELECT INSERT UPDATE DELETE",
            "intake.error_totals": "SELECT INSERT UPDATE DELETE",
            "intake.recount_errors(uuid[])": "EXECUTE",
            "intake.v_batch_observability": "SELECT",
            "intake.v_error_summary": "SELECT",
            "intake.view_batch_metrics": "SELECT",
            "public.judgments": "SELECT INSERT",
            "public.judgments_id_seq": "USAGE SELECT UPDATE",
            "public.alembic_version": "SELECT",
            "ops.api_keys": "SELECT INSERT UPDATE",
            "ops.ended_sessions": "SELECT INSERT DELETE",
            "ops.sign_in_links": "SELECT INSERT DELETE",
            "ops.error_codes": "SELECT",
            **{
                f"ops.{table}": "SELECT INSERT UPDATE DELETE"
                for table in (
                    "workers",
                    "heartbeats",
                    "canaries",
                    "sentinel_runs",
                    "sentinel_flips",
                    "alerts",
                    "leftovers",
                )
            },
            **{f"ops.{view}": "SELECT" for view in OPS_VIEWS},
        }
        assert rights(postgres_server, "service_role") == {
            f"{name}: {right}" for name, allowed in expected.items() for right in allowed.split()
        }

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE public.judgments SET judgment_amount = 0",
            "DELETE FROM public.judgments",
            "TRUNCATE public.judgments",
            "DELETE FROM intake.batches",
            "UPDATE intake.row_conflicts SET fields = '{}'",
            "DELETE FROM ops.api_keys",
            "UPDATE ops.error_codes SET sentence = ''",
            "UPDATE public.alembic_version SET version_num = ''",
            "SELECT rolpassword FROM pg_authid",
            "SELECT * FROM pg_shadow",
            "SELECT pg_read_file('postgresql.conf')",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "COPY public.judgments TO '/dev/null'",
            "CREATE ROLE more",
            "ALTER ROLE service_role CREATEDB",
            "CREATE TABLE public.mine (one int)",
            "CREATE TABLE intake.mine (one int)",
            "CREATE SCHEMA mine",
            "ALTER TABLE public.judgments DISABLE TRIGGER ALL",
            "ALTER TABLE intake.batches DISABLE ROW LEVEL SECURITY",
            "DROP TABLE intake.row_errors",
            "DROP TRIGGER guard_batch ON intake.batches",
            "SET session_replication_role = replica",
            "SET ROLE anon",
            "SET ROLE dragonfly_views",
            "SET ROLE postgres",
            "ALTER SYSTEM SET fsync = off",
            "SELECT intake.guard_batch()",
        ],
    )
    def test_it_may_not(self, as_service: psycopg.Connection, statement: str) -> None:
        with pytest.raises((errors.InsufficientPrivilege, errors.FeatureNotSupported)) as problem:
            as_service.execute(statement)
        assert not isinstance(problem.value, errors.FeatureNotSupported) or "guard_batch" in statement

    def test_it_is_no_superuser_and_makes_nothing_of_the_servers(self, look: Look) -> None:
        assert look.rows(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolcanlogin"
            " FROM pg_roles WHERE rolname = 'service_role'"
        ) == [(False, False, False, False, True, True)]

    def test_it_is_a_member_of_no_other_role(self, look: Look) -> None:
        assert (
            look.rows("SELECT roleid::regrole::text FROM pg_auth_members WHERE member = 'service_role'::regrole") == []
        )

    def test_it_reads_what_row_level_security_hides_from_others(self, as_service: psycopg.Connection) -> None:
        assert as_service.execute("SELECT count(*) FROM public.judgments").fetchone() == (1,)
        assert as_service.execute("SELECT error_count FROM intake.v_batch_observability").fetchone() == (1,)


class TestEveryoneElse:
    def test_anon_may_read_the_ops_views_and_nothing_else_at_all(self, postgres_server: Postgres) -> None:
        assert rights(postgres_server, "anon") == {f"ops.{view}: SELECT" for view in OPS_VIEWS}

    def test_the_authenticator_has_no_right_of_its_own(self, postgres_server: Postgres) -> None:
        with psycopg.connect(postgres_server.url()) as connection:
            connection.execute("REVOKE anon FROM authenticator")
            found = connection.execute(
                RELATION_RIGHTS, {"role": "authenticator", "schemas": list(OUR_SCHEMAS)}
            ).fetchall()
            connection.rollback()
        assert found == []

    def test_a_stranger_may_read_nothing(self, postgres_server: Postgres) -> None:
        with psycopg.connect(postgres_server.url()) as connection:
            connection.execute("CREATE ROLE stranger")
            found = connection.execute(RELATION_RIGHTS, {"role": "stranger", "schemas": list(OUR_SCHEMAS)}).fetchall()
            connection.rollback()
        assert found == []

    @pytest.mark.parametrize("view", OPS_VIEWS)
    def test_anon_reads_the_view(self, as_anon: psycopg.Connection, view: str) -> None:
        assert as_anon.execute(f"SELECT count(*) FROM ops.{view}").fetchone() is not None

    def test_anon_counts_what_it_may_not_read(self, as_anon: psycopg.Connection) -> None:
        assert as_anon.execute("SELECT status, batch_count FROM ops.v_pipeline_health").fetchall() == [("completed", 1)]
        assert as_anon.execute("SELECT error_code, occurrence_count FROM ops.v_error_distribution").fetchall() == [
            ("INVALID_AMOUNT", 1)
        ]

    @pytest.mark.parametrize(
        "relation",
        [
            *PERSONAL,
            "ops.error_codes",
            "intake.v_batch_observability",
            "intake.v_error_summary",
            "intake.view_batch_metrics",
        ],
    )
    def test_anon_reads_no_table_and_no_view_of_the_intake(self, as_anon: psycopg.Connection, relation: str) -> None:
        with pytest.raises(errors.InsufficientPrivilege):
            as_anon.execute(f"SELECT * FROM {relation}")

    def test_there_are_no_schemas_beside_those_that_are_looked_through(self, look: Look) -> None:
        found = look.rows(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        )
        assert {name for (name,) in found} == set(OUR_SCHEMAS)

    def test_anon_is_a_member_of_nothing_and_the_authenticator_of_anon_alone(self, look: Look) -> None:
        assert look.rows(
            "SELECT member::regrole::text, roleid::regrole::text FROM pg_auth_members"
            " WHERE member IN ('anon'::regrole, 'authenticator'::regrole)"
        ) == [("authenticator", "anon")]

    def test_anon_executes_none_of_our_functions(self, look: Look) -> None:
        ours = "pronamespace::regnamespace::text IN ('intake', 'ops', 'public')"
        assert look.rows(f"SELECT count(*) > 0 FROM pg_proc WHERE {ours}") == [(True,)]
        assert (
            look.rows(f"SELECT proname FROM pg_proc WHERE {ours} AND has_function_privilege('anon', oid, 'EXECUTE')")
            == []
        )

    def test_anon_may_not_enter_the_intake_schema(self, look: Look) -> None:
        assert look.rows(
            "SELECT has_schema_privilege('anon', 'intake', 'USAGE'), has_schema_privilege('anon', 'intake', 'CREATE'),"
            " has_schema_privilege('anon', 'ops', 'CREATE'), has_schema_privilege('anon', 'public', 'CREATE')"
        ) == [(False, False, False, False)]

    def test_the_authenticator_has_nothing_before_it_becomes_anon(self, as_anon: psycopg.Connection) -> None:
        as_anon.execute("RESET ROLE")
        with pytest.raises(errors.InsufficientPrivilege):
            as_anon.execute("SELECT * FROM ops.v_pipeline_health")


class TestRowLevelSecurity:
    def test_it_is_on_and_forced_on_every_personal_table(self, look: Look) -> None:
        found = look.rows(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relrowsecurity AND relforcerowsecurity"
        )
        names = {name if "." in name else f"public.{name}" for (name,) in found}
        assert names == set(PERSONAL)

    def test_every_table_has_it_or_holds_nothing_personal(self, look: Look) -> None:
        found = look.rows(
            "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class"
            " WHERE relkind IN ('r', 'p', 'm', 'f') AND relnamespace::regnamespace::text IN ('intake', 'ops', 'public')"
        )
        assert {name for (name,) in found} == {*PERSONAL, *NOT_PERSONAL}

    def test_only_the_views_owner_has_policies(self, look: Look) -> None:
        assert set(look.rows("SELECT schemaname || '.' || tablename, roles::text, cmd FROM pg_policies")) == {
            ("intake.batches", "{dragonfly_views}", "SELECT"),
            ("intake.row_errors", "{dragonfly_views}", "SELECT"),
            ("intake.error_tallies", "{dragonfly_views}", "SELECT"),
        }

    def test_the_ops_views_belong_to_a_role_that_cannot_log_in(self, look: Look) -> None:
        assert set(
            look.rows(
                "SELECT viewname, viewowner, rolcanlogin, rolsuper, rolbypassrls FROM pg_views"
                " JOIN pg_roles ON rolname = viewowner WHERE schemaname = 'ops'"
            )
        ) == {(view, "dragonfly_views", False, False, False) for view in OPS_VIEWS}

    def test_the_views_owner_reads_exactly_these_columns_none_of_which_holds_a_name(self, look: Look) -> None:
        found = look.rows(
            "SELECT c.oid::regclass::text || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
            " WHERE c.relnamespace::regnamespace::text IN ('intake', 'ops', 'public') AND c.relkind IN ('r', 'p', 'm', 'f')"
            " AND a.attnum > 0 AND NOT a.attisdropped AND has_column_privilege('dragonfly_views', c.oid, a.attnum, 'SELECT')"
        )
        assert {name for (name,) in found} == {
            f"{table}.{column}" for table, columns in VIEWS_OWNER_READS.items() for column in columns.split()
        }

    def test_the_intake_views_run_with_the_readers_own_rights(self, look: Look) -> None:
        found = look.rows(
            "SELECT relname, reloptions::text FROM pg_class WHERE relnamespace = 'intake'::regnamespace AND relkind = 'v'"
        )
        assert set(found) == {
            (view, "{security_invoker=true}")
            for view in ("v_batch_observability", "v_error_summary", "view_batch_metrics")
        }

    def test_without_bypassing_it_even_a_reader_with_the_right_sees_no_row(
        self, postgres_server: Postgres, made: Batches
    ) -> None:
        made.put(State.COMPLETED)
        with psycopg.connect(postgres_server.url()) as connection:
            connection.execute(
                "CREATE ROLE reader; GRANT USAGE ON SCHEMA intake TO reader; GRANT SELECT ON intake.batches TO reader"
            )
            connection.execute("SET ROLE reader")
            found = connection.execute("SELECT count(*) FROM intake.batches").fetchone()
            connection.rollback()
        assert found == (0,)
