"""The benchmark's command: runs the cases, judges them, and prints and writes what was measured."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import psycopg
import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.local import LocalStackError
from tests.benchmarks import cases, peers, report, system
from tests.benchmarks.options import AT_EVERY_SETTING, Options, parse
from tests.benchmarks.plot import draw
from tests.benchmarks.results import BenchmarkError, Result
from tests.benchmarks.server import Server, server
from tests.benchmarks.targets import WHOLE_SYSTEM, measure

_TROUBLE = (
    BenchmarkError,
    LocalStackError,
    SQLAlchemyError,
    psycopg.Error,
    httpx.HTTPError,
    subprocess.SubprocessError,
    OSError,
)

MET, NOT_MET, COULD_NOT_RUN = 0, 1, 2


class Run:
    """One run: its results so far, and whether something could not be measured."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.results: list[Result] = []
        self.failed = False
        self.postgres: str | None = None

    def all(self) -> None:
        """Every case that was asked for; one that fails leaves the others alone."""
        options = self._options
        folder = Path(tempfile.mkdtemp(prefix="dragonfly-bench-files-"))
        try:
            for number, settings in enumerate(options.settings):
                chosen = [
                    case
                    for case in options.cases
                    if case in AT_EVERY_SETTING or (number == 0 and case not in WHOLE_SYSTEM)
                ]
                if chosen:
                    self._guard(f"the server at {settings} settings", partial(self._engine, folder, settings, chosen))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        asked = [case for case in options.cases if case in WHOLE_SYSTEM]
        if asked:
            self._guard("the stack", lambda: self._system(asked))

    def _engine(self, folder: Path, settings: str, chosen: list[str]) -> None:
        with server(settings) as running:
            self.postgres = running.version
            for case in chosen:
                self._measure(case, settings, partial(self._case, running, folder, case, settings))

    def _case(self, running: Server, folder: Path, case: str, settings: str) -> Result:
        options = self._options
        if case == "small":
            return cases.small(running, folder, settings=settings, rounds=5 if options.quick else 20)
        if case == "bad":
            return cases.all_bad(running, folder, settings=settings, rows=options.rows, rounds=options.rounds)
        large = case == "large"
        return cases.in_turns(
            running,
            folder,
            case=case,
            settings=settings,
            rows=options.large_rows if large else options.rows,
            rounds=options.large_rounds if large else options.rounds,
            beside=options.peers if case == "random" and settings == options.settings[0] else (),
        )

    def _system(self, chosen: list[str]) -> None:
        quick = self._options.quick
        with system.stack() as running:
            if "client" in chosen:
                self._measure("client", "", lambda: system.client(running, files=10 if quick else 30))
            if "many" in chosen:
                self._measure("many", "", lambda: system.many(running, seconds=5 if quick else 20))

    def _measure(self, case: str, settings: str, work: Callable[[], Result]) -> None:
        def kept() -> None:
            self.results.append(work())

        began = time.monotonic()
        self._guard(" ".join(filter(None, (case, settings))), kept)
        print(f"{case:<10} {settings:<6} {time.monotonic() - began:6.0f} s", flush=True)

    def _guard(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except _TROUBLE as problem:
            self.failed = True
            print(f"{what} could not be measured: {problem}", file=sys.stderr, flush=True)


def _files(options: Options, run: Run, about: dict[str, str]) -> Iterator[tuple[Path, str]]:
    if options.json:
        yield options.json, report.as_json(run.results, about, options.command)
    if options.report:
        yield options.report, report.as_markdown(run.results, about, options.command)
    if options.plot:
        yield options.plot, draw("Dragonfly's whole job, measured", report.panels(run.results))


def main(arguments: list[str]) -> int:
    """The exit status: whether every bound is met, or something could not be measured."""
    options = parse(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for name in options.peers:
        if install := peers.missing(name):
            print(f"peer {name} is not installed: {install}", flush=True)
    about = report.machine(None)
    run = Run(options)
    run.all()
    if run.postgres:
        about["PostgreSQL"] = run.postgres
    for table in report.tables(run.results):
        print("\n" + table.plain())
    print("\n" + "\n".join(f"{name}: {value}" for name, value in about.items()))
    for path, text in _files(options, run, about):
        path.write_text(text, encoding="utf-8")
    if run.failed:
        return COULD_NOT_RUN
    return NOT_MET if any(each.fails for each in measure(run.results)) else MET


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
