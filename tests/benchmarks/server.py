"""One server with the schema: files are received there, and raw COPY and the peers find identical empty tables."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psycopg

from app.intake import Upload, receive
from app.local.postgres import Postgres
from app.rows import COPY_COLUMNS
from app.store.blobs import open_blobs
from app.store.database import open_engine
from app.store.schema import migrate
from tests.benchmarks.targets import LOCAL, STOCK

SETTINGS: dict[str, dict[str, str]] = {
    STOCK: {
        "shared_buffers": "128MB",
        "max_wal_size": "1GB",
        "checkpoint_timeout": "5min",
        "max_connections": "100",
        "client_connection_check_interval": "0",
        "huge_pages": "try",
    },
    LOCAL: {},
}
"""What is set over the local server's settings: PostgreSQL's own defaults, or nothing."""

_PASSWORD = "benchmark"
_PIECE_BYTES = 128 * 1024
_COLUMNS = ", ".join(COPY_COLUMNS)


class Server:
    """A running server; its pages are written out before anything is timed, so that every side begins alike."""

    def __init__(self, home: Path, postgres: Postgres) -> None:
        self.home = home
        self.owner_url = postgres.url()
        self.version = postgres.version()
        migrate(self.owner_url)
        self._owner = psycopg.connect(self.owner_url, autocommit=True)
        self._owner.execute(f"ALTER ROLE service_role PASSWORD '{_PASSWORD}'")
        self.url = postgres.url("service_role", _PASSWORD)
        self._engine = open_engine(self.url, pool_size=2)
        self._blobs = open_blobs(str(home / "blobs"))

    def close(self) -> None:
        """Leave the server."""
        self._owner.close()
        self._engine.dispose()

    def receive(self, path: Path) -> UUID:
        """Receive a file as a new batch, whether its bytes are known or not."""
        incoming = self._blobs.incoming()
        with path.open("rb") as file:
            while piece := file.read(1024 * 1024):
                incoming.write(piece)
        upload = Upload(path.name, "manual", 10, force=True, priority="normal", created_by="benchmark")
        return receive(self._engine, self._blobs, incoming, upload).batch.id

    def empty(self) -> None:
        """Empty every table that a batch fills."""
        self._owner.execute(
            "TRUNCATE public.judgments, intake.row_errors, intake.row_conflicts, intake.batches CASCADE"
        )
        self.settle()

    def forget_findings(self) -> None:
        """Empty what batches found wrong; their judgments stand."""
        self._owner.execute("TRUNCATE intake.row_errors, intake.row_conflicts")
        self.settle()

    def tidy(self) -> None:
        """Do now what autovacuum would do in the midst of the next rounds: the judgments stand for long."""
        self._owner.execute("VACUUM ANALYZE public.judgments")
        self.settle()

    def settle(self) -> None:
        """Write out what the server has in memory."""
        self._owner.execute("CHECKPOINT")

    def export(self, path: Path) -> None:
        """Write the stored judgments in file order as COPY's text, in the columns that the job itself writes."""
        statement = f"COPY (SELECT {_COLUMNS} FROM public.judgments ORDER BY row_index) TO STDOUT"
        with path.open("wb") as file, self._owner.cursor() as cursor, cursor.copy(statement) as copy:
            for piece in copy:
                file.write(piece)

    def raw_copy(self, path: Path) -> float:
        """Seconds in which a client's COPY puts the exported rows into an identical empty table, commit included."""
        with self.identical_table("raw_judgments") as table, psycopg.connect(self.owner_url) as connection:
            started = time.perf_counter()
            statement = f"COPY {table} ({_COLUMNS}) FROM STDIN"
            with path.open("rb") as file, connection.cursor().copy(statement) as copy:
                while piece := file.read(_PIECE_BYTES):
                    copy.write(piece)
            connection.commit()
            return time.perf_counter() - started

    @contextmanager
    def identical_table(self, name: str) -> Iterator[str]:
        """An empty table like the judgments', with the same keys and defaults, for the block."""
        table = f"public.{name}"
        self._owner.execute(f"DROP TABLE IF EXISTS {table}")
        self._owner.execute(f"CREATE TABLE {table} (LIKE public.judgments INCLUDING ALL)")
        self.settle()
        try:
            yield table
        finally:
            self._owner.execute(f"DROP TABLE {table}")

    def count(self, table: str) -> int:
        """How many rows the table has."""
        row = self._owner.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(row[0]) if row else 0


@contextmanager
def server(settings: str) -> Iterator[Server]:
    """A server of its own, with the settings of that name, for the block; nothing of it stays."""
    home = Path(tempfile.mkdtemp(prefix="dragonfly-bench-"))
    try:
        with Postgres(data=home / "data", sockets=home, password="owner", settings=SETTINGS[settings]) as postgres:
            running = Server(home, postgres)
            try:
                yield running
            finally:
                running.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)
