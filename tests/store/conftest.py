"""Batches in any state, put there by the store itself or, where it would not, by the tables' owner."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Engine, text

from app.batch import FINISHED, State
from app.local.postgres import Postgres
from app.store import batches, claims
from app.store.batches import Batch

NOW = dt.datetime.now(dt.UTC)


def fitting(state: State) -> dict[str, Any]:
    """What the database's CHECKs ask of a batch in this state."""
    return {
        "completed_at": NOW if state in FINISHED else None,
        "rejection_reason": "Refused for a test." if state is State.FAILED else None,
    }


@dataclass(frozen=True)
class Batches:
    """Makes batches."""

    engine: Engine
    owner: Engine

    def new(self, **overrides: Any) -> Batch:
        """An uploaded batch, as receiving a file leaves it."""
        file_hash = uuid4().hex * 2
        values: dict[str, Any] = {
            "filename": "export.csv",
            "source": "manual",
            "file_hash": file_hash,
            "storage_key": f"sha256/{file_hash}",
            "file_size_bytes": 1_000,
            "error_threshold_percent": 10,
            "priority": "normal",
            "created_by": "tests",
            "first_batch_id": None,
            **overrides,
        }
        with self.engine.begin() as connection:
            return batches.insert(connection, **values)

    def claimed(self, *, owner: str = "host/1/2", lease_seconds: int = 15, **overrides: Any) -> Batch:
        """A batch that an attempt holds."""
        batch = self.claim(self.new(**overrides).id, owner=owner, lease_seconds=lease_seconds)
        assert batch is not None
        return batch

    def claim(self, batch_id: UUID, *, owner: str = "host/1/2", lease_seconds: int = 15) -> Batch | None:
        """What a claim gets."""
        with self.engine.begin() as connection:
            return claims.claim(connection, batch_id, owner=owner, lease_seconds=lease_seconds)

    def failed(self) -> Batch:
        """A batch that was refused by its only attempt."""
        batch = self.claimed()
        with self.engine.begin() as connection:
            claims.fail(connection, batch, batches.Counts(total=3, invalid=3), {}, code="EMPTY_FILE", reason="Empty.")
        return batch

    def put(self, state: State, **columns: Any) -> UUID:
        """A batch that stands in this state, with these columns; made by the owner."""
        values = {
            "filename": "export.csv",
            "file_hash": uuid4().hex * 2,
            "status": state.value,
            **fitting(state),
            **columns,
        }
        return self.put_row("intake.batches", values)

    def put_row(self, table: str, values: dict[str, Any]) -> Any:
        """A row of any table; returns its id."""
        marks = [f"CAST(:{name} AS jsonb)" if isinstance(value, dict) else f":{name}" for name, value in values.items()]
        with self.owner.begin() as connection:
            return connection.scalar(
                text(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(marks)}) RETURNING *"),
                {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()},
            )

    def put_error(self, batch_id: UUID, row_index: int, **columns: Any) -> Any:
        """A row error of the batch."""
        values = {
            "batch_id": batch_id,
            "row_index": row_index,
            "error_code": "INVALID_AMOUNT",
            "error_message": "Row 2: not an amount",
            "error_stage": "validate",
            **columns,
        }
        return self.put_row("intake.row_errors", values)

    def put_judgment(self, batch_id: UUID, number: int, **columns: Any) -> Any:
        """A judgment of the batch under this id, which is the block that the batch owns from now on."""
        values = {
            "id": number,
            "case_number": f"C-{number}",
            "defendant_name": "Ada Marlow",
            "judgment_amount": "12.50",
            "batch_id": batch_id,
            "row_index": 0,
            **columns,
        }
        found = self.put_row("public.judgments", values)
        with self.owner.begin() as connection:
            connection.execute(
                text("UPDATE intake.batches SET first_judgment_id = :id, last_judgment_id = :id WHERE id = :batch"),
                {"id": number, "batch": batch_id},
            )
        return found


@pytest.fixture
def made(database: Engine, owner_engine: Engine) -> Batches:
    """Makes batches, on empty tables."""
    return Batches(database, owner_engine)


@pytest.fixture
def logged_in(postgres_server: Postgres) -> Iterator[psycopg.Connection]:
    """A session of PostgREST's, which logs in as authenticator."""
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("ALTER ROLE authenticator PASSWORD 'authenticator'")
    url = postgres_server.url("authenticator", "authenticator")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection
