"""Batches, workers and signs of life as the pipeline would have left them, and the sentinel that looks at them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, text

from app.settings import Settings
from monitoring.report import Finding
from monitoring.sentinel import Sentinel

FINISHED = ("completed", "failed", "cancelled", "reverted")


@dataclass(frozen=True)
class Left:
    """Puts rows in place, as their owner; ages are minutes or seconds before the database's now."""

    engine: Engine

    def batch(self, status: str = "completed", *, since_minutes: float = 0, **overrides: Any) -> UUID:
        """A batch that entered its state so many minutes ago. Its counts are the caller's: by default it has no rows."""
        batch_id = uuid4()
        values: dict[str, Any] = {
            "id": batch_id,
            "filename": "export.csv",
            "file_hash": uuid4().hex * 2,
            "status": status,
            "rejection_reason": "Refused for a test." if status == "failed" else None,
            "lease_owner": "host/1/2" if status in ("staging", "validating", "inserting") else None,
            **overrides,
        }
        names = [*values, "state_since", "created_at", "completed_at"]
        then = "clock_timestamp() - make_interval(secs => :age)"
        ended = then if status in FINISHED else "NULL"
        marks = [*(f":{name}" for name in values), then, then, ended]
        self.do(
            f"INSERT INTO intake.batches ({', '.join(names)}) VALUES ({', '.join(marks)})",
            **values,
            age=since_minutes * 60,
        )
        return batch_id

    def rows(self, batch_id: UUID, *, judgments: int = 0, errors: int = 0, duplicates: int = 0) -> None:
        """What a batch with these counts has stored."""
        first = int(self.do("SELECT coalesce(max(id), 0) + 1 FROM public.judgments"))
        for place in range(judgments):
            self.do(
                """
                INSERT INTO public.judgments (id, case_number, defendant_name, judgment_amount, batch_id, row_index)
                VALUES (:id, :case, 'Ada Marlow', 1, :batch, :place)
                """,
                id=first + place,
                case=f"{batch_id}-{place}",
                batch=batch_id,
                place=place,
            )
        for place in range(errors):
            self.do(
                """
                INSERT INTO intake.row_errors (batch_id, row_index, error_code, error_message, error_stage)
                VALUES (:batch, :place, 'INVALID_AMOUNT', 'x', 'validate')
                """,
                batch=batch_id,
                place=1_000 + place,
            )
        for place in range(duplicates):
            self.do(
                """
                INSERT INTO intake.row_conflicts (batch_id, row_index, case_number, kept_batch_id, kept_row_index)
                VALUES (:batch, :place, :case, :batch, 0)
                """,
                batch=batch_id,
                place=2_000 + place,
                case=f"duplicate-{place}",
            )
        if judgments:
            self.do(
                "UPDATE intake.batches SET first_judgment_id = :first, last_judgment_id = :last WHERE id = :id",
                first=first,
                last=first + judgments - 1,
                id=batch_id,
            )

    def counted(
        self, *, since_minutes: float = 1, inserted: int = 0, invalid: int = 0, duplicate: int = 0, **overrides: Any
    ) -> UUID:
        """A completed batch whose books balance, rows and all."""
        batch_id = self.batch(
            since_minutes=since_minutes,
            row_count_total=inserted + duplicate + invalid,
            row_count_valid=inserted + duplicate,
            row_count_invalid=invalid,
            row_count_inserted=inserted,
            row_count_duplicate=duplicate,
            **overrides,
        )
        self.rows(batch_id, judgments=inserted, errors=invalid, duplicates=duplicate)
        return batch_id

    def worker(
        self,
        name: str = "host/1-aa/",
        *,
        host: str = "host",
        silent_seconds: float = 0,
        age_seconds: float = 3600,
        broker_silent_seconds: float | None = 0,
        concurrency: int = 2,
        disk: float | None = 80,
    ) -> None:
        """A worker's row."""
        self.do(
            """
            INSERT INTO ops.workers (name, host, pid, concurrency, version, disk_free_percent, started_at, last_seen_at,
                broker_seen_at)
            VALUES (:name, :host, 1, :concurrency, '0', :disk, clock_timestamp() - make_interval(secs => :age),
                clock_timestamp() - make_interval(secs => :silent),
                clock_timestamp() - make_interval(secs => CAST(:broker AS double precision)))
            """,
            name=name,
            host=host,
            concurrency=concurrency,
            disk=disk,
            age=age_seconds,
            silent=silent_seconds,
            broker=broker_silent_seconds,
        )

    def canary(self, queue: str, *, out_seconds: float | None) -> None:
        """A canary that has been out for so long, or that has come back."""
        self.do(
            """
            INSERT INTO ops.canaries (queue, sent_at, answered_at)
            VALUES (:queue, clock_timestamp() - make_interval(secs => coalesce(CAST(:out AS double precision), 5)),
                CASE WHEN CAST(:out AS double precision) IS NULL THEN clock_timestamp() END)
            """,
            queue=queue,
            out=out_seconds,
        )

    def heartbeat(self, name: str, *, silent_seconds: float) -> None:
        """A sign of life."""
        self.do(
            """
            INSERT INTO ops.heartbeats (name, started_at, seen_at) VALUES (:name, clock_timestamp() - interval '1 hour',
                clock_timestamp() - make_interval(secs => :silent))
            ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at
            """,
            name=name,
            silent=silent_seconds,
        )

    def first_run(self, *, minutes_ago: float = 60) -> None:
        """A run long ago: nothing is new any more."""
        self.do(
            """
            INSERT INTO ops.sentinel_runs (started_at, duration_ms, environment, host, overall_status, findings)
            VALUES (:at, 1, 'dev', 'host', 'healthy', '[]')
            """,
            at=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=minutes_ago),
        )

    def all_well(self) -> None:
        """Everything alive, for long."""
        self.first_run()
        self.worker()
        self.heartbeat("beat", silent_seconds=1)
        for queue in ("watch", "high", "normal", "low"):
            self.canary(queue, out_seconds=None)

    def do(self, statement: str, **values: Any) -> Any:
        """Run a statement; the first value that it returns, if it returns one."""
        with self.engine.begin() as connection:
            found = connection.execute(text(statement), values)
            return found.scalar() if found.returns_rows else None


@pytest.fixture
def left(database: Engine, owner_engine: Engine) -> Left:
    """On empty tables."""
    return Left(owner_engine)


@pytest.fixture
def settings(tmp_path: Path, service_url: str) -> Settings:
    """Those of a sentinel without a stack."""
    return Settings(home=tmp_path / "home", database_url=service_url)


Find = Callable[..., Finding]


@pytest.fixture
def find(settings: Settings, left: Left) -> Find:
    """Runs one check; settings may be overridden."""
    import dataclasses

    def run(
        check: str, *, begun: float | None = None, broker: Any = None, interval: float = 60, **overrides: Any
    ) -> Finding:
        chosen = dataclasses.replace(settings, **overrides)
        watching = Sentinel(settings=chosen, interval_seconds=interval, begun=begun, broker=broker)
        (finding,) = watching.run([check]).findings
        return finding

    return run
