"""Calls of the watch to what it watches: bounded, for a peer that hangs must not silence whoever would tell of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

LONGEST_SECONDS = 25.0
"""Whatever takes longer is given up; a check, for one, cannot run then."""
IDLE_SECONDS = 30.0
"""The server ends a transaction of the watch whose process stands still: a sentinel elsewhere waits for its locks."""
STANDSTILL_SECONDS = 5.0
"""Nobody waits that much longer than he asked to, unless the whole process stood still."""
_GLANCE_SECONDS = 0.5


def call(work: Callable[[], Found]) -> Found:
    """What it gives, or what it raises; TimeoutError where a peer keeps silent for too long. Its thread is left behind
    then.

    Where this process itself stood still meanwhile (a signal, a machine that was suspended), the time does not count, and what
    went wrong says nothing of the peer: then the work is done once more.
    """
    results, problems, stood_still = _attempt(work)
    if not results and stood_still:
        results, problems, _ = _attempt(work)
    if problems:
        raise problems[0]
    if not results:
        raise TimeoutError
    return results[0]


def _attempt(work: Callable[[], Found]) -> tuple[list[Found], list[Exception], bool]:
    """What the work gave or raised, if it came to an end, and whether this process stood still meanwhile."""
    results: list[Found] = []
    problems: list[Exception] = []

    def attempt() -> None:
        try:
            results.append(work())
        except Exception as problem:
            problems.append(problem)

    thread = threading.Thread(target=attempt, name="check", daemon=True)
    stood_still = False
    left = LONGEST_SECONDS
    # Each moment belongs to one of the looks: the process may be stopped between two of them.
    looked = time.monotonic()
    thread.start()
    while True:
        thread.join(min(left, _GLANCE_SECONDS))
        now = time.monotonic()
        took, looked = now - looked, now
        if took > _GLANCE_SECONDS + STANDSTILL_SECONDS:
            stood_still = True
        else:
            left -= took
        if left <= 0 or not thread.is_alive():
            return results, problems, stood_still
