"""The real servers, started once for the whole run, and what every folder of tests needs of them."""

from __future__ import annotations

import gc
import logging
import shutil
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import structlog
from sqlalchemy import Engine, text

from app import intake
from app.formats.csv import Limits
from app.intake import Receipt, Upload, Workshop
from app.local.postgres import Postgres
from app.local.valkey import Valkey
from app.store import batches
from app.store.batches import Batch
from app.store.blobs import Blobs, open_blobs
from app.store.database import open_engine
from app.store.schema import migrate

SERVICE_PASSWORD = "service-role-password"
TABLES = (
    "public.judgments",
    "intake.row_conflicts",
    "intake.row_errors",
    "intake.error_tallies",
    "intake.error_totals",
    "intake.batches",
    "ops.ended_sessions",
    "ops.sign_in_links",
    "ops.api_keys",
    "ops.workers",
    "ops.alerts",
    "ops.canaries",
    "ops.heartbeats",
    "ops.leftovers",
    "ops.sentinel_flips",
    "ops.sentinel_runs",
)
"""What a test may fill, in the order in which it is emptied; the error catalogue belongs to the migrations."""
LARGE_BYTES = 16 * 1024 * 1024
"""Tables beyond this are truncated; below it deleting is ten times as fast."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """What a file of tests leaves open is found at its own end, and fails it, not whichever test the collector meets."""
    yield
    if nextitem is None or nextitem.path != item.path:
        gc.collect()


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A test, or a command that it runs, may set up logging: the next one finds it as it is without that."""
    structlog.reset_defaults()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    sys.excepthook, threading.excepthook = hooks


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server with the schema. It need not survive a crash, so it does not wait for the disk."""
    # Not pytest's own folder: its name may be too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="dfly-"))
    server = Postgres(
        data=folder / "data",
        sockets=folder,
        password="owner",
        settings={
            "shared_buffers": "128MB",
            "fsync": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "jit": "off",
        },
    )
    try:
        with server:
            migrate(server.url())
            with psycopg.connect(server.url(), autocommit=True) as connection:
                connection.execute(f"ALTER ROLE service_role PASSWORD '{SERVICE_PASSWORD}'")
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def owner_engine(postgres_server: Postgres) -> Iterator[Engine]:
    """The tables' owner, for what the application itself may not do."""
    engine = open_engine(postgres_server.url(), pool_size=4)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def service_url(postgres_server: Postgres) -> str:
    """The application's DATABASE_URL."""
    return postgres_server.url("service_role", SERVICE_PASSWORD)


@pytest.fixture(scope="session")
def service_engine(service_url: str) -> Iterator[Engine]:
    """The application's own connections, enough of them for tests that use many threads."""
    engine = open_engine(service_url, pool_size=5, max_overflow=25, pool_timeout=30)
    yield engine
    engine.dispose()


@pytest.fixture
def database(service_engine: Engine, owner_engine: Engine) -> Engine:
    """Empty tables, and the application's connections to them."""
    with owner_engine.begin() as connection:
        # A test that has left a transaction open fails the next one with a sentence instead of stopping the run.
        connection.execute(text("SET LOCAL lock_timeout = '20s'"))
        sizes = " + ".join(f"pg_total_relation_size('{table}')" for table in TABLES)
        if (connection.scalar(text(f"SELECT {sizes}")) or 0) > LARGE_BYTES:
            connection.execute(text(f"TRUNCATE {', '.join(TABLES)}"))
        else:
            for table in TABLES:
                connection.execute(text(f"DELETE FROM {table}"))
    return service_engine


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey server."""
    with Valkey(data=tmp_path_factory.mktemp("valkey"), password="broker") as server:
        yield server


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    """An empty store of files."""
    return open_blobs(str(tmp_path / "blobs"))


@pytest.fixture
def lease_seconds() -> int:
    """The workshop's lease; a test parametrises it where it has to run out."""
    return 15


@pytest.fixture
def workshop(database: Engine, blobs: Blobs, tmp_path: Path, lease_seconds: int) -> Workshop:
    """What a worker has, on empty tables."""
    return Workshop(
        engine=database,
        blobs=blobs,
        spool=tmp_path / "spool",
        limits=Limits(max_record_bytes=1024 * 1024, max_columns=1_000),
        lease_seconds=lease_seconds,
        owner="host/1/2",
    )


@dataclass(frozen=True)
class Sender:
    """Sends files as the web server does."""

    engine: Engine
    blobs: Blobs

    def receipt(self, content: bytes, **overrides: Any) -> Receipt:
        """What the sender of these bytes is told."""
        upload = {
            "filename": "export.csv",
            "source": "manual",
            "error_threshold_percent": 10,
            "force": False,
            "priority": "normal",
            "created_by": "tests",
            **overrides,
        }
        incoming = self.blobs.incoming()
        incoming.write(content)
        return intake.receive(self.engine, self.blobs, incoming, Upload(**upload))

    def __call__(self, content: bytes, **overrides: Any) -> Batch:
        """The batch of these bytes."""
        return self.receipt(content, **overrides).batch


@pytest.fixture
def send(database: Engine, blobs: Blobs) -> Sender:
    """Sends a file."""
    return Sender(database, blobs)


@dataclass(frozen=True)
class Look:
    """Looks into the database as its owner, and changes what the application may not."""

    engine: Engine

    def batch(self, batch_id: UUID) -> Batch:
        """The batch as it stands."""
        with self.engine.begin() as connection:
            found = batches.get(connection, batch_id)
        assert found is not None
        return found

    def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """What the query returns."""
        with self.engine.begin() as connection:
            return [tuple(row) for row in connection.execute(text(statement), values)]

    def count(self, table: str) -> int:
        """How many rows the table has."""
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    def change(self, statement: str, **values: Any) -> int:
        """Run a statement; returns how many rows it touched."""
        with self.engine.begin() as connection:
            return connection.execute(text(statement), values).rowcount

    def expire(self, batch_id: UUID) -> None:
        """Let the lease of the batch run out."""
        self.change(
            "UPDATE intake.batches SET lease_until = clock_timestamp() - interval '1 second' WHERE id = :id",
            id=batch_id,
        )


@pytest.fixture
def look(owner_engine: Engine) -> Look:
    """Looks into the database."""
    return Look(owner_engine)
