"""What dies does no harm: workers, broker and database go away in mid-batch, and every row still stands once."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from tasks.app import GRACE_SECONDS
from tests.acceptance.pipeline import FINISHED, RUNNING, Document, Pipeline
from tests.factories import clean_file

ROUNDS = int(os.environ.get("KILL_ROUNDS", "2"))
"""``make campaign`` runs ten, with the usual lease."""
LEASE_SECONDS = int(os.environ.get("KILL_LEASE_SECONDS", "3"))
ROWS = int(os.environ.get("KILL_ROWS", "400000"))
"""So many that a batch is still at work when it is hit."""
TAKEOVER_SECONDS = LEASE_SECONDS + 5


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A stack of its own, whose processes may be killed."""
    home = tmp_path_factory.mktemp("killed") / "home"
    running = Pipeline(home, workers=2, settings={"LEASE_SECONDS": str(LEASE_SECONDS)})
    yield running
    running.stop()


def wait_for_state(pipeline: Pipeline, batch_id: str, *states: str, within: float = 30) -> Document:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        batch = pipeline.batch(batch_id)
        if batch["status"] in states:
            return batch
        assert batch["status"] not in FINISHED, f"finished before it was {states}"
        time.sleep(0.005)
    raise AssertionError(f"never {states}")


def stands_once(pipeline: Pipeline, batch: Document, rows: int) -> None:
    assert (batch["status"], batch["row_count_total"], batch["row_count_inserted"]) == ("completed", rows, rows)
    assert pipeline.rows(
        "SELECT count(*), count(DISTINCT row_index) FROM public.judgments WHERE batch_id = %s", batch["batch_id"]
    ) == [(rows, rows)]


def changes_of(pipeline: Pipeline, batch_id: str) -> list[tuple[str | None, str, str]]:
    """What the log tells of the batch's way: from, to, why."""
    said = [line.partition(" | ")[2] for line in pipeline.log.read_text().splitlines() if batch_id in line]
    # PostgreSQL, which tells of a COPY that was broken off, speaks no JSON.
    told = [json.loads(line) for line in said if line.startswith("{")]
    return [(line["from"], line["to"], line["why"]) for line in told if line["event"] == "batch changed"]


@pytest.fixture(scope="module")
def undisturbed_seconds(killed: Pipeline) -> float:
    """How long a batch of ROWS takes from its claim when nobody disturbs it."""
    batch = killed.ingest(clean_file(ROWS, seed=999, start=999_000_000))
    stands_once(killed, batch, ROWS)
    return (batch["parse_duration_ms"] + batch["db_duration_ms"]) / 1000


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.timeout(180)
def test_a_killed_workers_batch_is_taken_over_and_stands_once(
    killed: Pipeline, undisturbed_seconds: float, number: int
) -> None:
    chance = random.Random(1_000 + number)
    # A moment of the whole run; short of its end, or there would be nobody left to kill.
    moment = chance.uniform(0, 0.8 * undisturbed_seconds)

    def file(again: int) -> bytes:
        return clean_file(ROWS, seed=number + 100 * again, start=1_000_000_000 + (number + 100 * again) * ROWS)

    with killed.halted(file, after=moment) as (hit, holder):
        # Every other round the whole worker dies, not only the process that holds the batch.
        victim = holder.parent() if number % 2 else holder
        assert victim is not None
        victim.kill()
    died = time.monotonic()
    batch_id, fence = hit["batch_id"], 1
    while fence == 1:
        ((fence,),) = killed.rows("SELECT fence FROM intake.batches WHERE id = %s", batch_id)
        time.sleep(0.02)
    taken_over = time.monotonic() - died
    print(f"killed in {hit['status']}: taken over after {taken_over:.1f} s")
    stands_once(killed, killed.wait(batch_id, within=120), ROWS)
    assert taken_over < TAKEOVER_SECONDS


