"""What an incident of docs/RUNBOOK_OPS.md is, and the register of those that are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from tests.acceptance.stage import Stage

Variables = dict[str, str]
"""What the page has the reader put into the shell."""


def nothing(_stage: Stage) -> None:
    """Nothing happens."""


def no_more(_stage: Stage, _variables: Variables) -> None:
    """That the check is healthy is all."""


@dataclass(frozen=True)
class Incident:
    """How an incident is made, until the block is left.

    ``check`` is raised by it; None where it is no alert but something to be done. ``relief`` happens outside once the check
    has been seen raised, ``setting`` is what the page has the reader put into the settings, ``over`` what else holds at
    the end.
    """

    make: Callable[[Stage], AbstractContextManager[Variables]]
    check: str | None = None
    relief: Callable[[Stage], None] = nothing
    setting: Variables = field(default_factory=dict)
    over: Callable[[Stage, Variables], None] = no_more


INCIDENTS: dict[tuple[str, str], list[Incident]] = {}
"""By section and part of the runbook, each of which may end several; a section whose blocks all belong together has no part."""

Maker = Callable[[Stage], Iterator[Variables]]


def made(section: str, part: str = "", **about: object) -> Callable[[Maker], Maker]:
    """Register the decorated generator as an incident of a part of the runbook."""

    def register(maker: Maker) -> Maker:
        incident = Incident(contextmanager(maker), **about)  # type: ignore[arg-type]
        INCIDENTS.setdefault((section, part), []).append(incident)
        return maker

    return register
