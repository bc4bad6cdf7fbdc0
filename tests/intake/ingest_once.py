"""One attempt at one batch in a process of its own: ``ingest_once.py DATABASE FOLDER BATCH``; its memory is measured."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import UUID

from app import intake
from app.formats.csv import Limits
from app.intake import Workshop
from app.store.blobs import open_blobs
from app.store.database import open_engine


def _main(database: str, folder: str, batch_id: str) -> int:
    workshop = Workshop(
        engine=open_engine(database, pool_size=3),
        blobs=open_blobs(str(Path(folder) / "blobs")),
        spool=Path(folder) / "spool",
        limits=Limits(max_record_bytes=1024 * 1024, max_columns=1_000),
        lease_seconds=15,
        owner="host/3/3",
    )
    return 0 if intake.ingest(workshop, UUID(batch_id)) is not None else 1


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
