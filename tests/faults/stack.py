"""The stack under fault: ``dragonfly up``, a second worker that may be killed as a whole, and hands on all of its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import redis

from app.local.process import spawn
from app.pause import Point
from tests.acceptance.pipeline import Pipeline

QUEUES = ("high", "normal", "low")
_LARGE = "2g"
_PAGE = os.sysconf("SC_PAGE_SIZE")


class NotThereError(Exception):
    """This machine lacks what a fault needs; the text says what."""


def until(condition: Callable[[], Any], within: float, what: str) -> Any:
    """The first true answer. Raises AssertionError that names ``what`` after so many seconds."""
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}")
        time.sleep(0.01)


class Disk:
    """A small file system of its own, which can be made full in a moment; needs root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.own = os.geteuid() == 0 and not subprocess.call(
            ["mount", "-t", "tmpfs", "-o", f"size={_LARGE},mode=0700", "tmpfs", str(folder)], stderr=subprocess.DEVNULL
        )

    @contextmanager
    def full(self, *, but: int = 0) -> Iterator[None]:
        """No room for anything more, ``but`` for so many bytes, until the block is left."""
        if not self.own:
            raise NotThereError("a disk of its own to fill: it takes root and mount")
        held = os.statvfs(self.folder)
        used = (held.f_blocks - held.f_bfree) * held.f_frsize
        self._resize(max(used + but, _PAGE))
        try:
            yield
        finally:
            self._resize(_LARGE)

    def _resize(self, size: int | str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)

    @property
    def free(self) -> int:
        held = os.statvfs(self.folder)
        return held.f_bavail * held.f_frsize

    def remove(self) -> None:
        if self.own:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


