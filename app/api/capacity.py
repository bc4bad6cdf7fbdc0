"""How many uploads are taken at once, so that they never hold every thread of the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.api.problems import ProblemError


class Slots:
    """``count`` places; whoever finds none free is refused at once instead of waiting."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = threading.BoundedSemaphore(count)

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold a place for the block. Raises ProblemError (BUSY) where all are taken."""
        if not self._free.acquire(blocking=False):
            raise ProblemError("BUSY", f"{self.count} uploads are under way, as many as the server takes.")
        try:
            yield
        finally:
            self._free.release()
