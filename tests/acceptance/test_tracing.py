"""A running stack with a collector: web and worker write one trace; and a collector that hangs slows neither work nor stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from tests.acceptance.pipeline import Pipeline
from tests.factories import clean_file
from tests.monitoring.otlp_stub import Collector, attributes_of, collecting

WORKER = "dragonfly-worker"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as answering:
        yield answering


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    home = tmp_path_factory.mktemp("traced") / "home"
    running = Pipeline(home, workers=2, settings={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    yield running
    collector.answers.set()
    running.stop()


def spans_by_service(collector: Collector, batch_id: str) -> dict[str, list[str]]:
    """The names of this batch's spans, by who sent them, in the order of their beginning."""
    found: dict[str, list[tuple[int, str]]] = {}
    for _, request in list(collector.requests):
        for resource in request.resource_spans:
            service = attributes_of(resource.resource)["service.name"]  # type: ignore[arg-type]
            for scope in resource.scope_spans:
                found.setdefault(service, []).extend(
                    (span.start_time_unix_nano, span.name)
                    for span in scope.spans
                    if span.trace_id == UUID(batch_id).bytes
                )
    return {service: [name for _, name in sorted(spans)] for service, spans in found.items() if spans}


def test_web_and_worker_write_the_trace_whose_id_is_the_batchs(traced: Pipeline, collector: Collector) -> None:
    batch_id = traced.ingest(clean_file(50, seed=1, start=910_000_000))["batch_id"]
    expected = {
        "dragonfly-web": ["upload"],
        WORKER: ["attempt", "claim", "check", "verdict", "load", "commit"],
    }
    deadline = time.monotonic() + 15
    while (found := spans_by_service(collector, batch_id)) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def test_children_that_are_replaced_after_each_batch_leave_no_span_and_no_count_behind(
    collector: Collector, tmp_path: Path
) -> None:
    # So little memory that every batch is too much.
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "WORKER_MEMORY_KIB": str(50 * 1024)}
    running = Pipeline(tmp_path / "home", workers=2, settings=settings)
    try:
        ids, processes = [], set()
        for number in range(6):
            processes |= {process.pid for process in running.processes("celery worker")}
            content = clean_file(50, seed=number, start=915_000_000 + number * 1_000)
            ids.append(running.ingest(content, source="jbi")["batch_id"])
        # The last ones may be on their way when the last batch has its verdict.
        deadline = time.monotonic() + 30
        while len(processes) <= 3:
            assert time.monotonic() < deadline, "no child but the first two"
            processes |= {process.pid for process in running.processes("celery worker")}
            time.sleep(0.05)
        deadline = time.monotonic() + 20
        while missing := [one for one in ids if "commit" not in spans_by_service(collector, one).get(WORKER, ())]:
            assert time.monotonic() < deadline, missing
            time.sleep(0.1)
        shown = httpx.get(running.info["worker_metrics"], trust_env=False).text
        assert 'dragonfly_ingested_batches_total{source="jbi",state="completed"} 6.0' in shown
        assert "dragonfly_worker_events_dropped_total 0.0" in shown
    finally:
        running.stop()


def test_a_collector_that_hangs_slows_neither_work_nor_stop(traced: Pipeline, collector: Collector) -> None:
    collector.answers.clear()
    asked = collector.asked
    began = time.monotonic()
    for number in range(10):
        assert traced.ingest(clean_file(50, seed=number, start=920_000_000 + number * 1_000))["status"] == "completed"
    assert time.monotonic() - began < 15
    deadline = time.monotonic() + 10
    while collector.asked == asked:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    began = time.monotonic()
    traced.stop()
    stopped_in = time.monotonic() - began
    print(f"stopped in {stopped_in:.1f} s while the collector hung")
    assert traced.process.returncode == 0
    assert stopped_in < 20
    log = traced.log.read_text()
    assert collector.url not in log
