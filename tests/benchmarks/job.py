"""One worker process of the benchmark: ingests each batch whose id comes on its stdin."""

import json
import logging
import sys
import time
from pathlib import Path
from uuid import UUID

import structlog

from app.engine.tuning import tune
from app.formats.csv import Limits
from app.intake import Workshop, ingest
from app.store import batches
from app.store.blobs import open_blobs
from app.store.database import open_engine


def main() -> None:
    """Answer every batch id with one line of JSON."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    tune()
    url, storage, spool = sys.argv[1:]
    engine = open_engine(url, pool_size=5)
    workshop = Workshop(
        engine=engine,
        blobs=open_blobs(storage),
        spool=Path(spool),
        limits=Limits(max_record_bytes=1024 * 1024, max_columns=1000),
        lease_seconds=15,
        owner="benchmark",
    )
    for line in sys.stdin:
        started = time.perf_counter()
        state = ingest(workshop, UUID(line.strip()))
        seconds = time.perf_counter() - started
        with engine.connect() as connection:
            batch = batches.get(connection, UUID(line.strip()))
        if batch is None:
            raise RuntimeError("the batch is gone")
        answer = {
            "seconds": seconds,
            "state": state.value if state else None,
            "total": batch.row_count_total,
            "inserted": batch.row_count_inserted,
            "duplicate": batch.row_count_duplicate,
            "conflict": batch.row_count_conflict,
            "invalid": batch.row_count_invalid,
            "check_ms": batch.parse_duration_ms,
            "load_ms": batch.db_duration_ms,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
