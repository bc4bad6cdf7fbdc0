"""Verification: each batch's file is read again, its rows derived a second time, and all that the database holds compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from uuid import UUID

from sqlalchemy import Connection, Engine

from app.batch import UNFINISHED, State
from app.columns import TEMPLATE_VERSION
from app.comparison import Compared, Comparison, Difference, What
from app.derivation import Derivation
from app.formats.csv import Limits
from app.store import batches, evidence
from app.store.batches import Batch
from app.store.blobs import BlobMissingError, Blobs, key_of

_NOT_DERIVABLE = frozenset({"INTEGRITY_ERROR", "POISONED", "CONTROL_TOTAL_MISMATCH"})
"""Refusals that come from something else than the file's content."""

_IN_TABLE = "judgments in the table"


class Verification:
    """Compares batches, one after the other. ``tell`` gets every difference; ``advance`` the bytes that were derived."""

    def __init__(
        self,
        blobs: Blobs,
        limits: Limits,
        *,
        tell: Callable[[Difference], None],
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._blobs = blobs
        self._limits = limits
        self._tell = tell
        self._advance = advance
        self.done = Compared()

    def compare_all(self, engine: Engine) -> None:
        """Every batch, each in a transaction of its own; then the judgments of all of them, counted over the whole table.

        The count finds those of no batch, and those beyond their batch's block of ids. Raises StorageError.
        """
        with engine.connect() as connection:
            for batch_id in evidence.ids(connection):
                self.compare(connection, batch_id)
                connection.rollback()
            self._count(connection)
            connection.rollback()

    def compare_one(self, connection: Connection, batch_id: UUID) -> None:
        """One batch, and its judgments counted over the whole table. Raises StorageError."""
        self.compare(connection, batch_id)
        self._count(connection, batch_id)

    def compare(self, connection: Connection, batch_id: UUID) -> None:
        """One batch, in a transaction that has only just begun. Raises StorageError where the store cannot be asked."""
        evidence.begin(connection)
        batch = batches.get(connection, batch_id)
        if batch is None:
            return
        self.done.batches += 1
        problem = self._problem_of_file(batch)
        if problem is not None and batch.rejection_code != "INTEGRITY_ERROR":
            self._differs(Difference(batch.id, problem))
        if batch.status in UNFINISHED:
            self.done.unfinished += 1
        if batch.rejection_code in _NOT_DERIVABLE:
            self.done.not_derivable += 1
        if batch.status is State.COMPLETED or (
            batch.status is State.FAILED and batch.rejection_code not in _NOT_DERIVABLE
        ):
            if problem is None:
                Comparison(connection, batch, self._differs, self.done).run(self._derivation(batch))
                if batch.reading.get("template_version") not in (None, TEMPLATE_VERSION):
                    self.done.other_templates += 1
        else:
            # Nothing of it may stand, but for the errors of rows that were read before the file proved to be another.
            if batch.rejection_code != "INTEGRITY_ERROR":
                for error in evidence.errors(connection, batch):
                    self._differs(Difference(batch.id, What.ERROR_SURPLUS, error.row_index))
            for row_index in evidence.conflicts(connection, batch):
                self._differs(Difference(batch.id, What.CONFLICT_SURPLUS, row_index))

    def _count(self, connection: Connection, batch_id: UUID | None = None) -> None:
        for counted in evidence.miscounted(connection, batch_id):
            self._differs(Difference(counted.batch_id, What.COUNT, None, _IN_TABLE, *counted[1:]))

    def _differs(self, difference: Difference) -> None:
        self.done.differences += 1
        self._tell(difference)

    def _problem_of_file(self, batch: Batch) -> What | None:
        digest = hashlib.sha256()
        try:
            for piece in self._blobs.read(_key_of(batch)):
                digest.update(piece)
        except BlobMissingError:
            return What.FILE_MISSING
        return None if digest.hexdigest() == batch.file_hash else What.FILE_ALTERED

    def _derivation(self, batch: Batch) -> Derivation:
        return Derivation(self._pieces(batch), self._limits, batch.today)

    def _pieces(self, batch: Batch) -> Iterator[bytes]:
        for piece in self._blobs.read(_key_of(batch)):
            yield piece
            self._advance(len(piece))


def _key_of(batch: Batch) -> str:
    return batch.storage_key or key_of(batch.file_hash)
