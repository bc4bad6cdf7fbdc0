"""The incidents of docs/RUNBOOK_OPS.md, each made by its real cause, by the section and the part that is to end it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psutil
import psycopg

from tests.acceptance.stage import Stage, file_of
from tests.monitoring.discord_stub import Reply

Variables = dict[str, str]
"""What the page has the reader put into the shell."""


def nothing(_stage: Stage) -> None:
    """Nothing happens."""


def no_more(_stage: Stage, _variables: Variables) -> None:
    """That the check is healthy is all."""


@dataclass(frozen=True)
class Incident:
    """How an incident is made, until the block is left.

    ``check`` is raised by it; None where it is no alert but something to be done. ``relief`` happens outside once the check
    has been seen raised, ``setting`` is what the page has the reader put into the settings, ``over`` what else holds at
    the end.
    """

    make: Callable[[Stage], AbstractContextManager[Variables]]
    check: str | None = None
    relief: Callable[[Stage], None] = nothing
    setting: Variables = field(default_factory=dict)
    over: Callable[[Stage, Variables], None] = no_more


INCIDENTS: dict[tuple[str, str], Incident] = {}
"""By section and part of the runbook; a section whose blocks all belong together has no part."""

Maker = Callable[[Stage], Iterator[Variables]]


def made(section: str, part: str = "", **about: object) -> Callable[[Maker], Maker]:
    """Register the decorated generator as the incident of a part of the runbook."""

    def register(maker: Maker) -> Maker:
        INCIDENTS[section, part] = Incident(contextmanager(maker), **about)  # type: ignore[arg-type]
        return maker

    return register


@contextmanager
def _blocked_batch(stage: Stage, name: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """A batch that waits for somebody's open transaction, and what ends that transaction."""
    direct_url = stage.pipeline.info["database_direct_url"]
    blocker = psycopg.connect(direct_url, application_name="report")
    blocker.execute(
        "INSERT INTO public.judgments (id, case_number, defendant_name, judgment_amount, batch_id, row_index)"
        " VALUES (0, %s, 'Bela Nettle', 1, gen_random_uuid(), 0)",
        (f"{name}-000000",),
    )
    try:
        batch = stage.pipeline.upload(file_of(name, 20))["batch_id"]
        stage.wait_for("a load", lambda: stage.pipeline.batch(batch)["status"] == "inserting")
        yield batch, blocker.close
    finally:
        blocker.close()
    stage.pipeline.wait(batch)


@made("Stuck batches", "Fix: a session holds a lock", check="stuck_batches")
def _(stage: Stage) -> Iterator[Variables]:
    with _blocked_batch(stage, "LOCK"):
        yield {}


@made("Stuck batches", "Fix: its worker hangs", check="stuck_batches")
def _(stage: Stage) -> Iterator[Variables]:
    with _blocked_batch(stage, "HANG") as (_, release), stage.stopped("celery worker"):
        release()
        yield {}


@made("Stuck batches", "Fix: give the batch up", check="stuck_batches")
def _(stage: Stage) -> Iterator[Variables]:
    with _blocked_batch(stage, "GIVEUP"):
        yield {}


@made("Error spike", "Fix: the file has bad rows", check="error_spike")
def _(stage: Stage) -> Iterator[Variables]:
    stage.pipeline.ingest(file_of("BAD", 1_000, invalid=160), source="foil", error_threshold_percent="50")
    corrected = stage.folder / "corrected.csv"
    corrected.write_bytes(file_of("CORRECTED", 160))
    yield {"CORRECTED": str(corrected), "SOURCE": "foil"}


@made(
    "Error spike",
    "Fix: the rate is normal for this source",
    check="error_spike",
    setting={"SENTINEL_ERROR_PERCENT": "15,foil=30"},
)
def _(stage: Stage) -> Iterator[Variables]:
    stage.pipeline.ingest(file_of("USUAL", 1_000, invalid=200), source="foil", error_threshold_percent="50")
    yield {}
    stage.pipeline.ingest(file_of("GOOD", 2_000), source="foil")


