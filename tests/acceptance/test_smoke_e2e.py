"""The end-to-end smoke test on a running stack: it passes, it fails for the right reason, and it never leaves a trace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg
import pytest

from app.local.postgres import Postgres
from app.store.traces import Run
from monitoring import smoke_e2e
from monitoring.smoke import Report
from monitoring.smoke_e2e import Site
from monitoring.smoke_trial import Stop, good_file
from tests.acceptance.pipeline import ADDRESSES, Pipeline
from tests.factories import clean_file, file_with_errors
from tests.monitoring.remains import remains

CASES = ["happy_path", "idempotency", "quality_check"]
OF_THE_WATCH = (
    "ops.workers",
    "ops.heartbeats",
    "ops.canaries",
    "ops.sentinel_runs",
    "ops.sentinel_flips",
    "ops.alerts",
)
"""Tables that a running stack writes to all the time."""


@pytest.fixture(scope="module")
def real_work(pipeline: Pipeline) -> None:
    """What production has: batches of every kind, today's and older."""
    for content in (clean_file(300, seed=801, start=801_000), file_with_errors(200, 10, seed=802, start=802_000)):
        assert pipeline.ingest(content)["status"] == "completed"
    assert pipeline.ingest(file_with_errors(100, 40, seed=803, start=803_000))["status"] == "failed"


@pytest.fixture
def untouched(pipeline: Pipeline, real_work: None) -> Iterator[None]:
    """After the test every table, every view and every stored file is what it was before."""
    before = everything(pipeline)
    yield
    assert everything(pipeline) == before


def everything(pipeline: Pipeline) -> tuple[dict[str, tuple[int, str]], set[Path]]:
    held = remains(pipeline.info["database_direct_url"], without=OF_THE_WATCH)
    return held, {path for path in (pipeline.home / "blobs").rglob("*") if path.is_file()}


def do(pipeline: Pipeline, statement: str, *values: Any) -> None:
    """As the tables' owner."""
    with psycopg.connect(pipeline.info["database_direct_url"], autocommit=True) as connection:
        connection.execute(statement, values)  # type: ignore[call-overload]


def started(pipeline: Pipeline, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "monitoring.smoke_e2e", "--home", str(pipeline.home), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=pipeline.env)


