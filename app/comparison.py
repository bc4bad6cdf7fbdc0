"""One batch compared with its file: what each row must have left behind, and what the database holds of it, cell by cell.

A difference is named by batch, row and column. The two values are personal data, and stand beside for whoever may see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from app.batch import State, verdict
from app.derivation import Derivation, Derived, Refusal
from app.engine.refusals import INSERT_FAILED
from app.judgment import Judgment
from app.rows import VALUE_NAMES
from app.store import evidence
from app.store.batches import Batch
from app.store.evidence import Standing, StoredError

_TOGETHER = 2_000


class What(StrEnum):
    """Kinds of difference."""

    FILE_MISSING = "the file is missing"
    FILE_ALTERED = "the file is altered"
    VERDICT = "the verdict differs"
    COUNT = "a count differs"
    JUDGMENT_MISSING = "the judgment is missing"
    JUDGMENT_SURPLUS = "a judgment too many"
    JUDGMENT_OUTSIDE = "a judgment stands outside its batch's block of ids"
    JUDGMENT = "the judgment differs"
    WRONG_ROW = "another row should stand"
    ERROR_MISSING = "the row error is missing"
    ERROR_SURPLUS = "a row error too many"
    ERROR = "the row error differs"
    CONFLICT_MISSING = "the conflict is missing"
    CONFLICT_SURPLUS = "a conflict too many"
    CONFLICT = "the conflict differs"


@dataclass(frozen=True, slots=True)
class Difference:
    """One of them. ``derived`` and ``stored`` may hold cells of a row: they are for whoever may see the batch."""

    batch_id: UUID
    what: What
    row_index: int | None = None
    column: str | None = None
    derived: Any = None
    stored: Any = None

    def __str__(self) -> str:
        """Without the values."""
        row = "" if self.row_index is None else f", row_index {self.row_index}"
        column = "" if self.column is None else f", column {self.column}"
        return f"batch {self.batch_id}{row}{column}: {self.what.value}"


@dataclass(slots=True)
class Compared:
    """How much was compared; ``unfinished`` batches and those ``not_derivable`` have only their file checked."""

    batches: int = 0
    rows: int = 0
    judgments: int = 0
    errors: int = 0
    conflicts: int = 0
    differences: int = 0
    unfinished: int = 0
    not_derivable: int = 0
    other_templates: int = 0
    """Batches whose headers were read by another version of the rules."""


class Comparison:
    """One batch whose file says what must stand."""

    def __init__(
        self, connection: Connection, batch: Batch, differs: Callable[[Difference], None], done: Compared
    ) -> None:
        self._connection = connection
        self._batch = batch
        self._differs = differs
        self._done = done
        self._loaded = batch.status is State.COMPLETED
        self._errors = evidence.errors(connection, batch)
        self._next_error = next(self._errors, None)
        self._counts = dict.fromkeys(("total", "valid", "invalid", "inserted", "duplicate", "conflict"), 0)
        self._judged, self._kept = _Rows(), _Rows()
        self._winners: dict[UUID, bool] = {}

    def run(self, derivation: Derivation) -> None:
        """Compare all of it."""
        for block in derivation.rows():
            rows = iter(block)
            while chunk := list(islice(rows, _TOGETHER)):
                self._compare_rows(derivation, chunk)
        while self._next_error is not None:
            self._surplus_error(self._next_error)
            self._next_error = next(self._errors, None)
        self._compare_verdict(derivation)
        for name, derived in self._counts.items():
            stored = getattr(self._batch, f"row_count_{name}")
            if derived != stored:
                self._report(What.COUNT, None, f"row_count_{name}", derived, stored)
        if self._batch.first_judgment_id is not None:
            for row_index in self._judged.not_among(evidence.judgments(self._connection, self._batch)):
                self._report(What.JUDGMENT_SURPLUS, row_index)
        for row_index in self._judged.left():
            self._report(What.JUDGMENT_OUTSIDE, row_index)
        for row_index in self._kept.not_among(evidence.conflicts(self._connection, self._batch)):
            self._report(What.CONFLICT_SURPLUS, row_index)
        self._done.rows += self._counts["total"]

    def _compare_rows(self, derivation: Derivation, rows: list[Derived]) -> None:
        errors = self._errors_up_to(rows[-1].place.row_index)
        standing: dict[int, Standing] = {}
        if self._loaded:
            valid = (row for row in rows if isinstance(row.result, Judgment))
            keys = ((row.place.row_index, row.result.case_number) for row in valid)  # type: ignore[union-attr]
            standing = evidence.standing(self._connection, self._batch, keys)
        self._counts["total"] += len(rows)
        for row in rows:
            error = errors.pop(row.place.row_index, None)
            if not isinstance(row.result, Judgment):
                self._compare_error(row, row.result, error)
            elif error is not None and error.code == INSERT_FAILED:
                # That the database refused it is known from the error alone.
                self._compare_error(row, derivation.of_insert(row), error)
            else:
                self._counts["valid"] += 1
                if error is not None:
                    self._surplus_error(error)
                if self._loaded:
                    self._compare_judgment(row, row.result, standing[row.place.row_index])
        for error in errors.values():
            self._surplus_error(error)

    def _compare_judgment(self, row: Derived, ours: Judgment, found: Standing) -> None:
        index, batch_id = row.place.row_index, self._batch.id
        if found.batch_id is None or found.row_index is None:
            self._counts["inserted"] += 1
            self._report(What.JUDGMENT_MISSING, index)
            return
        if (found.batch_id, found.row_index) == (batch_id, index):
            self._counts["inserted"] += 1
            self._done.judgments += 1
            self._judged.add(index)
            if found.values != ours or found.line_number != row.place.line_number:
                stored = (*found.values, found.line_number)
                derived = (*ours, row.place.line_number)
                for column, left, right in zip((*Judgment._fields, "line_number"), derived, stored, strict=True):
                    if left != right:
                        self._report(What.JUDGMENT, index, column, left, right)
            return
        self._counts["duplicate"] += 1
        if found.batch_id == batch_id and found.row_index > index:
            self._report(What.WRONG_ROW, index, None, index, found.row_index)
        elif found.batch_id != batch_id and not self._came_first(found.batch_id):
            self._report(What.WRONG_ROW, index, None, batch_id, found.batch_id)
        self._compare_conflict(index, ours, found)

    def _compare_conflict(self, index: int, ours: Judgment, found: Standing) -> None:
        kept = Judgment(*found.values)
        fields = {
            name: [_shown(getattr(kept, name)), _shown(getattr(ours, name))]
            for name in VALUE_NAMES
            if getattr(kept, name) != getattr(ours, name)
        }
        self._counts["conflict"] += bool(fields)
        if found.kept_batch_id is None:
            self._report(What.CONFLICT_MISSING, index)
            return
        self._done.conflicts += 1
        self._kept.add(index)
        for column, left, right in (
            ("kept_batch_id", found.batch_id, found.kept_batch_id),
            ("kept_row_index", found.row_index, found.kept_row_index),
            ("fields", fields, found.fields),
        ):
            if left != right:
                self._report(What.CONFLICT, index, column, left, right)

    def _compare_error(self, row: Derived, refusal: Refusal, error: StoredError | None) -> None:
        self._counts["invalid"] += 1
        index = row.place.row_index
        if error is None:
            self._report(What.ERROR_MISSING, index)
            return
        self._done.errors += 1
        for column, left, right in (
            ("line_number", row.place.line_number, error.line_number),
            ("row_number", row.place.row_number, error.row_number),
            ("error_code", refusal.code, error.code),
            ("error_message", refusal.message, error.message),
            ("error_stage", refusal.stage, error.stage),
            ("raw_data", refusal.raw_data, error.raw_data),
            ("raw", row.raw, error.raw),
        ):
            if left != right:
                self._report(What.ERROR, index, column, left, right)

    def _compare_verdict(self, derivation: Derivation) -> None:
        batch, counts = self._batch, self._counts
        code = reason = None
        if derivation.refusal is not None:
            code, reason = derivation.refusal.code, derivation.refusal.reason.replace("\x00", "\u2400")
        elif not counts["total"]:
            code, reason = "EMPTY_FILE", batch.rejection_reason
        else:
            reason = verdict(
                total=counts["total"], invalid=counts["invalid"], threshold_percent=batch.error_threshold_percent
            ).reason
            code = None if reason is None else "ERROR_BUDGET_EXCEEDED"
        for column, left, right in (
            ("rejection_code", code, batch.rejection_code),
            ("rejection_reason", reason, batch.rejection_reason),
        ):
            if left != right:
                self._report(What.VERDICT, None, column, left, right)

    def _errors_up_to(self, row_index: int) -> dict[int, StoredError]:
        found = {}
        while self._next_error is not None and self._next_error.row_index <= row_index:
            found[self._next_error.row_index] = self._next_error
            self._next_error = next(self._errors, None)
        return found

    def _surplus_error(self, error: StoredError) -> None:
        self._report(What.ERROR_SURPLUS, error.row_index, None, None, error.code)

    def _came_first(self, other: UUID) -> bool:
        """Whether another batch was completed before this one."""
        if other not in self._winners:
            theirs, ours = evidence.completed_at(self._connection, other), self._batch.completed_at
            self._winners[other] = theirs is not None and ours is not None and theirs <= ours
        return self._winners[other]

    def _report(
        self, what: What, row_index: int | None, column: str | None = None, derived: Any = None, stored: Any = None
    ) -> None:
        self._differs(Difference(self._batch.id, what, row_index, column, derived, stored))


class _Rows:
    """Row indexes, a bit for each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, index: int) -> None:
        missing = index // 8 + 1 - len(self._bits)
        if missing > 0:
            self._bits.extend(bytes(missing))
        self._bits[index // 8] |= 1 << index % 8

    def not_among(self, indexes: Iterator[int]) -> Iterator[int]:
        """Those of the indexes that were not added, and those that come a second time. All are taken away."""
        for index in indexes:
            if index < 0 or index // 8 >= len(self._bits) or not self._bits[index // 8] & 1 << index % 8:
                yield index
            else:
                self._bits[index // 8] &= ~(1 << index % 8)

    def left(self) -> Iterator[int]:
        """Those that were added and not taken away."""
        for place, octet in enumerate(self._bits):
            if octet:
                yield from (place * 8 + bit for bit in range(8) if octet & 1 << bit)


def _shown(value: Any) -> str | None:
    """A value as a conflict keeps it."""
    return None if value is None else str(value)
