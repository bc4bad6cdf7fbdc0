"""A running stack on which incidents are made, and the sentinel asked about them in this process."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

from app.settings import Limit, Settings
from monitoring.command import broker_of
from monitoring.report import Finding, Level
from monitoring.sentinel import Sentinel
from tests.acceptance.pages import environment_of
from tests.acceptance.pipeline import Pipeline
from tests.factories import csv_bytes, judgment_cells
from tests.monitoring.discord_stub import DiscordStub
from tests.monitoring.postgrest_stub import PostgrestStub

THRESHOLDS = {
    "SENTINEL_INTERVAL_SECONDS": "3",
    "SENTINEL_STUCK_MINUTES": "0.05",
    "SENTINEL_BACKLOG_MINUTES": "0.05",
    "SENTINEL_WEBHOOK_MINUTES": "0.05",
    "SENTINEL_WORKER_SECONDS": "6",
    "SENTINEL_BEAT_SECONDS": "10",
    "SENTINEL_CANARY_SECONDS": "60",
    # Incidents of rates are made in a source of their own, so that one does not drown in the rows of another.
    "SENTINEL_ERROR_PERCENT": "15,foil=15",
    "SENTINEL_DUPLICATE_PERCENT": "50,jbi=50",
}
"""Scaled down to seconds, for which the settings are there."""
_CHECKED = {
    "sentinel_stuck_minutes": 0.05,
    "sentinel_backlog_minutes": 0.05,
    "sentinel_webhook_minutes": 0.05,
    "sentinel_worker_seconds": 6.0,
    "sentinel_beat_seconds": 10.0,
    "sentinel_canary_seconds": 60.0,
    "sentinel_error_percent": Limit(15, (("foil", 15.0),)),
    "sentinel_duplicate_percent": Limit(50, (("jbi", 50.0),)),
}


class Stage:
    """The stack with its stubs. ``disk`` is small and holds the store, ``webhook_file`` holds the address of ``discord``."""

    def __init__(
        self, folder: Path, disk: Path, postgrest: PostgrestStub, discord: DiscordStub, another_discord: DiscordStub
    ) -> None:
        self.folder = folder
        self.disk = disk
        self.discord = discord
        self.another_discord = another_discord
        self.postgrest = postgrest
        self.webhook_file = folder / "webhook"
        self.webhook_file.write_text(discord.url)
        self.settings = {
            **THRESHOLDS,
            "LEASE_SECONDS": "3",
            "DISCORD_WEBHOOK_URL_FILE": str(self.webhook_file),
            "POSTGREST_URL": postgrest.url,
            "STORAGE_URL": str(disk / "blobs"),
        }
        self.pipeline = Pipeline(folder / "home", workers=1, settings=self.settings)

    @property
    def environment(self) -> dict[str, str]:
        """What a reader's shell has."""
        return {**environment_of(self.pipeline), **self.settings}

    def finding(self, check: str) -> Finding:
        """What the sentinel says of one check, recording nothing."""
        settings = Settings.load(
            home=self.pipeline.home,
            env="dev",
            database_url=self.pipeline.info["database_url"],
            database_direct_url=self.pipeline.info["database_direct_url"],
            redis_url=self.pipeline.info["redis_url"],
            storage_url=self.settings["STORAGE_URL"],
            postgrest_url=self.postgrest.url,
            discord_webhook_url=self.webhook_file.read_text().strip(),
            **_CHECKED,
        )
        watching = Sentinel(settings=settings, interval_seconds=3, broker=broker_of(settings))
        (finding,) = watching.run((check,)).findings
        return finding

    def wait_until_raised(self, check: str) -> Finding:
        return self._wait(check, lambda level: level is not Level.HEALTHY, "raised")

    def wait_until_healthy(self, check: str) -> Finding:
        return self._wait(check, lambda level: level is Level.HEALTHY, "over")

    def _wait(self, check: str, meets: Callable[[Level], bool], what: str) -> Finding:
        deadline = time.monotonic() + 60
        while not meets((found := self.finding(check)).level):
            assert time.monotonic() < deadline, f"{check} is not {what} within 60 s: {found.message}"
            time.sleep(0.2)
        return found

    def owner(self, statement: str, values: Mapping[str, object] | None = None) -> list[Any]:
        with psycopg.connect(self.pipeline.info["database_direct_url"], autocommit=True) as connection:
            cursor = connection.execute(statement, values)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def wait_for(self, what: str, meets: Callable[[], Any]) -> Any:
        """The first true answer."""
        deadline = time.monotonic() + 60
        while not (answer := meets()):
            assert time.monotonic() < deadline, f"not within 60 s: {what}"
            time.sleep(0.05)
        return answer

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """A child and all its children, by SIGSTOP, until the block is left; some may be dead by then."""
        processes = self.pipeline.processes(name)
        assert processes, name
        family = {child.pid: child for process in processes for child in (process, *process.children(recursive=True))}
        for process in family.values():
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in family.values():
                try:
                    # Looks at the time of its start, too: a process that took the number of a dead one is left alone.
                    process.send_signal(signal.SIGCONT)
                except psutil.NoSuchProcess:
                    continue


def file_of(name: str, rows: int, *, invalid: int = 0) -> bytes:
    """Rows with case numbers of this name, the last ones without an amount."""
    cells = [
        judgment_cells(case_number=f"{name}-{place:06d}", judgment_amount="1.00" if place < rows - invalid else "?")
        for place in range(rows)
    ]
    return csv_bytes(cells)
