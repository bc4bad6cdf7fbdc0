"""Gunicorn's own lines, as app.logs writes them: ``gunicorn --logger-class app.web_log.WebLogger``."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger

from app import logs

_WITH_TEXT = ("Invalid request from ip=", "Exception during ")
"""How Gunicorn's warnings begin that go on with what a client sent, or with a traceback."""


class WebLogger(Logger):  # type: ignore[misc]
    """Leaves out what a client has sent: the address of a request may hold a case number."""

    def setup(self, cfg: Any) -> None:
        """Put the format in place of Gunicorn's."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(logs.formatter(readable=False))

    def exception(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """Of the request that failed nothing is told; the exception's kind and place are."""
        super().exception(str(msg).partition("%")[0].strip(), **kwargs)

    def warning(self, msg: object, *args: Any, **kwargs: Any) -> None:
        """Of an invalid request the sender is told, not the request; of an exception not the text."""
        text = str(msg)
        if text.startswith(_WITH_TEXT):
            text, args = text.partition(":")[0], ()
        super().warning(text, *args, **kwargs)
