"""Traces of a batch from its upload to its commit, sent to an OTLP collector where one is named.

A batch's id is the id of its trace. So the upload and every attempt share one trace without carrying anything: a hint may be
lost, and then whoever finds the batch goes on in its trace all the same; and who has the id has the trace. The upload's span
is the root; its id is derived too, so that an attempt can name it as its parent.

Without a collector nothing of OpenTelemetry is imported. Attributes are ids, figures and names of ours, never a cell, a
file's name, or the text of an exception.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from app.batch import State
from app.observer import Change, Why
from app.store.batches import Batch

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span

log = structlog.get_logger()

EXPORT_SECONDS = 2.0
"""What one request to the collector may take, in a thread of its own."""
CLOSE_SECONDS = 2.0
_DELAY_MS = 1_000
_QUEUED_SPANS = 2_048
_SPANS_AT_ONCE = 512
_PATH = "/v1/traces"
_SPAN_BITS = (1 << 64) - 1
_NANOSECONDS = 1_000_000_000

_MODULES = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk.trace.export",
    "requests",
    # These are imported by the first request.
    "encodings.idna",
    "netrc",
)

_BATCH = "dragonfly.batch_id"


def open_tracing(endpoint: str | None, *, service: str, environment: str) -> Tracing | None:
    """The tracing of one process, to be opened after a fork; None where there is no collector.

    ``endpoint`` is the collector's base address, as OTEL_EXPORTER_OTLP_ENDPOINT has it. Headers and certificates come from
    OpenTelemetry's own variables. Nothing that is asked of the result waits for the collector, but ``close``, for 2 s.
    """
    return None if endpoint is None else Tracing(endpoint, service=service, environment=environment)


def load() -> None:
    """Import all that tracing needs, before a process forks beside its threads: see tasks.process."""
    for module in _MODULES:
        importlib.import_module(module)


class Tracing:
    """Spans of uploads and attempts. An Observer for attempts of this process."""

    def __init__(self, endpoint: str, *, service: str, environment: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        version = importlib.metadata.version("dragonfly")
        self._api = trace
        self._root: ContextVar[UUID | None] = ContextVar("root", default=None)
        self._provider = TracerProvider(
            resource=Resource.create(
                {
                    "service.name": service,
                    "service.namespace": "dragonfly",
                    "service.version": version,
                    "deployment.environment.name": environment,
                }
            ),
            id_generator=_id_generator(self._root),
            # The library's own exit would wait for a hung collector for half a minute.
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + _PATH, timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _telling(exporter),
                max_queue_size=_QUEUED_SPANS,
                schedule_delay_millis=_DELAY_MS,
                max_export_batch_size=_SPANS_AT_ONCE,
            )
        )
        self._tracer = self._provider.get_tracer("dragonfly", version)

    def uploaded(self, batch: Batch, began: float, *, is_duplicate: bool) -> None:
        """An upload has been answered whose request ``began`` then (Unix time, seconds)."""
        # Known bytes are the same batch: the root of its trace is the first upload.
        root = None if is_duplicate else self._root.set(batch.id)
        context = (
            self._below_the_upload(batch.id) if is_duplicate else self._api.set_span_in_context(self._api.INVALID_SPAN)
        )
        try:
            span = self._tracer.start_span(
                "upload",
                context=context,
                kind=self._api.SpanKind.SERVER,
                start_time=int(began * _NANOSECONDS),
                attributes={
                    **_identity(batch),
                    "dragonfly.bytes": batch.file_size_bytes,
                    "dragonfly.is_duplicate": is_duplicate,
                },
            )
        finally:
            if root is not None:
                self._root.reset(root)
        span.end()

    def changed(self, change: Change) -> None:
        """Observer: what an attempt has come to stands on its span."""
        span = self._api.get_current_span()
        if change.after not in (State.COMPLETED, State.FAILED, State.UPLOADED) or not span.is_recording():
            return
        span.set_attribute("dragonfly.state", change.after.value)
        span.set_attribute("dragonfly.why", change.why.value)
        if change.code is not None:
            span.set_attribute("dragonfly.code", change.code)
        if change.counts is not None:
            counts = change.counts
            for name in ("total", "valid", "invalid", "inserted", "duplicate", "conflict"):
                span.set_attribute(f"dragonfly.rows.{name}", getattr(counts, name))
        if change.why in (Why.RELEASED, Why.DEFECT):
            self._mark_failed(span, change.why.value)

    def lost(self, batch: Batch) -> None:
        """Observer: the attempt ends without a word of its own."""
        self._mark_failed(self._api.get_current_span(), "claim lost")

    @contextmanager
    def attempt(self, batch: Batch, claim_seconds: float) -> Iterator[None]:
        """Observer: a span around the attempt, and one for the claim before it."""
        now = time.time_ns()
        began = now - int(claim_seconds * _NANOSECONDS)
        span = self._tracer.start_span(
            "attempt",
            context=self._below_the_upload(batch.id),
            kind=self._api.SpanKind.CONSUMER,
            start_time=began,
            attributes={**_identity(batch), "dragonfly.fence": batch.fence, "dragonfly.attempt": batch.attempts},
        )
        claim = self._tracer.start_span("claim", context=self._api.set_span_in_context(span), start_time=began)
        claim.end(now)
        with self._api.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            yield

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Observer: a span around a step."""
        with self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span:
            try:
                yield
            except BaseException as problem:
                span.set_attribute("dragonfly.ended_by", type(problem).__name__)
                raise

    def close(self) -> None:
        """Send what is left, for 2 s at most."""
        closing = threading.Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def _below_the_upload(self, batch_id: UUID) -> Any:
        parent = self._api.SpanContext(
            trace_id=batch_id.int,
            span_id=_root_span_id(batch_id),
            is_remote=True,
            trace_flags=self._api.TraceFlags(self._api.TraceFlags.SAMPLED),
        )
        return self._api.set_span_in_context(self._api.NonRecordingSpan(parent))

    def _mark_failed(self, span: Span, why: str) -> None:
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, why))


def _identity(batch: Batch) -> dict[str, str]:
    return {_BATCH: str(batch.id), "dragonfly.source": batch.source, "dragonfly.priority": batch.priority}


def _root_span_id(batch_id: UUID) -> int:
    """Never 0, which would be no id: a UUID's variant stands in these bits."""
    return batch_id.int & _SPAN_BITS


def _id_generator(root: ContextVar[UUID | None]) -> Any:
    """Gives a batch's own ids to the span that is started while ``root`` is set, and random ones to every other."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            batch_id = root.get()
            return super().generate_trace_id() if batch_id is None else batch_id.int

        def generate_span_id(self) -> int:
            batch_id = root.get()
            return super().generate_span_id() if batch_id is None else _root_span_id(batch_id)

    return Ids()


def _telling(exporter: SpanExporter) -> SpanExporter:
    """The exporter, which says once that spans do not arrive, and once that they do again."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Telling(SpanExporter):
        def __init__(self) -> None:
            self._arrives = True

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = exporter.export(spans)
            arrives = result is SpanExportResult.SUCCESS
            if arrives is not self._arrives:
                self._arrives = arrives
                say = log.info if arrives else log.warning
                say("traces arrive again" if arrives else "traces do not arrive", spans=len(spans))
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            return exporter.force_flush(timeout_millis)

    return Telling()
