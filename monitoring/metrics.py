"""The metrics: every name, kind, label and meaning, and where each is shown.

``python -m monitoring.metrics`` prints them as docs/reference/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.metrics_core import GaugeMetricFamily

from app.batch import PRIORITIES, SOURCES

# Else every counter has a companion that tells when it was made.
disable_created_metrics()  # type: ignore[no-untyped-call]

BATCH_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
REQUEST_BUCKETS = Histogram.DEFAULT_BUCKETS
OUTCOMES = ("inserted", "duplicate", "conflict", "invalid", "withheld")
_ROWS = (
    "`inserted`, `duplicate`, `invalid`, and `withheld` (valid, but of a batch that failed) add up to the rows read;"
    " `conflict` is the part of `duplicate` that differs from what stands"
)


class Shown(StrEnum):
    """Whose ``/metrics`` it is in."""

    WEB = "web"
    WORKER = "worker"


class Kind(StrEnum):
    """Prometheus' own words."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. A label takes values of ours alone: never an id, never what a client or a file says."""

    name: str
    kind: Kind
    shown: Shown
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def gauge(self, samples: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
        """The metric with values that were found elsewhere: each with its labels' values, in their order."""
        family = GaugeMetricFamily(self.name, self._help(), labels=self.labels)
        for labels, value in samples:
            family.add_metric(labels, value)
        return family

    def counter(self, registry: CollectorRegistry) -> Counter:
        """The metric, to be counted by this process."""
        return Counter(self.name, self._help(), self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """The metric, to be observed by this process, in seconds."""
        return Histogram(self.name, self._help(), self.labels, registry=registry, buckets=self.buckets)

    def _help(self) -> str:
        return self.meaning.replace("`", "")


CATALOGUE: dict[str, Metric] = {}


def _add(metric: Metric) -> Metric:
    CATALOGUE[metric.name] = metric
    return metric


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return _add(Metric(name, Kind.GAUGE, Shown.WEB, meaning, labels))


def _counter(name: str, meaning: str, *labels: str, shown: Shown = Shown.WORKER) -> Metric:
    return _add(Metric(name, Kind.COUNTER, shown, meaning, labels))


def _histogram(
    name: str, meaning: str, *labels: str, shown: Shown = Shown.WORKER, buckets: tuple[float, ...] = BATCH_BUCKETS
) -> Metric:
    return _add(Metric(name, Kind.HISTOGRAM, shown, meaning, labels, buckets))


DATABASE_UP = _gauge(
    "dragonfly_database_up", "Whether the database has answered within 2 s; while it has not, its figures are left out"
)
BATCHES = _gauge("dragonfly_batches", "Batches, by state", "state", "source")
ROWS = _gauge("dragonfly_rows", f"Rows of all batches: {_ROWS}", "source", "outcome")
LAST_HOUR_ROWS = _gauge(
    "dragonfly_last_hour_rows",
    "Rows of the batches that ended within the last 60 minutes, failed ones included:"
    " `read`, and of these `valid`, `invalid`, and of the valid ones `duplicate`",
    "source",
    "outcome",
)
UNBALANCED = _gauge(
    "dragonfly_ledger_imbalanced_batches", "Completed batches whose counts contradict each other: there must be none"
)
LONGEST_IN_STATE = _gauge(
    "dragonfly_state_longest_seconds", "How long the batch has been in this state that has been there longest", "state"
)
QUEUE_BATCHES = _gauge("dragonfly_queue_batches", "Batches that a worker could claim now", "priority")
QUEUE_OLDEST = _gauge("dragonfly_queue_oldest_seconds", "The longest wait among these batches", "priority")
BROKER_UP = _gauge("dragonfly_broker_up", "Whether the broker has answered within a second")
BROKER_MESSAGES = _gauge("dragonfly_broker_messages", "Messages that wait in the broker", "queue")
WORKERS = _gauge(
    "dragonfly_workers",
    "Workers that have not signed off: `alive`, or `silent` for longer than allowed and not replaced",
    "status",
)
WORKER_SLOTS = _gauge("dragonfly_worker_slots", "Batches that the workers alive can work on at once")
WORKER_SLOTS_BUSY = _gauge("dragonfly_worker_slots_busy", "Batches that they hold")
WORKER_DISK_FREE = _gauge(
    "dragonfly_worker_disk_free_ratio", "Free share of the fullest disk that a worker alive writes to"
)
BEAT_SILENT = _gauge("dragonfly_beat_silent_seconds", "Time since beat's last sign of life")
CANARY_WAITING = _gauge(
    "dragonfly_canary_waiting_seconds", "How long the canary of a queue has been out; 0 once it has come back", "queue"
)
SENTINEL_AGE = _gauge("dragonfly_sentinel_last_run_age_seconds", "Time since the sentinel's last recorded run began")
SENTINEL_LEVEL = _gauge(
    "dragonfly_sentinel_level", "What that run found, by check: 0 healthy, 1 warning, 2 critical", "check"
)
ALERTS = _gauge("dragonfly_alerts", "Alerts of the last 30 days, by what they said", "check", "level")
ALERTS_WAITING = _gauge("dragonfly_alerts_waiting", "Alerts that are still to be sent")
ALERTS_OLDEST = _gauge(
    "dragonfly_alerts_waiting_oldest_seconds", "The longest wait among these alerts, since there is a webhook"
)
ALERTS_REFUSED = _gauge("dragonfly_alerts_refused", "Alerts that the webhook has refused for good")
LEFTOVERS = _gauge(
    "dragonfly_leftovers_removed",
    "Leftovers removed so far: `blob`, a stored file without a batch; `arrival`, a file whose upload died; `spool`, the"
    " folder, and `connection`, the transaction of an attempt that was over",
    "kind",
)
LEFTOVERS_BYTES = _gauge("dragonfly_leftovers_removed_bytes", "Their bytes", "kind")
COLLECTOR_AGE = _gauge(
    "dragonfly_collector_pass_age_seconds", "Time since the collector last came to the end of all stored files"
)

REQUESTS = _counter("dragonfly_http_requests_total", "Requests answered", "method", "route", "status", shown=Shown.WEB)
REQUEST_SECONDS = _histogram(
    "dragonfly_http_request_seconds",
    "Time to the answer",
    "method",
    "route",
    shown=Shown.WEB,
    buckets=REQUEST_BUCKETS,
)

ENDED = _counter(
    "dragonfly_ingested_batches_total",
    "Batches that this worker brought to an end, `completed` or `failed`",
    "source",
    "state",
)
INGESTED_ROWS = _counter(
    "dragonfly_ingested_rows_total",
    f"Rows of the batches that this worker brought to an end: {_ROWS}",
    "source",
    "outcome",
)
PARSE_SECONDS = _histogram("dragonfly_batch_parse_seconds", "Time to read and check all rows of a batch", "source")
DB_SECONDS = _histogram("dragonfly_batch_db_seconds", "Time to merge and load them", "source")
TOTAL_SECONDS = _histogram(
    "dragonfly_batch_total_seconds", "Both together, of the attempt that ended the batch", "source"
)
TAKEOVERS = _counter(
    "dragonfly_lease_takeovers_total", "Batches that this worker took over from one that had fallen silent"
)
LOST_CLAIMS = _counter(
    "dragonfly_claims_lost_total", "Attempts of this worker that found their claim taken over or cancelled"
)
RELEASES = _counter(
    "dragonfly_attempts_released_total",
    "Attempts that this worker gave back without a verdict, because of `surroundings` (database, storage, disk)"
    " or of a `defect`",
    "cause",
)
REPAIRS = _counter(
    "dragonfly_reconciler_repairs_total",
    "Batches whose hint was lost: `hinted` again, or `ingested` by the reconciler while there was no broker",
    "how",
)
UNTOLD = _counter("dragonfly_worker_events_dropped_total", "Events of the worker's processes that were not counted")


def metrics_as_markdown() -> str:
    """The metrics as docs/reference/metrics.md shows them."""
    lines = [
        "# Metrics",
        "",
        "Every metric that Dragonfly shows to Prometheus. Made from the definitions in `monitoring/metrics.py` by",
        "`python -m monitoring.metrics > docs/reference/metrics.md`; a test holds this page to them.",
        "",
        "No label holds an id, a file's name, or anything that a client sends: sources are"
        f" {', '.join(f'`{source}`' for source in SOURCES)},",
        f"priorities {', '.join(f'`{priority}`' for priority in PRIORITIES)}, routes the patterns of the API.",
        "",
        "## `/metrics` of the web server",
        "",
        "Needs an API key: `Authorization: Bearer <key>`, which Prometheus reads from a file. Most of it is read from the database,",
        "at most every 10 seconds, so every web server shows the same: take the `max`, not the `sum`. A database that is down or",
        "hung holds no scrape up: the answer comes within seconds, with `dragonfly_database_up 0` and without its figures. A key",
        "that was valid within the last hour is good for this call alone while the database does not answer.",
        "",
        *_table(Shown.WEB),
        "",
        "## `/metrics` of a worker",
        "",
        "On the port of `WORKER_METRICS_PORT`, without a key, on the loopback address unless the setting names another. What the",
        "worker's processes have done since it started: rates are for `rate`, and several workers for `sum`.",
        "",
        *_table(Shown.WORKER),
        "",
        "Both show the figures of their main process too (`process_resident_memory_bytes`, `process_cpu_seconds_total`, ...).",
        "",
        "## Prometheus and Grafana",
        "",
        "`monitoring/prometheus/` has what Prometheus asks and how, what it records, and its alerts: the sentinel's thresholds as they",
        "are by default, and the objectives. `promtool test rules rules_test.yml` shows what raises each. `monitoring/grafana/` has a dashboard.",
        "[Compose](../how-to/run-with-compose.md) runs both. For a stack that `dragonfly up` runs, make a key with",
        "`dragonfly keys create Prometheus`, take the addresses from `dragonfly info`, and put both into a copy of `prometheus.yml`.",
    ]
    return "\n".join(lines) + "\n"


def _table(shown: Shown) -> list[str]:
    return [
        "| metric | kind | labels | what it tells |",
        "|---|---|---|---|",
        *(
            f"| `{metric.name}` | {metric.kind.value} | {', '.join(f'`{name}`' for name in metric.labels)} |"
            f" {metric.meaning}. |"
            for metric in CATALOGUE.values()
            if metric.shown is shown
        ),
    ]


if __name__ == "__main__":
    print(metrics_as_markdown(), end="")
