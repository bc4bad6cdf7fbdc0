"""``python -m tests.faults.mutations``: takes each protection out of a copy of the code and sees which fault tests turn red."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_RESULTS = REPOSITORY / "build" / "mutations.json"
_LEFT_BEHIND = (".git", ".venv", "build", "node_modules", ".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__")
_FAILED = re.compile(r"^(?:FAILED|ERROR) \S*?::(\w+)(?:\[(.*?)\])?(?: - |$)", re.MULTILINE)


@dataclass(frozen=True)
class Mutation:
    """A protection, how it is taken out, and the tests that are asked about it."""

    name: str
    file: str
    before: str
    after: str
    tests: str
    """As pytest's -k takes it, of tests/faults."""
    paths: tuple[str, ...] = ("tests/faults/test_faults.py",)


MUTATIONS = (
    Mutation(
        "fence check",
        "app/store/claims.py",
        'text(f"UPDATE intake.batches SET {assignments} WHERE id = :id AND fence = :fence AND status IN {_RUNNING}")',
        'text(f"UPDATE intake.batches SET {assignments} WHERE id = :id AND (fence = :fence OR true) AND status IN {_RUNNING}")',
        "SIGSTOP and beside",
    ),
    Mutation(
        "lease: it never runs out",
        "app/store/claims.py",
        '_EXPIRED = f"(status IN {_RUNNING} AND lease_until < clock_timestamp())"',
        '_EXPIRED = f"(status IN {_RUNNING} AND false)"',
        "claim or COPY",
    ),
    Mutation(
        "lease: it holds nobody off",
        "app/store/claims.py",
        '_EXPIRED = f"(status IN {_RUNNING} AND lease_until < clock_timestamp())"',
        '_EXPIRED = f"(status IN {_RUNNING})"',
        "delivered or control",
    ),
    Mutation(
        "takeover's termination of the stale backend",
        "app/store/claims.py",
        "SELECT count(pg_terminate_backend(l.pid, 5000))",
        "SELECT count(l.pid)",
        "SIGSTOP",
    ),
    Mutation(
        "key order",
        "app/engine/pack.py",
        '    """The stable order of the keys\' bytes."""\n',
        '    """The stable order of the keys\' bytes."""\n    return np.arange(len(keys))\n',
        "overlapping",
    ),
    Mutation(
        "unique key",
        "migrations/versions/20250102_initial.py",
        " CONSTRAINT judgments_case_number_key UNIQUE,",
        ",",
        "overlapping",
    ),
    Mutation(
        "reconciler",
        "tasks/reconciler.py",
        "            answers = self._hint(parent, only_expired=in_queues >= _ENOUGH_WAITING)\n",
        "            answers = True\n",
        "claim or empty",
    ),
    Mutation(
        "ledger check",
        "app/batch.py",
        "        if wrong:\n            raise LedgerError",
        "        if wrong and not wrong:\n            raise LedgerError",
        "lost and within",
    ),
    Mutation(
        "advisory lock of the collector",
        "app/store/batches.py",
        "SELECT pg_try_advisory_xact_lock(hashtextextended(:hash, 0))",
        "SELECT hashtextextended(:hash, 0) IS NOT NULL",
        "collector",
    ),
)


def run(mutation: Mutation) -> list[str]:
    """The tests that turned red. Raises AssertionError where the code is no longer what is to be taken out."""
    with tempfile.TemporaryDirectory(prefix="mutated-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(*_LEFT_BEHIND), symlinks=True)
        source = (copy / mutation.file).read_text()
        assert source.count(mutation.before) == 1, f"{mutation.name}: {mutation.file} has changed"
        (copy / mutation.file).write_text(source.replace(mutation.before, mutation.after))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-k", mutation.tests, *mutation.paths],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
        assert " passed" in done.stdout or " failed" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
        return [case or name for name, case in _FAILED.findall(done.stdout)]


def table(results: Path) -> str:
    """As the page shows what was run; empty where nothing was."""
    if not results.exists():
        return ""
    found: dict[str, list[str]] = json.loads(results.read_text())
    lines = ["| taken out | tests that turned red |", "|---|---|"]
    lines += [f"| {name} | {'; '.join(red) if red else '**none**'} |" for name, red in found.items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """0 where each mutation turned a test red."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutations", description=__doc__)
    parser.add_argument("--only", default="", help="mutations whose name holds this")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    wanted = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if wanted.only in mutation.name]
    sound = True
    for mutation in chosen:
        red = run(mutation)
        sound = sound and bool(red)
        print(f"{mutation.name}: {'; '.join(red) or 'nothing turned red'}", flush=True)
        found = json.loads(wanted.results.read_text()) if wanted.results.exists() else {}
        found[mutation.name] = red
        wanted.results.parent.mkdir(parents=True, exist_ok=True)
        wanted.results.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