def _postgrest_heals(stage: Stage) -> None:
    stage.postgrest.heals = True


@made("Schema cache", "Fix: reload by hand", check="schema_cache", relief=_postgrest_heals)
def _(stage: Stage) -> Iterator[Variables]:
    stage.postgrest.heals = False
    stage.postgrest.code = "PGRST002"
    # The sentinel's own reload, of which there is one a minute, does not help.
    stage.wait_for("the sentinel's reload", lambda: stage.postgrest.reloads)
    before = stage.postgrest.reloads
    yield {}
    assert stage.postgrest.reloads == before + 1


@made("Ledger", "Fix: rows were given to another batch", check="ledger")
def _(stage: Stage) -> Iterator[Variables]:
    batch = stage.pipeline.ingest(file_of("MOVED", 50))
    moved = "UPDATE public.judgments SET batch_id = gen_random_uuid() WHERE id = %(first)s RETURNING id"
    assert len(stage.owner(moved, {"first": _first_judgment(stage, batch["batch_id"])})) == 1
    yield {}


@made("Ledger", "Fix: rows are gone", check="ledger")
def _(stage: Stage) -> Iterator[Variables]:
    batch = stage.pipeline.ingest(file_of("GONE", 50, invalid=2))
    gone = "DELETE FROM public.judgments WHERE id = %(first)s RETURNING id"
    assert len(stage.owner(gone, {"first": _first_judgment(stage, batch["batch_id"])})) == 1
    yield {}
    stored = stage.pipeline.rows("SELECT count(*) FROM public.judgments WHERE starts_with(case_number, 'GONE-')")
    assert stored == [(48,)]


def _first_judgment(stage: Stage, batch_id: str) -> int:
    ((first,),) = stage.pipeline.rows("SELECT first_judgment_id FROM intake.batches WHERE id = %s", batch_id)
    return int(first)


@made("Backlog", "Fix: one more worker", check="backlog")
def _(stage: Stage) -> Iterator[Variables]:
    with _blocked_batch(stage, "BUSY"):
        stage.pipeline.upload(file_of("WAITS", 20))
        yield {}
    stage.wait_for("one worker left", lambda: len(stage.pipeline.rows("SELECT 1 FROM ops.workers")) == 1)


@contextmanager
def _dead_worker(stage: Stage) -> Iterator[None]:
    """One more on this machine, which no supervisor starts again, is killed; whoever took its place goes at the end."""
    before = {pid for (pid,) in stage.pipeline.rows("SELECT pid FROM ops.workers")}
    command = [sys.executable, "-m", "celery", "-A", "tasks.worker", "worker", "--concurrency", "1"]
    env = {**stage.pipeline.env, "DRAGONFLY_HOME": str(stage.pipeline.home)}
    with stage.pipeline.log.open("ab") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as process:
        try:
            stage.wait_for(
                "another worker", lambda: len(stage.pipeline.rows("SELECT 1 FROM ops.workers")) > len(before)
            )
        finally:
            process.kill()
    yield
    later = {pid for (pid,) in stage.pipeline.rows("SELECT pid FROM ops.workers")} - before - {process.pid}
    for pid in later:
        heir = psutil.Process(pid)
        heir.terminate()
        stage.wait_for("its end", lambda heir=heir: not heir.is_running() or heir.status() == psutil.STATUS_ZOMBIE)
    stage.owner("DELETE FROM ops.workers WHERE pid = %(dead)s", {"dead": process.pid})


@made("Workers", "Fix: its process is gone", check="workers")
def _(stage: Stage) -> Iterator[Variables]:
    with _dead_worker(stage):
        yield {}


@made("Workers", "Fix: its machine will not come back", check="workers")
def _(stage: Stage) -> Iterator[Variables]:
    with _dead_worker(stage):
        yield {}


@made("Workers", "Fix: it hangs", check="workers")
def _(stage: Stage) -> Iterator[Variables]:
    with stage.stopped("celery worker"):
        yield {}


@made("Beat", "Fix: beat hangs", check="beat")
def _(stage: Stage) -> Iterator[Variables]:
    with stage.stopped("celery beat"):
        yield {}


