"""The watch on a whole stack: each check raised and recovered by its real cause, with what reaches the webhook.

The thresholds are scaled down to seconds, for which the settings are there; ``WATCH_THRESHOLDS=real`` leaves them as they
are and takes half an hour.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from monitoring.checks import CHECKS
from tests.acceptance.pipeline import Pipeline
from tests.factories import csv_bytes, judgment_cells
from tests.monitoring.discord_stub import DiscordStub, Reply
from tests.monitoring.postgrest_stub import PostgrestStub

REAL = os.environ.get("WATCH_THRESHOLDS") == "real"
SCALED = {
    "SENTINEL_INTERVAL_SECONDS": "3",
    "SENTINEL_STUCK_MINUTES": "0.25",
    "SENTINEL_BACKLOG_MINUTES": "0.25",
    "SENTINEL_WEBHOOK_MINUTES": "0.1",
    "SENTINEL_WORKER_SECONDS": "20",
    "SENTINEL_BEAT_SECONDS": "15",
    "SENTINEL_CANARY_SECONDS": "20",
}
ALERT_SECONDS = 120
"""What the operators are promised, from the moment at which the threshold is passed."""
LONGEST_THRESHOLD_SECONDS = 600 if REAL else 20

pytestmark = pytest.mark.timeout(3600 if REAL else 300)


class Watched:
    """A stack, the webhook that its alerts go to, and how long each took."""

    def __init__(self, pipeline: Pipeline, discord: DiscordStub, postgrest: PostgrestStub, disk: Path) -> None:
        self.pipeline = pipeline
        self.discord = discord
        self.postgrest = postgrest
        self.disk = disk

    def titles(self, check: str) -> list[str]:
        """What the channel shows of a check, in order, without what it adds."""
        found = [request.embed["title"].split() for request in self.discord.taken]
        return [title[1] for title in found if title[0] == check]

    def alert(self, check: str, kind: str, *, within: float = ALERT_SECONDS) -> str:
        """Wait for an alert of this kind; the message of the last one."""
        return self.incident(check, 1, kind, within=within)

    def incident(self, check: str, number: int, kind: str, *, within: float = ALERT_SECONDS) -> str:
        """The same of the check's first, second, ... incident."""
        began = time.monotonic()
        while self.titles(check).count(kind) < number:
            assert time.monotonic() - began < within, f"{check} not {kind} within {within} s: {self.discord.shown}"
            time.sleep(0.1)
        print(f"{check} {kind}: {time.monotonic() - began:.1f} s after it was waited for")
        *_, message = [
            request.embed["description"]
            for request in self.discord.taken
            if request.embed["title"].split()[:2] == [check, kind]
        ]
        return str(message)

    def flipped(self, check: str, *, within: float) -> None:
        """Until it is on record that the check is CRITICAL, whether anybody could be told or not."""
        deadline = time.monotonic() + within
        while not self.owner(
            "SELECT 1 FROM ops.sentinel_flips WHERE check_name = %s AND level_after = 'CRITICAL'", check
        ):
            assert time.monotonic() < deadline, f"{check} not CRITICAL within {within} s"
            time.sleep(0.1)

    def owner(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        with psycopg.connect(self.pipeline.info["database_direct_url"], autocommit=True) as connection:
            cursor = connection.execute(statement, values)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """A child and all its children, by SIGSTOP, until the block is left; not amid an alert that is on its way.

        Whoever stops between a request and its answer leaves the alert to be sent again, after its claim has run out.
        """
        while self.owner("SELECT 1 FROM ops.alerts WHERE sent_at IS NULL AND failed_at IS NULL"):
            time.sleep(0.05)
        processes = self.pipeline.processes(name)
        assert processes, name
        family = {child.pid: child for process in processes for child in (process, *process.children(recursive=True))}
        for process in family.values():
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in family.values():
                if process.is_running():
                    process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 128 MiB that may be filled."""
    folder = tmp_path_factory.mktemp("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, small_disk: Path) -> Iterator[Watched]:
    home = tmp_path_factory.mktemp("watched") / "home"
    postgrest = PostgrestStub()
    with DiscordStub() as discord, postgrest.answering():
        pipeline = Pipeline(
            home,
            workers=1,
            settings={
                **({} if REAL else SCALED),
                "LEASE_SECONDS": "3",
                "DISCORD_WEBHOOK_URL": discord.url,
                "POSTGREST_URL": postgrest.url,
                "STORAGE_URL": str(small_disk / "blobs"),
            },
        )
        try:
            with postgrest.listening(pipeline.info["database_direct_url"]):
                yield Watched(pipeline, discord, postgrest, small_disk)
        finally:
            pipeline.stop()


def file_of(first: int, rows: int, invalid: int = 0) -> bytes:
    """Rows with these case numbers, the last ones without an amount."""
    cells = [
        judgment_cells(case_number=f"W-{first + place:07d}", judgment_amount="1.00" if place < rows - invalid else "?")
        for place in range(rows)
    ]
    return csv_bytes(cells)


def test_a_healthy_stack_says_nothing(watched: Watched) -> None:
    """Also while it starts, when nothing has shown a sign of life yet."""
    interval = 60 if REAL else 3
    deadline = time.monotonic() + 5 * interval
    while len(watched.owner("SELECT 1 FROM ops.sentinel_runs")) < 3:
        assert time.monotonic() < deadline + ALERT_SECONDS
        time.sleep(0.1)
    assert watched.discord.shown == []
    done = watched.pipeline.command("sentinel")
    assert (done.returncode, watched.discord.shown) == (0, []), done.stdout


def test_error_spike(watched: Watched) -> None:
    watched.pipeline.ingest(file_of(0, 500, invalid=107), error_threshold_percent="50")
    assert watched.alert("error_spike", "raised") == "Error rate 21.4% > 15% threshold"
    watched.pipeline.ingest(file_of(1_000, 500))
    assert watched.alert("error_spike", "recovered") == "Error rate 10.7% <= 15% threshold"
    assert watched.titles("error_spike") == ["raised", "recovered"]


def test_duplicate_rate(watched: Watched) -> None:
    for attempt in range(2):
        watched.pipeline.ingest(file_of(1_000, 500) + b"\n" * (attempt + 1))
    assert watched.alert("duplicate_rate", "raised") == "Duplicate rate 52.8% > 50% threshold"
    watched.pipeline.ingest(file_of(5_000, 3_000))
    watched.alert("duplicate_rate", "recovered")
    assert watched.titles("duplicate_rate") == ["raised", "recovered"]


def test_schema_cache(watched: Watched) -> None:
    watched.postgrest.code = "PGRST002"
    message = watched.alert("schema_cache", "raised")
    assert message == "PostgREST's schema cache is gone (PGRST002); the reload helped"
    watched.alert("schema_cache", "recovered")
    assert (watched.titles("schema_cache"), watched.postgrest.reloads) == (["raised", "recovered"], 1)


def test_ledger(watched: Watched) -> None:
    stolen = "SELECT id, batch_id FROM public.judgments ORDER BY id DESC LIMIT 1"
    ((judgment, batch),) = watched.owner(stolen)
    watched.owner("UPDATE public.judgments SET batch_id = gen_random_uuid() WHERE id = %s", judgment)
    message = watched.alert("ledger", "raised")
    assert message == "The books of 1 batch do not balance (0 allowed): judgments stored 2999, inserted 3000"
    watched.owner("UPDATE public.judgments SET batch_id = %s WHERE id = %s", batch, judgment)
    watched.alert("ledger", "recovered")
    assert watched.titles("ledger") == ["raised", "recovered"]


def test_disk_space(watched: Watched) -> None:
    filler = watched.disk / "filler"
    disk = os.statvfs(watched.disk)
    with filler.open("wb") as file:
        file.write(bytes(int(disk.f_bavail * disk.f_frsize - 0.02 * disk.f_blocks * disk.f_frsize)))
    assert "of the disk free < 10% on " in watched.alert("disk_space", "raised")
    filler.unlink()
    watched.alert("disk_space", "recovered")
    assert watched.titles("disk_space") == ["raised", "recovered"]


@contextmanager
def another_worker(watched: Watched) -> Iterator[subprocess.Popen[bytes]]:
    """One more on this machine, which no supervisor starts again."""
    known = len(watched.owner("SELECT 1 FROM ops.workers"))
    with watched.pipeline.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks.worker", "worker", "--concurrency", "1"],
            env={**watched.pipeline.env, "DRAGONFLY_HOME": str(watched.pipeline.home)},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while len(watched.owner("SELECT 1 FROM ops.workers")) == known:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def test_workers_one_of_which_is_killed(watched: Watched) -> None:
    with another_worker(watched) as process:
        time.sleep(4)
        process.kill()
        process.wait()
        message = watched.alert("workers", "raised")
        assert message.startswith("1 of 2 workers dead: silent for ")
    with another_worker(watched):
        watched.alert("workers", "recovered")
        assert watched.titles("workers") == ["raised", "recovered"]
        # What the runbook says for a machine that will not come back.
        watched.owner("DELETE FROM ops.workers WHERE last_seen_at < now() - interval '5 seconds'")
    watched.owner(
        "DELETE FROM ops.workers WHERE name NOT IN (SELECT name FROM ops.workers ORDER BY started_at LIMIT 1)"
    )


def test_stuck_batches_and_a_backlog_behind_workers_that_hang(watched: Watched) -> None:
    stuck = watched.pipeline.upload(file_of(100_000, 300_000))["batch_id"]
    while watched.pipeline.batch(stuck)["status"] == "uploaded":
        time.sleep(0.005)
    with watched.stopped("celery worker"):
        assert watched.pipeline.batch(stuck)["status"] in ("staging", "validating", "inserting")
        waiting = watched.pipeline.upload(file_of(20_000, 10))["batch_id"]
        message = watched.alert("stuck_batches", "raised", within=ALERT_SECONDS + LONGEST_THRESHOLD_SECONDS)
        limit = "10m" if REAL else "0.25m"
        status = watched.pipeline.batch(stuck)["status"]
        assert message == f"1 batch stuck > {limit}: {status}(1)"
        assert watched.alert("backlog", "raised").startswith(f"1 batch waiting > {limit}, the oldest for ")
        watched.incident("workers", 2, "raised")
    watched.incident("workers", 2, "recovered")
    for check in ("stuck_batches", "backlog"):
        watched.alert(check, "recovered")
        assert watched.titles(check) == ["raised", "recovered"]
    assert watched.pipeline.wait(waiting)["status"] == watched.pipeline.wait(stuck)["status"] == "completed"


def test_a_broker_that_hangs_while_the_webhook_is_out_of_order(watched: Watched) -> None:
    """What was raised meanwhile arrives once the webhook is back, each alert once."""
    with watched.stopped("valkey-server"):
        watched.discord.otherwise = Reply(500)
        watched.flipped("broker", within=ALERT_SECONDS)
        # The first alert that could not be sent is the broker's.
        watched.flipped("webhook", within=ALERT_SECONDS + LONGEST_THRESHOLD_SECONDS)
        watched.discord.otherwise = Reply()
        assert watched.alert("broker", "raised", within=600).startswith("The broker does not answer: ")
        assert " cannot be sent, the oldest for " in watched.alert("webhook", "raised")
        watched.alert("webhook", "recovered")
    watched.alert("broker", "recovered")
    for check in ("broker", "webhook"):
        assert watched.titles(check) == ["raised", "recovered"]


def test_beat_for_which_a_worker_stands_in(watched: Watched) -> None:
    with watched.stopped("celery beat"):
        message = watched.alert("beat", "raised", within=ALERT_SECONDS + LONGEST_THRESHOLD_SECONDS)
        assert message.startswith("Beat silent for ")
    watched.alert("beat", "recovered")
    assert watched.titles("beat") == ["raised", "recovered"]


def test_database_of_which_no_database_can_tell(watched: Watched) -> None:
    with watched.stopped("postgres"):
        message = watched.alert("database", "raised")
        assert message.startswith("Cannot run: PostgreSQL does not answer")
        done = watched.pipeline.command("sentinel", "--json")
        assert done.returncode == 2
    assert watched.alert("database", "recovered") == "PostgreSQL answers again"
    assert watched.titles("database") == ["raised", "recovered"]


def test_nothing_else_was_told(watched: Watched) -> None:
    """Every incident has its two messages, and no message names a cell or a file."""
    done = watched.pipeline.command("sentinel")
    assert done.returncode == 0, done.stdout
    print(*watched.discord.shown, sep="\n")
    told = "".join(str(request.body) for request in watched.discord.received)
    for secret in ("W-0", "Ada Marlow", "upload.csv", "Harrow"):
        assert secret not in told
    # Workers died once, and hung once.
    told_twice = {"workers"}
    for check in CHECKS:
        incidents = 2 if check in told_twice else 1
        assert watched.titles(check) == ["raised", "recovered"] * incidents, check
