"""One operating-system process that lives no longer than its parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from app.local import LocalStackError

_BOUND = Path(__file__).with_name("bound.py")


def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    output: int | IO[bytes],
    input_text: str | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own, with exactly ``env``; stdout and stderr both go to ``output``.

    The process gets ``death_signal`` when the calling *thread* ends (the kernel ties the request to the thread that
    forks), so only the main thread may call this. A session of its own keeps a Ctrl-C of the terminal away from it.
    ``input_text`` (less than a pipe's 64 KiB) is its standard input, else empty.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("processes are bound to the thread that starts them: start them from the main thread")
    process = subprocess.Popen(
        _bound(command, death_signal),
        env=dict(env),
        stdin=subprocess.PIPE if input_text is not None else subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        start_new_session=True,
    )
    if input_text is not None and process.stdin is not None:
        # A program that ends before it has read its input says why on its output.
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(input_text.encode())
    return process


def _bound(command: Sequence[str], death_signal: signal.Signals) -> list[str]:
    return [sys.executable, "-I", "-S", str(_BOUND), str(os.getpid()), str(int(death_signal)), *command]


def stop(process: subprocess.Popen[bytes], how: signal.Signals, *, within: float) -> None:
    """Ask with ``how``, and after ``within`` seconds insist with SIGKILL."""
    process.send_signal(how)
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_tool(
    command: Sequence[str], *, env: Mapping[str, str], what: str, input_text: str | None = None, limit: float = 300
) -> str:
    """Run a short program to its end and return its output.

    Raises LocalStackError, ``what`` followed by the program's own last error line, where it fails or outlasts ``limit`` seconds.
    """
    try:
        done = subprocess.run(
            _bound(command, signal.SIGKILL),
            env=dict(env),
            input=input_text or "",
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except OSError as problem:
        raise LocalStackError(f"{what}: {command[0]}: {problem.strerror}.") from None
    except subprocess.TimeoutExpired:
        raise LocalStackError(f"{what}: it did not end within {limit:.0f} seconds.") from None
    if done.returncode != 0:
        raise LocalStackError(f"{what}: {last_error(done.stderr.splitlines() or done.stdout.splitlines())}")
    return done.stdout


def last_error(lines: Sequence[str]) -> str:
    """The line that says most about a failure: the last one that speaks of an error, else the last one."""
    spoken = [line.strip() for line in lines if line.strip()]
    marked = [
        line for line in spoken if any(word in line for word in ("PANIC:", "FATAL", "error:", "ERROR:", "Error:"))
    ]
    return (marked or spoken or ["it ended without a word"])[-1]


def listening_user(port: int) -> str:
    """Which process listens on a TCP port of this machine, as `` (pid 12, python3)``; empty where that cannot be seen."""
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for row in table.read_text().splitlines()[1:]:
                cells = row.split()
                if cells[3] == "0A" and int(cells[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(f"socket:[{cells[9]}]")
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in inodes for link in folder.iterdir()):
                return f" (pid {folder.parent.name}, {(folder.parent / 'comm').read_text().strip()})"
    return ""
