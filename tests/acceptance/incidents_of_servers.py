"""Incidents of the runbook about processes, servers, the webhook and the disk, each made by its real cause."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import psycopg

from tests.acceptance.incidents import Variables, made
from tests.acceptance.stage import Stage
from tests.monitoring.discord_stub import Reply


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
