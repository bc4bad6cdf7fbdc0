"""The whole system as its clients see it: a real stack, spoken to over HTTP on the loopback."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
from dotenv import dotenv_values

from tests.acceptance.pipeline import FINISHED, Pipeline
from tests.benchmarks import data
from tests.benchmarks.memory import memory_of
from tests.benchmarks.results import BenchmarkError, Result, percentile
from tests.benchmarks.targets import LOCAL, SMALL_ROWS, TINY_ROWS

WORKERS = 2
_FOREIGN = ("DATABASE_URL", "DATABASE_DIRECT_URL", "REDIS_URL", "STORAGE_URL", "DISCORD_WEBHOOK_URL")
_UPLOAD = "/api/v1/intake/upload"
_BATCHES = "/api/v1/intake/batches/"
_POLL_SECONDS = 0.005
_ASK_SECONDS = 0.02
_PATIENCE_SECONDS = 60
_WARM_FILES = 6
_LAST_WORDS = 12
_SENDERS = 4
_MOST_WAITING = 64
"""So many files may be under way: more would only stand in the queue and take the processor from those at work."""
_FILES_PER_SECOND = 200
"""As many are made beforehand: several times what two cores take."""
_LEAD_SECONDS = 3.0


@contextmanager
def stack() -> Iterator[Pipeline]:
    """``dragonfly up`` on a home of its own, for the block; nothing of it stays. Raises BenchmarkError."""
    _refuse_addresses()
    folder = Path(tempfile.mkdtemp(prefix="dragonfly-bench-"))
    try:
        try:
            running = Pipeline(folder / "home", workers=WORKERS)
        except AssertionError as problem:
            raise BenchmarkError(f"the stack did not start: {str(problem)[-2000:]}") from None
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _with_last_words(running: Pipeline) -> Iterator[None]:
    """A failure also tells what the stack complained of last: its home is gone afterwards."""
    try:
        yield
    except BenchmarkError as problem:
        complaints = [line for line in running.log.read_text(errors="replace").splitlines() if "[info " not in line]
        raise BenchmarkError("\n  ".join([str(problem), *complaints[-_LAST_WORDS:]])) from None


def _refuse_addresses() -> None:
    """Thousands of invented judgments are not to reach the servers of a ``.env`` in the working directory."""
    for file in Path().glob(".env*"):
        named = [name for name in _FOREIGN if dotenv_values(file).get(name)] if file.is_file() else []
        if named:
            raise BenchmarkError(
                f"{file} sets {', '.join(named)}, where the stack would load: move the file away first"
            )


def client(running: Pipeline, *, files: int) -> Result:
    """From the start of the POST to the first answer that says completed, one file after the other, on a warm stack.

    Raises BenchmarkError.
    """
    contents = [
        data.content(SMALL_ROWS, seed=number, bodies=-number, first=number * SMALL_ROWS)
        for number in range(_WARM_FILES + files)
    ]
    posts, totals, parses, loads = [], [], [], []
    with _with_last_words(running), _http(running) as http:
        for number, content in enumerate(contents):
            started = time.perf_counter()
            batch_id = _post(http, content, f"small-{number}.csv")
            posted = time.perf_counter()
            batch = _wait(http, batch_id)
            if number >= _WARM_FILES:
                posts.append((posted - started) * 1000)
                totals.append((time.perf_counter() - started) * 1000)
                parses.append(batch["parse_duration_ms"])
                loads.append(batch["db_duration_ms"])
    waited = """
        SELECT extract(epoch FROM started_at - created_at) * 1000, extract(epoch FROM completed_at - started_at) * 1000
        FROM intake.batches ORDER BY created_at OFFSET %s
    """
    picked_up = running.rows(waited, _WARM_FILES)
    return Result(
        case="client",
        settings=LOCAL,
        rows=SMALL_ROWS,
        rounds=files,
        full_size=True,
        figures={
            "completed_ms": statistics.median(totals),
            "completed_p99_ms": percentile(totals, 0.99),
            "post_ms": statistics.median(posts),
            "until_claimed_ms": float(statistics.median(row[0] for row in picked_up)),
            "at_work_ms": float(statistics.median(row[1] for row in picked_up)),
            "check_ms": statistics.median(parses),
            "load_ms": statistics.median(loads),
            **_memory(running),
        },
        samples={"completed_ms": totals},
    )


def many(running: Pipeline, *, seconds: float) -> Result:
    """Small files from a few senders, each of which posts the next as soon as the last is answered and few enough wait.

    Counts what the database completed within ``seconds`` of that, after a lead. Raises BenchmarkError where a file is
    refused or left behind.
    """
    first = 10_000_000
    contents = [
        data.content(TINY_ROWS, seed=number, bodies=-number, first=first + number * TINY_ROWS)
        for number in range(round((_LEAD_SECONDS + seconds) * _FILES_PER_SECOND))
    ]
    load = _Load(running, contents)
    with _with_last_words(running):
        return _sustained(running, load, seconds)


def _sustained(running: Pipeline, load: _Load, seconds: float) -> Result:
    with load.under_way():
        time.sleep(_LEAD_SECONDS)
        begun, done_before, asked_before = time.perf_counter(), load.completed(), len(load.asked_ms)
        time.sleep(seconds)
        ended, done_after, asked_after = time.perf_counter(), load.completed(), len(load.asked_ms)
        memory = _memory(running)
    load.wait_for_the_rest()
    asked = load.asked_ms[asked_before:asked_after]
    if not asked:
        raise BenchmarkError("no status was answered")
    return Result(
        case="many",
        settings=LOCAL,
        rows=TINY_ROWS,
        rounds=done_after - done_before,
        full_size=True,
        figures={
            "batches_per_second": (done_after - done_before) / (ended - begun),
            "get_p50_ms": percentile(asked, 0.5),
            "get_p99_ms": percentile(asked, 0.99),
            "gets": len(asked),
            "post_ms": statistics.median(load.posted_ms),
            **memory,
        },
    )


class _Load:
    """Senders, and one client that asks for the status of a recent batch fifty times a second at most."""

    def __init__(self, running: Pipeline, contents: list[bytes]) -> None:
        self._running = running
        self._contents = iter(list(enumerate(contents)))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._done = 0
        self._ids: list[str] = []
        self._failures: list[str] = []
        self.asked_ms: list[float] = []
        self.posted_ms: list[float] = []
        self._database = psycopg.connect(running.info["database_url"], autocommit=True)
        self._before = self._count()

    def completed(self) -> int:
        """How many of these files are completed by now. Raises BenchmarkError where a client failed."""
        if self._failures:
            raise BenchmarkError(self._failures[0])
        return self._count() - self._before

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Send and ask for the block."""
        threads = [threading.Thread(target=self._guard, args=(self._send,)) for _ in range(_SENDERS)]
        threads += [threading.Thread(target=self._guard, args=(each,)) for each in (self._ask, self._watch)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def wait_for_the_rest(self) -> None:
        """Until every file that was sent is completed. Raises BenchmarkError where one is left behind."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (done := self.completed()) < len(self._ids):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{len(self._ids) - done} of {len(self._ids)} small files were left behind")
            time.sleep(0.1)
        self._database.close()

    def _count(self) -> int:
        with self._lock:
            row = self._database.execute("SELECT count(*) FROM intake.batches WHERE status = 'completed'").fetchone()
        return int(row[0]) if row else 0

    def _guard(self, work: Any) -> None:
        try:
            work()
        except (BenchmarkError, httpx.HTTPError, psycopg.Error) as problem:
            self._failures.append(f"{type(problem).__name__}: {problem}")
            self._stop.set()

    def _send(self) -> None:
        with _http(self._running) as http:
            while not self._stop.is_set():
                if len(self._ids) - self._done >= _MOST_WAITING:
                    time.sleep(_POLL_SECONDS)
                    continue
                with self._lock:
                    number, content = next(self._contents, (0, b""))
                if not content:
                    raise BenchmarkError(f"all {len(self._ids)} small files were sent before the time was over")
                started = time.perf_counter()
                self._ids.append(_post(http, content, f"tiny-{number}.csv"))
                self.posted_ms.append((time.perf_counter() - started) * 1000)

    def _ask(self) -> None:
        with _http(self._running) as http:
            while not self._stop.wait(_ASK_SECONDS):
                if not self._ids:
                    continue
                started = time.perf_counter()
                http.get(_BATCHES + self._ids[-1]).raise_for_status()
                self.asked_ms.append((time.perf_counter() - started) * 1000)

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            self._done = self._count() - self._before


def _http(running: Pipeline) -> httpx.Client:
    headers = {"Authorization": f"Bearer {running.key}"}
    return httpx.Client(base_url=running.info["web"], headers=headers, timeout=30, trust_env=False)


def _post(http: httpx.Client, content: bytes, name: str) -> str:
    answer = http.post(_UPLOAD, files={"file": (name, content)})
    if answer.status_code != httpx.codes.ACCEPTED:
        raise BenchmarkError(f"an upload was answered with {answer.status_code}: {answer.text}")
    batch_id: str = answer.json()["batch_id"]
    return batch_id


def _wait(http: httpx.Client, batch_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        batch: dict[str, Any] = http.get(_BATCHES + batch_id).raise_for_status().json()
        if batch["status"] == "completed":
            return batch
        if batch["status"] in FINISHED:
            raise BenchmarkError(f"a good file ended as {batch['status']}: {batch['rejection_reason']}")
        time.sleep(_POLL_SECONDS)
    raise BenchmarkError(f"a file of {SMALL_ROWS} rows was not completed within {_PATIENCE_SECONDS} s")


def _memory(running: Pipeline) -> dict[str, float]:
    """The largest of the worker's processes, at this moment; the first is not of the pool."""
    taken = [(0.0, 0.0)]
    with contextlib.suppress(OSError):
        taken += [memory_of(process.pid) for process in running.processes("celery worker")[1:]]
    return {"anonymous_mb": max(each[0] for each in taken), "resident_mb": max(each[1] for each in taken)}
