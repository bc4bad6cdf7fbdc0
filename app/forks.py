"""A fork waits for what must not be under way beside it.

A child that is forked while another thread holds a lock of a C library has that lock for ever: nobody is left to release it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()

_LONGEST_SECONDS = 15.0
"""An attempt to connect ends after ten."""


class Gate:
    """Either threads are inside ``apart``, as many as like, or a fork goes on."""

    def __init__(self, longest_seconds: float = _LONGEST_SECONDS) -> None:
        self._longest_seconds = longest_seconds
        self._open_again()

    def _open_again(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._forking = False
        self._is_late = False

    def guard(self) -> None:
        """From now on every fork of this process waits; for a process that forks beside threads of its own."""
        os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._open_again)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """No fork begins until the block is left. Not to be entered twice by one thread; it takes at most seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._forking)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _close(self) -> None:
        with self._changed:
            self._forking = True
            # One that hangs must not hold up the pool for ever: then the child takes its chance.
            self._is_late = not self._changed.wait_for(lambda: not self._inside, self._longest_seconds)

    def _open(self) -> None:
        with self._changed:
            self._forking = False
            self._changed.notify_all()
        if self._is_late:
            log.warning("forked beside an open attempt to connect", waited_seconds=self._longest_seconds)


_gate = Gate()
apart = _gate.apart
guard = _gate.guard
