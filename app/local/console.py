"""The supervisor's output: every child's lines under its name, and never a reason for anything to wait."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading

_WIDTH = 8
_COLOURS = (36, 33, 32, 35, 34, 31)
_QUEUED_LINES = 10_000


class Console:
    """Writes ``name     | line`` to a file descriptor, the name in colour if asked.

    In colour, that is for a person, a line that is one JSON object is shown as ``12:00:01 [info] event key=value``.
    Lines wait in a bounded queue for one writing thread: a paused terminal or a pipe that nobody reads must not stop
    the stack. What does not fit is dropped and counted.
    """

    def __init__(self, descriptor: int, *, colour: bool) -> None:
        self._descriptor = descriptor
        self._colour = colour
        self._colours: dict[str, int] = {}
        self._lines: queue.Queue[bytes | None] = queue.Queue(_QUEUED_LINES)
        self._dropped = 0
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()

    def say(self, name: str, text: str) -> None:
        """Queue one line."""
        prefix = f"{name:<{_WIDTH}} |"
        if self._colour:
            number = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
            prefix = f"\x1b[{number}m{prefix}\x1b[0m"
            text = _for_a_person(text)
        try:
            self._lines.put_nowait(f"{prefix} {text}\n".encode(errors="replace"))
        except queue.Full:
            self._dropped += 1

    def close(self, *, within: float = 2) -> None:
        """Write what is queued, for so many seconds at most."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._writer.join(within)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            dropped, self._dropped = self._dropped, 0
            if dropped:
                line = f"{'up':<{_WIDTH}} | {dropped} lines were dropped, nobody read them\n".encode() + line
            try:
                # Not through a buffered file: its lock would stop the interpreter's exit while a write hangs.
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                continue


def _for_a_person(line: str) -> str:
    """A log line as app.logs writes it, without its braces; any other line as it is."""
    if not line.startswith("{"):
        return line
    try:
        said = json.loads(line)
        clock = said.pop("timestamp")[11:19]
        begin = f"{clock} [{said.pop('level')}] {said.pop('event')}"
    except (ValueError, KeyError, TypeError):
        return line
    said.pop("logger", None)
    return " ".join([begin, *(f"{name}={value}" for name, value in said.items())])
