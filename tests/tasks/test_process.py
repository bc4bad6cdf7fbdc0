"""What a worker's processes hold, and that its children find everything loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.settings import Settings
from tests.conftest import Sender
from tests.factories import clean_file, file_with_errors
from tests.monitoring.otlp_stub import collecting

REPOSITORY = Path(__file__).parents[2]

# As a child of the pool does it: everything was imported by the root, then a hint comes.
_ATTEMPTS = """
import sys
from uuid import UUID
from app import intake
from monitoring.tally import Tally
from tasks import process, worker
worker.app.loader.import_default_modules()
worker.app.finalize()
process.count_with(Tally())
before = set(sys.modules)
ends = [intake.ingest(process.workshop(), UUID(batch_id)) for batch_id in sys.argv[1:]]
process.close()
print(*ends, *sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("traced", [False, True])
def test_an_attempt_imports_nothing(settings: Settings, database: Engine, send: Sender, traced: bool) -> None:
    """A child that is forked while a thread imports a module waits for ever when it comes to import the same."""
    batches = [send(file_with_errors(100, 5)), send(clean_file(100)), send(file_with_errors(50, 40, start=9_000))]
    with collecting() as collector:
        env = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "DATABASE_URL": str(settings.database_url),
            "REDIS_URL": str(settings.redis_url),
            "DRAGONFLY_HOME": str(settings.home),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url if traced else "",
        }
        done = subprocess.run(
            [sys.executable, "-c", _ATTEMPTS, *(str(batch.id) for batch in batches)],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert bool(collector.spans()) is traced
    assert (done.stdout, done.returncode) == ("completed completed failed\n", 0), done.stderr
