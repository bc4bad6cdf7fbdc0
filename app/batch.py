"""The batch life: its states, the transitions between them, and the verdict on its error rate. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where a batch stands. The database's CHECK and transition guard are held to this by a test."""

    UPLOADED = "uploaded"
    STAGING = "staging"
    VALIDATING = "validating"
    AWAITING_APPROVAL = "awaiting_approval"
    INSERTING = "inserting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REVERTED = "reverted"


RUNNING = frozenset({State.STAGING, State.VALIDATING, State.INSERTING})
"""States in which a worker holds a lease."""

FINISHED = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.REVERTED})
"""States that have a completed_at."""

UNFINISHED = frozenset(State) - FINISHED

TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.UPLOADED: frozenset({State.STAGING, State.FAILED, State.CANCELLED}),
        # A running state goes back to staging only with a higher fence: a takeover.
        State.STAGING: frozenset({State.STAGING, State.VALIDATING, State.UPLOADED, State.FAILED, State.CANCELLED}),
        State.VALIDATING: frozenset(
            {
                State.STAGING,
                State.INSERTING,
                State.AWAITING_APPROVAL,
                State.UPLOADED,
                State.FAILED,
                State.CANCELLED,
            }
        ),
        State.AWAITING_APPROVAL: frozenset({State.INSERTING, State.FAILED, State.CANCELLED}),
        State.INSERTING: frozenset({State.STAGING, State.COMPLETED, State.UPLOADED, State.FAILED, State.CANCELLED}),
        State.COMPLETED: frozenset({State.REVERTED}),
        State.FAILED: frozenset({State.UPLOADED}),
        State.CANCELLED: frozenset(),
        State.REVERTED: frozenset(),
    }
)

SOURCES = ("simplicity", "jbi", "foil", "manual")
PRIORITIES = ("high", "normal", "low")
DEFAULT_SOURCE = "manual"
DEFAULT_PRIORITY = "normal"
DEFAULT_ERROR_THRESHOLD_PERCENT = 10
MAX_SILENT_ATTEMPTS = 3
"""Attempts that may end without a word before a batch fails as POISONED."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a batch may be loaded; ``reason`` is set exactly when it may not."""

    accepted: bool
    reason: str | None = None


def verdict(*, total: int, invalid: int, threshold_percent: int) -> Verdict:
    """Compare the error rate with the budget.

    A rate *above* the threshold is refused; exactly the threshold passes. Compared in whole numbers, so no
    rounding decides. The reason shows as many decimals (at least one) as it takes to see the breach.
    """
    if not 0 <= invalid <= total:
        raise ValueError(f"{invalid} invalid of {total} rows is impossible")
    if invalid * 100 <= threshold_percent * total:
        return Verdict(accepted=True)
    rate = Decimal(invalid) * 100 / Decimal(total)
    decimals = 1
    while round(rate, decimals) <= threshold_percent:
        decimals += 1
    reason = f"Error rate {rate:.{decimals}f}% exceeded the {threshold_percent}% budget ({invalid:,} of {total:,} rows)"
    return Verdict(accepted=False, reason=reason)


def error_rate_percent(*, total: int | None, invalid: int | None) -> Decimal | None:
    """Invalid rows per hundred, to two decimals; None where no row has been read."""
    if not total or invalid is None:
        return None
    return (Decimal(invalid) * 100 / Decimal(total)).quantize(Decimal("0.01"))


class LedgerError(Exception):
    """The books of a batch do not balance; nothing of it may be committed. Holds figures only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """A batch's books, counted on both sides: by the engine, and by the database inside the loading transaction."""

    total: int
    valid: int
    invalid: int
    inserted: int
    duplicate: int
    errors_stored: int
    conflicts_stored: int
    judgments_stored: int
    dollars_valid: Decimal
    dollars_duplicate: Decimal
    dollars_stored: Decimal

    def check(self) -> None:
        """Raise LedgerError naming every account that does not balance."""
        accounts = (
            ("total = valid + invalid", self.total, self.valid + self.invalid),
            ("valid = inserted + duplicate", self.valid, self.inserted + self.duplicate),
            ("errors stored = invalid", self.errors_stored, self.invalid),
            ("duplicates stored = duplicate", self.conflicts_stored, self.duplicate),
            ("judgments stored = inserted", self.judgments_stored, self.inserted),
            (
                "dollars valid = dollars stored + dollars duplicate",
                self.dollars_valid,
                self.dollars_stored + self.dollars_duplicate,
            ),
        )
        wrong = [f"{name}: {left} is not {right}" for name, left, right in accounts if left != right]
        if wrong:
            raise LedgerError("; ".join(wrong))
