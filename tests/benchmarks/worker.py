"""A process that ingests batches as a pool child of the stack does, and what memory it takes meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from tests.benchmarks.memory import MemoryWatch
from tests.benchmarks.results import BenchmarkError


class Worker:
    """Runs for the block; has the environment of this process, as a pool child has that of the stack."""

    def __init__(self, url: str, home: Path) -> None:
        command = [sys.executable, "-m", "tests.benchmarks.job", url, str(home / "blobs"), str(home / "spool")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ingest(self, batch_id: UUID) -> dict[str, Any]:
        """What became of the batch, the seconds it took, and the peak of memory in MiB. Raises BenchmarkError."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        with MemoryWatch(self._process.pid) as memory:
            self._process.stdin.write(f"{batch_id}\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError("the worker ended in the midst of a batch; its last words stand above")
        return {**json.loads(line), "anonymous_mb": memory.anonymous_mb, "resident_mb": memory.resident_mb}
