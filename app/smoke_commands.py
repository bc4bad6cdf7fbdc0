"""The smoke tests' commands: ``dragonfly smoke schema`` and ``dragonfly smoke e2e``, and each alone as a module."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING

import click

from app.client_commands import client_for
from app.command import COULD_NOT, CouldNotError, takes_settings
from app.settings import Settings, SettingsError

if TYPE_CHECKING:
    from monitoring.smoke import Report
    from monitoring.smoke_trial import Stop

_verbose = click.option("--verbose", is_flag=True, help="Show every fact that was looked at, and how long it took.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def smoke() -> None:
    """Try out a deployment: exit status 0 passed, 1 failed, 2 could not set up."""


@smoke.command()
@_verbose
@_json
@takes_settings
def schema(settings: Settings, *, verbose: bool, as_json: bool) -> None:
    """Try the schema in seven cases, straight on DATABASE_URL.

    All of it in one transaction that is rolled back, as the application's own role. Exit status 0: all passed. 1: one
    failed. 2: the database cannot be reached, or was never migrated.
    """
    from monitoring import smoke_simplicity
    from monitoring.smoke import CouldNotSetUpError

    try:
        report = smoke_simplicity.run(settings.require_database_url(), environment=settings.env)
    except CouldNotSetUpError as problem:
        raise CouldNotError(str(problem)) from None
    _end(report, verbose=verbose, as_json=as_json)


@smoke.command()
@_verbose
@_json
@takes_settings
def e2e(settings: Settings, *, verbose: bool, as_json: bool) -> None:
    """Try the whole pipeline in three cases through the HTTP API, and remove every trace of them.

    Needs DATABASE_DIRECT_URL and STORAGE_URL beside the server's address and a key: only the tables' owner may remove
    judgments. Exit status 0: all passed. 1: one failed, or not all could be removed. 2: not begun, nothing was uploaded.
    """
    from app.client import NoAnswerError, RefusedError
    from monitoring.smoke import CouldNotSetUpError
    from monitoring.smoke_e2e import Site, run
    from monitoring.smoke_trial import Stop

    if settings.database_direct_url is None:
        raise CouldNotError(
            "DATABASE_DIRECT_URL is not set and no local stack runs on "
            f"{settings.home}: the test needs it to remove what it uploads, so nothing was uploaded."
        )
    try:
        with client_for(settings) as client:
            client.state()
        site = Site(
            url=settings.dragonfly_url or "",
            database_direct_url=settings.database_direct_url,
            storage=settings.storage,
        )
        report = run(site, environment=settings.env, stop=_stopped_by_signals(Stop()))
    except (NoAnswerError, RefusedError, CouldNotSetUpError) as problem:
        raise CouldNotError(str(problem)) from None
    _end(report, verbose=verbose, as_json=as_json)


def run_alone(command: click.Command, module: str) -> None:
    """``python -m module``: the command, where a wrong setting is a sentence too."""
    try:
        command(prog_name=f"python -m {module}")
    except SettingsError as problem:
        click.echo(f"Error: {problem}", err=True)
        sys.exit(COULD_NOT)


def _stopped_by_signals(stop: Stop) -> Stop:
    """Ctrl-C and the like end the test after its clean-up; a second one ends it at once, and the next run cleans up."""

    def request(number: int, _: object) -> None:
        stop.request()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, request)
    return stop


def _end(report: Report, *, verbose: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        report.show(verbose=verbose)
    sys.exit(report.exit_status)
