"""What a running stack tells of its work: one JSON object a line, a line for each change of state, and never a cell."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis

from tests.acceptance.pipeline import Pipeline
from tests.factories import clean_file, csv_bytes, judgment_cells

OURS = ("web", "worker", "beat")
MARK = "Quillfeather"
NUMBER = "ZANZIBAR-77"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A stack of its own, whose worker may be killed."""
    running = Pipeline(tmp_path_factory.mktemp("logged") / "home", workers=1, settings={"LEASE_SECONDS": "2"})
    yield running
    running.stop()


def lines_of(pipeline: Pipeline, *names: str) -> list[dict[str, Any]]:
    """What these children have said; whatever is not one JSON object with time, level and event fails the test."""
    said = []
    for line in pipeline.log.read_text().splitlines():
        name, _, text = line.partition(" | ")
        if name.strip() in names:
            document = json.loads(text)
            assert document.keys() >= {"timestamp", "level", "event"}, text
            said.append(document)
    return said


Changes = list[tuple[str | None, str, str, int, int]]


def changes_of(pipeline: Pipeline, batch_id: str, *, to: str) -> Changes:
    """What is told of the batch's way until it comes ``to`` a state; a line may be a moment on its way to the file."""
    deadline = time.monotonic() + 10
    while True:
        found = [
            (line["from"], line["to"], line["why"], line["fence"], line["attempt"])
            for line in lines_of(pipeline, *OURS)
            if line["event"] == "batch changed" and line["batch_id"] == batch_id
        ]
        if found and found[-1][1] == to:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


class TestChanges:
    def test_a_batch_that_is_completed(self, logged: Pipeline) -> None:
        batch = logged.ingest(clean_file(20, seed=1, start=810_000_000))
        assert changes_of(logged, batch["batch_id"], to="completed") == [
            (None, "uploaded", "received", 0, 0),
            ("uploaded", "staging", "claimed", 1, 1),
            ("staging", "validating", "header read", 1, 1),
            ("validating", "inserting", "verdict passed", 1, 1),
            ("inserting", "completed", "committed", 1, 1),
        ]

    def test_one_that_is_refused_retried_and_cancelled(self, logged: Pipeline) -> None:
        batch_id = logged.ingest(b"case_number\nC-1\n", priority="low")["batch_id"]
        with stopped(logged):
            assert logged.http.post(f"/api/v1/intake/batches/{batch_id}/retry", json={}).status_code == 202
            assert logged.http.post(f"/api/v1/intake/batches/{batch_id}/cancel").status_code == 202
        assert changes_of(logged, batch_id, to="cancelled") == [
            (None, "uploaded", "received", 0, 0),
            ("uploaded", "staging", "claimed", 1, 1),
            ("staging", "failed", "refused", 1, 1),
            ("failed", "uploaded", "retried", 2, 0),
            ("uploaded", "cancelled", "cancelled", 3, 0),
        ]

    def test_one_whose_worker_was_killed(self, logged: Pipeline) -> None:
        with logged.halted(lambda n: clean_file(200_000, seed=n, start=811_000_000 + n * 200_000)) as (batch, holder):
            holder.kill()
        batch_id = batch["batch_id"]
        assert logged.wait(batch_id)["status"] == "completed"
        found = changes_of(logged, batch_id, to="completed")
        (takeover,) = [line for line in found if line[2] == "taken over"]
        assert takeover[0] in ("staging", "validating", "inserting")
        assert takeover[1:] == ("staging", "taken over", 2, 2)
        assert found[-1] == ("inserting", "completed", "committed", 2, 2)


@contextmanager
def stopped(pipeline: Pipeline) -> Iterator[None]:
    """The worker stands still, so that nothing is claimed."""
    processes = pipeline.processes("celery worker")
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