def test_a_poison_batch_fails_after_three_silent_attempts_and_others_are_unharmed(killed: Pipeline) -> None:
    batch_id = killed.upload(clean_file(ROWS, seed=77, start=77_000_000))["batch_id"]
    other = None
    for attempt in range(1, 4):
        deadline = time.monotonic() + 60
        while True:
            ((fence, status),) = killed.rows("SELECT fence, status FROM intake.batches WHERE id = %s", batch_id)
            if fence == attempt and status in RUNNING:
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        owner = killed.lease_owner(batch_id)
        assert owner is not None
        psutil.Process(owner).kill()
        other = other or killed.upload(clean_file(100, seed=78, start=78_000_000))["batch_id"]
    batch = killed.wait(batch_id, within=60)
    assert (batch["status"], batch["rejection_code"], batch["attempts"]) == ("failed", "POISONED", 3)
    assert killed.wait(other)["status"] == "completed"
    assert killed.rows("SELECT count(*) FROM public.judgments WHERE batch_id = %s", batch_id) == [(0,)]


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """The process stands still, its sockets open: it hangs."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def upload_seconds(pipeline: Pipeline, seed: int) -> tuple[float, str]:
    content = clean_file(100, seed=seed, start=100_000_000 + seed * 1_000)
    started = time.monotonic()
    receipt = pipeline.upload(content)
    return time.monotonic() - started, receipt["batch_id"]


def test_with_a_hung_broker_uploads_are_answered_and_their_batches_complete(killed: Pipeline) -> None:
    usual = statistics.median(upload_seconds(killed, seed)[0] for seed in range(5))
    (broker,) = killed.processes("valkey-server")[:1]
    with stopped(broker):
        timed = [upload_seconds(killed, seed) for seed in range(10, 13)]
        # While it hangs, the workers' reconciler does the work itself.
        for _, batch_id in timed:
            assert killed.wait(batch_id, within=60)["status"] == "completed"
    # The best of them: a broker that holds an upload up holds up each.
    assert min(seconds for seconds, _ in timed) < usual + 0.25
    _, after = upload_seconds(killed, 20)
    assert killed.wait(after, within=60)["status"] == "completed"


def test_with_a_dead_and_emptied_broker_work_goes_on(killed: Pipeline) -> None:
    (broker,) = killed.processes("valkey-server")[:1]
    broker.kill()
    batch_ids = [upload_seconds(killed, seed)[1] for seed in range(30, 33)]
    for batch_id in batch_ids:
        assert killed.wait(batch_id, within=60)["status"] == "completed"


def test_with_the_database_down_an_upload_is_refused_with_retry_after_and_nothing_is_lost(killed: Pipeline) -> None:
    content = clean_file(ROWS, seed=40, start=40_000_000)
    batch_id = killed.upload(content)["batch_id"]
    wait_for_state(killed, batch_id, "validating", "inserting")
    (server,) = killed.processes("postgres -D")[:1]
    server.send_signal(signal.SIGQUIT)
    server.wait(30)
    answer = httpx.post(
        f"{killed.info['web']}/api/v1/intake/upload",
        headers={"Authorization": f"Bearer {killed.key}"},
        files={"file": ("while-down.csv", clean_file(10, seed=41, start=41_000_000))},
        timeout=30,
        trust_env=False,
    )
    assert answer.status_code in (202, 503)
    if answer.status_code == 503:
        assert answer.json()["code"] == "DATABASE_UNAVAILABLE"
        assert int(answer.headers["Retry-After"]) > 0
    deadline = time.monotonic() + 30
    while True:
        try:
            batch = killed.batch(batch_id)
            break
        except (httpx.HTTPError, psycopg.Error):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    batch = killed.wait(batch_id, within=90)
    stands_once(killed, batch, ROWS)
    assert batch["attempts"] == 1


def test_a_stopped_worker_wakes_to_a_lost_claim_and_writes_nothing(killed: Pipeline) -> None:
    batch_id = killed.upload(clean_file(ROWS, seed=50, start=50_000_000))["batch_id"]
    wait_for_state(killed, batch_id, "validating", "inserting")
    owner = killed.lease_owner(batch_id)
    assert owner is not None
    with stopped(psutil.Process(owner)):
        batch = killed.wait(batch_id, within=60)
    time.sleep(1)
    stands_once(killed, killed.batch(batch_id), ROWS)
    assert killed.batch(batch_id) == batch


def test_a_cancelled_batch_writes_nothing(killed: Pipeline) -> None:
    batch_id = killed.upload(clean_file(ROWS, seed=60, start=60_000_000))["batch_id"]
    wait_for_state(killed, batch_id, "validating", "inserting")
    assert killed.http.post(f"/api/v1/intake/batches/{batch_id}/cancel").status_code == 202
    time.sleep(2)
    assert killed.batch(batch_id)["status"] == "cancelled"
    assert killed.rows("SELECT count(*) FROM public.judgments WHERE batch_id = %s", batch_id) == [(0,)]
    assert killed.http.post(f"/api/v1/intake/batches/{batch_id}/cancel").status_code == 409


def test_a_stop_hands_the_running_batch_over_and_the_next_start_completes_it(tmp_path: Path) -> None:
    first = Pipeline(tmp_path / "home", workers=1)
    rows = 400_000
    batch_id = first.upload(clean_file(rows, seed=70, start=70_000_000))["batch_id"]
    wait_for_state(first, batch_id, "validating")
    slow = psutil.Process(first.lease_owner(batch_id))
    # So slow that the workers' grace has no time for it.
    slow.suspend()

    def wake() -> None:
        with suppress(psutil.NoSuchProcess):
            slow.resume()

    awake = threading.Timer(GRACE_SECONDS + 1, wake)
    awake.start()
    first.stop()
    awake.join()
    assert first.process.returncode == 0
    # Whichever of the two it had come to within the workers' grace.
    handed_over = {(state, "uploaded", "handed over") for state in ("validating", "inserting")}
    assert handed_over & set(changes_of(first, batch_id))
    first.log.unlink()
    second = Pipeline(tmp_path / "home", workers=1)
    try:
        batch = second.wait(batch_id, within=120)
        stands_once(second, batch, rows)
        assert batch["attempts"] == 1
    finally:
        second.stop()


def test_a_stop_lets_a_short_batch_end(tmp_path: Path) -> None:
    running = Pipeline(tmp_path / "home", workers=1)
    batch_id = running.upload(clean_file(200_000, seed=71, start=71_000_000))["batch_id"]
    wait_for_state(running, batch_id, "validating")
    running.stop()
    assert [to for _, to, _ in changes_of(running, batch_id)] == [
        "uploaded",
        "staging",
        "validating",
        "inserting",
        "completed",
    ]


def test_no_cell_of_a_row_reaches_the_logs(killed: Pipeline) -> None:
    secret = "Zyxwvut Qponmlk"
    content = f"case_number,defendant_name,judgment_amount\nSECRET-1,{secret},5\nSECRET-1,{secret},x\n".encode()
    killed.wait(killed.upload(content, error_threshold_percent="100")["batch_id"])
    log = killed.log.read_text()
    assert "batch changed" in log
    assert secret not in log
    assert "SECRET-1" not in log
