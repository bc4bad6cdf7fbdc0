"""The smoke test of the schema: what it passes, what it finds broken, and that nothing of it remains."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, StaticPool, create_engine, text

from app import intake
from app.intake import Workshop
from app.local.postgres import Postgres
from app.store import inventory
from app.store.database import connect
from app.store.schema import migrate, migrate_down
from monitoring import smoke_simplicity
from monitoring.smoke import CouldNotSetUpError, Report
from tests.conftest import SERVICE_PASSWORD, Look, Sender
from tests.factories import file_with_errors
from tests.monitoring.remains import remains

NAMES = [
    "schema",
    "threshold_default",
    "batch_creation",
    "idempotency",
    "timing_metrics",
    "rejection_reason",
    "metrics_view",
]
numbers = itertools.count(1)


@dataclass(frozen=True)
class Scratch:
    """A migrated database that a test may break."""

    owner_url: str
    service_url: str

    def do(self, statement: str) -> None:
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            connection.execute(statement)

    def test(self) -> Report:
        return smoke_simplicity.run(self.service_url, environment="dev")

    def failures(self) -> dict[str, str]:
        """The cases that fail, each with its sentence."""
        return {outcome.case: outcome.message for outcome in self.test().outcomes if not outcome.passed}


@pytest.fixture(scope="module")
def template(postgres_server: Postgres) -> Iterator[str]:
    """The name of a migrated database to copy."""
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE smoke_template")
        migrate(postgres_server.url(database="smoke_template"))
        yield "smoke_template"
        connection.execute("DROP DATABASE smoke_template WITH (FORCE)")


@pytest.fixture
def scratch(postgres_server: Postgres, template: str) -> Iterator[Scratch]:
    name = f"smoke_{next(numbers)}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield Scratch(
            postgres_server.url(database=name), postgres_server.url("service_role", SERVICE_PASSWORD, database=name)
        )
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_on_a_migrated_database_every_case_passes(scratch: Scratch) -> None:
    report = scratch.test()
    assert [outcome.case for outcome in report.outcomes] == NAMES
    assert {outcome.message for outcome in report.outcomes if not outcome.passed} == set()
    assert report.exit_status == 0


def test_what_a_migration_brings_is_in_the_inventory(owner_engine: Engine) -> None:
    """But for the indexes of keys, which are their constraints, and the constraints of the watch."""
    with owner_engine.begin() as connection:
        held = inventory.held_by(connection)
        keys = {
            f"index {name}"
            for (name,) in connection.execute(
                text(
                    "SELECT connamespace::regnamespace || '.' || conname FROM pg_constraint WHERE contype IN ('p', 'u')"
                )
            )
        }
        not_null = {
            name for (name,) in connection.execute(text("SELECT conname FROM pg_constraint WHERE contype = 'n'"))
        }
    kinds = ("table", "view", "column", "index", "trigger", "forced")
    intake_only = {
        name
        for name in held
        if name.startswith("constraint ") and " of intake." in name and name.split()[1] not in not_null
    }
    brought = {name for name in held if name.startswith(kinds)} | intake_only
    missed = brought - set(inventory.expected()) - keys
    assert {name for name in missed if "alembic" not in name} == set()


def test_nothing_of_it_remains(
    service_url: str, workshop: Workshop, send: Sender, look: Look, postgres_server: Postgres
) -> None:
    intake.ingest(workshop, send(file_with_errors(100, 5)).id)
    intake.ingest(workshop, send(file_with_errors(100, 50, seed=1)).id)
    send(b"waiting\n")
    before = remains(postgres_server.url())
    sequences = look.rows("SELECT schemaname, sequencename, last_value FROM pg_sequences")
    assert smoke_simplicity.run(service_url, environment="dev").passed
    assert remains(postgres_server.url()) == before
    assert look.rows("SELECT schemaname, sequencename, last_value FROM pg_sequences") == sequences


def test_it_leaves_nothing_in_the_session_so_a_pooler_may_stand_in_between(
    service_url: str, database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = create_engine("postgresql+psycopg://", creator=lambda: connect(service_url), poolclass=StaticPool)
    monkeypatch.setattr(smoke_simplicity, "open_single", lambda _: kept)
    assert smoke_simplicity.run(service_url, environment="dev").passed
    with kept.connect() as connection:
        found = connection.execute(
            text(
                """
                SELECT (SELECT count(*) FROM pg_prepared_statements),
                    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
                    (SELECT count(*) FROM pg_settings WHERE source = 'session')
                """
            )
        ).one()
    kept.dispose()
    assert tuple(found) == (0, 0, 0)


@pytest.mark.parametrize(
    ("change", "found_by"),
    [
        ("DROP VIEW ops.v_error_trend", {"schema": "view ops.v_error_trend"}),
        ("DROP INDEX intake.batches_created_at_idx", {"schema": "index intake.batches_created_at_idx"}),
        ("DROP INDEX intake.batches_unfinished_idx", {"schema": "index intake.batches_unfinished_idx"}),
        (
            "ALTER TABLE intake.batches DROP CONSTRAINT batches_source_check",
            {"schema": "constraint batches_source_check of intake.batches"},
        ),
        ("ALTER TABLE ops.workers DROP COLUMN pid", {"schema": "column ops.workers.pid"}),
        (
            "ALTER TABLE public.judgments NO FORCE ROW LEVEL SECURITY",
            {"schema": "forced row level security of public.judgments"},
        ),
        (
            "ALTER TABLE intake.batches DISABLE TRIGGER keep_batch_of_judgments",
            {"schema": "trigger keep_batch_of_judgments of intake.batches"},
        ),
        (
            "DROP TRIGGER count_added_errors ON intake.row_errors",
            {"schema": "trigger count_added_errors of intake.row_errors"},
        ),
        ("REVOKE INSERT ON public.judgments FROM service_role", {"schema": "service_role may INSERT public.judgments"}),
        ("REVOKE SELECT ON ops.v_pipeline_health FROM anon", {"schema": "anon may SELECT ops.v_pipeline_health"}),
        (
            "GRANT DELETE ON public.judgments TO service_role",
            {"schema": "Found service_role may DELETE public.judgments; expected that it may not"},
        ),
        (
            "GRANT SELECT (defendant_name) ON public.judgments TO anon",
            {"schema": "Found anon may SELECT public.judgments; expected that it may not"},
        ),
        (
            "ALTER TABLE intake.batches ALTER error_threshold_percent SET DEFAULT 20",
            {"threshold_default": "Found error_threshold_percent of a batch that says nothing of it: 20; expected 10."},
        ),
        (
            "ALTER TABLE intake.batches DROP CONSTRAINT batches_error_threshold_percent_check",
            {"schema": "batches_error_threshold_percent_check", "threshold_default": "refused by: nothing"},
        ),
        (
            "DROP TRIGGER guard_batch ON intake.batches",
            {"schema": "trigger guard_batch of intake.batches", "batch_creation": "refused by: nothing"},
        ),
        (
            "DROP INDEX intake.batches_file_hash_key",
            {"schema": "index intake.batches_file_hash_key", "idempotency": "CREATE UNIQUE INDEX"},
        ),
        (
            "ALTER TABLE intake.batches DROP CONSTRAINT batches_failed_has_a_reason",
            {"schema": "batches_failed_has_a_reason", "rejection_reason": "failed without a reason is refused by: nothing"},
        ),
        (
            "DROP VIEW intake.view_batch_metrics",
            {"schema": "view intake.view_batch_metrics", "metrics_view": "UndefinedTable"},
        ),
    ],
)  # fmt: skip
def test_what_is_broken_fails_its_own_case_and_no_other(
    scratch: Scratch, change: str, found_by: dict[str, str]
) -> None:
    scratch.do(change)
    failures = scratch.failures()
    assert failures.keys() == found_by.keys()
    for case, words in found_by.items():
        assert words in failures[case]


@pytest.mark.parametrize(
    ("view", "column", "wrong", "case"),
    [
        ("v_batch_observability", "db_duration_ms", "parse_duration_ms", "timing_metrics"),
        ("v_batch_observability", "wall_clock_ms", "NULL", "timing_metrics"),
        ("v_batch_observability", "rejection_reason", "status", "rejection_reason"),
        ("view_batch_metrics", "error_rate_percent", "error_rate_percent / 100", "metrics_view"),
        ("view_batch_metrics", "row_count_inserted", "row_count_valid", "metrics_view"),
    ],
)
def test_a_view_that_reckons_wrongly_fails_its_case(
    scratch: Scratch, view: str, column: str, wrong: str, case: str
) -> None:
    columns = [f"{wrong} AS {name}" if name == column else name for name in inventory.VIEWS[f"intake.{view}"].split()]
    scratch.do(
        f"""
        ALTER VIEW intake.{view} RENAME TO as_it_was;
        CREATE VIEW intake.{view} WITH (security_invoker) AS SELECT {", ".join(columns)} FROM intake.as_it_was;
        GRANT SELECT ON intake.{view} TO service_role;
        """
    )
    assert list(scratch.failures()) == [case]


def test_a_database_that_is_behind_is_told_to_migrate(scratch: Scratch) -> None:
    migrate_down(scratch.owner_url, "20250104_ops_views")
    message = scratch.failures()["schema"]
    assert "revision: '20250104_ops_views'" in message
    assert message.endswith("Run 'dragonfly migrate'.")


def test_a_database_without_our_tables_cannot_be_tested(scratch: Scratch) -> None:
    migrate_down(scratch.owner_url)
    scratch.do("DROP TABLE public.alembic_version")
    with pytest.raises(CouldNotSetUpError, match="Run 'dragonfly migrate'"):
        scratch.test()


def test_a_row_in_an_error_of_the_database_is_not_shown(scratch: Scratch) -> None:
    scratch.do("ALTER TABLE intake.batches ADD CONSTRAINT none CHECK (filename = 'Zyxwvut')")
    failures = scratch.failures()
    assert failures.keys() == set(NAMES[1:])
    assert not [message for message in failures.values() if "Zyxwvut" in message or "smoke.csv" in message]


def command(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if "DATABASE" not in name and "DRAGONFLY" not in name}
    return subprocess.run(
        [sys.executable, "-m", "monitoring.smoke_simplicity", "--home", str(home), *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestCommand:
    def test_it_passes(self, scratch: Scratch, tmp_path: Path) -> None:
        ran = command("--env", "prod", home=tmp_path, DATABASE_URL=scratch.service_url)
        assert (ran.returncode, ran.stderr) == (0, "")
        lines = ran.stdout.splitlines()
        assert [line.split()[:2] for line in lines[:7]] == [["PASS", name] for name in NAMES]
        assert "prod: 7 of 7 cases of smoke schema passed in " in lines[7]

    def test_it_fails(self, scratch: Scratch, tmp_path: Path) -> None:
        scratch.do("DROP VIEW ops.v_error_trend")
        ran = command(home=tmp_path, DATABASE_URL=scratch.service_url)
        assert (ran.returncode, ran.stderr) == (1, "")
        assert ran.stdout.startswith("FAIL  schema ")
        assert "dev: 6 of 7 cases of smoke schema passed in " in ran.stdout

    def test_verbose_shows_the_facts(self, scratch: Scratch, tmp_path: Path) -> None:
        ran = command("--verbose", home=tmp_path, DATABASE_URL=scratch.service_url)
        assert "a second batch of the same bytes is refused by: 'batches_file_hash_key'" in ran.stdout

    def test_it_prints_json(self, scratch: Scratch, tmp_path: Path) -> None:
        scratch.do("ALTER TABLE intake.batches ALTER error_threshold_percent SET DEFAULT 20")
        ran = command("--json", home=tmp_path, DATABASE_URL=scratch.service_url)
        document = json.loads(ran.stdout)
        assert ran.returncode == 1
        assert document["overall_status"] == "failed"
        assert {case["case"]: case["status"] for case in document["cases"]} == {
            **dict.fromkeys(NAMES, "PASS"),
            "threshold_default": "FAIL",
        }
        assert {**document["metrics"], "elapsed_ms": 0} == {
            "total_cases": 7,
            "passed": 6,
            "failed": 1,
            "elapsed_ms": 0,
        }

    def test_an_unreachable_database_is_a_sentence(self, tmp_path: Path) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            url = f"postgresql://service_role:geheim@127.0.0.1:{closed.getsockname()[1]}/dragonfly"
            ran = command(home=tmp_path, DATABASE_URL=url)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith("Error: The database of DATABASE_URL cannot be used (OperationalError")
        assert ran.stderr.count("\n") == 1
        assert "geheim" not in ran.stderr

    def test_without_an_address_it_says_what_to_do(self, tmp_path: Path) -> None:
        ran = command(home=tmp_path)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert "DATABASE_URL is not set" in ran.stderr
        assert "Traceback" not in ran.stderr
