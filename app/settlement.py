"""The one transaction in which a batch ends: row errors as soon as there are many, then judgments, ledger and state.

The server stores errors while the rest of the file is checked; nobody sees one before all of the batch is committed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, Engine, text

from app.store import judgments, row_errors
from app.store.batches import Batch

_PENDING = 2
_GLANCE_SECONDS = 0.2


class Settlement:
    """A transaction of an attempt's own connection, begun when it is first needed; rolled back unless committed.

    ``moved`` is called as the server takes rows, and may raise to end the attempt.
    """

    def __init__(self, engine: Engine, batch: Batch, moved: Callable[[], None]) -> None:
        self._engine = engine
        self._batch = batch
        self._moved = moved
        self._connection: Connection | None = None
        self._pending: queue.Queue[list[bytes] | None] = queue.Queue(_PENDING)
        self._abandoned = threading.Event()
        self._problem: BaseException | None = None
        self._writer: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abandoned.set()
        if self._writer is not None:
            self._writer.join()
        if self._connection is not None:
            # Rolls back what was not committed.
            self._connection.close()

    def store(self, errors: list[bytes]) -> None:
        """Have packed errors stored while the caller goes on; waits while enough of them are under way.

        Raises what storing earlier ones has raised.
        """
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name=f"errors-{self._batch.id}", daemon=True)
            self._writer.start()
        self._put(errors)

    def connection(self) -> Connection:
        """The transaction's connection, every error stored that was handed over. Raises what storing them has raised."""
        if self._writer is not None:
            self._put(None)
            self._writer.join()
            self._writer = None
            if self._problem is not None:
                raise self._problem
        return self._begun()

    def begin_load(self) -> None:
        """Mark the place to which ``undo_load`` goes back."""
        self._begun().execute(text("SAVEPOINT judgments"))

    def undo_load(self) -> None:
        """Take back what was written since ``begin_load``."""
        self._begun().execute(text("ROLLBACK TO SAVEPOINT judgments"))

    def commit(self) -> None:
        """Make all of it durable and visible at once."""
        self._begun().commit()

    def _begun(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
            judgments.begin_load(self._connection, self._batch.id, self._batch.fence)
        return self._connection

    def _put(self, errors: list[bytes] | None) -> None:
        while self._problem is None:
            try:
                self._pending.put(errors, timeout=_GLANCE_SECONDS)
            except queue.Full:
                continue
            return
        raise self._problem

    def _write(self) -> None:
        try:
            connection = self._begun()
            while (errors := self._next()) is not None:
                row_errors.store(connection, errors, self._moved)
        except BaseException as problem:
            self._problem = problem

    def _next(self) -> list[bytes] | None:
        while not self._abandoned.is_set():
            try:
                return self._pending.get(timeout=_GLANCE_SECONDS)
            except queue.Empty:
                continue
        return None
