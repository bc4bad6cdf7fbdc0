"""``python -m tests.faults``: brings every kind of fault to a number of rounds, and writes the page from all of them."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults import mutations
from tests.faults.faults import KINDS
from tests.faults.report import page, problems
from tests.faults.rounds import Campaign, NotThereError, append_record, campaign, read_records

_ROUNDS_OF_A_STACK = 5 * len(KINDS)
"""Then a new one: the files of a round stay in its memory."""
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "faults.md"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how many rounds of each kind there are to be in the end")
    parser.add_argument("--lease", type=int, default=2, help="LEASE_SECONDS of the stack")
    parser.add_argument("--rows", type=int, default=4_000, help="rows of a victim")
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument("--results", type=Path, default=Path("build/faults.jsonl"), help="where rounds are written")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes")
    parser.add_argument("--report", action="store_true", help="only write the page from the rounds that there are")
    return parser.parse_args()


def _due(wanted: argparse.Namespace) -> list[int]:
    """Kinds by their place, each as often as it lacks a round; kinds by turns, so that none strikes many times in a row."""
    done = Counter(
        record.fault for record in read_records(wanted.results) if record.lease_seconds == wanted.lease and record.fired
    )
    lacking = [max(0, wanted.rounds - done[kind().name]) if wanted.only in kind().name else 0 for kind in KINDS]
    return [place for turn in range(wanted.rounds) for place, left in enumerate(lacking) if turn < left]


def _run(wanted: argparse.Namespace, running: Campaign, due: list[int], done: int, left_out: set[str]) -> bool:
    """The next rounds on one stack; ``done`` of those that are due are behind."""
    sound = True
    for number, place in enumerate(due[done : done + _ROUNDS_OF_A_STACK], done):
        fault = KINDS[place]()
        if fault.name in left_out:
            continue
        try:
            rows = random.Random(number).choice((wanted.rows // 4, wanted.rows, wanted.rows * 2))
            record = running.run(fault, rows=rows, number=number)
        except NotThereError as missing:
            left_out.add(fault.name)
            print(f"{fault.name}: left out, this machine lacks {missing}", flush=True)
            continue
        append_record(wanted.results, record)
        said = "; ".join(record.breaches) if record.breaches else record.evidence
        print(f"[{number + 1}/{len(due)}] {fault.name}: {record.rows} rows, {record.seconds:.1f} s: {said}", flush=True)
        sound = sound and not record.breaches and record.fired
    return sound


def main() -> int:
    """0 where every round has fired and every promise holds, else 1."""
    wanted = _arguments()
    due = [] if wanted.report else _due(wanted)
    sound, left_out = True, set[str]()
    for done in range(0, len(due), _ROUNDS_OF_A_STACK):
        with (
            tempfile.TemporaryDirectory(prefix="faults-") as folder,
            campaign(Path(folder) / "home", lease_seconds=wanted.lease, short=False) as running,
        ):
            sound = _run(wanted, running, due, done, left_out) and sound
    records = read_records(wanted.results)
    for problem in problems(records):
        sound = False
        print(problem, file=sys.stderr)
    if records and (sound or wanted.report):
        wanted.page.write_text(page(records, mutations.table(wanted.results.with_name("mutations.json"))))
        print(f"{wanted.page} written from {len(records):,} rounds")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
