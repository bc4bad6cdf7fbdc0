"""The command of the sentinel: ``dragonfly sentinel``, and alone, without Celery and without Redis, ``python -m monitoring.sentinel``."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

from app.command import COULD_NOT, takes_settings
from app.settings import LONGEST_INTERVAL_SECONDS, Settings, SettingsError
from monitoring.report import Level, Report

if TYPE_CHECKING:
    from monitoring.scene import Broker

INTERVAL_SECONDS = 300
BROKER_TIMEOUT_SECONDS = 2.0
_COLOURS = {Level.HEALTHY: "green", Level.WARNING: "yellow", Level.CRITICAL: "red"}


class CheckName(click.ParamType[str]):
    """The name of a check; the checks are loaded only when one is named."""

    name = "check"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from monitoring.checks import CHECKS

        if value not in CHECKS:
            self.fail(f"There is no check {value!r}. The checks are: {', '.join(CHECKS)}.", param, ctx)
        return value


class Seconds(click.FloatRange):
    """So many seconds, which neither end of the range keeps from being no number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each run.")
@click.option("--loop", is_flag=True, help="Run again and again until stopped.")
@click.option(
    "--interval",
    type=Seconds(1, LONGEST_INTERVAL_SECONDS),
    default=INTERVAL_SECONDS,
    show_default=True,
    help="Seconds between the runs of --loop.",
)
@click.option(
    "--check",
    "checks",
    type=CheckName(),
    metavar="NAME",
    multiple=True,
    help="Run this check only, and neither record it nor alert; may be given again. A wrong name lists them all.",
)
@takes_settings
def sentinel(settings: Settings, as_json: bool, loop: bool, interval: float, checks: tuple[str, ...]) -> None:
    """Check the pipeline's health: exit status 0 healthy, 1 degraded, 2 critical.

    Needs PostgreSQL only, and says so when it is gone. A full run is recorded, and a change of state is told to Discord
    when DISCORD_WEBHOOK_URL is set. What each check looks at, and what to do, stands in docs/SRE_SENTINEL_GUIDE.md.
    """
    from monitoring.sentinel import Sentinel

    # Who runs it more rarely than beat gives what it waits for no more time than beat does: they would contradict each other.
    patience = min(interval, settings.sentinel_interval_seconds)
    watching = Sentinel(settings=settings, interval_seconds=patience, broker=broker_of(settings))
    stopping = threading.Event()
    if loop:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopping.set())
    while True:
        report = watching.run(checks) if checks else watching.watch()
        _print(report, as_json=as_json)
        if not checks:
            watching.deliver()
        if not loop or stopping.wait(interval):
            sys.exit(report.status.exit_status)


def broker_of(settings: Settings) -> Broker | None:
    """A client that never waits long; None where there is no address."""
    import redis

    from monitoring.scene import NoBroker

    if settings.redis_url is None:
        return None
    try:
        return redis.Redis.from_url(
            settings.redis_url, socket_timeout=BROKER_TIMEOUT_SECONDS, socket_connect_timeout=BROKER_TIMEOUT_SECONDS
        )
    except ValueError:
        # Its text may hold the password.
        return NoBroker("REDIS_URL is no address of Redis: it begins with redis://, rediss:// or unix://")


def main() -> None:
    """``python -m monitoring.sentinel``: logs go to stderr, and a wrong setting is a sentence."""
    try:
        sentinel(prog_name="python -m monitoring.sentinel")
    except SettingsError as problem:
        click.echo(f"Error: {problem}", err=True)
        sys.exit(COULD_NOT)
    except Exception as defect:
        # Exit status 1 would say degraded. Its text may hold anything.
        click.echo(f"Error: unexpected {type(defect).__name__}; this is a fault of Dragonfly's.", err=True)
        sys.exit(COULD_NOT)


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.as_json()))
        return
    width = max(len(finding.check) for finding in report.findings)
    for finding in report.findings:
        level = click.style(f"{finding.level.value:<8}", fg=_COLOURS[finding.level])
        click.echo(f"{level}  {finding.check:<{width}}  {finding.message}")
    figures = report.as_json()["metrics"]
    click.echo(
        f"{report.status.value} at {report.timestamp:%Y-%m-%d %H:%M:%S} UTC, {report.environment}: "
        f"{figures['total_checks']} checks, {figures['critical_alerts']} critical, {figures['warning_alerts']} warning"
    )
