"""What the smoke tests share: cases that pass or fail with a sentence, the report of a run, and how it is printed."""

from __future__ import annotations

import datetime as dt
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from sqlalchemy.exc import SQLAlchemyError

_FIRST_LINES = 5


class CouldNotSetUpError(Exception):
    """The test could not begin; one sentence with what to do. Exit status 2."""


class CaseFailedError(Exception):
    """A case found what it should not."""

    def __init__(self, found: str, *, expected: str, remedy: str) -> None:
        super().__init__(f"Found {found}; expected {expected}. {remedy}")


class Facts:
    """What a case has looked at so far, for --verbose."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def expect(self, what: str, found: object, expected: object, *, remedy: str) -> None:
        """State a fact. Raises CaseFailedError where it is none."""
        if found != expected:
            raise CaseFailedError(f"{what}: {_shown(found)}", expected=_shown(expected), remedy=remedy)
        self.lines.append(f"{what}: {_shown(found)}")


@dataclass(frozen=True, slots=True)
class Case:
    """``run`` states its facts and returns the sentence that says what was found to be well."""

    name: str
    run: Callable[[Facts], str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case."""

    case: str
    passed: bool
    message: str
    elapsed_ms: int
    facts: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """As --json prints it."""
        return {
            "case": self.case,
            "status": "PASS" if self.passed else "FAIL",
            "message": self.message,
            "elapsed_ms": self.elapsed_ms,
            "facts": list(self.facts),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run. ``clean_up`` is no case, but a run that could not clean up has not passed."""

    test: str
    environment: str
    timestamp: dt.datetime
    outcomes: Sequence[Outcome]
    elapsed_ms: int
    clean_up: Outcome | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def passed(self) -> bool:
        """Every case, and the clean-up."""
        return all(outcome.passed for outcome in self.outcomes) and (self.clean_up is None or self.clean_up.passed)

    @property
    def exit_status(self) -> int:
        """0 passed, 1 failed."""
        return 0 if self.passed else 1

    def as_json(self) -> dict[str, Any]:
        """As --json prints it."""
        good = sum(outcome.passed for outcome in self.outcomes)
        return {
            "timestamp": self.timestamp.isoformat(),
            "environment": self.environment,
            "test": self.test,
            "overall_status": "passed" if self.passed else "failed",
            "cases": [outcome.as_json() for outcome in self.outcomes],
            "clean_up": None if self.clean_up is None else self.clean_up.as_json(),
            "notes": list(self.notes),
            "metrics": {
                "total_cases": len(self.outcomes),
                "passed": good,
                "failed": len(self.outcomes) - good,
                "elapsed_ms": self.elapsed_ms,
            },
        }

    def show(self, *, verbose: bool) -> None:
        """Print it for a person."""
        shown = [*self.outcomes, *([] if self.clean_up is None else [self.clean_up])]
        width = max(len(outcome.case) for outcome in shown)
        for note in self.notes:
            click.echo(note)
        for outcome in shown:
            word = click.style("PASS", fg="green") if outcome.passed else click.style("FAIL", fg="red")
            click.echo(f"{word}  {outcome.case:<{width}}  {outcome.message}")
            if verbose:
                for line in [*outcome.facts, f"{outcome.elapsed_ms:,} ms"]:
                    click.echo(f"      {'':<{width}}  {line}")
        figures = self.as_json()["metrics"]
        click.echo(
            f"{'passed' if self.passed else 'failed'} at {self.timestamp:%Y-%m-%d %H:%M:%S} UTC, {self.environment}: "
            f"{figures['passed']} of {figures['total_cases']} cases of smoke {self.test} passed "
            f"in {self.elapsed_ms / 1000:.1f} s"
        )


def run_case(case: Case) -> Outcome:
    """Run it; whatever goes wrong is the case's failure, told without a row's data."""
    began = time.monotonic()
    facts = Facts()
    try:
        message, passed = case.run(facts), True
    except CaseFailedError as problem:
        message, passed = str(problem), False
    except SQLAlchemyError as problem:
        message, passed = (
            f"Found {database_problem(problem)} from the database; expected none. Its log says more.",
            False,
        )
    except Exception as problem:
        place = traceback.extract_tb(problem.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        message, passed = f"Found {type(problem).__name__} at {where}; expected none.", False
    return Outcome(case.name, passed, message, milliseconds_since(began), facts.lines)


def database_problem(problem: Exception) -> str:
    """Kind and SQLSTATE of a database error: its text may hold a row."""
    original = getattr(problem, "orig", None) or problem
    state = getattr(original, "sqlstate", None)
    return f"{type(original).__name__}, SQLSTATE {state}" if state else type(original).__name__


def listed(names: Sequence[str]) -> str:
    """The first few of many, and how many more there are."""
    first = "; ".join(names[:_FIRST_LINES])
    return first if len(names) <= _FIRST_LINES else f"{first}; and {len(names) - _FIRST_LINES} more"


def milliseconds_since(began: float) -> int:
    """Of time.monotonic()."""
    return round((time.monotonic() - began) * 1000)


def _shown(value: object) -> str:
    return "nothing" if value is None else f"'{value}'" if isinstance(value, str) else str(value)
