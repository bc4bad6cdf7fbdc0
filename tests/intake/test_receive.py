"""Receiving: the same bytes make one batch however often and however fast they come, and nothing is left lying."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app import intake
from app.batch import State
from app.intake import Receipt, Upload, Workshop
from app.store.blobs import Blobs, StorageError, StorageFullError, key_of
from app.store.database import open_engine
from tests.conftest import Look, Sender
from tests.factories import clean_file

CONTENT = clean_file(3)
HASH = hashlib.sha256(CONTENT).hexdigest()
UPLOAD = Upload(
    filename="export.csv",
    source="manual",
    error_threshold_percent=10,
    force=False,
    priority="normal",
    created_by="tests",
)
Files = Callable[[], list[Path]]


def test_a_new_file_makes_an_uploaded_batch_and_a_blob(send: Sender, look: Look, blobs: Blobs) -> None:
    receipt = send.receipt(CONTENT, filename="jbi.csv", source="jbi", error_threshold_percent=7, priority="high")
    assert not receipt.is_duplicate
    batch = look.batch(receipt.batch.id)
    assert batch == receipt.batch
    assert (batch.status, batch.filename, batch.source, batch.priority) == (State.UPLOADED, "jbi.csv", "jbi", "high")
    assert (batch.file_hash, batch.file_size_bytes, batch.error_threshold_percent) == (HASH, len(CONTENT), 7)
    assert batch.storage_key == key_of(HASH)
    assert b"".join(blobs.read(key_of(HASH))) == CONTENT


def test_the_same_bytes_again_get_the_first_batch(send: Sender, look: Look) -> None:
    first = send.receipt(CONTENT)
    again = send.receipt(CONTENT, filename="other.csv", source="foil")
    assert (again.is_duplicate, again.batch) == (True, first.batch)
    assert look.count("intake.batches") == 1


def test_the_same_bytes_at_once_get_one_batch(
    database: Engine, blobs: Blobs, look: Look, blob_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Barrier(20)
    keep = blobs.keep

    def keep_slowly(incoming: intake.Incoming) -> str:
        # All others arrive while the first one is between its question and its row.
        time.sleep(0.03)
        return keep(incoming)

    monkeypatch.setattr(blobs, "keep", keep_slowly)

    def send_at_once(_: int) -> Receipt:
        incoming = blobs.incoming()
        incoming.write(CONTENT)
        start.wait()
        return intake.receive(database, blobs, incoming, UPLOAD)

    with ThreadPoolExecutor(20) as pool:
        receipts = list(pool.map(send_at_once, range(20)))
    assert len({receipt.batch.id for receipt in receipts}) == 1
    assert [receipt.is_duplicate for receipt in receipts].count(False) == 1
    assert look.count("intake.batches") == 1
    assert len(blob_files()) == 1


def test_a_forced_upload_makes_another_batch(send: Sender, look: Look) -> None:
    first = send(CONTENT)
    receipts = [send.receipt(CONTENT, force=True) for _ in range(2)]
    assert [receipt.is_duplicate for receipt in receipts] == [False, False]
    assert all((receipt.batch.forced, receipt.batch.first_batch_id) == (True, first.id) for receipt in receipts)
    assert look.count("intake.batches") == 3


def test_a_forced_upload_of_unknown_bytes_is_an_ordinary_one(send: Sender) -> None:
    batch = send(CONTENT, force=True)
    assert (batch.forced, batch.first_batch_id) == (False, None)
    assert send.receipt(CONTENT).is_duplicate


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"altered")])
def test_the_same_bytes_again_heal_a_blob_that_storage_has_lost_or_altered(
    send: Sender, blobs: Blobs, blob_files: Files, damage: Callable[[Path], object]
) -> None:
    send(CONTENT)
    damage(blob_files()[0])
    assert send.receipt(CONTENT).is_duplicate
    assert b"".join(blobs.read(key_of(HASH))) == CONTENT


class TestFailure:
    def test_without_a_database_nothing_stays_in_the_store(self, blobs: Blobs, blob_files: Files) -> None:
        engine = open_engine("postgresql://service_role@/dragonfly?host=/nonexistent")
        incoming = blobs.incoming()
        incoming.write(CONTENT)
        with pytest.raises(SQLAlchemyError):
            intake.receive(engine, blobs, incoming, UPLOAD)
        assert blob_files() == []

    def test_when_the_store_does_not_keep_it_no_batch_is_made(
        self, database: Engine, blobs: Blobs, look: Look, blob_files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(incoming: object) -> str:
            raise StorageFullError("could not keep a file: No space left on device")

        monkeypatch.setattr(blobs, "keep", full)
        incoming = blobs.incoming()
        incoming.write(CONTENT)
        with pytest.raises(StorageFullError):
            intake.receive(database, blobs, incoming, UPLOAD)
        assert blob_files() == []
        assert look.count("intake.batches") == 0

    def test_a_file_that_cannot_be_finished_is_discarded(
        self, database: Engine, blobs: Blobs, look: Look, blob_files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        incoming = blobs.incoming()
        incoming.write(CONTENT)
        close = incoming.close

        def broken() -> None:
            close()
            raise StorageError("could not write a file: Input/output error")

        monkeypatch.setattr(incoming, "close", broken)
        with pytest.raises(StorageError):
            intake.receive(database, blobs, incoming, UPLOAD)
        assert blob_files() == []
        assert look.count("intake.batches") == 0

    def test_a_refused_row_of_batches_leaves_only_an_orphaned_blob(
        self, database: Engine, blobs: Blobs, look: Look, blob_files: Files
    ) -> None:
        incoming = blobs.incoming()
        incoming.write(CONTENT)
        upload = Upload(
            filename="x", source="nowhere", error_threshold_percent=10, force=False, priority="normal", created_by="t"
        )
        with pytest.raises(SQLAlchemyError):
            intake.receive(database, blobs, incoming, upload)
        assert look.count("intake.batches") == 0
        assert [path.name for path in blob_files()] == [HASH]
        assert intake.receive(database, blobs, _again(blobs), UPLOAD).batch.status is State.UPLOADED

    def test_bytes_are_durable_before_their_batch_can_be_seen(
        self, workshop: Workshop, look: Look, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[int, bool]] = []
        keep = workshop.blobs.keep

        def keep_and_look(incoming: intake.Incoming) -> str:
            key = keep(incoming)
            seen.append((look.count("intake.batches"), b"".join(workshop.blobs.read(key)) == CONTENT))
            return key

        monkeypatch.setattr(workshop.blobs, "keep", keep_and_look)
        intake.receive(workshop.engine, workshop.blobs, _again(workshop.blobs), UPLOAD)
        assert seen == [(0, True)]


def _again(blobs: Blobs) -> intake.Incoming:
    incoming = blobs.incoming()
    incoming.write(CONTENT)
    return incoming
