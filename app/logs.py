"""Logs: every line one JSON object on stderr, whoever speaks; readable lines where a developer's terminal shows them.

Called once, at each composition root. Libraries that use the standard library's logging, warnings, and exceptions that
nobody has caught are written the same way. Of an exception the kind and the place are written, never the text: that of a
database error repeats the row.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import threading
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import structlog
from structlog.types import EventDict, Processor

from app.settings import SettingsError

_QUIET = {
    # Every hint that is received, and every one that is done.
    "celery.worker.strategy": logging.WARNING,
    "celery.app.trace": logging.WARNING,
    # Its failures are told in our own words, once: see monitoring.tracing.
    "opentelemetry": logging.CRITICAL,
}
_SHOWN_FRAMES = 8


def configure(env: str, *, level: int = logging.INFO) -> None:
    """Write logs of this level and above to stderr; stdout belongs to what commands answer."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(readable=env == "dev" and sys.stderr.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # For loggers that neither have a handler nor ask their parents, as the one of Celery's pool.
    logging.lastResort = handler
    root.setLevel(level)
    for name, lowest in _QUIET.items():
        logging.getLogger(name).setLevel(lowest)
    structlog.configure(
        processors=[*_ADDED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    logging.captureWarnings(capture=True)
    sys.excepthook = _told_once
    threading.excepthook = _told_of_thread


def formatter(*, readable: bool) -> logging.Formatter:
    """For a handler of logging: both structlog's lines and those of libraries go through it."""
    show: Processor = (
        structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)
        if readable
        else structlog.processors.JSONRenderer(default=_in_json)
    )
    return _Formatter(
        foreign_pre_chain=list(_ADDED),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, show],
    )


def line(event: str, **values: object) -> str:
    """One line as it is written, for whoever cannot go through a logger."""
    return (
        json.dumps({"event": event, "level": "info", **values, "timestamp": dt.datetime.now(dt.UTC).isoformat()}) + "\n"
    )


def _in_json(value: object) -> str:
    """Of what is not JSON, only plain values are shown: the text of anything else might hold a row."""
    if isinstance(value, UUID | Path | Decimal | dt.date):
        return str(value)
    return f"<{type(value).__name__}>"


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Takes exceptions out of a library's message before it is put together."""

    def format(self, record: logging.LogRecord) -> str:
        safe = logging.makeLogRecord(record.__dict__)
        if isinstance(safe.msg, BaseException):
            safe.msg = _kind(safe.msg)
        if isinstance(safe.args, Mapping):
            safe.args = {name: _without_text(value) for name, value in safe.args.items()}
        elif safe.args:
            safe.args = tuple(_without_text(value) for value in safe.args)
        return super().format(safe)


def _without_text(value: object) -> object:
    return _kind(value) if isinstance(value, BaseException) else value


def _kind(problem: BaseException) -> str:
    cause = getattr(problem, "orig", None) or problem
    return type(cause).__name__


def _place(trace: TracebackType | None) -> str | None:
    frames = []
    while trace is not None:
        frames.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(frames[-_SHOWN_FRAMES:]) or None


def _exception_as_kind_and_place(_: Any, __: str, event: EventDict) -> EventDict:
    found = event.pop("exc_info", None)
    event.pop("stack_info", None)
    if found is True:
        found = sys.exc_info()
    if isinstance(found, BaseException):
        found = (type(found), found, found.__traceback__)
    if found and found[1] is not None:
        event["problem"], event["place"] = _kind(found[1]), _place(found[2])
        if isinstance(found[1], SettingsError):
            # Written for whoever has to set it.
            event["reason"] = str(found[1])
    return event


_ADDED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    _exception_as_kind_and_place,
)


def _told_once(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger().error("ended by an exception", exc_info=(kind, problem, trace))


def _told_of_thread(args: threading.ExceptHookArgs) -> None:
    name = args.thread.name if args.thread is not None else None
    trouble = (args.exc_type, args.exc_value, args.exc_traceback)
    structlog.get_logger().error("a thread ended by an exception", thread=name, exc_info=trouble)
