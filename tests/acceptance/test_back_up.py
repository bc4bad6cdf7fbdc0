"""A backup taken under load, by the page's own commands, is restored elsewhere, comes to all its verdicts, and is proved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.acceptance.pages import REPOSITORY, Block, Shell, blocks_of, checkout_in, environment_of, matches
from tests.acceptance.pipeline import DRAGONFLY, FINISHED, Pipeline
from tests.factories import clean_file, file_with_errors

PAGE = "docs/how-to/back-up-and-restore.md"
BACK_UP, RESTORE = "Back up the local stack", "Restore into a fresh home"
# One batch is held in work for as long while the dump is taken.
SETTINGS = {"LEASE_SECONDS": "20"}


class Load:
    """Uploads without a pause, some files that overlap, some with errors, some again by force; keeps what was answered."""

    def __init__(self, stack: Pipeline) -> None:
        self._stack = stack
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.accepted: list[str] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _send(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            content = (
                clean_file(1_000, seed=1, start=number * 500)
                if number % 3
                else file_with_errors(400, 10 + number % 60, seed=number, start=number * 200)
            )
            force = {"force": "true"} if number % 5 == 0 else {}
            try:
                self.accepted.append(self._stack.upload(content, **force)["batch_id"])
            except httpx.HTTPError:
                return
            self._over.wait(0.1)


@contextmanager
def database_of(home: Path, log: Path) -> Iterator[None]:
    """The page's own ``dragonfly up --database-only``, in another shell."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*DRAGONFLY, "up", "--database-only", "--home", str(home)], stdout=output, stderr=output, env=environment
        )
    try:
        deadline = time.monotonic() + 60
        while "is ready on" not in log.read_text():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0, log.read_text()


def run(shell: Shell, blocks: list[Block]) -> None:
    """Each block as it stands."""
    for block in blocks:
        if block.not_run is not None:
            continue
        status, printed, errors = shell.run(block.commands)
        place = f"{PAGE}:{block.line}: {block.commands}printed:\n{printed}\n{errors}"
        assert status == block.exit_status, place
        assert matches(block.shown or "", printed), place


def finished(rows: list[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {batch_id: facts for batch_id, *facts in rows if facts[0] in FINISHED}  # type: ignore[misc]


def test_a_database_that_is_elsewhere_is_not_started_alone(tmp_path: Path) -> None:
    refused = subprocess.run(
        [*DRAGONFLY, "up", "--database-only", "--home", str(tmp_path / "home")],
        env={**os.environ, "DATABASE_URL": "postgresql://x/y", "DATABASE_DIRECT_URL": "postgresql://x/y"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (refused.returncode, refused.stderr) == (
        2,
        "Error: DATABASE_URL is set, so there is no database in the home to start: unset it.\n",
    )


STATES = """
    SELECT id::text, status, row_count_total::text, row_count_valid::text, row_count_inserted::text,
        row_count_duplicate::text, rejection_code FROM intake.batches
"""


def test_a_backup_under_load_is_restored_elsewhere_and_proved(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("backup")
    page = blocks_of((REPOSITORY / PAGE).read_text(encoding="utf-8"))
    saving = [block for block in page if BACK_UP in block.headings]
    restoring = [block for block in page if RESTORE in block.headings]
    verifying = [block for block in restoring if "verify" in block.commands]
    loading = [block for block in restoring if block not in verifying]
    new_home = folder / "elsewhere"

    old = Pipeline(folder / "home", settings=SETTINGS)
    shell = Shell(
        checkout_in(folder),
        {**environment_of(old), "BACKUP": str(folder / "saved"), "NEW_HOME": str(new_home)},
        folder / "stderr",
    )
    try:
        with Load(old) as load:
            while not old.rows("SELECT FROM intake.batches WHERE status = 'completed' LIMIT 1"):
                time.sleep(0.05)
            with old.halted(lambda n: clean_file(100_000, seed=n, start=5_000_000 + n * 100_000)) as (batch, _):
                held = batch["batch_id"]
                run(shell, saving)
            at_least = len(load.accepted)
        assert at_least > 3
        known = finished(old.rows(STATES))
    finally:
        old.stop()

    with database_of(new_home, folder / "database.log"):
        run(shell, loading)
        direct = subprocess.run(
            [*DRAGONFLY, "info", "--home", str(new_home), "--json"], capture_output=True, text=True, check=True
        )
        url = httpx.Response(200, text=direct.stdout).json()["database_direct_url"]
        with psycopg.connect(url) as connection:
            restored = connection.execute(STATES).fetchall()
    waiting = [batch_id for batch_id, status, *_ in restored if status not in FINISHED]
    assert held in waiting, "nothing was in work when the dump was taken"

    new = Pipeline(new_home, settings=SETTINGS)
    try:
        for batch_id in waiting:
            assert new.wait(batch_id, within=180)["rejection_code"] in (None, "ERROR_BUDGET_EXCEEDED")
        run(shell, verifying)
        # What was finished then is the same now.
        now = finished(new.rows(STATES))
        done_then = finished(restored)
        assert {batch_id: now[batch_id] for batch_id in done_then} == done_then
        assert {batch_id: known[batch_id] for batch_id in done_then} == done_then
        assert sum(int(facts[3]) for facts in now.values()) == new.rows("SELECT count(*) FROM public.judgments")[0][0]
    finally:
        shell.close()
        new.stop()
    print(f"{len(restored)} batches restored, {len(waiting)} of them without a verdict", file=sys.stderr)
