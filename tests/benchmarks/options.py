"""The options of ``make bench``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.peers import PEERS
from tests.benchmarks.targets import LARGE_ROWS, LOCAL, ROWS, STOCK

CASES = {
    "random": "a file in random key order",
    "sorted": "a file in key order",
    "present": "the same rows again, all of which stand already",
    "differing": "all keys stand already with other values; has no target and runs only when it is named",
    "bad": "a file whose every row is refused",
    "small": "5,000 rows in the engine, warm",
    "large": "a file in random key order, five times as large; half the rounds",
    "client": "5,000 rows from POST to completed, as a client of the running stack sees it",
    "many": "100-row files, posted as fast as the running stack takes them, while the status is asked for",
}
"""Case -> what it does, in the order in which they run."""
BY_DEFAULT = tuple(case for case in CASES if case != "differing")
AT_EVERY_SETTING = ("random", "sorted", "present", "differing")
"""The cases that run at each of the server's settings; the others run once."""

_QUICK_ROWS = 50_000

_EPILOG = f"""\
cases, in the order in which they run:
{chr(10).join(f"  {case:<10} {about}" for case, about in CASES.items())}

The ratio is raw COPY's seconds over the whole job's, of one round on one server. Raw COPY takes the clean rows in file
order, as text, in the columns that the job itself writes, into an identical empty table. Ratios count at {STOCK}
settings, which are PostgreSQL's own defaults; {LOCAL} are those of 'dragonfly up'. random, sorted and present run at all
settings named, the others once. A figure at another size than its target's stands in brackets and fails nobody.

peers load the random file beside the job, at the first settings. They are not part of the installation:
  {".venv/bin/pip install pandas duckdb adbc-driver-postgresql"}
DuckDB writes through its postgres extension where that is installed too (duckdb-extension-postgres-scanner, which asks
for a DuckDB of its own version); it is never fetched.

exit status: 0 every "at least" is met, 1 one is not, 2 something could not run.
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for."""

    cases: tuple[str, ...]
    settings: tuple[str, ...]
    peers: tuple[str, ...]
    rows: int
    rounds: int
    quick: bool
    json: Path | None
    plot: Path | None
    report: Path | None
    command: str
    """How to measure this again."""

    @property
    def large_rows(self) -> int:
        """The rows of the case large."""
        return self.rows * (LARGE_ROWS // ROWS)

    @property
    def large_rounds(self) -> int:
        """The rounds of the case large."""
        return (self.rounds + 1) // 2


def parse(arguments: Sequence[str]) -> Options:
    """The options; leaves with status 2 where they are not understood, with 0 after --help."""
    parser = argparse.ArgumentParser(
        prog='make bench ARGS="..."',
        usage='make bench ARGS="[options]"  or  python -m tests.benchmarks [options]',
        description="Raw COPY against the whole job on one server, and the running stack as a client sees it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_ROWS:,} rows, one round, short windows")
    parser.add_argument(
        "--cases",
        type=_several(tuple(CASES)),
        default=BY_DEFAULT,
        metavar="A,B",
        help="the cases to run (all but differing)",
    )
    parser.add_argument("--rows", type=_positive, metavar="N", help=f"rows of the large files ({ROWS:,})")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds of the large files (3)")
    parser.add_argument(
        "--settings",
        type=_several((STOCK, LOCAL)),
        default=(STOCK, LOCAL),
        metavar="A,B",
        help=f"the server's settings: {STOCK}, {LOCAL} (both)",
    )
    parser.add_argument(
        "--peers", type=_several(tuple(PEERS)), default=(), metavar="A,B", help=f"beside them: {', '.join(PEERS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures as SVG")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write tables, machine and command as Markdown")
    found = parser.parse_args(arguments)
    # Where the files go is this machine's own, and changes no figure.
    asked = {name: getattr(found, name) for name in ("cases", "rows", "rounds", "settings", "peers")}
    typed = " ".join(
        ["--quick"] * found.quick
        + [
            f"--{name} {','.join(value) if isinstance(value, tuple) else value}"
            for name, value in asked.items()
            if value and value != parser.get_default(name)
        ]
    )
    return Options(
        cases=tuple(case for case in CASES if case in found.cases),
        settings=found.settings,
        peers=found.peers,
        rows=found.rows or (_QUICK_ROWS if found.quick else ROWS),
        rounds=found.rounds or (1 if found.quick else 3),
        quick=found.quick,
        json=found.json,
        plot=found.plot,
        report=found.report,
        command=f'make bench ARGS="{typed}"' if typed else "make bench",
    )


def _several(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        named = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        strange = [name for name in named if name not in known]
        if strange or not named:
            raise argparse.ArgumentTypeError(f"found {', '.join(strange) or 'nothing'}, expected {', '.join(known)}")
        return named

    return read


def _positive(text: str) -> int:
    number = int(text.replace(",", "").replace("_", "")) if text[:1].isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of at least 1")
    return number
