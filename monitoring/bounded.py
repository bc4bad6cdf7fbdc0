"""Calls of the watch to what it watches: bounded, for a peer that hangs must not silence whoever would tell of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

LONGEST_SECONDS = 25.0
"""Whatever takes longer is given up; a check, for one, cannot run then."""
IDLE_SECONDS = 30.0
"""The server ends a transaction of the watch whose process stands still: a sentinel elsewhere waits for its locks."""


def call(work: Callable[[], Found]) -> Found:
    """What it gives, or what it raises; TimeoutError where a peer keeps silent for too long. Its thread is left behind
    then."""
    results: list[Found] = []
    problems: list[Exception] = []

    def attempt() -> None:
        try:
            results.append(work())
        except Exception as problem:
            problems.append(problem)

    thread = threading.Thread(target=attempt, name="check", daemon=True)
    thread.start()
    thread.join(LONGEST_SECONDS)
    if problems:
        raise problems[0]
    if not results:
        raise TimeoutError
    return results[0]
