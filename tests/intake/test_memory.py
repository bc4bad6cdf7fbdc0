"""Memory: an attempt at a file much larger than its bound stays within it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine

from app import intake
from app.batch import State
from app.intake import Upload
from app.store.blobs import Blobs
from tests.conftest import Look

BOUND_KIB = 256 * 1024
BYTES = 272 * 1024 * 1024
INGEST_ONCE = Path(__file__).with_name("ingest_once.py")


def large_file() -> Iterator[bytes]:
    """More bytes than the bound, in rows of some 3 KiB; one in five is refused, one in ten is a duplicate."""
    chance = random.Random(1)
    yield b"case_number,defendant_name,judgment_amount,plaintiff_name,court,county,notes\n"
    names = ["".join(chance.choices("abcdefgh ", k=400)).strip() for _ in range(200)]
    notes = "x" * 1_200
    written = number = 0
    while written < BYTES:
        amount = "x" if number % 5 == 0 else "12.50"
        key = chance.randrange(number + 1) if number % 10 == 3 else number
        texts = ",".join(f'"{names[number % modulus]}"' for modulus in (199, 197, 193))
        row = f"C-{key:09},{names[number % 200]},{amount},{texts},{notes}\n".encode()
        yield row
        written += len(row)
        number += 1


def peak_anonymous_kib(process: subprocess.Popen[bytes]) -> int:
    """The most anonymous memory that the process holds until it ends."""
    status = Path(f"/proc/{process.pid}/status")
    peak = 0
    while process.poll() is None:
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.02)
    return peak


def test_an_attempt_at_a_large_file_stays_within_its_bound(
    database: Engine, service_url: str, blobs: Blobs, tmp_path: Path, look: Look
) -> None:
    incoming = blobs.incoming()
    pending: list[bytes] = []
    for row in large_file():
        pending.append(row)
        if len(pending) == 500:
            incoming.write(b"".join(pending))
            pending = []
    incoming.write(b"".join(pending))
    upload = Upload(
        "large.csv", "manual", error_threshold_percent=25, force=False, priority="normal", created_by="tests"
    )
    batch = intake.receive(database, blobs, incoming, upload).batch
    assert batch.file_size_bytes > BYTES
    command = [sys.executable, str(INGEST_ONCE), service_url, str(tmp_path), str(batch.id)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        peak = peak_anonymous_kib(process)
    assert process.returncode == 0
    done = look.batch(batch.id)
    assert done.status is State.COMPLETED
    assert done.row_count_invalid > 15_000
    assert done.row_count_duplicate > 7_000
    print(f"{done.row_count_total:,} rows, {peak / 1024:.0f} MiB, {done.parse_duration_ms} + {done.db_duration_ms} ms")
    assert peak < BOUND_KIB
