"""What the rounds of a campaign add up to: docs/reference/faults.md, from the records that they have written."""

from __future__ import annotations

import math
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from app.local.postgres import Postgres, find_programs
from tests.faults.faults import KINDS
from tests.faults.kinds.work import Undisturbed
from tests.faults.rounds import Record

CONTROL = Undisturbed.name
FEWEST_OTHERS = 100
"""Of fewer times no 99th percentile is told."""
_ROUNDS_THAT_TELL = 20
"""Of so many rounds every promise must be measured; of fewer the page says that there are too few."""
MOST_SLOWER = 2.0
RESUMED_SECONDS = 20.0
WIPED_SECONDS = 60.0
WIPED = "Redis killed and restarted empty"
_UPLOADS = ("Redis down at upload", "Redis hung (SIGSTOP)")
MOST_ADDED_SECONDS = 0.25

_HEAD = """# Faults

What was done to a running Dragonfly, how often, and what became of every row. Each round strikes the real stack (`dragonfly up` and
a second worker, as processes), proves that the fault has fired, waits for the verdict of every file that was answered 202, and then
compares the database with the files, cell by cell. A round that does not fire fails.

| invariant, checked after every round | by |
|---|---|
| I1 every upload answered 202 reaches a terminal state | waiting for it, at most 60 s (90 s where the database restarts) |
| I2 inserted + duplicate + invalid = rows in the file, rows and dollars | every row of the file has one fate: a judgment with all its own cells and its line, a row error with its code and its bytes, or a conflict |
| I3 no judgment twice | case numbers of the file that stand more than once, row indexes that do |
| I4 none missing | case numbers of the file that do not stand |
| I5 a reader sees all or nothing | a connection that looks at each batch about every 10 ms, in one snapshot, all the while |
| I6 no cell of a row outside the database and the blob store | marked cells and file names looked for in all logs, in the broker's keys, in Flower, in alerts and in the bodies of errors |
| I7 other batches' p99 at most doubles | small files sent one after the other beside each round, against those of the control rounds |

"""


def page(records: Sequence[Record], mutations: str = "") -> str:
    """The whole page."""
    parts = [_HEAD]
    for lease in sorted({record.lease_seconds for record in records}):
        parts.append(_table(lease, [record for record in records if record.lease_seconds == lease]))
    parts.append(_MUTATED + (mutations or "Not run.\n") + _REST)
    return "".join(parts).rstrip("\n") + "\n"


def problems(records: Sequence[Record]) -> list[str]:
    """What keeps a campaign from being published."""
    found = [f"{record.fault}: {breach}" for record in records for breach in record.breaches]
    found += [f"{record.fault} did not fire" for record in records if not record.fired]
    for lease in {record.lease_seconds for record in records}:
        found += [
            f"lease of {lease} s: {name} is {shown}, at most {most} is promised"
            for name, value, shown, most in _promises([one for one in records if one.lease_seconds == lease])
            if value is False or (value is None and _rounds(records, lease) >= _ROUNDS_THAT_TELL)
        ]
    return found


def _rounds(records: Sequence[Record], lease: int) -> int:
    counts = Counter(record.fault for record in records if record.lease_seconds == lease)
    return max(counts.values(), default=0)


