"""What the sentinel says: the finding of one check, and the report of a run with its exit status."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

NEXT = "next"
"""Among a finding's details: what its check hands to its next run. It outlives a run in which the check cannot run."""


class Level(StrEnum):
    """How a check stands. An alert is anything but HEALTHY."""

    HEALTHY = "HEALTHY"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"

    @property
    def rank(self) -> int:
        """Higher is worse."""
        return list(Level).index(self)


class Status(StrEnum):
    """How the whole pipeline stands; the exit status of the command is its place: 0, 1, 2."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    CRITICAL = "critical"

    @property
    def exit_status(self) -> int:
        """0 healthy, 1 degraded, 2 critical."""
        return list(Status).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    ``message`` names the figure and the threshold. ``details`` holds figures, ids, codes and times only (JSON types):
    it goes to logs and alerts, so never a cell of a row, a file name or an address with a password.
    """

    check: str
    level: Level
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As it is printed, stored and sent."""
        return {"check": self.check, "level": self.level.value, "message": self.message, "details": dict(self.details)}


@dataclass(frozen=True, slots=True)
class Report:
    """One run: ``findings`` has every check that ran, in the order of the checks."""

    timestamp: dt.datetime
    environment: str
    findings: Sequence[Finding]

    @property
    def alerts(self) -> list[Finding]:
        """What is not healthy."""
        return [finding for finding in self.findings if finding.level is not Level.HEALTHY]

    @property
    def status(self) -> Status:
        """Critical where any check is, degraded where any warns."""
        worst = max((finding.level.rank for finding in self.findings), default=0)
        return list(Status)[worst]

    def as_json(self) -> dict[str, Any]:
        """The report as ``--json`` prints it."""
        alerts = self.alerts
        critical = sum(finding.level is Level.CRITICAL for finding in alerts)
        return {
            "timestamp": self.timestamp.isoformat(),
            "environment": self.environment,
            "overall_status": self.status.value,
            "alerts": [finding.as_json() for finding in alerts],
            "metrics": {
                "total_checks": len(self.findings),
                "alerts_triggered": len(alerts),
                "critical_alerts": critical,
                "warning_alerts": len(alerts) - critical,
            },
        }
