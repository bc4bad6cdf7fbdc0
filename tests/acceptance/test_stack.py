"""The whole stack of ``dragonfly up``, as real processes, spoken to as a person would."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

DRAGONFLY = [sys.executable, "-m", "app.cli"]
ADDRESSES = ("DATABASE_URL", "DATABASE_DIRECT_URL", "REDIS_URL", "STORAGE_URL", "DRAGONFLY_HOME", "PORT")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ADDRESSES}


class Stack:
    """A running ``dragonfly up`` on a free port, ready when made."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home.with_suffix(".log")
        command = [*DRAGONFLY, "up", "--home", str(home), "--port", "0", "--workers", "1"]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=ENVIRONMENT)
        deadline = time.monotonic() + 60
        while "Dragonfly is ready at" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.terminate()
                self.process.wait(30)
                raise AssertionError(self.log.read_text())
            time.sleep(0.05)
        self.info: dict[str, Any] = json.loads(self.run("info", "--json").stdout)
        self.tree = psutil.Process(self.process.pid).children(recursive=True)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*DRAGONFLY, *arguments, "--home", str(self.home)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT)

    def said(self, part: str) -> list[str]:
        return [line.partition(" | ")[2] for line in self.log.read_text().splitlines() if part in line]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = Stack(tmp_path_factory.mktemp("stack") / "home")
    yield running
    if running.process.poll() is None:
        running.process.terminate()
        running.process.wait(60)


def test_everything_is_reachable_as_info_says(stack: Stack) -> None:
    assert httpx.get(f"{stack.info['web']}/readyz").status_code == 200
    with psycopg.connect(stack.info["database_url"]) as connection:
        assert connection.execute("SELECT current_user, count(*) FROM intake.batches").fetchone() == ("service_role", 0)
    with psycopg.connect(stack.info["database_direct_url"]) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("postgres",)
    assert stack.info["versions"]["postgres"].startswith("18.")
    assert stack.info["home"] == str(stack.home)
    assert stack.run("migrate").returncode == 0


def test_the_admin_key_is_shown_and_not_kept_and_the_commands_own_is_kept(stack: Stack) -> None:
    (shown,) = [line.rpartition(" ")[2] for line in stack.said("Admin key")]
    kept = stack.home / "command.key"
    for key in (shown, kept.read_text().strip()):
        answer = httpx.get(f"{stack.info['web']}/api/v1/intake/batches", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
    assert shown not in (stack.home / "secrets.json").read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_the_link_that_is_printed_signs_a_browser_in_and_out_again(stack: Stack) -> None:
    web = stack.info["web"]
    (first,) = [line.rpartition(" ")[2] for line in stack.said("Sign in with a browser")]
    second = stack.run("sign-in").stdout.strip()
    for link in (first, second):
        address, _, token = link.partition("/sign-in#token=")
        assert address == web
        with httpx.Client(base_url=web) as browser:
            signed_in = browser.post("/api/v1/session", json={"token": token})
            assert signed_in.json()["name"] == "local command"
            assert browser.get("/api/v1/server").json()["flower_url"] == stack.info["flower"]["url"]
            change = {"X-CSRF-Token": signed_in.json()["csrf_token"]}
            for headers, status in (({}, 403), (change, 202)):
                upload = browser.post(
                    "/api/v1/intake/upload", headers=headers, files={"file": ("a.csv", link.encode())}
                )
                assert upload.status_code == status
            assert browser.delete("/api/v1/session", headers=change).status_code == 204
            assert browser.get("/api/v1/server").status_code == 401
        assert httpx.post(f"{web}/api/v1/session", json={"token": token}).status_code == 401
    log = stack.log.read_text()
    assert second not in log
    assert (stack.home / "command.key").read_text().strip() not in log


def test_a_killed_stack_leaves_no_orphan_starts_again_without_a_new_key_and_stops_in_reverse(stack: Stack) -> None:
    assert len(stack.tree) > 10
    stack.process.kill()
    stack.process.wait()
    _, alive = psutil.wait_procs(stack.tree, timeout=10)
    assert not [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    again = Stack(stack.home)
    assert again.said("Admin key") == []
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(60) == 0
    names = ["flower", "beat", "worker", "web", "valkey", "postgres"]
    assert again.said(" stopped") == [f"{name} stopped" for name in names]
    assert not [process for process in again.tree if process.is_running()]
    assert not (again.home / "run.json").exists()
    refused = again.run("info")
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: No local stack runs on ")