class TestCells:
    def test_no_cell_and_no_file_name_reaches_logs_metrics_or_broker(self, logged: Pipeline) -> None:
        url = logged.info["redis_url"]
        heard: list[str] = []
        listening = threading.Event()

        def listen() -> None:
            with redis.Redis.from_url(url) as client, client.monitor() as monitor:
                listening.set()
                for command in monitor.listen():
                    heard.append(str(command["command"]))
                    if "the-end" in heard[-1]:
                        return

        listener = threading.Thread(target=listen)
        listener.start()
        assert listening.wait(10)
        seen = self.go_every_way(logged)
        time.sleep(3)
        scrapes = [
            logged.http.get("/metrics").text,
            httpx.get(logged.info["worker_metrics"], trust_env=False).text,
        ]
        with redis.Redis.from_url(url) as client:
            stored = b"".join(client.dump(key) or b"" for key in client.scan_iter())
            client.get("the-end")
        listener.join(10)
        log = logged.log.read_text()
        assert "Invalid request from ip=127.0.0.1" in log
        for batch_id in seen:
            assert batch_id in log
            assert batch_id in "\n".join(heard)
        everywhere = {"log": log, "web": scrapes[0], "worker": scrapes[1], "broker": "\n".join(heard) + repr(stored)}
        for place, text in everywhere.items():
            for mark in (MARK, NUMBER, MARK.upper(), MARK.lower(), NUMBER.lower()):
                assert mark not in text, (place, [line for line in text.splitlines() if mark in line][:1])

    def go_every_way(self, pipeline: Pipeline) -> list[str]:
        """Marked cells, headers, names and requests, by all the paths that a stack can be sent down; the batches' ids."""
        cells = [judgment_cells(defendant_name=f"{MARK} {n}", case_number=f"{NUMBER}-{n}") for n in range(60)]
        spoilt = [{**row, "judgment_amount": MARK} if n % 7 == 0 else row for n, row in enumerate(cells)]
        name = f"{MARK}.csv"
        ids = [
            # Good; the same rows again, which differ; some errors; too many errors.
            pipeline.ingest(csv_bytes(cells), name)["batch_id"],
            pipeline.ingest(csv_bytes([{**row, "defendant_name": f"{MARK} X"} for row in cells]), name)["batch_id"],
            pipeline.ingest(csv_bytes(spoilt), name, error_threshold_percent="50")["batch_id"],
            pipeline.ingest(csv_bytes(spoilt + spoilt), name)["batch_id"],
            # No header: the first row is taken for one. A broken quote. Nothing.
            pipeline.ingest(f"{MARK},{NUMBER}\n{MARK},{NUMBER}\n".encode(), name)["batch_id"],
            pipeline.ingest(f'case_number,defendant_name,judgment_amount\n"{NUMBER},{MARK},5\n'.encode(), name)[
                "batch_id"
            ],
            pipeline.ingest(f"case_number,{MARK}\n".encode(), name)["batch_id"],
        ]
        # Retried and refused again; its stored bytes altered.
        pipeline.http.post(f"/api/v1/intake/batches/{ids[3]}/retry", json={}).raise_for_status()
        pipeline.wait(ids[3])
        with stopped(pipeline):
            altered = pipeline.upload(csv_bytes(cells[:9]), name)
            sha = altered["file_hash"]
            blob = Path(pipeline.info["storage_url"]) / "sha256" / sha[:2] / sha[2:4] / sha
            (found,) = [blob] if blob.exists() else list(Path(pipeline.info["storage_url"]).rglob(f"*{sha[4:]}"))
            found.chmod(0o600)
            found.write_bytes(csv_bytes(cells[:8]))
        assert pipeline.wait(altered["batch_id"])["rejection_code"] == "INTEGRITY_ERROR"
        ids.append(altered["batch_id"])
        # Its database connections ended in the middle; its process killed.
        hit = pipeline.upload(self.many_rows(0), name)["batch_id"]
        self.end_connections(pipeline, hit)
        with pipeline.halted(lambda n: self.many_rows(n + 1), name=name) as (batch, holder):
            holder.kill()
        for batch_id in (hit, batch["batch_id"]):
            assert pipeline.wait(batch_id)["status"] == "completed"
            ids.append(batch_id)
        self.ask_wrongly(pipeline)
        return ids

    def many_rows(self, number: int) -> bytes:
        """So many that a batch of them can be met in its work."""
        first = number * 60_000
        return csv_bytes(
            [
                judgment_cells(defendant_name=f"{MARK} {n}", case_number=f"{NUMBER}-M{n}")
                for n in range(first, first + 60_000)
            ]
        )

    def end_connections(self, pipeline: Pipeline, batch_id: str) -> None:
        with psycopg.connect(pipeline.info["database_direct_url"], autocommit=True) as connection:
            for _ in range(2_000):
                ended = connection.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE %s",
                    [f"dragonfly:{batch_id}:%"],
                ).fetchone()
                if ended and ended[0]:
                    return
                time.sleep(0.005)
        raise AssertionError("the load was never seen")

    def ask_wrongly(self, pipeline: Pipeline) -> None:
        """Searches by case number, made-up paths and methods, requests that are none."""
        http = pipeline.http
        assert http.get("/api/v1/judgments", params={"case_number": f"{NUMBER}-1"}).json()["items"]
        for path, method in ((f"/{MARK}/{NUMBER}", "GET"), ("/healthz", MARK), (f"/api/v1/judgments?{MARK}=1", "GET")):
            http.request(method, path)
        http.post("/api/v1/intake/upload", files={"file": (f"{MARK}.csv", b"a")}, data={"source": MARK})
        http.post("/api/v1/intake/upload", content=MARK.encode(), headers={"Content-Type": "multipart/form-data"})
        port = int(pipeline.info["web"].rpartition(":")[2])
        for request in (
            f"GET /{MARK} HTTP/9.9\r\n\r\n",
            f"{MARK} {NUMBER}\r\n\r\n",
            f"GET /{MARK} HTTP/1.1\r\n{MARK} {NUMBER}\r\n\r\n",
            f"POST /{MARK} HTTP/1.1\r\nHost: x\r\nContent-Length: {MARK}\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(request.encode())
                connection.recv(1_000)


def test_every_line_of_ours_is_one_json_object_to_the_end(logged: Pipeline) -> None:
    """The last test here: it stops the stack, for the shutdown has lines of its own."""
    logged.stop()
    said = lines_of(logged, *OURS)
    assert {"batch changed", "worker: Warm shutdown (MainProcess)"} <= {line["event"] for line in said}
    loggers = {str(line.get("logger")).partition(".")[0] for line in said}
    assert {"app", "celery", "gunicorn"} <= loggers
