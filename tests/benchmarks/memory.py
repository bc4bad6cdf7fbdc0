"""The peak of the memory that a process and its children take, sampled while something runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

_INTERVAL_SECONDS = 0.02
_PROC = Path("/proc")


class MemoryWatch:
    """Watches for the block; then ``anonymous_mb`` and ``resident_mb`` hold the peaks, in MiB.

    Children are added up at each moment. Pages that they share are counted for each of them, so the resident sum is an
    upper bound; the anonymous one is too where a child was forked.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.anonymous_mb = self.resident_mb = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            anonymous, resident = memory_of_tree(self._pid)
            self.anonymous_mb = max(self.anonymous_mb, anonymous)
            self.resident_mb = max(self.resident_mb, resident)
            if self._done.wait(_INTERVAL_SECONDS):
                return


def memory_of_tree(pid: int) -> tuple[float, float]:
    """Anonymous and resident MiB of the process and all below it, at this moment."""
    taken = [memory_of(each) for each in _tree(pid)]
    return sum(anonymous for anonymous, _ in taken), sum(resident for _, resident in taken)


def memory_of(pid: int) -> tuple[float, float]:
    """Anonymous and resident MiB of one process; nothing where it has ended."""
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    kib = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines) if name in _FIELDS}
    return int(kib.get("RssAnon", 0)) / 1024, int(kib.get("VmRSS", 0)) / 1024


_FIELDS = ("RssAnon", "VmRSS")


def _tree(pid: int) -> Iterator[int]:
    yield pid
    # A child is listed under the thread that made it.
    for listed in (_PROC / str(pid) / "task").glob("*/children"):
        try:
            children = listed.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tree(int(child))
