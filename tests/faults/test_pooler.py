"""Through PgBouncer 1.18 in transaction mode: the acceptance tests of ingestion, and workers that are killed and stopped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app.local.postgres import Postgres
from app.store.schema import migrate
from tests.acceptance.pipeline import Pipeline
from tests.acceptance.test_ingestion import (
    test_a_failed_batch_is_retried_with_a_higher_budget,
    test_a_sample_ends_as_its_table_says,
    test_above_the_budget_every_bad_row_is_listed_and_no_judgment_written,
    test_api_database_and_errors_csv_agree_row_for_row,
    test_every_row_is_accounted_for_in_rows_and_dollars,
    test_exactly_the_budget_is_completed,
    test_force_makes_a_second_batch_whose_rows_are_all_duplicates,
    test_overlapping_files_loaded_at_once_give_every_row_once,
    test_the_command_shows_progress_and_verdicts,
    test_the_same_bytes_are_one_batch,
    test_twenty_uploads_at_once_are_one_batch,
)
from tests.acceptance.test_survival import (
    test_a_poison_batch_fails_after_three_silent_attempts_and_others_are_unharmed,
    test_a_stopped_worker_wakes_to_a_lost_claim_and_writes_nothing,
)
from tests.conftest import SERVICE_PASSWORD
from tests.faults.pooler import Pooler
from tests.faults.stack import NotThereError

__all__ = [
    "test_a_failed_batch_is_retried_with_a_higher_budget",
    "test_a_poison_batch_fails_after_three_silent_attempts_and_others_are_unharmed",
    "test_a_sample_ends_as_its_table_says",
    "test_a_stopped_worker_wakes_to_a_lost_claim_and_writes_nothing",
    "test_above_the_budget_every_bad_row_is_listed_and_no_judgment_written",
    "test_api_database_and_errors_csv_agree_row_for_row",
    "test_every_row_is_accounted_for_in_rows_and_dollars",
    "test_exactly_the_budget_is_completed",
    "test_force_makes_a_second_batch_whose_rows_are_all_duplicates",
    "test_overlapping_files_loaded_at_once_give_every_row_once",
    "test_the_command_shows_progress_and_verdicts",
    "test_the_same_bytes_are_one_batch",
    "test_twenty_uploads_at_once_are_one_batch",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="dfly-") as folder:
        postgres = Postgres(data=Path(folder) / "data", sockets=Path(folder), password="owner")
        with postgres:
            migrate(postgres.url())
            with psycopg.connect(postgres.url(), autocommit=True) as connection:
                connection.execute(f"ALTER ROLE service_role PASSWORD '{SERVICE_PASSWORD}'")
            yield postgres


@pytest.fixture(scope="module")
def pooler(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooler]:
    folder = tmp_path_factory.mktemp("pooler") / "pgbouncer"
    try:
        made = Pooler(folder, server_sockets=server.sockets, users={"service_role": SERVICE_PASSWORD})
    except NotThereError as missing:
        pytest.skip(f"this machine lacks {missing}")
    with made:
        yield made


@pytest.fixture(scope="module")
def pipeline(server: Postgres, pooler: Pooler, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A stack whose application knows the pooler alone."""
    running = Pipeline(
        tmp_path_factory.mktemp("pooled") / "home",
        workers=3,
        settings={
            "LEASE_SECONDS": "3",
            "DATABASE_URL": pooler.url("service_role"),
            "DATABASE_DIRECT_URL": server.url(),
        },
    )
    yield running
    running.stop()


@pytest.fixture(scope="module")
def killed(pipeline: Pipeline) -> Pipeline:
    """The same stack, for the tests that kill and stop its processes."""
    return pipeline


def test_the_application_spoke_through_a_pooler_in_transaction_mode(pooler: Pooler, pipeline: Pipeline) -> None:
    assert pooler.version().startswith("1.18.")
    assert {row["key"]: row["value"] for row in pooler.show("CONFIG")}["pool_mode"] == "transaction"
    before = sum(row["total_xact_count"] for row in pooler.show("STATS"))
    batch = pipeline.ingest(b"case_number,defendant_name,judgment_amount\nPOOL-1,Ada Marlow,5\n")
    assert batch["status"] == "completed"
    after = sum(row["total_xact_count"] for row in pooler.show("STATS"))
    assert after >= before + 5
    # Session state would be another client's in a moment: nobody of the application has a session of his own.
    ((direct,),) = pipeline.rows(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = 'service_role' AND client_addr IS NOT NULL"
    )
    assert direct == 0
