"""What a case measured, in the form in which it is judged, shown and written as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


class BenchmarkError(Exception):
    """A case could not be measured; the message says why."""


@dataclass(frozen=True, kw_only=True)
class PeerResult:
    """Another way to load the same file, or what to install for it."""

    name: str
    way: str
    omits: str
    """What it does not do, of what the whole job does."""
    missing: str = ""
    """The command that installs it, where it is not installed; then there are no figures."""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case at one server's settings."""

    case: str
    settings: str
    rows: int
    rounds: int
    full_size: bool
    """Whether these are the rows that the case's target speaks of."""
    figures: dict[str, float]
    """Medians; memory is the most of all rounds."""
    samples: dict[str, list[float]] = field(default_factory=dict)
    peers: tuple[PeerResult, ...] = ()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
