"""The benchmark's command: alternates raw COPY and the engine's whole job on one server, and prints medians and ratios."""

import argparse
import json
import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import psycopg
import structlog

from app.intake import Upload, receive
from app.local.postgres import Postgres
from app.store.blobs import open_blobs
from app.store.database import open_engine
from app.store.schema import migrate
from tests.benchmarks import data

STOCK = {
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "5min",
    "max_connections": "100",
    "client_connection_check_interval": "0",
    "huge_pages": "try",
}
"""PostgreSQL's own defaults in place of the local server's settings."""

TARGETS = {"random": 1.3, "sorted": 0.6, "present": 1.2}
BIG_ROWS, BIG_TARGET = 5_000_000, 1.1
MOST_ANONYMOUS_MB = 256
SECRET = "benchmark"


class Worker:
    """A process that ingests batches, and what memory it takes meanwhile."""

    def __init__(self, url: str, home: Path) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.job", url, str(home / "blobs"), str(home / "spool")]
        # What a worker of the local stack is given, too.
        environment = {**os.environ, "MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.anonymous_mb = self.resident_mb = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ingest(self, batch_id: UUID) -> dict[str, Any]:
        """The worker's answer, with its peak memory in MB."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        self.anonymous_mb = self.resident_mb = 0.0
        done = threading.Event()
        watch = threading.Thread(target=self._watch, args=(done,), daemon=True)
        watch.start()
        self._process.stdin.write(f"{batch_id}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        done.set()
        watch.join()
        if not line:
            raise RuntimeError("the worker ended")
        return {**json.loads(line), "anonymous_mb": self.anonymous_mb, "resident_mb": self.resident_mb}

    def _watch(self, done: threading.Event) -> None:
        status = Path(f"/proc/{self._process.pid}/status")
        while not done.wait(0.01):
            try:
                lines = status.read_text().splitlines()
            except OSError:
                return
            found = {
                name: int(rest.split()[0]) / 1024
                for name, _, rest in (line.partition(":") for line in lines)
                if name in ("RssAnon", "VmRSS")
            }
            self.anonymous_mb = max(self.anonymous_mb, found.get("RssAnon", 0))
            self.resident_mb = max(self.resident_mb, found.get("VmRSS", 0))


class Bench:
    """One server with the schema, and files that were received."""

    def __init__(self, home: Path, server: Postgres) -> None:
        self.home = home
        self._server = server
        migrate(server.url())
        self._owner = psycopg.connect(server.url(), autocommit=True)
        self._owner.execute(f"ALTER ROLE service_role PASSWORD '{SECRET}'")
        self.url = server.url("service_role", SECRET)
        self._engine = open_engine(self.url, pool_size=2)
        self._blobs = open_blobs(str(home / "blobs"))

    def close(self) -> None:
        """Leave the server."""
        self._owner.close()
        self._engine.dispose()

    def receive(self, path: Path, *, threshold: int = 10) -> UUID:
        """Receive a file as a new batch."""
        incoming = self._blobs.incoming()
        with path.open("rb") as file:
            while piece := file.read(1024 * 1024):
                incoming.write(piece)
        upload = Upload(path.name, "manual", threshold, force=True, priority="normal", created_by="benchmark")
        return receive(self._engine, self._blobs, incoming, upload).batch.id

    def empty(self) -> None:
        """Empty every table that a batch fills, and let the server settle."""
        self._owner.execute(
            "TRUNCATE public.judgments, intake.row_errors, intake.row_conflicts, intake.batches CASCADE"
        )
        self.settle()

    def settle(self) -> None:
        """Write out what the server has in memory, so that both sides begin alike."""
        self._owner.execute("CHECKPOINT")

    def export(self, path: Path) -> None:
        """Write the stored judgments in file order as COPY's text."""
        statement = "COPY (SELECT * FROM public.judgments ORDER BY row_index) TO STDOUT"
        with path.open("wb") as file, self._owner.cursor() as cursor, cursor.copy(statement) as copy:
            for piece in copy:
                file.write(piece)

    def raw_copy(self, path: Path) -> float:
        """Seconds that raw COPY takes to put the exported rows into an identical empty table."""
        with psycopg.connect(self._server.url()) as connection:
            connection.execute("DROP TABLE IF EXISTS public.raw_judgments")
            connection.execute("CREATE TABLE public.raw_judgments (LIKE public.judgments INCLUDING ALL)")
            connection.commit()
            self.settle()
            started = time.perf_counter()
            with path.open("rb") as file, connection.cursor().copy("COPY public.raw_judgments FROM STDIN") as copy:
                while piece := file.read(128 * 1024):
                    copy.write(piece)
            connection.commit()
            seconds = time.perf_counter() - started
            connection.execute("DROP TABLE public.raw_judgments")
            connection.commit()
        return seconds


@contextmanager
def _bench(settings: dict[str, str]) -> Iterator[Bench]:
    home = Path(tempfile.mkdtemp(prefix="dragonfly-bench-"))
    try:
        with Postgres(data=home / "data", sockets=home, password="owner", settings=settings) as server:
            bench = Bench(home, server)
            try:
                yield bench
            finally:
                bench.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def ratio_case(bench: Bench, case: str, rows: int, rounds: int) -> dict[str, Any]:
    """Raw COPY's seconds over the whole job's, for a file in random or key order, or one that is all present."""
    path, exported = bench.home / "file.csv", bench.home / "rows.copy"
    data.write(path, rows, order="sorted" if case == "sorted" else "random")
    again = bench.home / "again.csv"
    if case == "present":
        data.write(again, rows, bodies=3, errors=0.0)
    results = []
    with Worker(bench.url, bench.home) as worker:
        _warm(bench, worker)
        for number in range(rounds + 1):
            bench.empty()
            batch = bench.receive(path)
            job = worker.ingest(batch)
            if number == 0:
                # The first round makes the rows for raw COPY, and is not counted.
                bench.export(exported)
                continue
            if case == "present":
                batch = bench.receive(path)
                bench.settle()
                job = worker.ingest(batch)
            results.append({"raw": bench.raw_copy(exported), **job})
    ratios = [result["raw"] / result["seconds"] for result in results]
    target = BIG_TARGET if rows >= BIG_ROWS and case == "random" else TARGETS[case]
    return {
        **_summary(case, rows, results),
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "target": f"{target}x",
    }


def bad_case(bench: Bench, rows: int, rounds: int) -> dict[str, Any]:
    """A file in which every row is refused."""
    path = bench.home / "bad.csv"
    data.write(path, rows, errors=1.0)
    results = []
    with Worker(bench.url, bench.home) as worker:
        _warm(bench, worker)
        for _ in range(rounds):
            bench.empty()
            results.append(worker.ingest(bench.receive(path)))
    return {**_summary("bad", rows, results), "target": "40000 rows/s"}


def small_case(bench: Bench, rows: int, rounds: int) -> dict[str, Any]:
    """Small files one behind the other, warm."""
    path = bench.home / "small.csv"
    results = []
    with Worker(bench.url, bench.home) as worker:
        _warm(bench, worker)
        bench.empty()
        for number in range(rounds):
            data.write(path, rows, seed=number + 10)
            batch = bench.receive(path)
            results.append(worker.ingest(batch))
            bench.empty()
    return {**_summary("small", rows, results), "target": "60 ms" if rows > 1000 else "25 batches/s"}


def _warm(bench: Bench, worker: Worker) -> None:
    path = bench.home / "warm.csv"
    data.write(path, 2_000, seed=99)
    for _ in range(3):
        worker.ingest(bench.receive(path))


def _summary(case: str, rows: int, results: list[dict[str, Any]]) -> dict[str, Any]:
    def median(name: str) -> float:
        return statistics.median(result[name] for result in results)

    summary = {
        "case": case,
        "rows": rows,
        "rounds": len(results),
        "seconds": median("seconds"),
        "rows_per_second": rows / median("seconds"),
        "check_ms": median("check_ms"),
        "load_ms": median("load_ms"),
        "anonymous_mb": max(result["anonymous_mb"] for result in results),
        "resident_mb": max(result["resident_mb"] for result in results),
        **{name: results[-1][name] for name in ("state", "inserted", "duplicate", "invalid")},
    }
    if "raw" in results[0]:
        summary["raw_seconds"] = median("raw")
    return summary


def _table(results: list[dict[str, Any]]) -> str:
    lines = ["settings  case     rows       raw s   job s   ratio  rows/s    check s  load s  anon MB  RSS MB  target"]
    lines += [
        f"{result['settings']:<9} {result['case']:<8} {result['rows']:<10,} {result.get('raw_seconds', 0):<7.2f} "
        f"{result['seconds']:<7.3f} {result.get('ratio', 0):<6.2f} {result['rows_per_second']:<9,.0f} "
        f"{result['check_ms'] / 1000:<8.2f} {result['load_ms'] / 1000:<7.2f} {result['anonymous_mb']:<8.0f} "
        f"{result['resident_mb']:<7.0f} {result['target']}"
        for result in results
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the options, run the cases, print the table and the JSON."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the large files (1,000,000)")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds of the large files (3)")
    parser.add_argument(
        "--cases", default="random,sorted,present,bad,small,tiny", help="random, sorted, present, bad, small, tiny"
    )
    parser.add_argument("--settings", default="stock,local", help="the server's settings: stock, local")
    parser.add_argument("--json", type=Path, help="where to write the results as JSON too")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    results = []
    for settings in options.settings.split(","):
        for case in options.cases.split(","):
            with _bench(STOCK if settings == "stock" else {}) as bench:
                if case in TARGETS:
                    result = ratio_case(bench, case, options.rows, options.rounds)
                elif case == "bad":
                    result = bad_case(bench, options.rows, options.rounds)
                else:
                    result = small_case(bench, 5_000 if case == "small" else 100, 20)
            results.append({"settings": settings, **result})
            print(_table(results[-1:]), flush=True)
    report = {
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "results": results,
    }
    print("\n" + _table(results) + "\n\n" + json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
