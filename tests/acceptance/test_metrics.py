"""What Prometheus sees of a running stack: the database's own figures, and every name that a rule or a panel asks for."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.pipeline import Pipeline
from tests.factories import clean_file, file_with_errors
from tests.monitoring.promql import asked_for

Samples = dict[str, float]


def web_text(pipeline: Pipeline) -> str:
    return pipeline.http.get("/metrics").raise_for_status().text


def worker_text(pipeline: Pipeline) -> str:
    return httpx.get(pipeline.info["worker_metrics"], trust_env=False).raise_for_status().text


def samples_of(text: str) -> Samples:
    """Every sample, such as ``dragonfly_batches source=foil state=failed``."""
    return {
        " ".join([sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def assert_soon(read: Callable[[], Samples], expected: Samples, within: float = 30) -> None:
    """Wait until the samples are as expected; figures of the database are up to 10 s old."""
    deadline = time.monotonic() + within
    while True:
        found = read()
        shown = {name: found.get(name) for name in expected}
        if shown == expected:
            return
        assert time.monotonic() < deadline, {
            name: (shown[name], value) for name, value in expected.items() if shown[name] != value
        }
        time.sleep(0.5)


@pytest.fixture(scope="module")
def fed(pipeline: Pipeline) -> Samples:
    """What the worker had counted before a good file, one over its budget, one twice, one of duplicates, one without header."""
    before = samples_of(worker_text(pipeline))
    good = clean_file(400, seed=1, start=710_000_000)
    assert pipeline.ingest(good, source="foil")["status"] == "completed"
    assert pipeline.upload(good, source="foil")["is_duplicate"]
    assert pipeline.ingest(good, source="foil", force="true")["row_count_duplicate"] == 400
    some = file_with_errors(300, 12, seed=2, start=711_000_000)
    assert pipeline.ingest(some, source="jbi")["row_count_invalid"] == 12
    bad = file_with_errors(200, 90, seed=3, start=712_000_000)
    assert pipeline.ingest(bad, source="simplicity")["rejection_code"] == "ERROR_BUDGET_EXCEEDED"
    assert pipeline.ingest(b"neither,header\nnor,rows\n", source="simplicity")["status"] == "failed"
    return before


def test_the_webs_figures_are_the_databases_own_count(pipeline: Pipeline, fed: Samples) -> None:
    expected = {
        f"dragonfly_batches source={source} state={state}": float(count)
        for state, source, count in pipeline.rows("SELECT status, source, count(*) FROM intake.batches GROUP BY 1, 2")
    }
    for source, *counts in pipeline.rows(
        """
        SELECT source, sum(row_count_inserted), sum(row_count_duplicate), sum(row_count_conflict), sum(row_count_invalid),
            sum(row_count_total) - sum(row_count_inserted) - sum(row_count_duplicate) - sum(row_count_invalid)
        FROM intake.batches GROUP BY 1
        """
    ):
        for outcome, count in zip(("inserted", "duplicate", "conflict", "invalid", "withheld"), counts, strict=True):
            expected[f"dragonfly_rows outcome={outcome} source={source}"] = float(count)
    ((judgments,),) = pipeline.rows("SELECT count(*) FROM public.judgments")
    ((errors,),) = pipeline.rows("SELECT count(*) FROM intake.row_errors")
    sums = {"inserted": float(judgments), "invalid": float(errors)}
    for outcome, stored in sums.items():
        assert sum(value for name, value in expected.items() if f"outcome={outcome} " in name) == stored
    expected |= {"dragonfly_ledger_imbalanced_batches": 0, "dragonfly_database_up": 1, "dragonfly_broker_up": 1}
    expected |= {f"dragonfly_queue_batches priority={priority}": 0.0 for priority in ("high", "normal", "low")}
    expected |= {"dragonfly_workers status=alive": 1, "dragonfly_worker_slots": 3}
    assert_soon(lambda: samples_of(web_text(pipeline)), expected)


def test_the_workers_counts_are_what_its_children_have_done(pipeline: Pipeline, fed: Samples) -> None:
    done = {
        "dragonfly_ingested_batches_total source=foil state=completed": 2,
        "dragonfly_ingested_batches_total source=jbi state=completed": 1,
        "dragonfly_ingested_batches_total source=simplicity state=failed": 2,
        "dragonfly_ingested_rows_total outcome=inserted source=foil": 400,
        "dragonfly_ingested_rows_total outcome=duplicate source=foil": 400,
        "dragonfly_ingested_rows_total outcome=conflict source=foil": 0,
        "dragonfly_ingested_rows_total outcome=inserted source=jbi": 288,
        "dragonfly_ingested_rows_total outcome=invalid source=jbi": 12,
        "dragonfly_ingested_rows_total outcome=invalid source=simplicity": 90,
        "dragonfly_ingested_rows_total outcome=withheld source=simplicity": 110,
        "dragonfly_batch_total_seconds_count source=simplicity": 2,
        "dragonfly_worker_events_dropped_total": 0,
    }
    assert_soon(lambda: samples_of(worker_text(pipeline)), {name: fed[name] + count for name, count in done.items()})


def test_every_name_that_a_rule_or_a_panel_asks_for_is_in_the_live_scrape(pipeline: Pipeline, fed: Samples) -> None:
    # A canary goes round in the first minute. The collector comes by within the hour, for which nobody waits here.
    pipeline.rows(
        "INSERT INTO ops.leftovers (kind, passed_at) VALUES ('blob', now())"
        " ON CONFLICT (kind) DO UPDATE SET passed_at = now() RETURNING kind"
    )
    deadline = time.monotonic() + 90
    while True:
        shown = {
            name.partition(" ")[0] for text in (web_text(pipeline), worker_text(pipeline)) for name in samples_of(text)
        }
        missing = {name: places for name, places in asked_for().items() if name not in shown}
        if not missing or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert missing == {}


@pytest.mark.parametrize("scrape", [web_text, worker_text])
def test_prometheus_own_linter_finds_nothing(
    pipeline: Pipeline, fed: Samples, scrape: Callable[[Pipeline], str]
) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    linted = subprocess.run(
        [promtool, "check", "metrics"], input=scrape(pipeline), capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")


def test_the_web_wants_a_key_and_the_worker_listens_to_this_machine_alone(pipeline: Pipeline) -> None:
    assert httpx.get(f"{pipeline.info['web']}/metrics", trust_env=False).status_code == 401
    port = int(pipeline.info["worker_metrics"].rpartition(":")[2].partition("/")[0])
    listening = {
        connection.laddr.ip
        for process in pipeline.processes("celery worker")
        for connection in process.net_connections(kind="tcp")
        if connection.status == "LISTEN" and connection.laddr.port == port
    }
    assert listening == {"127.0.0.1"}
