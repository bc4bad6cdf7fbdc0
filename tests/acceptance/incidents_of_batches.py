"""Incidents of the runbook about batches and their rows, each made by its real cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psycopg

from tests.acceptance.incidents import Variables, made
from tests.acceptance.stage import Stage, file_of


@contextmanager
def _blocked_batch(stage: Stage, name: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """A batch that waits for somebody's open transaction, and what ends that transaction."""
    direct_url = stage.pipeline.info["database_direct_url"]
    blocker = psycopg.connect(direct_url, application_name="report")
    blocker.execute(
        "INSERT INTO public.judgments (id, case_number, defendant_name, judgment_amount, batch_id, row_index)"
        " VALUES (0, %s, 'Bela Nettle', 1, gen_random_uuid(), 0)",
        (f"{name}-000000",),
    )
    try:
        batch = stage.pipeline.upload(file_of(name, 20))["batch_id"]
        stage.wait_for("a load", lambda: stage.pipeline.batch(batch)["status"] == "inserting")
        yield batch, blocker.close
    finally:
        blocker.close()
    stage.pipeline.wait(batch)


@made("Stuck batches", "Fix: a session holds a lock", check="stuck_batches")
def _(stage: Stage) -> Iterator[Variables]:
    with _blocked_batch(stage, "LOCK"):
        yield {}


@made("Stuck batches", "Fix: its worker hangs", check="stuck_batches")
def _(stage: Stage) -> Iterator[Variables]:
    with _blocked_batch(stage, "HANG") as (_, release), stage.stopped("celery worker"):
        release()
        yield {}


@made("Stuck batches", "Fix: give the batch up", check="stuck_batches")
def _(stage: Stage) -> Iterator[Variables]:
    with _blocked_batch(stage, "GIVEUP"):
        yield {}


@made("Error spike", "Fix: the file has bad rows", check="error_spike")
def _(stage: Stage) -> Iterator[Variables]:
    stage.pipeline.ingest(file_of("BAD", 1_000, invalid=160), source="foil", error_threshold_percent="50")
    corrected = stage.folder / "corrected.csv"
    corrected.write_bytes(file_of("CORRECTED", 160))
    yield {"CORRECTED": str(corrected), "SOURCE": "foil"}


@made(
    "Error spike",
    "Fix: the rate is normal for this source",
    check="error_spike",
    setting={"SENTINEL_ERROR_PERCENT": "15,foil=30"},
)
def _(stage: Stage) -> Iterator[Variables]:
    stage.pipeline.ingest(file_of("USUAL", 1_000, invalid=200), source="foil", error_threshold_percent="50")
    yield {}
    stage.pipeline.ingest(file_of("GOOD", 2_000), source="foil")


@made("Ledger", "Fix: rows were given to another batch", check="ledger")
def _(stage: Stage) -> Iterator[Variables]:
    batch = stage.pipeline.ingest(file_of("MOVED", 50))
    moved = "UPDATE public.judgments SET batch_id = gen_random_uuid() WHERE id = %(first)s RETURNING id"
    assert len(stage.owner(moved, {"first": _first_judgment(stage, batch["batch_id"])})) == 1
    yield {}


@made("Ledger", "Fix: rows are gone", check="ledger")
def _(stage: Stage) -> Iterator[Variables]:
    batch = stage.pipeline.ingest(file_of("GONE", 50, invalid=2))
    gone = "DELETE FROM public.judgments WHERE id = %(first)s RETURNING id"
    assert len(stage.owner(gone, {"first": _first_judgment(stage, batch["batch_id"])})) == 1
    yield {}
    stored = stage.pipeline.rows("SELECT count(*) FROM public.judgments WHERE starts_with(case_number, 'GONE-')")
    assert stored == [(48,)]


def _first_judgment(stage: Stage, batch_id: str) -> int:
    ((first,),) = stage.pipeline.rows("SELECT first_judgment_id FROM intake.batches WHERE id = %s", batch_id)
    return int(first)


@made("Backlog", "Fix: one more worker", check="backlog")
def _(stage: Stage) -> Iterator[Variables]:
    with _blocked_batch(stage, "BUSY"):
        stage.pipeline.upload(file_of("WAITS", 20))
        yield {}
    stage.wait_for("one worker left", lambda: len(stage.pipeline.rows("SELECT 1 FROM ops.workers")) == 1)


