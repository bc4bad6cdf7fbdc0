"""A running pipeline, spoken to over HTTP as a client would, and looked into through its database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

DRAGONFLY = [sys.executable, "-m", "app.cli"]
ADDRESSES = ("DATABASE_URL", "DATABASE_DIRECT_URL", "REDIS_URL", "STORAGE_URL", "DRAGONFLY_HOME", "PORT")
FINISHED = ("completed", "failed", "cancelled", "reverted")
RUNNING = ("staging", "validating", "inserting")

Document = dict[str, Any]


class Pipeline:
    """``dragonfly up`` on a home of its own and a free port; ready when made."""

    def __init__(self, home: Path, *, workers: int = 2, settings: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.log = home.with_suffix(".log")
        self.env = {name: value for name, value in os.environ.items() if name not in ADDRESSES} | dict(settings or {})
        command = [*DRAGONFLY, "up", "--home", str(home), "--port", "0", "--workers", str(workers)]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=self.env)
        self._wait_until_ready()
        self.info: Document = json.loads(self.command("info", "--json").stdout)
        self.key = (home / "command.key").read_text().strip()
        self.http = httpx.Client(
            base_url=self.info["web"],
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=60,
            trust_env=False,
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 90
        while "Dragonfly is ready at" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.terminate()
                self.process.wait(30)
                raise AssertionError(self.log.read_text())
            time.sleep(0.05)

    def stop(self, within: float = 60) -> None:
        """Raises AssertionError, and the stack is down all the same, where it takes longer; the log tells what its workers did."""
        self.http.close()
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            # Celery's own way to write down where each of its threads is.
            for worker in self.processes("celery worker")[:1]:
                worker.send_signal(signal.SIGUSR1)
            time.sleep(1)
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
            raise AssertionError(f"not stopped within {within:g} s:\n{self.log.read_text()[-20_000:]}") from None

    def command(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """The ``dragonfly`` command as a user types it."""
        command = [*DRAGONFLY, *arguments, "--home", str(self.home)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=self.env)

    def upload(self, content: bytes, name: str = "upload.csv", **fields: str) -> Document:
        answer = self.http.post("/api/v1/intake/upload", files={"file": (name, content)}, data=fields)
        assert answer.status_code in (200, 202), answer.text
        document: Document = answer.json()
        return document

    def batch(self, batch_id: str) -> Document:
        document: Document = self.http.get(f"/api/v1/intake/batches/{batch_id}").raise_for_status().json()
        return document

    def wait(self, batch_id: str, *, within: float = 60) -> Document:
        """The batch once it is finished."""
        deadline = time.monotonic() + within
        while True:
            batch = self.batch(batch_id)
            if batch["status"] in FINISHED:
                return batch
            if time.monotonic() > deadline:
                raise AssertionError(f"not finished within {within} s: {batch}")
            time.sleep(0.05)

    def ingest(self, content: bytes, name: str = "upload.csv", **fields: str) -> Document:
        """Upload and wait."""
        return self.wait(self.upload(content, name, **fields)["batch_id"])

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """Ask the database, as the application's role."""
        with psycopg.connect(self.info["database_url"]) as connection:
            return connection.execute(statement, values).fetchall()  # type: ignore[call-overload,no-any-return]

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes of one child and their descendants, the child first: ``celery worker``, ``valkey-server`` ..."""
        words = name.split()
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if all(any(part == word or part.endswith("/" + word) for part in line) for word in words):
                found.append(process)
        return found

    @contextmanager
    def halted(
        self, content_of: Callable[[int], bytes], *states: str, after: float = 0, name: str = "upload.csv"
    ) -> Iterator[tuple[Document, psutil.Process]]:
        """A batch in one of ``states`` and the process that holds it, which stands still until the block is left.

        It is halted ``after`` so many seconds of its work. ``content_of`` 0, 1, ... makes the file: where a batch comes to
        its end before it is halted, which is the machine's pace and no fault, the next file is taken.
        """
        for number in range(20):
            batch_id = self.upload(content_of(number), name)["batch_id"]
            while (owner := self.lease_owner(batch_id)) is None and self.batch(batch_id)["status"] not in FINISHED:
                time.sleep(0.005)
            time.sleep(after)
            if (holder := self._halt(batch_id, owner, states or RUNNING)) is not None:
                try:
                    yield self.batch(batch_id), holder
                finally:
                    with suppress(psutil.NoSuchProcess):
                        holder.resume()
                return
        raise AssertionError("no batch could be halted in its work")

    def _halt(self, batch_id: str, owner: int | None, states: tuple[str, ...]) -> psutil.Process | None:
        """The batch's process, halted while the batch was in one of the states; None where it has left them for good."""
        while owner is not None:
            holder = psutil.Process(owner)
            holder.suspend()
            if self.lease_owner(batch_id) == owner and self.batch(batch_id)["status"] in states:
                return holder
            holder.resume()
            time.sleep(0.005)
            owner = self.lease_owner(batch_id)
        return None

    def lease_owner(self, batch_id: str) -> int | None:
        """The process that holds the batch."""
        ((owner,),) = self.rows("SELECT lease_owner FROM intake.batches WHERE id = %s", batch_id)
        return int(owner.rpartition("/")[2]) if owner else None
