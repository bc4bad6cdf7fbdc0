"""What a failed task tells: the kind of its problem and its place, never its text, which may hold a row.

Celery puts an exception's text and its traceback into its log and into the events that Flower shows.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from celery import Task
from celery.exceptions import TaskPredicate

_OWN = ("app", "tasks", "monitoring")


class TaskFailedError(Exception):
    """A task has failed; the text is ``IntegrityError at app.store.judgments:12``."""


class ReticentTask(Task):  # type: ignore[misc]
    """What every task is made of: whatever its body raises becomes TaskFailedError."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body. Raises TaskFailedError; what only directs Celery (ignore, retry, reject) passes."""
        try:
            return self.run(*args, **kwargs)
        except TaskPredicate:
            raise
        except Exception as problem:
            raise TaskFailedError(f"{type(problem).__name__} at {_place(problem.__traceback__)}") from None


def _place(trace: TracebackType | None) -> str:
    """The innermost line of Dragonfly's own: the frames of a database driver would say nothing."""
    place = "an unknown place"
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in _OWN:
            place = f"{module}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
