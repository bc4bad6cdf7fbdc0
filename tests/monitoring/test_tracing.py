"""Traces: one of a batch, whoever works on it; and a collector that is slow, dead or hung holds nobody up."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from structlog.testing import capture_logs

from app import intake
from app.batch import State
from app.intake import Workshop
from app.observer import Observers
from app.store import claims
from app.store.batches import Batch
from monitoring.tally import Tally
from monitoring.tracing import Tracing, open_tracing
from tests.conftest import Look, Sender
from tests.factories import clean_file, csv_bytes, file_with_errors, judgment_cells
from tests.monitoring.otlp_stub import Collector, attributes_of, collecting

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def collector() -> Iterator[Collector]:
    """One that answers until a test says otherwise."""
    with collecting() as answering:
        yield answering


@pytest.fixture
def tracing(collector: Collector) -> Iterator[Tracing]:
    """What a worker has."""
    opened = open_tracing(collector.url + "/", service="dragonfly-worker", environment="dev")
    assert opened is not None
    yield opened
    collector.answers.set()
    opened.close()


@pytest.fixture
def traced(workshop: Workshop, tracing: Tracing) -> Workshop:
    """A workshop whose attempts are traced."""
    return dataclasses.replace(workshop, observer=tracing)


def arrived(collector: Collector, tracing: Tracing) -> list[Span]:
    """Every span, after the last has been sent."""
    tracing.close()
    return collector.spans()


def trace_of(batch: Batch) -> bytes:
    return batch.id.bytes


def names_below(spans: list[Span], parent: Span) -> list[str]:
    return [span.name for span in spans if span.parent_span_id == parent.span_id]


class TestTrace:
    def test_it_goes_from_the_upload_to_the_commit(
        self, traced: Workshop, tracing: Tracing, collector: Collector, send: Sender
    ) -> None:
        began = time.time()
        batch = send(file_with_errors(100, 5), source="foil", priority="high")
        tracing.uploaded(batch, began, is_duplicate=False)
        assert intake.ingest(traced, batch.id) is State.COMPLETED
        spans = arrived(collector, tracing)
        assert {span.trace_id for span in spans} == {trace_of(batch)}
        upload, attempt = spans[0], spans[1]
        assert (upload.name, upload.parent_span_id) == ("upload", b"")
        assert (attempt.name, attempt.parent_span_id) == ("attempt", upload.span_id)
        assert names_below(spans, attempt) == ["claim", "check", "verdict", "load", "commit"]
        assert all(span.start_time_unix_nano < span.end_time_unix_nano for span in spans)
        assert upload.start_time_unix_nano == pytest.approx(began * 1e9, abs=1e6)
        assert attributes_of(upload) == {
            "dragonfly.batch_id": str(batch.id),
            "dragonfly.source": "foil",
            "dragonfly.priority": "high",
            "dragonfly.bytes": batch.file_size_bytes,
            "dragonfly.is_duplicate": False,
        }
        assert attributes_of(attempt) == {
            "dragonfly.batch_id": str(batch.id),
            "dragonfly.source": "foil",
            "dragonfly.priority": "high",
            "dragonfly.fence": 1,
            "dragonfly.attempt": 1,
            "dragonfly.state": "completed",
            "dragonfly.why": "committed",
            "dragonfly.rows.total": 100,
            "dragonfly.rows.valid": 95,
            "dragonfly.rows.invalid": 5,
            "dragonfly.rows.inserted": 95,
            "dragonfly.rows.duplicate": 0,
            "dragonfly.rows.conflict": 0,
        }

    def test_an_attempt_that_follows_another_is_in_the_same_trace(
        self, traced: Workshop, tracing: Tracing, collector: Collector, send: Sender, look: Look
    ) -> None:
        batch = send(clean_file(3))
        with traced.engine.begin() as connection:
            claims.claim(connection, batch.id, owner="ghost/1/2", lease_seconds=15)
        look.expire(batch.id)
        assert intake.ingest(traced, batch.id) is State.COMPLETED
        attempt = arrived(collector, tracing)[0]
        # The upload was never traced, and yet all know where it would stand.
        assert (attempt.trace_id, attempt.parent_span_id) == (trace_of(batch), trace_of(batch)[8:])
        assert attributes_of(attempt)["dragonfly.fence"] == 2

    def test_the_same_bytes_again_are_another_upload_in_it(
        self, tracing: Tracing, collector: Collector, send: Sender
    ) -> None:
        batch = send(clean_file(3))
        tracing.uploaded(batch, time.time(), is_duplicate=False)
        tracing.uploaded(batch, time.time(), is_duplicate=True)
        first, again = arrived(collector, tracing)
        assert {first.trace_id, again.trace_id} == {trace_of(batch)}
        assert again.parent_span_id == first.span_id != again.span_id

    def test_a_claim_that_gets_nothing_leaves_no_span(
        self, traced: Workshop, tracing: Tracing, collector: Collector, send: Sender
    ) -> None:
        batch = send(clean_file(3))
        assert intake.ingest(traced, batch.id) is State.COMPLETED
        for _ in range(3):
            assert intake.ingest(traced, batch.id) is None
        assert [span.name for span in arrived(collector, tracing)].count("attempt") == 1

    def test_it_is_sent_where_otlp_has_it_and_says_who_sends(
        self, tracing: Tracing, collector: Collector, send: Sender
    ) -> None:
        tracing.uploaded(send(clean_file(1)), time.time(), is_duplicate=False)
        arrived(collector, tracing)
        ((path, request),) = collector.requests
        assert path == "/v1/traces"
        resource = attributes_of(request.resource_spans[0].resource)  # type: ignore[arg-type]
        assert (resource["service.name"], resource["deployment.environment.name"]) == ("dragonfly-worker", "dev")


class TestEnds:
    def fails(self, traced: Workshop, problem: Callable[[], None]) -> Workshop:
        class Failing:
            def read(self, key: str) -> Iterator[bytes]:
                problem()
                return traced.blobs.read(key)

        return dataclasses.replace(traced, blobs=Failing())  # type: ignore[arg-type]

    def test_a_refused_file_is_no_error_of_ours(
        self, traced: Workshop, tracing: Tracing, collector: Collector, send: Sender
    ) -> None:
        assert intake.ingest(traced, send(file_with_errors(100, 50)).id) is State.FAILED
        spans = {span.name: span for span in arrived(collector, tracing)}
        assert spans.keys() == {"attempt", "claim", "check", "verdict", "commit"}
        assert attributes_of(spans["attempt"])["dragonfly.code"] == "ERROR_BUDGET_EXCEEDED"
        assert {span.status.code for span in spans.values()} == {Status.STATUS_CODE_UNSET}

    def test_one_that_its_surroundings_or_a_defect_ended_is(
        self, traced: Workshop, tracing: Tracing, collector: Collector, send: Sender
    ) -> None:
        def by(problem: type[Exception]) -> Callable[[], None]:
            def raise_it() -> None:
                raise problem("Quillfeather")

            return raise_it

        for start, problem in ((0, OSError), (100, ZeroDivisionError)):
            assert intake.ingest(self.fails(traced, by(problem)), send(clean_file(3, start=start)).id) is None
        spans = arrived(collector, tracing)
        attempts = [span for span in spans if span.name == "attempt"]
        assert [(span.status.code, span.status.message) for span in attempts] == [
            (Status.STATUS_CODE_ERROR, "released"),
            (Status.STATUS_CODE_ERROR, "ended by a defect"),
        ]
        ended_by = [attributes_of(span).get("dragonfly.ended_by") for span in spans if span.name == "check"]
        assert ended_by == ["OSError", "ZeroDivisionError"]
        assert "Quillfeather" not in collector.everything()
        assert not any(span.events for span in spans)

    def test_one_that_lost_its_claim_says_so(
        self, traced: Workshop, tracing: Tracing, collector: Collector, send: Sender, look: Look
    ) -> None:
        def take() -> None:
            look.change("UPDATE intake.batches SET status = 'staging', fence = fence + 1")

        assert intake.ingest(self.fails(traced, take), send(clean_file(3)).id) is None
        attempt = arrived(collector, tracing)[0]
        assert (attempt.status.code, attempt.status.message) == (Status.STATUS_CODE_ERROR, "claim lost")


def test_no_cell_and_no_file_name_is_in_a_trace(
    traced: Workshop, tracing: Tracing, collector: Collector, send: Sender
) -> None:
    rows = [judgment_cells(defendant_name=f"Quillfeather {n}", case_number=f"ZANZIBAR-{n}") for n in range(20)]
    rows[3]["judgment_amount"] = "Quillfeather"
    for content in (csv_bytes(rows), csv_bytes(rows[3:5]), b"Quillfeather,ZANZIBAR-1\n1,2\n"):
        batch = send(content, filename="Quillfeather.csv", created_by="Quillfeather")
        tracing.uploaded(batch, time.time(), is_duplicate=False)
        assert intake.ingest(traced, batch.id) is not None
    assert len(arrived(collector, tracing)) > 12
    for word in ("Quillfeather", "ZANZIBAR"):
        assert word not in collector.everything()


def test_counting_and_tracing_go_together(
    workshop: Workshop, tracing: Tracing, collector: Collector, send: Sender
) -> None:
    tally = Tally()
    both = dataclasses.replace(workshop, observer=Observers(tally, tracing))
    assert intake.ingest(both, send(clean_file(3)).id) is State.COMPLETED
    assert tally.registry.get_sample_value(
        "dragonfly_ingested_batches_total", {"source": "manual", "state": "completed"}
    )
    assert len(arrived(collector, tracing)) == 6


class TestCollector:
    def test_one_that_hangs_holds_up_neither_work_nor_the_end(
        self, traced: Workshop, tracing: Tracing, collector: Collector, send: Sender
    ) -> None:
        collector.answers.clear()
        began = time.monotonic()
        for number in range(5):
            batch = send(clean_file(3, start=number * 100))
            tracing.uploaded(batch, time.time(), is_duplicate=False)
            assert intake.ingest(traced, batch.id) is State.COMPLETED
        assert time.monotonic() - began < 5
        deadline = time.monotonic() + 10
        while not collector.asked:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        began = time.monotonic()
        tracing.close()
        assert time.monotonic() - began < 10
        assert collector.requests == []

    def test_what_waits_for_it_is_bounded(self, tracing: Tracing, collector: Collector, send: Sender) -> None:
        collector.answers.clear()
        batch = send(clean_file(1))
        for _ in range(10_000):
            tracing.uploaded(batch, time.time(), is_duplicate=True)
        (processor,) = tracing._provider._active_span_processor._span_processors
        assert len(processor._batch_processor._queue) <= 2_048

    def test_one_that_is_gone_or_refuses_is_told_of_once_and_so_is_its_return(
        self, tracing: Tracing, collector: Collector, send: Sender
    ) -> None:
        batch = send(clean_file(1))

        def upload_and_send() -> None:
            tracing.uploaded(batch, time.time(), is_duplicate=True)
            tracing._provider.force_flush()

        collector.status = 400
        with capture_logs() as said:
            for status in (400, 400, 200, 200):
                collector.status = status
                upload_and_send()
        assert [line["event"] for line in said] == ["traces do not arrive", "traces arrive again"]
        assert collector.url not in str(said)


def test_without_a_collector_nothing_of_opentelemetry_is_loaded() -> None:
    code = (
        "import sys, monitoring.tracing, tasks.process, app.intake\n"
        "assert monitoring.tracing.open_tracing(None, service='s', environment='dev') is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