@made("Beat", "Fix: a lost session holds the lock", check="beat")
def _(stage: Stage) -> Iterator[Variables]:
    lock = 0x62656174
    lost = psycopg.connect(stage.pipeline.info["database_direct_url"], autocommit=True)
    waiting = threading.Thread(target=lost.execute, args=("SELECT pg_advisory_lock(%s)", (lock,)))
    waiting.start()
    stage.wait_for(
        "the lost session in the queue",
        lambda: stage.owner("SELECT 1 FROM pg_locks WHERE objid = %(lock)s AND NOT granted", {"lock": lock}),
    )
    stage.owner("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE objid = %(lock)s AND granted", {"lock": lock})
    waiting.join(10)
    try:
        yield {}
    finally:
        lost.close()


@made("Broker", "Fix: it hangs, or is down", check="broker")
def _(stage: Stage) -> Iterator[Variables]:
    with stage.stopped("valkey-server"):
        yield {}


_UNTOLD = """
SELECT 1 FROM ops.alerts WHERE sent_at IS NULL
UNION ALL
SELECT 1 WHERE 'HEALTHY' <> (
    SELECT level_after FROM ops.sentinel_flips WHERE check_name = 'schema_cache' ORDER BY id DESC LIMIT 1)
"""


@contextmanager
def _news(stage: Stage) -> Iterator[None]:
    """Something of which there is an alert to send, until the block is left; what was told before has arrived."""
    stage.wait_for("the end of earlier news", lambda: not stage.owner(_UNTOLD))
    stage.postgrest.status = 500
    try:
        yield
    finally:
        stage.postgrest.status = 200


def _discord_is_back(stage: Stage) -> None:
    stage.discord.otherwise = Reply()


@made("Webhook", "Fix: Discord is back", check="webhook", relief=_discord_is_back)
def _(stage: Stage) -> Iterator[Variables]:
    with _news(stage):
        stage.discord.otherwise = Reply(500)
        yield {}


@made("Webhook", "Fix: one alert is refused", check="webhook")
def _(stage: Stage) -> Iterator[Variables]:
    with _news(stage):
        stage.discord.behaviours.append(Reply(400))
        yield {}


@made("Webhook", "Fix: the webhook was deleted", check="webhook")
def _(stage: Stage) -> Iterator[Variables]:
    new = stage.another_discord
    address = stage.folder / "new-webhook"
    address.write_text(new.url)
    with _news(stage):
        stage.discord.otherwise = stage.discord.probe = Reply(404)
        yield {"NEW_ADDRESS": str(address)}
    assert "schema_cache raised" in [request.embed["title"] for request in new.taken]
    stage.discord, stage.another_discord = new, stage.discord


@made("Disk space", "Fix: uploads that broke off", check="disk_space")
def _(stage: Stage) -> Iterator[Variables]:
    broken_off = stage.disk / "blobs" / "incoming" / "5e1f0c52-0000-4000-8000-000000000000"
    disk = os.statvfs(stage.disk)
    broken_off.write_bytes(bytes(int(disk.f_bavail * disk.f_frsize - 0.02 * disk.f_blocks * disk.f_frsize)))
    two_days_ago = time.time() - 2 * 86_400
    os.utime(broken_off, (two_days_ago, two_days_ago))
    yield {}
    assert not broken_off.exists()


@made("Duplicate rate", "Fix: the same delivery came again", check="duplicate_rate")
def _(stage: Stage) -> Iterator[Variables]:
    for attempt in range(3):
        stage.pipeline.ingest(file_of("AGAIN", 300) + b"\n" * attempt, source="jbi")
    delivery = stage.folder / "delivery.csv"
    delivery.write_bytes(file_of("NEWS", 1_000))
    yield {"DELIVERY": str(delivery), "SOURCE": "jbi"}