def ran(pipeline: Pipeline, *arguments: str, home: Path | None = None, **settings: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command."""
    kept = {name: value for name, value in pipeline.env.items() if name not in ADDRESSES and "DRAGONFLY" not in name}
    found = subprocess.run(
        [sys.executable, "-m", "monitoring.smoke_e2e", "--home", str(home or pipeline.home), *arguments],
        env={**kept, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return found.returncode, found.stdout, found.stderr


@contextmanager
def stopped_workers(pipeline: Pipeline) -> Iterator[None]:
    """Every process of the workers stands still."""
    processes = pipeline.processes("celery worker")
    assert len(processes) >= 4
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def smoke_batches(pipeline: Pipeline) -> list[Any]:
    return pipeline.rows("SELECT id, status FROM intake.batches WHERE starts_with(created_by, 'dragonfly-smoke-')")


def wait_for_smoke_batch(pipeline: Pipeline) -> None:
    deadline = time.monotonic() + 30
    while not smoke_batches(pipeline):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.usefixtures("untouched")
class TestLeavesNoTrace:
    def test_when_it_passes(self, pipeline: Pipeline) -> None:
        status, printed, errors = ran(pipeline, "--json", "--env", "prod")
        assert (status, errors) == (0, "")
        document = json.loads(printed)
        assert [(case["case"], case["status"]) for case in document["cases"]] == [(name, "PASS") for name in CASES]
        assert document["clean_up"]["message"] == "Removed again: 2 batches, 200 judgments, 3 row errors, 2 files."
        assert (document["environment"], document["overall_status"], document["notes"]) == ("prod", "passed", [])

    def test_when_it_passes_again(self, pipeline: Pipeline) -> None:
        status, printed, _ = ran(pipeline, "--verbose")
        assert status == 0
        assert "is_duplicate of the same bytes: True" in printed
        assert printed.splitlines()[-1].partition(": ")[2].startswith("3 of 3 cases of smoke e2e passed in ")

    def test_when_the_workers_hang(self, pipeline: Pipeline) -> None:
        with stopped_workers(pipeline):
            report = in_process(pipeline, limit_seconds=3)
        assert report.exit_status == 1
        happy, idempotent, quality = report.outcomes
        assert happy.message.startswith("Found the batch still uploaded after 3 s; expected an end by then. ")
        assert "'dragonfly sentinel'" in happy.message
        assert 3_000 <= happy.elapsed_ms < 10_000
        assert idempotent.passed
        assert not quality.passed
        assert report.clean_up is not None
        assert report.clean_up.message == "Removed again: 2 batches, 0 judgments, 0 row errors, 2 files."

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_when_it_is_stopped(self, pipeline: Pipeline, number: signal.Signals) -> None:
        with stopped_workers(pipeline):
            process = started(pipeline)
            wait_for_smoke_batch(pipeline)
            process.send_signal(number)
            printed, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (1, "")
        assert printed.count("Found a request to stop; expected none before the verdict.") == 3
        assert "PASS  clean_up" in printed

    def test_when_a_case_is_no_good(self, pipeline: Pipeline) -> None:
        do(pipeline, "ALTER TABLE intake.batches ADD CONSTRAINT none CHECK (row_count_inserted <> 200) NOT VALID")
        try:
            report = in_process(pipeline)
        finally:
            do(pipeline, "ALTER TABLE intake.batches DROP CONSTRAINT none")
        assert [outcome.case for outcome in report.outcomes if not outcome.passed] == ["happy_path"]
        assert report.outcomes[0].message.startswith("Found status: 'failed'; expected 'completed'. ")
        assert report.clean_up is not None
        assert report.clean_up.passed
        assert report.exit_status == 1


class TestKilled:
    def test_what_a_killed_run_has_left_the_next_one_removes_when_it_is_old(
        self, pipeline: Pipeline, untouched: None
    ) -> None:
        killed = started(pipeline)
        wait_for_smoke_batch(pipeline)
        killed.kill()
        killed.communicate()
        deadline = time.monotonic() + 30
        while smoke_batches(pipeline)[0][1] != "completed":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # It might be at work still.
        status, printed, _ = ran(pipeline)
        assert (status, "had left" in printed, len(smoke_batches(pipeline))) == (0, False, 1)
        age_smoke(pipeline)
        status, printed, _ = ran(pipeline)
        assert status == 0
        assert "had left: 1 batches, 200 judgments, 0 row errors, 1 files." in printed
        assert smoke_batches(pipeline) == []

    def test_real_data_that_looks_similar_stays(self, pipeline: Pipeline, real_work: None) -> None:
        own = Run.new()
        header, row = good_file(own).decode().splitlines()[:2]
        rows = pipeline.ingest(f"{header}\n{row}\n".encode(), name=own.filename)
        assert rows["status"] == "completed"
        do(pipeline, "UPDATE intake.batches SET created_at = created_at - interval '1 hour' WHERE filename = %s", own.filename)  # fmt: skip
        before = everything(pipeline)
        status, printed, _ = ran(pipeline)
        assert (status, "had left" in printed) == (0, False)
        assert everything(pipeline) == before

    def test_what_cannot_be_only_a_runs_own_is_left_and_named(self, pipeline: Pipeline, real_work: None) -> None:
        """A real row under all the names of a run: nothing is removed, and nothing begins."""
        own = Run.new()
        case_number = f"REAL-{uuid4()}"
        content = f"case_number,defendant_name,judgment_amount\n{case_number},Ada Marlow,5.00\n".encode()
        batch_id = pipeline.ingest(content, name=own.filename)["batch_id"]
        do(
            pipeline,
            "UPDATE intake.batches SET created_by = %s, created_at = created_at - interval '1 hour' WHERE id = %s",
            own.name,
            batch_id,
        )
        before = everything(pipeline)
        status, printed, errors = ran(pipeline)
        assert (status, printed) == (2, "")
        assert f"run {own.id} has 1 rows without its case numbers; its batches: {batch_id}" in errors
        assert case_number not in errors
        assert everything(pipeline) == before
        do(pipeline, "UPDATE intake.batches SET created_by = 'tests' WHERE id = %s", batch_id)


@pytest.mark.usefixtures("untouched")
class TestDoesNotBegin:
    def addresses(self, pipeline: Pipeline, **changed: str) -> dict[str, str]:
        return {
            "DRAGONFLY_URL": pipeline.info["web"],
            "DRAGONFLY_KEY": pipeline.key,
            "DATABASE_URL": pipeline.info["database_url"],
            "DATABASE_DIRECT_URL": pipeline.info["database_direct_url"],
            "STORAGE_URL": pipeline.info["storage_url"],
            **changed,
        }

    def test_the_addresses_are_enough(self, pipeline: Pipeline, tmp_path: Path) -> None:
        status, _, errors = ran(pipeline, home=tmp_path / "none", **self.addresses(pipeline))
        assert (status, errors) == (0, "")
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize(
        ("variable", "value", "sentence"),
        [
            ("DATABASE_DIRECT_URL", "", "the test needs it to remove what it uploads, so nothing was uploaded."),
            ("DATABASE_DIRECT_URL", "postgresql://x:geheim@127.0.0.1:1/x", "cannot be used (OperationalError)"),
            ("DRAGONFLY_URL", "http://127.0.0.1:1", "No server answers at http://127.0.0.1:1"),
            ("DRAGONFLY_URL", "http://user:geheim@127.0.0.1:1", "No server answers at http://127.0.0.1:1"),
            ("DRAGONFLY_KEY", "no-key-at-all", "refuses the key"),
            ("STORAGE_URL", "bogus://u:geheim@x", "STORAGE_URL cannot be used (GenericError at bogus://)"),
            ("STORAGE_URL", "/no/such/folder", "there is no folder /no/such/folder"),
        ],
    )
    def test_without_all_it_needs(
        self, pipeline: Pipeline, tmp_path: Path, variable: str, value: str, sentence: str
    ) -> None:
        settings = self.addresses(pipeline, **{variable: value})
        status, printed, errors = ran(pipeline, home=tmp_path, **settings)
        assert (status, printed) == (2, "")
        assert sentence in errors
        assert (errors.startswith("Error: "), errors.count("\n"), "geheim" in errors) == (True, 1, False)

    def test_as_the_application(self, pipeline: Pipeline, tmp_path: Path) -> None:
        settings = self.addresses(pipeline, DATABASE_DIRECT_URL=pipeline.info["database_url"])
        status, printed, errors = ran(pipeline, home=tmp_path, **settings)
        assert (status, printed) == (2, "")
        assert "may not delete from intake.batches, public.judgments" in errors

    def test_on_a_database_that_is_not_the_servers(
        self, pipeline: Pipeline, tmp_path: Path, postgres_server: Postgres
    ) -> None:
        before = remains(postgres_server.url())
        settings = self.addresses(pipeline, DATABASE_DIRECT_URL=postgres_server.url())
        status, printed, errors = ran(pipeline, home=tmp_path, **settings)
        assert (status, printed) == (2, "")
        assert "does not take a key that was made in DATABASE_DIRECT_URL's database" in errors
        assert remains(postgres_server.url()) == before


def test_files_that_are_not_where_storage_url_says_are_named(
    pipeline: Pipeline, real_work: None, tmp_path: Path
) -> None:
    held, files = everything(pipeline)
    report = in_process(pipeline, storage=str(tmp_path))
    assert all(outcome.passed for outcome in report.outcomes)
    assert report.clean_up is not None
    assert (report.clean_up.passed, report.exit_status) == (False, 1)
    held_after, files_after = everything(pipeline)
    assert held_after == held
    left = files_after - files
    assert len(left) == 2
    for path in left:
        assert str(path.relative_to(pipeline.home / "blobs")) in report.clean_up.message
        path.unlink()


def in_process(pipeline: Pipeline, *, limit_seconds: float = 60, storage: str | None = None) -> Report:
    """A run within this process, whose limit may be short."""
    site = Site(
        url=pipeline.info["web"],
        database_direct_url=pipeline.info["database_direct_url"],
        storage=storage or pipeline.info["storage_url"],
    )
    return smoke_e2e.run(site, environment="dev", stop=Stop(), limit_seconds=limit_seconds)


def age_smoke(pipeline: Pipeline) -> None:
    for table, name in (("intake.batches", "created_by"), ("ops.api_keys", "name")):
        do(
            pipeline,
            f"UPDATE {table} SET created_at = created_at - interval '11 minutes' WHERE starts_with({name}, 'dragonfly-smoke-')",
        )
