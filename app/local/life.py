"""One life of a supervised child: its process, its last lines, and whether it has become ready."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.local.process import spawn

_KEPT_LINES = 20
_LONGEST_LINE = 16 * 1024
_PROBE_SECONDS = 0.05


class Life:
    """Starts the process at once; two threads read its lines and ask ``ready`` until it first says yes."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        input_text: str | None,
        death_signal: signal.Signals,
        ready: Callable[[], bool],
        on_line: Callable[[str], None],
    ) -> None:
        self._started = time.monotonic()
        self._process = spawn(
            command, env=env, output=subprocess.PIPE, input_text=input_text, death_signal=death_signal
        )
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._is_ready = threading.Event()
        self._on_line = on_line
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._probe, args=(ready,), daemon=True).start()

    @property
    def pid(self) -> int:
        """The main process."""
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def ready(self) -> bool:
        """Whether it became ready and still runs."""
        return self._is_ready.is_set() and not self.ended

    @property
    def ended(self) -> bool:
        """Whether the main process is gone."""
        return self._process.poll() is not None

    @property
    def last_lines(self) -> list[str]:
        """What it said last, oldest first."""
        # The reader may be a moment behind the process; a grandchild may keep the pipe open for ever.
        self._reader.join(0.5)
        return list(self._lines)

    def how_it_ended(self) -> str:
        """In words, such as ``was killed by SIGKILL``."""
        status = self._process.poll()
        if status is None:
            return "still runs"
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def ask(self, how: signal.Signals) -> None:
        """Signal the main process alone: it tells its own children what to do."""
        self._process.send_signal(how)

    def end(self, how: signal.Signals, *, within: float) -> None:
        """Make an end of it: ``how``, after ``within`` seconds SIGKILL, then the same for what it left in its session."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.send_signal(how)
            self._process.wait(within)
        self._process.kill()
        self._process.wait()
        for pid in _session_members(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _read(self) -> None:
        if self._process.stdout is None:
            return
        with self._process.stdout as output:
            while line := output.readline(_LONGEST_LINE):
                text = line.decode(errors="replace").rstrip()
                self._lines.append(text)
                self._on_line(text)

    def _probe(self, ready: Callable[[], bool]) -> None:
        while not self.ended:
            if ready():
                self._is_ready.set()
                return
            time.sleep(_PROBE_SECONDS)


def _session_members(leader: int) -> list[int]:
    """The processes whose session ``leader`` began; the kernel gives its number to nobody else while they live."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name, which may hold anything: state, parent, group, session.
            state, _, _, session = entry.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                members.append(int(entry.parent.name))
    return members