@made("Duplicate rate", "Fix: the same delivery came again", check="duplicate_rate")
def _(stage: Stage) -> Iterator[Variables]:
    for attempt in range(3):
        stage.pipeline.ingest(file_of("AGAIN", 300) + b"\n" * attempt, source="jbi")
    delivery = stage.folder / "delivery.csv"
    delivery.write_bytes(file_of("NEWS", 1_000))
    yield {"DELIVERY": str(delivery), "SOURCE": "jbi"}


@made(
    "Duplicate rate",
    "Fix: the rate of duplicates is normal",
    check="duplicate_rate",
    setting={"SENTINEL_DUPLICATE_PERCENT": "50,jbi=100"},
)
def _(stage: Stage) -> Iterator[Variables]:
    stage.pipeline.ingest(file_of("AGAIN", 300) + b"\n" * 9, source="jbi")
    for attempt in range(3):
        stage.pipeline.ingest(file_of("NEWS", 1_000) + b"\n" * (attempt + 1), source="jbi")
    yield {}
    stage.pipeline.ingest(file_of("MORE", 6_000), source="jbi")


def _is_completed(stage: Stage, variables: Variables) -> None:
    for batch in variables["BATCHES"].split():
        assert stage.pipeline.wait(batch)["status"] == "completed"


@made("Force a re-ingest", "A batch that failed", over=_is_completed)
def _(stage: Stage) -> Iterator[Variables]:
    batch = stage.pipeline.ingest(file_of("FAILED", 100, invalid=12))
    assert batch["status"] == "failed"
    yield {"BATCH": batch["batch_id"], "BATCHES": batch["batch_id"]}


@made("Force a re-ingest", "All that failed for one reason", over=_is_completed)
def _(stage: Stage) -> Iterator[Variables]:
    blobs = []
    with stage.stopped("celery worker"):
        batches = [stage.pipeline.upload(file_of(f"AWAY{one}", 20))["batch_id"] for one in range(2)]
        for batch in batches:
            ((key,),) = stage.pipeline.rows("SELECT storage_key FROM intake.batches WHERE id = %s", UUID(batch))
            blob = stage.disk / "blobs" / key
            blobs.append(blob.rename(blob.with_suffix(".away")))
    for batch in batches:
        assert stage.pipeline.wait(batch)["rejection_code"] == "INTEGRITY_ERROR"
    for blob in blobs:
        blob.rename(blob.with_suffix(""))
    yield {"CODE": "INTEGRITY_ERROR", "BATCHES": " ".join(batches)}


def _was_forced(stage: Stage, variables: Variables) -> None:
    found = stage.pipeline.rows(
        "SELECT status FROM intake.batches WHERE forced AND first_batch_id = %s", UUID(variables["FIRST"])
    )
    assert found == [("completed",)]


@made("Force a re-ingest", "Known bytes, as a new batch", over=_was_forced)
def _(stage: Stage) -> Iterator[Variables]:
    file: Path = stage.folder / "known.csv"
    file.write_bytes(file_of("KNOWN", 20))
    with stage.stopped("celery worker"):
        batch = stage.pipeline.upload(file.read_bytes())["batch_id"]
        assert stage.pipeline.command("cancel", batch).returncode == 0
    yield {"FILE": str(file), "FIRST": batch}


def _was_loaded_again(stage: Stage, variables: Variables) -> None:
    found = stage.pipeline.rows(
        "SELECT id = %s, status, row_count_inserted, row_count_invalid, error_threshold_percent FROM intake.batches"
        " WHERE file_hash = %s AND status <> 'cancelled'",
        UUID(variables["BATCH"]),
        variables["HASH"],
    )
    assert found == [(False, "completed", 48, 2, 30)]


@made("Clean up by hand", over=_was_loaded_again)
def _(stage: Stage) -> Iterator[Variables]:
    batch = stage.pipeline.ingest(file_of("WRONG", 50, invalid=2), error_threshold_percent="30")
    yield {"BATCH": batch["batch_id"], "HASH": batch["file_hash"]}


@made("Clean up by hand", over=_was_loaded_again)
def _(stage: Stage) -> Iterator[Variables]:
    """A batch that was forced: its bytes are those of another, which loaded nothing."""
    file = file_of("FORCED", 50, invalid=2)
    with stage.stopped("celery worker"):
        first = stage.pipeline.upload(file)["batch_id"]
        assert stage.pipeline.command("cancel", first).returncode == 0
    batch = stage.pipeline.ingest(file, force="true", error_threshold_percent="30")
    yield {"BATCH": batch["batch_id"], "HASH": batch["file_hash"]}
