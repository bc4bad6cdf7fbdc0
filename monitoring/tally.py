"""What a worker's processes have done, counted in its main process: the pool's children tell it through a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from app.batch import RUNNING, SOURCES, State
from app.observer import Change, Why
from app.store.batches import Batch
from monitoring import metrics as m

log = structlog.get_logger()

_HOW = ("hinted", "ingested")
_CAUSES = {Why.RELEASED: "surroundings", Why.DEFECT: "defect"}
_ENDS = (State.COMPLETED, State.FAILED)
_CHUNK = 65536


class Tally:
    """Counters of one worker; made in its main process, before it forks. An Observer for attempts of any of its processes.

    An event is one short line, written in one piece, which a pipe takes whole or not at all; so children neither wait
    nor share memory, and one that is killed or replaced leaves nothing behind. What a full pipe does not take is counted
    as dropped.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._ended = m.ENDED.counter(self.registry)
        self._rows = m.INGESTED_ROWS.counter(self.registry)
        self._parse = m.PARSE_SECONDS.histogram(self.registry)
        self._db = m.DB_SECONDS.histogram(self.registry)
        self._total = m.TOTAL_SECONDS.histogram(self.registry)
        self._takeovers = m.TAKEOVERS.counter(self.registry)
        self._lost = m.LOST_CLAIMS.counter(self.registry)
        self._releases = m.RELEASES.counter(self.registry)
        self._repairs = m.REPAIRS.counter(self.registry)
        self._dropped = m.UNTOLD.counter(self.registry)
        self._begin_at_zero()
        self._owner = os.getpid()
        self._unsent = 0
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._server: WSGIServer | None = None
        self._listener: threading.Thread | None = None

    def changed(self, change: Change) -> None:
        """Observer: count an end, a takeover, a release."""
        if change.why in _CAUSES:
            self._tell({"released": _CAUSES[change.why]})
        elif change.after is State.STAGING and change.before in RUNNING:
            self._tell({"took_over": 1})
        elif change.after in _ENDS:
            self._tell({"ended": change.after.value, "source": change.batch.source, **_figures(change)})

    def lost(self, batch: Batch) -> None:
        """Observer: count a claim that was lost."""
        self._tell({"lost": 1})

    def attempt(self, batch: Batch, claim_seconds: float) -> AbstractContextManager[object]:
        """Observer: nothing to count."""
        return nullcontext()

    def step(self, name: str) -> AbstractContextManager[object]:
        """Observer: nothing to count."""
        return nullcontext()

    def repaired(self, how: str, batches: int = 1) -> None:
        """Count batches that the reconciler has ``hinted`` again, or ``ingested`` itself."""
        self._tell({"repaired": batches, "how": how})

    def serve(self, address: tuple[str, int] | None) -> None:
        """Begin to count, in the main process, and to show the counters at this address, if one is given.

        An address that cannot be had is said in the log, and is no reason not to work.
        """
        self._listener = threading.Thread(target=self._listen, name="tally", daemon=True)
        self._listener.start()
        if address is None:
            return
        host, port = address
        try:
            self._server, _ = start_http_server(port, addr=host, registry=self.registry)
        except OSError as problem:
            log.warning("metrics are not shown", address=f"{host}:{port}", problem=problem.strerror)
        else:
            log.info("metrics are shown", address=f"{host}:{port}")

    def leave_to_the_main_process(self) -> None:
        """Called in a child that was just forked: the server and the reading end are not its own."""
        os.close(self._reading)
        if self._server is not None:
            self._server.socket.close()

    def _begin_at_zero(self) -> None:
        """Every value that a label can take is there from the start: a rate needs a first sample."""
        for source in SOURCES:
            for end in _ENDS:
                self._ended.labels(source, end.value)
            for outcome in m.OUTCOMES:
                self._rows.labels(source, outcome)
            for histogram in (self._parse, self._db, self._total):
                histogram.labels(source)
        for cause in _CAUSES.values():
            self._releases.labels(cause)
        for how in _HOW:
            self._repairs.labels(how)

    def _tell(self, event: dict[str, Any]) -> None:
        if os.getpid() == self._owner:
            self._count(event)
            return
        line = json.dumps({**event, "unsent": self._unsent} if self._unsent else event) + "\n"
        try:
            os.write(self._writing, line.encode())
        except OSError:
            self._unsent += 1
        else:
            self._unsent = 0

    def _listen(self) -> None:
        rest = b""
        while chunk := os.read(self._reading, _CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self._count(json.loads(line))

    def _count(self, event: dict[str, Any]) -> None:
        self._dropped.inc(event.get("unsent", 0))
        self._takeovers.inc(event.get("took_over", 0))
        self._lost.inc(event.get("lost", 0))
        if "released" in event:
            self._releases.labels(event["released"]).inc()
        if "repaired" in event:
            self._repairs.labels(event["how"]).inc(event["repaired"])
        if "ended" in event:
            source = event["source"]
            self._ended.labels(source, event["ended"]).inc()
            for outcome, rows in event.get("rows", {}).items():
                self._rows.labels(source, outcome).inc(rows)
            if "parse" in event:
                self._parse.labels(source).observe(event["parse"])
                self._db.labels(source).observe(event["db"])
                self._total.labels(source).observe(event["parse"] + event["db"])


def _figures(change: Change) -> dict[str, Any]:
    counts = change.counts
    if counts is None:
        return {}
    rows = {
        "inserted": counts.inserted,
        "duplicate": counts.duplicate,
        "conflict": counts.conflict,
        "invalid": counts.invalid,
        "withheld": counts.valid if change.after is State.FAILED else 0,
    }
    seconds = {
        "parse": (counts.parse_duration_ms or 0) / 1000,
        "db": (counts.db_duration_ms or 0) / 1000,
    }
    return {"rows": rows, **seconds}
