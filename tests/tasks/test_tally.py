"""What a worker counts: its own attempts and those of its children, however many have come and gone."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from app import intake
from app.batch import State
from app.intake import Workshop
from app.local.valkey import free_port
from app.observer import Change, Why
from app.settings import Settings
from app.store import claims
from app.store.batches import Batch, Counts
from monitoring.metrics import CATALOGUE, Shown
from monitoring.tally import Tally
from tasks import process
from tests.conftest import Look, Sender
from tests.factories import clean_file, file_with_errors
from tests.tasks.conftest import Queues, begun
from tests.tasks.test_reconciler import assert_soon, hinted, reconciling


class Served:
    """A tally and what a scrape of it shows."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.port = free_port()
        self.tally.serve(("127.0.0.1", self.port))

    def text(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def counts(self) -> dict[str, float]:
        """All samples but zeros and buckets, such as ``dragonfly_attempts_released_total cause=defect``."""
        return {
            " ".join([sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))]): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.value and sample.name.startswith("dragonfly_") and not sample.name.endswith("_bucket")
        }

    def close(self) -> None:
        assert self.tally._server is not None
        assert self.tally._listener is not None
        self.tally._server.shutdown()
        self.tally._server.server_close()
        os.close(self.tally._writing)
        self.tally._listener.join(10)
        os.close(self.tally._reading)


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def in_a_child(work: Callable[[], object]) -> None:
    """Do it in a forked process, to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def foil(send: Sender) -> Batch:
    """A batch."""
    return send(clean_file(1), source="foil")


def ended(batch: Batch, after: State = State.COMPLETED) -> Change:
    counts = Counts(
        total=10,
        valid=7,
        invalid=3,
        inserted=5,
        duplicate=2,
        conflict=1,
        parse_duration_ms=400,
        db_duration_ms=600,
    )
    return Change(batch, State.INSERTING, after, Why.COMMITTED, counts)


class TestChildren:
    def test_what_they_tell_is_summed_though_they_are_gone(self, served: Served, foil: Batch) -> None:
        for _ in range(3):
            in_a_child(lambda: served.tally.changed(ended(foil)))
        served.tally.changed(ended(foil))
        done = "dragonfly_ingested_batches_total source=foil state=completed"
        assert_soon(lambda: served.counts().get(done) == 4)
        assert served.counts() == {
            done: 4,
            "dragonfly_ingested_rows_total outcome=inserted source=foil": 20,
            "dragonfly_ingested_rows_total outcome=duplicate source=foil": 8,
            "dragonfly_ingested_rows_total outcome=conflict source=foil": 4,
            "dragonfly_ingested_rows_total outcome=invalid source=foil": 12,
            "dragonfly_batch_parse_seconds_count source=foil": 4,
            "dragonfly_batch_parse_seconds_sum source=foil": pytest.approx(1.6),
            "dragonfly_batch_db_seconds_count source=foil": 4,
            "dragonfly_batch_db_seconds_sum source=foil": pytest.approx(2.4),
            "dragonfly_batch_total_seconds_count source=foil": 4,
            "dragonfly_batch_total_seconds_sum source=foil": pytest.approx(4.0),
        }

    def test_hundreds_of_them_leave_no_file_and_no_open_end(
        self, served: Served, foil: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        lines, files = len(served.text().splitlines()), open_files()
        for _ in range(300):
            in_a_child(lambda: served.tally.changed(ended(foil)))
        done = "dragonfly_ingested_batches_total source=foil state=completed"
        assert_soon(lambda: served.counts().get(done) == 300)
        assert len(served.text().splitlines()) == lines
        # The last scrape's connection may be closing, a pool may have grown by one; 300 ends would be seen.
        assert_soon(lambda: open_files() < files + 10)
        assert list(tmp_path.iterdir()) == [tmp_path / "blobs"]

    def test_a_line_that_is_no_event_is_passed_over(self, served: Served, foil: Batch) -> None:
        def half_a_word() -> None:
            os.write(served.tally._writing, b'{"ended": "comp')

        in_a_child(half_a_word)
        in_a_child(lambda: served.tally.changed(ended(foil)))
        in_a_child(lambda: served.tally.lost(foil))
        assert_soon(lambda: served.counts().get("dragonfly_claims_lost_total") == 1)

    def test_a_main_process_that_does_not_listen_holds_nobody_up_and_what_was_dropped_is_told(
        self, foil: Batch
    ) -> None:
        tally = Tally()

        def tell_much() -> None:
            began = time.monotonic()
            for _ in range(5_000):
                tally.changed(ended(foil))
            assert tally._unsent > 0
            assert time.monotonic() - began < 5
            os.write(told, str(tally._unsent).encode())
            while tally._unsent:
                tally.lost(foil)
                time.sleep(0.01)

        answer, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                tell_much()
            finally:
                os._exit(0)
        unsent = int(os.read(answer, 100))
        tally.serve(None)
        os.waitpid(pid, 0)
        found = lambda name, **labels: tally.registry.get_sample_value(name, labels) or 0  # noqa: E731
        counted = lambda: found("dragonfly_ingested_batches_total", source="foil", state="completed")  # noqa: E731
        assert_soon(lambda: counted() == 5_000 - unsent)
        # Those it could not tell of later are counted too.
        assert found("dragonfly_worker_events_dropped_total") >= unsent
        for end in (answer, told):
            os.close(end)
        os.close(tally._writing)
        assert tally._listener is not None
        tally._listener.join(10)
        os.close(tally._reading)

    def test_the_server_is_the_main_processes_alone(self, served: Served) -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                served.tally.leave_to_the_main_process()
                mine = psutil.Process().net_connections(kind="tcp")
                held = any(one.status == "LISTEN" and one.laddr.port == served.port for one in mine)
                os.write(writing, b"held" if held else b"free")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(reading, 10) == b"free"
        assert "dragonfly" in served.text()
        os.close(reading)
        os.close(writing)


class TestAttempts:
    @pytest.fixture
    def watched(self, workshop: Workshop, served: Served) -> Workshop:
        return dataclasses.replace(workshop, observer=served.tally)

    def test_every_end_is_counted_with_its_rows_and_times(
        self, watched: Workshop, served: Served, send: Sender, look: Look
    ) -> None:
        good = send(file_with_errors(100, 5), source="jbi")
        over_budget = send(file_with_errors(100, 50, start=5_000), source="simplicity")
        broken = send(b"not,a\nheader,x\n")
        ends = [intake.ingest(watched, batch.id) for batch in (good, over_budget, broken)]
        assert ends == [State.COMPLETED, State.FAILED, State.FAILED]
        found = served.counts()
        assert {name: value for name, value in found.items() if "_batches_" in name or "_rows_" in name} == {
            "dragonfly_ingested_batches_total source=jbi state=completed": 1,
            "dragonfly_ingested_batches_total source=simplicity state=failed": 1,
            "dragonfly_ingested_batches_total source=manual state=failed": 1,
            "dragonfly_ingested_rows_total outcome=inserted source=jbi": 95,
            "dragonfly_ingested_rows_total outcome=invalid source=jbi": 5,
            "dragonfly_ingested_rows_total outcome=invalid source=simplicity": 50,
            "dragonfly_ingested_rows_total outcome=withheld source=simplicity": 50,
        }
        ((parse, db),) = look.rows(
            "SELECT parse_duration_ms, db_duration_ms FROM intake.batches WHERE id = :id", id=good.id
        )
        assert found["dragonfly_batch_total_seconds_sum source=jbi"] == pytest.approx((parse + db) / 1000)
        assert found["dragonfly_batch_total_seconds_count source=jbi"] == 1

    def test_a_takeover_a_loss_and_releases(self, watched: Workshop, served: Served, send: Sender, look: Look) -> None:
        batch = send(clean_file(3))
        with watched.engine.begin() as connection:
            claims.claim(connection, batch.id, owner="ghost/1/2", lease_seconds=15)
        look.expire(batch.id)
        assert intake.ingest(watched, batch.id) is State.COMPLETED
        assert served.counts()["dragonfly_lease_takeovers_total"] == 1

        class Failing:
            """A store whose reader does something else first."""

            def __init__(self, first: Callable[[], None]) -> None:
                self.first = first

            def read(self, key: str) -> Iterator[bytes]:
                self.first()
                return watched.blobs.read(key)

        def fail(problem: type[Exception]) -> Callable[[], None]:
            def raise_it() -> None:
                raise problem

            return raise_it

        def take_it() -> None:
            look.change("UPDATE intake.batches SET status = 'staging', fence = fence + 1 WHERE id = :id", id=taken.id)

        other, defective, taken = (send(clean_file(3, start=start)) for start in (100, 200, 300))
        for batch, first in ((other, fail(OSError)), (defective, fail(ZeroDivisionError)), (taken, take_it)):
            workshop = dataclasses.replace(watched, blobs=Failing(first))  # type: ignore[arg-type]
            assert intake.ingest(workshop, batch.id) is None
        found = served.counts()
        assert found["dragonfly_attempts_released_total cause=surroundings"] == 1
        assert found["dragonfly_attempts_released_total cause=defect"] == 1
        assert found["dragonfly_claims_lost_total"] == 1
        assert found["dragonfly_lease_takeovers_total"] == 1


class TestReconciler:
    @pytest.fixture(autouse=True)
    def counted(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "_tally", served.tally)

    def test_a_batch_that_is_hinted_again_is_a_repair(
        self, served: Served, celery: Celery, queues: Queues, send: Sender, look: Look
    ) -> None:
        send(clean_file(2))
        hinted(look, 60)
        with reconciling(celery):
            assert_soon(lambda: bool(queues.raw("normal")))
        assert served.counts() == {"dragonfly_reconciler_repairs_total how=hinted": 1}

    def test_so_is_one_that_it_ingests_itself(
        self, served: Served, settings: Settings, send: Sender, dead_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send(clean_file(2), source="foil")
        url = f"redis://:x@127.0.0.1:{dead_port}/0"
        repaired = "dragonfly_reconciler_repairs_total how=ingested"
        with begun(dataclasses.replace(settings, redis_url=url), monkeypatch) as celery, reconciling(celery):
            assert_soon(lambda: served.counts().get(repaired) == 1)
        assert served.counts()["dragonfly_ingested_batches_total source=foil state=completed"] == 1


class TestServer:
    def test_every_metric_of_the_catalogue_is_there_from_the_start(self, served: Served) -> None:
        families = {family.name for family in text_string_to_metric_families(served.text())}
        wanted = {metric.name.removesuffix("_total") for metric in CATALOGUE.values() if metric.shown is Shown.WORKER}
        assert {name for name in families if name.startswith("dragonfly")} == wanted
        assert "process_resident_memory_bytes" in families

    def test_prometheus_own_linter_finds_nothing(self, served: Served) -> None:
        promtool = shutil.which("promtool")
        if promtool is None:
            pytest.skip("promtool is not installed: it is in Debian's package prometheus")
        linted = subprocess.run(
            [promtool, "check", "metrics"], input=served.text(), capture_output=True, text=True, check=False
        )
        assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")

    def test_a_port_that_is_taken_is_said_and_the_worker_works(self, foil: Batch) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            tally = Tally()
            with capture_logs() as said:
                tally.serve(taken.getsockname())
        assert [line["event"] for line in said] == ["metrics are not shown"]
        tally.changed(ended(foil))
        assert tally.registry.get_sample_value(
            "dragonfly_ingested_batches_total", {"source": "foil", "state": "completed"}
        )
