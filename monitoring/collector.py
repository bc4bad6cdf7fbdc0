"""The figures of the database and of the broker as metrics, asked for when Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from sqlalchemy import Engine

from app.batch import SOURCES, State
from app.store import figures, watch
from app.store.figures import Figures
from monitoring import metrics as m
from monitoring.checks import BEAT, CHECKS
from monitoring.glance import Glance
from monitoring.report import Level

FRESH_SECONDS = 10.0
PATIENCE_SECONDS = 2.0
BROKER_FRESH_SECONDS = 2.0
BROKER_PATIENCE_SECONDS = 1.0

_MOST_PERCENT = 100.0


class FiguresCollector(Collector):
    """Yields what answers in time. Nothing is asked before the first scrape.

    ``queue_lengths`` gives the broker's messages by queue and raises where it does not answer. A worker is alive while
    its last sign of life is no older than ``worker_silent_seconds``.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        worker_silent_seconds: float,
        queue_lengths: Callable[[], Mapping[str, int]] | None = None,
        fresh_seconds: float = FRESH_SECONDS,
    ) -> None:
        self._engine = engine
        self._worker_silent_seconds = worker_silent_seconds
        self._database = Glance("database", self._read, patience=PATIENCE_SECONDS, fresh=fresh_seconds)
        self._broker = (
            None
            if queue_lengths is None
            else Glance("broker", queue_lengths, patience=BROKER_PATIENCE_SECONDS, fresh=BROKER_FRESH_SECONDS)
        )

    def describe(self) -> list[Family]:
        """Nothing: the registry would else collect everything to learn the names."""
        return []

    def collect(self) -> Iterator[Family]:
        """Every metric that is known."""
        found = self._database()
        yield m.DATABASE_UP.gauge([((), float(found is not None))])
        if found is not None:
            yield from _batches(found)
            yield from _signs_of_life(found, self._worker_silent_seconds)
            yield from _watch(found)
            yield from _leftovers(found)
        if self._broker is not None:
            lengths = self._broker()
            yield m.BROKER_UP.gauge([((), float(lengths is not None))])
            if lengths is not None:
                yield m.BROKER_MESSAGES.gauge(((queue,), length) for queue, length in lengths.items())

    def _read(self) -> Figures:
        with self._engine.begin() as connection:
            return figures.read(connection, beat=BEAT)


def _batches(found: Figures) -> Iterator[Family]:
    counts = {(state.value, source): 0 for state in State for source in SOURCES}
    rows = {(source, outcome): 0 for source in SOURCES for outcome in m.OUTCOMES}
    for stock in found.stocks:
        counts[stock.state, stock.source] = stock.batches
        for outcome in m.OUTCOMES:
            rows[stock.source, outcome] += getattr(stock, outcome)
    yield m.BATCHES.gauge(counts.items())
    yield m.ROWS.gauge(rows.items())
    yield m.UNBALANCED.gauge([((), sum(stock.unbalanced for stock in found.stocks))])
    recent = {(source, kind): 0 for source in SOURCES for kind in ("read", "valid", "invalid", "duplicate")}
    for hour in found.last_hour:
        recent |= {
            (hour.source, "read"): hour.total,
            (hour.source, "valid"): hour.valid,
            (hour.source, "invalid"): hour.invalid,
            (hour.source, "duplicate"): hour.duplicate,
        }
    yield m.LAST_HOUR_ROWS.gauge(recent.items())
    yield m.LONGEST_IN_STATE.gauge(((state,), seconds) for state, seconds in found.longest_in_state.items())
    yield m.QUEUE_BATCHES.gauge(((backlog.priority,), backlog.batches) for backlog in found.backlogs)
    yield m.QUEUE_OLDEST.gauge(((backlog.priority,), backlog.oldest_seconds) for backlog in found.backlogs)


def _signs_of_life(found: Figures, silent_seconds: float) -> Iterator[Family]:
    alive = [worker for worker in found.workers if worker.silent_seconds <= silent_seconds]
    dead = watch.not_replaced([worker for worker in found.workers if worker.silent_seconds > silent_seconds], alive)
    yield m.WORKERS.gauge([(("alive",), len(alive)), (("silent",), len(dead))])
    yield m.WORKER_SLOTS.gauge([((), sum(worker.concurrency for worker in alive))])
    yield m.WORKER_SLOTS_BUSY.gauge([((), sum(worker.running for worker in alive))])
    free = [worker.disk_free_percent for worker in alive if worker.disk_free_percent is not None]
    yield m.WORKER_DISK_FREE.gauge([((), min(free) / _MOST_PERCENT)] if free else [])
    silent = found.beat_silent_seconds
    yield m.BEAT_SILENT.gauge([] if silent is None else [((), silent)])
    yield m.CANARY_WAITING.gauge(((canary.queue,), canary.waiting_seconds or 0.0) for canary in found.canaries)


def _watch(found: Figures) -> Iterator[Family]:
    run = found.last_run
    yield m.SENTINEL_AGE.gauge([] if run is None else [((), run.age_seconds)])
    levels = {} if run is None else {check: Level(finding["level"]).rank for check, finding in run.findings.items()}
    yield m.SENTINEL_LEVEL.gauge(((check,), rank) for check, rank in levels.items())
    outbox = found.outbox
    none = {(check, level.value): 0 for check in CHECKS for level in Level}
    yield m.ALERTS.gauge((none | outbox.kept).items())
    yield m.ALERTS_WAITING.gauge([((), outbox.waiting)])
    yield m.ALERTS_OLDEST.gauge([((), outbox.oldest_waiting_seconds)])
    yield m.ALERTS_REFUSED.gauge([((), outbox.refused)])


def _leftovers(found: Figures) -> Iterator[Family]:
    yield m.LEFTOVERS.gauge(((each.kind,), each.count) for each in found.leftovers)
    yield m.LEFTOVERS_BYTES.gauge(((each.kind,), each.size) for each in found.leftovers)
    passes = [each.passed_seconds for each in found.leftovers if each.passed_seconds is not None]
    yield m.COLLECTOR_AGE.gauge([((), min(passes))] if passes else [])