@made(
    "Duplicate rate",
    "Fix: the rate of duplicates is normal",
    check="duplicate_rate",
    setting={"SENTINEL_DUPLICATE_PERCENT": "50,jbi=100"},
)
def _(stage: Stage) -> Iterator[Variables]:
    stage.pipeline.ingest(file_of("AGAIN", 300) + b"\n" * 9, source="jbi")
    for attempt in range(3):
        stage.pipeline.ingest(file_of("NEWS", 1_000) + b"\n" * (attempt + 1), source="jbi")
    yield {}
    stage.pipeline.ingest(file_of("MORE", 6_000), source="jbi")


@made("Database", "Fix: somebody takes all connections", check="database")
def _(stage: Stage) -> Iterator[Variables]:
    taken: list[psycopg.Connection] = []
    for _ in range(3):
        try:
            while True:
                taken.append(psycopg.connect(stage.pipeline.info["database_url"], application_name="report"))
        except psycopg.OperationalError:
            # What others give up meanwhile is taken too.
            time.sleep(0.3)
    try:
        yield {"GREEDY": "report"}
    finally:
        for connection in taken:
            connection.close()


@made("Database", "Fix: it takes no writes", check="database")
def _(stage: Stage) -> Iterator[Variables]:
    stage.owner("ALTER SYSTEM SET default_transaction_read_only = on")
    stage.owner("SELECT pg_reload_conf()")
    yield {}


def _is_completed(stage: Stage, variables: Variables) -> None:
    for batch in variables["BATCHES"].split():
        assert stage.pipeline.wait(batch)["status"] == "completed"


@made("Force a re-ingest", "A batch that failed", over=_is_completed)
def _(stage: Stage) -> Iterator[Variables]:
    batch = stage.pipeline.ingest(file_of("FAILED", 100, invalid=12))
    assert batch["status"] == "failed"
    yield {"BATCH": batch["batch_id"], "BATCHES": batch["batch_id"]}


@made("Force a re-ingest", "All that failed for one reason", over=_is_completed)
def _(stage: Stage) -> Iterator[Variables]:
    blobs = []
    with stage.stopped("celery worker"):
        batches = [stage.pipeline.upload(file_of(f"AWAY{one}", 20))["batch_id"] for one in range(2)]
        for batch in batches:
            ((key,),) = stage.pipeline.rows("SELECT storage_key FROM intake.batches WHERE id = %s", UUID(batch))
            blob = stage.disk / "blobs" / key
            blobs.append(blob.rename(blob.with_suffix(".away")))
    for batch in batches:
        assert stage.pipeline.wait(batch)["rejection_code"] == "INTEGRITY_ERROR"
    for blob in blobs:
        blob.rename(blob.with_suffix(""))
    yield {"CODE": "INTEGRITY_ERROR", "BATCHES": " ".join(batches)}


def _was_forced(stage: Stage, variables: Variables) -> None:
    found = stage.pipeline.rows(
        "SELECT status FROM intake.batches WHERE forced AND first_batch_id = %s", UUID(variables["FIRST"])
    )
    assert found == [("completed",)]


@made("Force a re-ingest", "Known bytes, as a new batch", over=_was_forced)
def _(stage: Stage) -> Iterator[Variables]:
    file: Path = stage.folder / "known.csv"
    file.write_bytes(file_of("KNOWN", 20))
    with stage.stopped("celery worker"):
        batch = stage.pipeline.upload(file.read_bytes())["batch_id"]
        assert stage.pipeline.command("cancel", batch).returncode == 0
    yield {"FILE": str(file), "FIRST": batch}


def _was_loaded_again(stage: Stage, variables: Variables) -> None:
    found = stage.pipeline.rows(
        "SELECT id = %s, status, row_count_inserted, row_count_invalid, error_threshold_percent FROM intake.batches"
        " WHERE file_hash = %s",
        UUID(variables["BATCH"]),
        variables["HASH"],
    )
    assert found == [(False, "completed", 48, 2, 30)]


@made("Clean up by hand", over=_was_loaded_again)
def _(stage: Stage) -> Iterator[Variables]:
    batch = stage.pipeline.ingest(file_of("WRONG", 50, invalid=2), error_threshold_percent="30")
    yield {"BATCH": batch["batch_id"], "HASH": batch["file_hash"]}
