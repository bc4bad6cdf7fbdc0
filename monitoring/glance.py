"""A question whose answer is wanted at once or not at all: to a database, or a broker, that may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

_T = TypeVar("_T")


class Glance(Generic[_T]):
    """Asks in a thread of its own, one at a time, and waits ``patience`` seconds for the answer.

    An answer is good for ``fresh`` seconds. Calling gives it, or None where there is none: the question failed, or is
    still open. A thread that hangs is left to hang, and nothing is asked beside it.
    """

    def __init__(self, name: str, question: Callable[[], _T], *, patience: float, fresh: float) -> None:
        self._name = name
        self._question = question
        self._patience = patience
        self._fresh = fresh
        self._lock = threading.Lock()
        self._open: threading.Event | None = None
        self._answer: tuple[float, _T] | None = None

    def __call__(self) -> _T | None:
        """The answer, or None."""
        with self._lock:
            if self._is_fresh():
                return self._answer[1] if self._answer is not None else None
            if self._open is None:
                self._open = threading.Event()
                threading.Thread(target=self._ask, args=(self._open,), name=f"glance-{self._name}", daemon=True).start()
            answered = self._open
        answered.wait(self._patience)
        with self._lock:
            return self._answer[1] if self._answer is not None and self._is_fresh() else None

    def _is_fresh(self) -> bool:
        return self._answer is not None and time.monotonic() - self._answer[0] <= self._fresh

    def _ask(self, answered: threading.Event) -> None:
        answer: tuple[float, _T] | None = None
        try:
            answer = (time.monotonic(), self._question())
        except Exception as trouble:
            log.warning("no answer", asked=self._name, trouble=type(trouble).__name__)
        with self._lock:
            self._answer = answer
            self._open = None
        answered.set()