def percentile(values: Iterable[float], share: float) -> float | None:
    """The nearest rank; None of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _table(lease: int, records: list[Record]) -> str:
    names = list(dict.fromkeys(record.fault for record in records))
    struck = [record for record in records if record.fault != CONTROL]
    lines = [
        f"## With a lease of {lease} s\n",
        "```sh",
        f"make faults ROUNDS={max(sum(one.fault == name for one in records) for name in names)} LEASE={lease}",
        "```\n",
        f"**{sum(record.fired for record in struck):,} faults fired, {sum(record.rows for record in records):,} rows: "
        f"{sum(one.lost for one in records):,} lost, {sum(one.duplicated for one in records):,} duplicated, "
        f"{sum(one.unaccounted for one in records):,} unaccounted, {sum(len(one.breaches) for one in records):,} breaches** in "
        f"{sum(record.batches for record in records):,} batches and {sum(record.reads for record in records):,} looks of the reader. "
        f"Run on {_machine()}.\n",
        "`resumed` is from the strike to the moment at which another attempt holds the batch; `all done` from the strike, or from the "
        "end of an outage, to the last verdict. Seconds.\n",
        "| fault | rounds | fired | rows | lost | duplicated | unaccounted | resumed p50 | p99 | all done p50 | p99 | others' p99 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    left_out = [kind().name for kind in KINDS if kind().name not in names]
    for name in names:
        rounds = [record for record in records if record.fault == name]
        resumed = [record.resumed for record in rounds if record.resumed is not None]
        terminal = [record.terminal for record in rounds if record.terminal is not None]
        others = [seconds for record in rounds for seconds in record.others]
        cells = [
            name,
            f"{len(rounds):,}",
            f"{sum(record.fired for record in rounds):,}",
            *(f"{sum(pick(one) for one in rounds):,}" for pick in _FIGURES),
            *(_seconds(percentile(values, share)) for values in (resumed, terminal) for share in (0.5, 0.99)),
            _seconds(percentile(others, 0.99)) if len(others) >= FEWEST_OTHERS else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if left_out:
        lines += ["", f"Left out, for want of what they need on this machine: {'; '.join(left_out)}."]
    lines += ["", "| promise | at most | measured | |", "|---|--:|--:|---|"]
    for name, kept, shown, most in _promises(records):
        verdict = "too few" if kept is None else "kept" if kept else "**broken**"
        lines.append(f"| {name} | {most} | {shown} | {verdict} |")
    return "\n".join([*lines, "", ""])


_FIGURES: tuple[Callable[[Record], int], ...] = (
    lambda record: record.rows,
    lambda record: record.lost,
    lambda record: record.duplicated,
    lambda record: record.unaccounted,
)


def _promises(records: Sequence[Record]) -> list[tuple[str, bool | None, str, str]]:
    """Name, whether it is kept (None where there is too little to tell), what was measured, what is promised."""
    killed = percentile(
        (one.resumed for one in records if one.resumed is not None and one.fault.startswith(("kill -9", "OOM"))), 0.99
    )
    wiped = percentile((one.terminal for one in records if one.terminal is not None and one.fault == WIPED), 1.0)
    usual = percentile((seconds for one in records if one.fault == CONTROL for seconds in one.uploads), 0.5)
    broken = percentile((seconds for one in records if one.fault in _UPLOADS for seconds in one.uploads), 0.99)
    control = [seconds for one in records if one.fault == CONTROL for seconds in one.others]
    beside = [seconds for one in records if one.fault != CONTROL for seconds in one.others]
    calm, rough = percentile(control, 0.99), percentile(beside, 0.99)
    added = broken - usual if broken is not None and usual is not None else None
    slower = (
        rough / calm
        if rough is not None and calm and len(control) >= FEWEST_OTHERS and len(beside) >= FEWEST_OTHERS
        else None
    )
    return [
        _promise("a killed worker's batch resumes elsewhere, p99", killed, RESUMED_SECONDS, "s"),
        _promise("after the broker was wiped every batch is terminal, longest", wiped, WIPED_SECONDS, "s"),
        _promise(
            "added to an upload by a broker that is down or hung, p99 over the usual median",
            added,
            MOST_ADDED_SECONDS,
            "s",
        ),
        _promise(
            "other batches' p99 beside faults, over that of the control rounds (I7)", slower, MOST_SLOWER, "times"
        ),
    ]


def _promise(name: str, value: float | None, most: float, unit: str) -> tuple[str, bool | None, str, str]:
    return (
        name,
        None if value is None else value <= most,
        "" if value is None else f"{value:.2f} {unit}",
        f"{most:g} {unit}",
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    server = Postgres(data=Path("/nonexistent"), sockets=Path("/nonexistent"), password="", programs=find_programs())
    return (
        f"{os.cpu_count()} processors, {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}, "
        f"PostgreSQL {server.version()}"
    )


_MUTATED = """## That the tests can fail

Each protection was taken out of a copy of the code, one at a time, and the fault tests run against it (`make mutations`). At least one has to turn red.

"""
_REST = """
## Beyond the rounds

| fact | test |
|---|---|
| Blob and folder are fsynced before the 202 | `tests/faults/test_durability.py`: the web server's system calls, by strace, in their order |
| Several machines share the work; one that is cut off loses its batch, and its late write is refused when the link is back | `tests/faults/test_hosts.py`: hosts as network namespaces, blobs in S3 (SeaweedFS); takes root |
| `DATABASE_URL` may be PgBouncer 1.18 in transaction mode | `tests/faults/test_pooler.py`: the acceptance tests of ingestion, and kills, through Debian's PgBouncer |

## How it is run

`make test` runs one short round of every kind. `make faults ROUNDS=n` brings every kind to n rounds; each round is written to
`build/faults.jsonl` (`RESULTS=` names another file) as it ends, so a campaign that was broken off goes on where it was, and campaigns add up.
`LEASE=15` runs with the usual lease. Where all hold, it writes this page. Some kinds take root (a file system of their own to fill,
a memory cgroup), or Debian's `faketime`; where that is missing they are left out and named.

Processes are held at named points (`app/pause.py`) by files in a folder that only a fault test names, which production refuses, so a kill strikes
between two given statements and not about there.
"""