class Worker:
    """A Celery worker that no supervisor starts again."""

    def __init__(self, stack: Stack, name: str, *, concurrency: int = 2, env: Mapping[str, str] | None = None) -> None:
        self.log = stack.home.with_name(f"{name}.log")
        command = [sys.executable, "-m", "celery", "--quiet", "-A", "tasks.worker", "worker"]
        ready = stack.home.with_name(f"{name}.ready")
        ready.unlink(missing_ok=True)
        with self._written_down() as log:
            self.process = spawn(
                [*command, "--concurrency", str(concurrency)],
                env={
                    **stack.env,
                    "DRAGONFLY_HOME": str(stack.home),
                    "DRAGONFLY_READY_FILE": str(ready),
                    "STORAGE_URL": stack.info["storage_url"],
                    **(env or {}),
                },
                output=log,
            )
        self._ready = ready

    @contextmanager
    def _written_down(self) -> Iterator[int]:
        """A pipe whose end is this process's log file: what a fault refuses to the worker's own files costs no line of it."""
        read, write = os.pipe()
        threading.Thread(target=_copy, args=(read, self.log), daemon=True).start()
        try:
            yield write
        finally:
            os.close(write)

    def wait_until_ready(self) -> None:
        until(lambda: self._ready.exists() or not self.runs, 60, "the second worker ready")
        assert self.runs, self.log.read_text()[-2000:]

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid

    def family(self) -> list[psutil.Process]:
        """Its processes, the main one first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.pid)
            return [main, *main.children(recursive=True)]
        return []

    def end(self, how: signal.Signals = signal.SIGTERM, within: float = 30) -> int:
        """Returns its exit status."""
        if self.runs:
            self.process.send_signal(how)
        return self.process.wait(within)


def _copy(read: int, log: Path) -> None:
    """Until nobody writes any more."""
    with os.fdopen(read, "rb", buffering=0) as source, log.open("ab", buffering=0) as file:
        while part := source.read(1 << 16):
            file.write(part)


class Stack(Pipeline):
    """A stack whose processes are held at pause points, killed, stopped and bereft of their disk."""

    def __init__(self, home: Path, *, lease_seconds: int = 2, settings: Mapping[str, str] | None = None) -> None:
        home.mkdir(mode=0o700, parents=True)
        self.lease_seconds = lease_seconds
        self.pauses = home.with_name("pauses")
        self.pauses.mkdir()
        self.blob_disk, self.spool_disk = Disk(home / "blobs"), Disk(home / "spool")
        super().__init__(
            home,
            workers=2,
            settings={
                "LEASE_SECONDS": str(lease_seconds),
                "DRAGONFLY_PAUSE_FOLDER": str(self.pauses),
                # Nothing of a fault's making may look like one of the machine's.
                "SENTINEL_INTERVAL_SECONDS": "10",
                **(settings or {}),
            },
        )
        self.beta = Worker(self, "beta")
        self.beta.wait_until_ready()
        self.broker = redis.Redis.from_url(self.info["redis_url"], socket_timeout=5)
        flower = self.info["flower"]
        self.flower = httpx.Client(
            base_url=flower["url"], auth=(flower["user"], flower["password"]), timeout=10, trust_env=False
        )

    def stop(self) -> None:
        self.let_all_go()
        self.beta.end(signal.SIGKILL)
        self.flower.close()
        self.broker.close()
        super().stop()
        for disk in (self.blob_disk, self.spool_disk):
            disk.remove()

    def logs(self) -> list[Path]:
        """All that any of its processes has said."""
        return sorted(self.home.parent.glob("*.log"))

    def said(self, *words: str) -> list[str]:
        """The lines of all logs that hold all these words."""
        lines = (line for log in self.logs() for line in log.read_text(errors="replace").splitlines())
        return [line for line in lines if all(word in line for word in words)]

    def owner(self, statement: str, *values: Any) -> list[Any]:
        """Ask or change the database, as its owner."""
        with psycopg.connect(self.info["database_direct_url"], autocommit=True) as connection:
            cursor = connection.execute(statement, values)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def order(self, point: Point, subject: str) -> None:
        """Hold the next process that comes to this point with this batch, or with the file of this hash."""
        (self.pauses / f"{point}@{subject}").touch()

    def held(self, point: Point, subject: str, within: float = 30) -> int:
        """The process that is held there, once it is."""
        return int(until(lambda: self._held(point, subject), within, f"a process held at {point}"))

    def _held(self, point: Point, subject: str) -> int | None:
        for path in self.pauses.glob(f"{point}@{subject}.*"):
            return int(path.suffix[1:])
        return None

    def let_go(self, point: Point, subject: str) -> None:
        """Whoever is held there, or would be, goes on."""
        for path in self.pauses.glob(f"{point}@{subject}*"):
            path.unlink(missing_ok=True)

    def let_all_go(self) -> None:
        for path in self.pauses.iterdir():
            path.unlink(missing_ok=True)

    def worker_families(self) -> list[list[psutil.Process]]:
        """Each worker's processes, the main one first."""
        found = self.processes("celery worker")
        pids = {process.pid for process in found}
        mains = []
        for process in found:
            with contextlib.suppress(psutil.Error):
                if process.ppid() not in pids:
                    mains.append(process)
        supervised = []
        for main in mains:
            with contextlib.suppress(psutil.Error):
                supervised.append([main, *main.children(recursive=True)])
        return [*supervised, *([self.beta.family()] if self.beta.runs else [])]

    @contextmanager
    def workers_still(self) -> Iterator[None]:
        """No worker does anything until the block is left, nor is a message on its way to one."""
        with contextlib.ExitStack() as stack:
            for family in self.worker_families():
                stack.enter_context(still(*family))
            # The broker still hands a message to those who have asked for one, for a second.
            until(lambda: not self._asked_for(), 10, "no worker waits for a message at the broker")
            yield

    def _asked_for(self) -> bool:
        return any("b" in client["flags"] for client in self.broker.client_list())

    def incoming(self) -> set[Path]:
        """The files of uploads that are on their way, or that were broken off within the last day."""
        return set((self.blob_disk.folder / "incoming").iterdir())

    def postmaster(self) -> int:
        """PostgreSQL's main process."""
        return self.processes("postgres")[0].pid

    def gunicorn(self) -> tuple[int, list[int]]:
        """The web server's main process, and those that answer."""
        main, *children = self.processes("gunicorn")
        return main.pid, [child.pid for child in children]

    def queued(self) -> int:
        """Messages that wait for a worker."""
        return sum(int(self.broker.llen(queue)) for queue in QUEUES)  # type: ignore[arg-type]

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError, redis.RedisError):
            return bool(self.broker.ping()) and self.http.get("/readyz", timeout=5).status_code == 200
        return False

    def mend(self) -> None:
        """Whole again before the next fault: every server up, both workers at work."""
        self.let_all_go()
        for family in self.worker_families():
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
        if not self.beta.runs:
            self.beta = Worker(self, "beta")
            self.beta.wait_until_ready()
        until(self.answers, 60, "the web server, the database and the broker answer")
        until(self._workers_work, 60, "two workers reach database and broker")

    def _workers_work(self) -> bool:
        families = self.worker_families()
        if len(families) != 2 or any(len(family) < 3 for family in families):
            return False
        pids = [family[0].pid for family in families]
        with contextlib.suppress(psycopg.Error):
            ((fresh,),) = self.rows(
                "SELECT count(*) FROM ops.workers WHERE pid = ANY (%s) AND last_seen_at > now() - interval '4 seconds'"
                " AND broker_seen_at > now() - interval '4 seconds'",
                pids,
            )
            return bool(fresh == 2)
        return False


@contextmanager
def still(*processes: psutil.Process) -> Iterator[None]:
    """The processes stand still, their sockets open, until the block is left."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def kill(pid: int) -> str:
    """SIGKILL; the evidence that the process is gone."""
    process = psutil.Process(pid)
    process.kill()
    until(lambda: is_gone(process), 10, f"process {pid} gone")
    return f"process {pid} killed"


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
