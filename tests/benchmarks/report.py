"""The results in words: tables for the terminal and for a page, the machine, JSON, and what the plot shows."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.plot import Bar, Panel
from tests.benchmarks.results import Result
from tests.benchmarks.targets import LOCAL, STOCK, WHOLE_SYSTEM, Measure, measure

Row = Sequence[str]

_TITLES = {
    "random": "random key order",
    "large": "random key order",
    "sorted": "in key order",
    "present": "all present",
    "differing": "all present, other values",
    "bad": "all bad",
    "small": "warm, in the engine",
}


@dataclass(frozen=True)
class Table:
    """A title, and rows of which the first holds the columns' names."""

    title: str
    rows: Sequence[Row]

    def plain(self) -> str:
        """For the terminal."""
        widths = [max(len(row[column]) for row in self.rows) for column in range(len(self.rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in self.rows]
        return "\n".join([self.title, *(line.rstrip() for line in lines)])

    def markdown(self) -> str:
        """For a page."""
        head, *rest = ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([f"### {self.title}", "", head, "|---" * len(self.rows[0]) + "|", *rest])


def tables(results: Sequence[Result]) -> list[Table]:
    """Targets first, then what was measured."""
    found = [_targets(measure(results)), _engine(results), _system(results), _peers(results), _ways(results)]
    return [table for table in found if len(table.rows) > 1]


def _targets(measures: Sequence[Measure]) -> Table:
    rows = [("work", "at least", "reach for", "measured", "verdict")]
    for each in measures:
        target = each.target
        rows.append(
            (
                target.work,
                target.bound(target.at_least),
                "" if target.reach is None else target.bound(target.reach),
                "" if each.value is None else target.shown(each.value),
                each.verdict,
            )
        )
    return Table("Targets", rows)


def _engine(results: Sequence[Result]) -> Table:
    rows: list[Row] = [
        (
            *("settings", "file", "rows", "rounds", "raw COPY s", "job s", "ratio (each round)"),
            *("raw rows/s", "job rows/s", "check s", "load s", "anon MB", "RSS MB"),
        )
    ]
    for result in results:
        if result.case in WHOLE_SYSTEM:
            continue
        figures = result.figures
        rounds = " ".join(f"{ratio:.2f}" for ratio in result.samples.get("ratios", []))
        rows.append(
            (
                result.settings,
                _TITLES[result.case],
                f"{result.rows:,}",
                str(result.rounds),
                f"{figures['raw_seconds']:.2f}" if "raw_seconds" in figures else "",
                f"{figures['seconds']:.3f}" if figures["seconds"] < 1 else f"{figures['seconds']:.2f}",
                f"{figures['ratio']:.2f} ({rounds})" if rounds else "",
                f"{figures['raw_rows_per_second']:,.0f}" if "raw_seconds" in figures else "",
                f"{figures['rows_per_second']:,.0f}",
                f"{figures['check_ms'] / 1000:.2f}",
                f"{figures['load_ms'] / 1000:.2f}",
                f"{figures['anonymous_mb']:.0f}",
                f"{figures['resident_mb']:.0f}",
            )
        )
    return Table("The engine and raw COPY", rows)


def _system(results: Sequence[Result]) -> Table:
    names = {
        "completed_ms": "POST to completed, median ms",
        "completed_p99_ms": "the same, p99 ms",
        "post_ms": "of that the POST, median ms",
        "until_claimed_ms": "received until claimed, median ms",
        "at_work_ms": "claimed until completed, median ms",
        "check_ms": "check, median ms",
        "load_ms": "load, median ms",
        "batches_per_second": "batches/s",
        "get_p50_ms": "GET status, median ms",
        "get_p99_ms": "GET status, p99 ms",
        "anonymous_mb": "pool child, anon MB",
        "resident_mb": "pool child, RSS MB",
    }
    rows: list[Row] = [("files", "figure", "measured")]
    for result in results:
        if result.case in WHOLE_SYSTEM:
            what = f"{result.rounds:,} of {result.rows:,} rows"
            rows += [
                (what, title, f"{result.figures[name]:.1f}") for name, title in names.items() if name in result.figures
            ]
    return Table("The running stack (dragonfly up, two pool children)", rows)


def _peers(results: Sequence[Result]) -> Table:
    rows: list[Row] = [("peer", "s", "ratio", "rows/s", "rows stored", "anon MB")]
    for result in results:
        named = [(peer.name, peer.figures) for peer in result.peers]
        for name, figures in [*named, ("Dragonfly", result.figures)] if named else ():
            if not figures:
                rows.append((name, "not installed", "", "", "", ""))
                continue
            rows.append(
                (
                    name,
                    f"{figures['seconds']:.2f}",
                    f"{figures['ratio']:.2f}",
                    f"{figures['rows_per_second']:,.0f}",
                    f"{figures['inserted']:,.0f}",
                    f"{figures['anonymous_mb']:.0f}",
                )
            )
    return Table("Peers on the random file (ratio: raw COPY's seconds over theirs)", rows)


def _ways(results: Sequence[Result]) -> Table:
    rows: list[Row] = [("peer", "its way", "what it does not do")]
    rows += [
        (peer.name, peer.way, f"not installed: {peer.missing}" if peer.missing else peer.omits)
        for result in results
        for peer in result.peers
    ]
    return Table("What the peers do not do", rows)


def machine(postgres: str | None) -> dict[str, str]:
    """What the figures hang on; nothing that names this machine."""
    cpu = _first(r"^model name\s*: (.+)$", Path("/proc/cpuinfo")) or platform.machine()
    memory = int(_first(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo")) or 0)
    found = {
        "processors": f"{os.cpu_count()} x {cpu}",
        "memory": f"{memory / 1024 / 1024:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "load before the run": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "pyarrow", "psycopg", "celery")},
    }
    return found if postgres is None else {**found, "PostgreSQL": postgres}


def _first(pattern: str, path: Path) -> str | None:
    try:
        found = re.search(pattern, path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def as_json(results: Sequence[Result], about: dict[str, str], command: str) -> str:
    """Every figure and every sample."""
    judged: list[dict[str, Any]] = [
        {
            "work": each.target.work,
            "at_least": each.target.at_least,
            "reach_for": each.target.reach,
            "less_is_better": each.target.upper,
            "measured": each.value,
            "verdict": each.verdict,
        }
        for each in measure(results)
    ]
    document = {
        "command": command,
        "machine": about,
        "targets": judged,
        "results": [dataclasses.asdict(result) for result in results],
    }
    return json.dumps(document, indent=2) + "\n"


def as_markdown(results: Sequence[Result], about: dict[str, str], command: str) -> str:
    """A section of a page."""
    parts = [
        "## Measured",
        "",
        "```sh",
        command,
        "```",
        "",
        "| machine | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in about.items()),
        "",
        "A ratio is raw COPY's seconds over the whole job's in the same round, so more is better; medians of the rounds. "
        "Memory is the most of all rounds. A verdict in brackets is one at another size than its target's.",
    ]
    for table in tables(results):
        parts += ["", table.markdown()]
    return "\n".join(parts) + "\n"


def panels(results: Sequence[Result]) -> list[Panel]:
    """What the plot shows: ratios, memory, milliseconds and rates, each with its targets.

    A bar measured at another size than its target's has its label in brackets.
    """
    found = {each.target.name: each for each in measure(results)}

    def bars(*names: str) -> tuple[Bar, ...]:
        return tuple(
            Bar(
                label=each.target.work if each.counts else f"({each.target.work})",
                value=each.value,
                text=each.target.shown(each.value),
                at_least=each.target.at_least,
                reach=each.target.reach,
            )
            for each in (found[name] for name in names)
            if each.value is not None
        )

    compared = [result for result in results if "ratio" in result.figures]
    local = [
        _ratio_bar(f"{_TITLES[result.case]}, {LOCAL} settings", result.figures)
        for result in compared
        if result.settings == LOCAL
    ]
    others = [
        _ratio_bar(f"{peer.name}, random key order", peer.figures, ours=False)
        for result in compared
        for peer in result.peers
        if peer.figures
    ]
    raw = Bar(label="raw COPY", value=1, text="1.00x", ours=False)
    ratios = (raw, *bars("random", "large", "sorted", "present"), *local, *others) if compared else ()
    bound = found["memory"].target
    memory = tuple(
        Bar(
            label=f"{result.rows:,} rows, {_TITLES[result.case]}",
            value=result.figures["anonymous_mb"],
            text=bound.shown(result.figures["anonymous_mb"]),
            at_least=bound.at_least,
            reach=bound.reach,
        )
        for result in results
        if result.settings == STOCK and result.case not in WHOLE_SYSTEM
    )
    return [
        Panel("Speed against raw COPY of the same round, more is better", "times", ratios),
        Panel("Anonymous memory of the worker, less is better", "MB", memory),
        Panel("Waiting, less is better", "ms", bars("small", "client", "get")),
        Panel("Small files, more is better", "batches/s", bars("many")),
        Panel("A file of nothing but bad rows, more is better", "rows/s", bars("bad")),
    ]


def _ratio_bar(label: str, figures: dict[str, float], *, ours: bool = True) -> Bar:
    return Bar(label=label, value=figures["ratio"], text=f"{figures['ratio']:.2f}x", ours=ours)
