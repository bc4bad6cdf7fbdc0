"""What is to be reached, and the verdict on what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.results import Result

REACHED, MET, BELOW = "reached", "met", "below"
NOT_MEASURED = "not measured"

STOCK, LOCAL = "stock", "local"

ROWS = 1_000_000
LARGE_ROWS = 5 * ROWS
SMALL_ROWS = 5_000
TINY_ROWS = 100

_MOST_MB, _FEW_MB = 256, 150


@dataclass(frozen=True, kw_only=True)
class Target:
    """One line of the table: a figure, what it has to reach at least, and what to reach for.

    ``cases`` are those that ``figure`` reads, by name, at the settings that count. ``upper`` says that less is better.
    """

    name: str
    work: str
    cases: tuple[str, ...]
    figure: Callable[[Mapping[str, Result]], float]
    at_least: float
    reach: float | None
    form: str
    upper: bool = False
    any_size: bool = False

    def shown(self, value: float) -> str:
        """The value with its unit."""
        return self.form.format(value)

    def bound(self, value: float) -> str:
        """The value as a bound."""
        return ("<= " if self.upper else ">= ") + self.shown(value)

    def verdict(self, value: float) -> str:
        """``reached``, ``met`` where only the least is, else ``below``."""
        sign = -1 if self.upper else 1
        if self.reach is not None and sign * value >= sign * self.reach:
            return REACHED
        return MET if sign * value >= sign * self.at_least else BELOW


@dataclass(frozen=True)
class Measure:
    """A target and what was measured; None where its cases did not run."""

    target: Target
    value: float | None
    counts: bool
    """False for a run at another size than the target's: its verdict is shown in brackets and fails nobody."""

    @property
    def verdict(self) -> str:
        """As the table shows it."""
        if self.value is None:
            return NOT_MEASURED
        verdict = self.target.verdict(self.value)
        return verdict if self.counts else f"({verdict})"

    @property
    def fails(self) -> bool:
        """Whether it makes the run fail."""
        return self.counts and self.value is not None and self.target.verdict(self.value) == BELOW


def _of(case: str, figure: str) -> Callable[[Mapping[str, Result]], float]:
    return lambda found: found[case].figures[figure]


def _target(
    work: str, case: str, figure: str, at_least: float, reach: float | None, *, form: str, name: str = "", **more: bool
) -> Target:
    read = _of(case, figure)
    return Target(
        name=name or case, work=work, cases=(case,), figure=read, at_least=at_least, reach=reach, form=form, **more
    )


TARGETS: tuple[Target, ...] = (
    _target("1M rows, random key order", "random", "ratio", 1.3, 1.5, form="{:.2f}x"),
    _target("5M rows, random key order", "large", "ratio", 1.1, 1.5, form="{:.2f}x"),
    _target("1M rows, already in key order", "sorted", "ratio", 0.6, 0.8, form="{:.2f}x"),
    _target("1M rows, all already present", "present", "ratio", 1.2, 1.5, form="{:.2f}x"),
    Target(
        name="memory",
        work="anonymous memory of the worker, any case",
        cases=(),
        figure=lambda found: max(result.figures["anonymous_mb"] for result in found.values()),
        at_least=_MOST_MB,
        reach=_FEW_MB,
        form="{:.0f} MB",
        upper=True,
        any_size=True,
    ),
    Target(
        name="growth",
        work="anonymous memory, 5M rows against 1M",
        cases=("random", "large"),
        figure=lambda found: found["large"].figures["anonymous_mb"] / found["random"].figures["anonymous_mb"],
        at_least=1.15,
        reach=None,
        form="{:.2f} times",
        upper=True,
    ),
    _target("5,000 rows in the engine, warm", "small", "job_ms", 60, 40, form="{:.0f} ms", upper=True),
    _target("5,000 rows, POST to completed", "client", "completed_ms", 250, 150, form="{:.0f} ms", upper=True),
    _target("100-row files, sustained", "many", "batches_per_second", 25, 40, form="{:.1f} batches/s"),
    _target("GET status meanwhile, p99", "many", "get_p99_ms", 50, None, form="{:.0f} ms", upper=True, name="get"),
    _target("1M rows, all of them bad", "bad", "rows_per_second", 40_000, 80_000, form="{:,.0f} rows/s"),
    _target(
        "anonymous memory, all rows bad",
        "bad",
        "anonymous_mb",
        _MOST_MB,
        _FEW_MB,
        form="{:.0f} MB",
        upper=True,
        name="bad memory",
    ),
)
"""The bounds of the whole job, for two cores with the server included; ratios are those at stock settings."""


def measure(results: Sequence[Result]) -> list[Measure]:
    """Every target, with its figure where it was measured.

    Cases on a server of their own count at stock settings only; the whole system has the local server's.
    """
    counted = {result.case: result for result in results if result.settings == STOCK or result.case in WHOLE_SYSTEM}
    return [_measure(target, counted) for target in TARGETS]


WHOLE_SYSTEM = ("client", "many")


def _measure(target: Target, found: Mapping[str, Result]) -> Measure:
    used = target.cases or tuple(found)
    if not used or any(case not in found for case in used):
        return Measure(target, None, counts=False)
    full = target.any_size or all(found[case].full_size for case in used)
    return Measure(target, target.figure(found), counts=full)
