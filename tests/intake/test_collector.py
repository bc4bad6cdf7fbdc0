"""The collector: it removes what no batch needs and a day old at least, and never a file that is being received."""

from __future__ import annotations

import datetime as dt
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from obstore.store import MemoryStore
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app import collector, intake
from app.collector import Collected, Collector
from app.engine.spool import Spool
from app.settings import Settings, SettingsError
from app.store import judgments
from app.store.blobs import BlobMissingError, Blobs, FolderBlobs, ObjectBlobs, StorageError, key_of
from app.store.database import open_single
from app.store.leftovers import Kind
from app.store.upkeep import FolderUpkeep, ObjectUpkeep, Stored, Upkeep
from app.workshop import Workshop
from tests.conftest import Look, Sender
from tests.intake.conftest import lines
from tests.object_store import SeaweedFS

DAY = dt.timedelta(days=1)
ANY_AGE = dt.timedelta(seconds=-5)
"""As if a day had passed: object stores tell the time in whole seconds."""
CONTENT = lines("A-1,Ada Marlow,12.50,2024-01-31")
KINDS = ("folder", "memory", "s3")


@dataclass
class Place:
    """One store of files, as receivers and as the collector know it."""

    blobs: Blobs
    upkeep: Upkeep

    def orphan(self, content: bytes) -> str:
        """A file in its place, without a batch; returns its key."""
        incoming = self.blobs.incoming()
        incoming.write(content)
        incoming.close()
        return self.blobs.keep(incoming)

    def arrival(self, content: bytes = b"half a f") -> str:
        """A file on its way in, whose receiver is gone."""
        before = {stored.key for stored in self.upkeep.arrivals()}
        incoming = self.blobs.incoming()
        incoming.write(content)
        incoming.close()
        (key,) = {stored.key for stored in self.upkeep.arrivals()} - before
        return key

    def keys(self) -> set[str]:
        """Everything in the store."""
        upkeep = self.upkeep
        return {stored.key for files in (upkeep.blobs(), upkeep.arrivals(), upkeep.aside()) for stored in files}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with SeaweedFS(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of store in turn, empty."""
    if request.param == "folder":
        return Place(FolderBlobs(tmp_path / "blobs"), FolderUpkeep(tmp_path / "blobs"))
    if request.param == "memory":
        memory = MemoryStore()
        return Place(ObjectBlobs(memory), ObjectUpkeep(memory))
    bucket = request.getfixturevalue("s3").bucket("blobs", prefix=uuid4().hex)
    return Place(ObjectBlobs(bucket), ObjectUpkeep(bucket))


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    return Place(FolderBlobs(tmp_path / "blobs"), FolderUpkeep(tmp_path / "blobs"))


@pytest.fixture
def run(database: Engine, place: Place) -> Callable[..., Collected]:
    """One whole run of the collector."""

    def collect(older_than: dt.timedelta = ANY_AGE, *, dry: bool = False) -> Collected:
        return Collector(database, place.upkeep, older_than=older_than, dry=dry).run()

    return collect


def removed(look: Look) -> dict[str, tuple[int, int]]:
    """What the database says was ever removed: number and bytes by kind."""
    return {
        kind: (number, size)
        for kind, number, size in look.rows("SELECT kind, removed, removed_bytes FROM ops.leftovers WHERE removed > 0")
    }


class TestWhatIsRemoved:
    def test_a_file_without_a_batch_goes_and_one_with_a_batch_stays(
        self, place: Place, run: Callable[..., Collected], database: Engine, look: Look
    ) -> None:
        batch = Sender(database, place.blobs)(CONTENT)
        orphan, arrival = place.orphan(b"without a batch"), place.arrival()
        assert place.keys() == {batch.storage_key, orphan, arrival}
        done = run()
        assert (done.removed, done.size, done.looked_at, done.is_whole) == (
            {Kind.BLOB: 1, Kind.ARRIVAL: 1},
            15 + 8,
            2,
            True,
        )
        assert place.keys() == {batch.storage_key}
        assert removed(look) == {"blob": (1, 15), "arrival": (1, 8)}
        assert run().removed == {Kind.BLOB: 0, Kind.ARRIVAL: 0}

    def test_nothing_younger_than_a_day_goes(
        self, place: Place, run: Callable[..., Collected], database: Engine
    ) -> None:
        Sender(database, place.blobs)(CONTENT)
        place.orphan(b"without a batch")
        place.arrival()
        before = place.keys()
        assert run(DAY).removed == {Kind.BLOB: 0, Kind.ARRIVAL: 0}
        assert place.keys() == before

    def test_a_dry_run_names_them_and_removes_and_counts_nothing(
        self, place: Place, database: Engine, look: Look
    ) -> None:
        Sender(database, place.blobs)(CONTENT)
        orphan, arrival = place.orphan(b"without a batch"), place.arrival()
        before, told = place.keys(), []
        dry = Collector(
            database,
            place.upkeep,
            older_than=ANY_AGE,
            dry=True,
            found=lambda kind, stored, _: told.append((kind, stored.key)),
        )
        assert dry.run().removed == {Kind.BLOB: 1, Kind.ARRIVAL: 1}
        assert sorted(told) == [(Kind.ARRIVAL, arrival), (Kind.BLOB, orphan)]
        assert place.keys() == before
        assert look.count("ops.leftovers") == 0

    def test_beside_an_empty_database_every_file_stays(self, place: Place, run: Callable[..., Collected]) -> None:
        """It is another store's database, or a new one whose backup is still to be loaded."""
        place.orphan(b"another database's file")
        before = place.keys()
        assert run().removed == {Kind.BLOB: 0, Kind.ARRIVAL: 0}
        assert place.keys() == before

    def test_what_is_no_blob_is_not_touched(self, folder: Place, database: Engine, tmp_path: Path) -> None:
        Sender(database, folder.blobs)(CONTENT)
        strangers = [tmp_path / "blobs" / name for name in ("sha256/readme.txt", "sha256/ab/cd/notes", "other/file")]
        for stranger in strangers:
            stranger.parent.mkdir(parents=True, exist_ok=True)
            stranger.write_text("a person's")
        Collector(database, folder.upkeep, older_than=ANY_AGE).run()
        assert all(stranger.exists() for stranger in strangers)


class TestAge:
    def test_it_is_that_of_the_last_write_by_the_stores_clock(
        self, folder: Place, database: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Sender(database, folder.blobs)(CONTENT)
        old, young = folder.orphan(b"old"), folder.orphan(b"young")
        for key, hours in ((old, 24.1), (young, 23.9)):
            stamp = time.time() - hours * 3600
            os.utime(tmp_path / "blobs" / key, (stamp, stamp))
        # This machine's clock is two days fast; what counts is the store's.
        monkeypatch.setattr(time, "time", lambda: 4_000_000_000.0)
        assert Collector(database, folder.upkeep, older_than=DAY).run().removed[Kind.BLOB] == 1
        assert {young, old} & folder.keys() == {young}

    def test_no_setting_makes_it_less_than_a_day(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert Settings.load().collect_after_hours >= 24
        monkeypatch.setenv("COLLECT_AFTER_HOURS", "23")
        with pytest.raises(SettingsError, match="at least 24"):
            Settings.load()


class TestABoundedRun:
    def test_the_next_one_goes_on_behind_it(self, place: Place, database: Engine, look: Look) -> None:
        Sender(database, place.blobs)(CONTENT)
        for number in range(6):
            place.orphan(str(number).encode())
        seen: list[tuple[int, int]] = []
        while not (seen and seen[-1][0] < 3):
            done = Collector(database, place.upkeep, older_than=DAY).run(most=3, resume=True)
            seen.append((done.looked_at, done.removed[Kind.BLOB]))
        assert seen == [(3, 0), (3, 0), (1, 0)]
        assert look.rows("SELECT position, passed_at IS NOT NULL FROM ops.leftovers WHERE kind = 'blob'") == [
            ("", True)
        ]

    @pytest.mark.parametrize("together", [2, 500])
    def test_where_too_many_have_no_batch_it_removes_none_of_them_and_finds_them_again(
        self, folder: Place, database: Engine, look: Look, monkeypatch: pytest.MonkeyPatch, together: int
    ) -> None:
        """The database may have been set back, or be one of two beside the same store: the files are all that is left."""
        monkeypatch.setattr(collector, "_TOGETHER", together)
        Sender(database, folder.blobs)(CONTENT)
        orphans = {folder.orphan(str(number).encode()) for number in range(collector.MOST_LEFTOVERS)}
        one_more = folder.orphan(b"one more")
        before = folder.keys()
        for _ in range(3):
            collector.collect_some(database, lambda: folder.upkeep, older_than=ANY_AGE)
            assert folder.keys() == before
            assert look.count("ops.leftovers") == 0
        folder.blobs.remove(one_more)
        collector.collect_some(database, lambda: folder.upkeep, older_than=ANY_AGE)
        assert folder.keys() == before - orphans - {one_more}

    def test_it_ends_in_time(self, folder: Place, database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        Sender(database, folder.blobs)(CONTENT)
        for number in range(4):
            folder.orphan(str(number).encode())
        monkeypatch.setattr(collector, "_TOGETHER", 2)
        done = Collector(database, folder.upkeep, older_than=ANY_AGE).run(seconds=0, resume=True)
        assert (done.looked_at, done.is_whole) == (2, False)
        assert Collector(database, folder.upkeep, older_than=ANY_AGE).run(resume=True).looked_at == 3

    def test_a_store_that_fails_ends_it_without_an_error(self, database: Engine, send: Sender, look: Look) -> None:
        send(CONTENT)
        collector.collect_some(database, lambda: FolderUpkeep(Path("/nowhere")), older_than=DAY)
        assert look.count("ops.leftovers") == 0


class TestAFileThatCannotBeRemoved:
    @pytest.mark.parametrize(("failing", "stays"), [(2, 2), (3, 5)])
    def test_keeps_nobody_from_the_others_unless_it_is_the_store_that_fails(
        self, folder: Place, database: Engine, failing: int, stays: int
    ) -> None:
        Sender(database, folder.blobs)(CONTENT)
        hashes = sorted(folder.orphan(b"orphan %d" % number).rpartition("/")[2] for number in range(5))
        store = Failing(folder.upkeep, set(hashes[:failing]))
        with pytest.raises(StorageError) if failing == 3 else nullcontext():
            Collector(database, store, older_than=ANY_AGE).run()  # type: ignore[arg-type]
        assert len(folder.keys()) == 1 + stays

    def test_the_lock_holds_for_longer_than_other_transactions_where_a_store_takes_its_time(
        self, folder: Place, database: Engine, service_url: str
    ) -> None:
        batch = Sender(database, folder.blobs)(CONTENT)
        folder.orphan(b"orphan")
        slow = Slow(folder.upkeep)
        Collector(open_single(service_url, idle_seconds=1), slow, older_than=ANY_AGE).run()  # type: ignore[arg-type]
        assert folder.keys() == {batch.storage_key}


class OnlyBlobs:
    """A store in which nothing is on its way in: of any age, what is being received would be removed there too."""

    def __init__(self, upkeep: Upkeep) -> None:
        self._upkeep = upkeep

    def __getattr__(self, name: str) -> object:
        return getattr(self._upkeep, name)

    def arrivals(self) -> Iterator[Stored]:
        return iter(())


class Failing(OnlyBlobs):
    """A store that cannot remove some of its files."""

    def __init__(self, upkeep: Upkeep, hashes: set[str]) -> None:
        super().__init__(upkeep)
        self._hashes = hashes

    def set_aside(self, file_hash: str) -> None:
        if file_hash in self._hashes:
            raise StorageError("could not set a file aside")
        self._upkeep.set_aside(file_hash)


class Slow(OnlyBlobs):
    """A store that takes 1.5 s to set a file aside."""

    def set_aside(self, file_hash: str) -> None:
        time.sleep(1.5)
        self._upkeep.set_aside(file_hash)


class Halting(OnlyBlobs):
    """A store whose removals wait before they begin until they are let go on."""

    def __init__(self, upkeep: Upkeep) -> None:
        super().__init__(upkeep)
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def set_aside(self, file_hash: str) -> None:
        self.reached.set()
        assert self.go_on.wait(30)
        self._upkeep.set_aside(file_hash)


class TestAnUploadOfTheSameBytes:
    @pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)
    def test_again_and_again_never_loses_its_file(self, place: Place, database: Engine, look: Look) -> None:
        send = Sender(database, place.blobs)
        # Some other batch, for beside an empty database nothing is collected.
        send(lines("B-1,Bela Quint,1,"))
        over = threading.Event()
        runs: list[int] = []

        def collect() -> None:
            while not over.is_set():
                done = Collector(database, OnlyBlobs(place.upkeep), older_than=ANY_AGE).run()
                runs.append(done.removed[Kind.BLOB])

        thread = threading.Thread(target=collect)
        thread.start()
        try:
            lost = 0
            deadline = time.monotonic() + 6
            while time.monotonic() < deadline or not sum(runs):
                batch = send(CONTENT)
                time.sleep(0.002)
                try:
                    assert b"".join(place.blobs.read(batch.storage_key or "")) == CONTENT
                except BlobMissingError:
                    lost += 1
                # From now on it is an orphan, which the collector may have.
                look.change("DELETE FROM intake.batches WHERE id = :id", id=batch.id)
        finally:
            over.set()
            thread.join(30)
        assert lost == 0
        assert sum(runs) > 0

    def test_waits_for_a_removal_that_has_begun(self, place: Place, database: Engine) -> None:
        send = Sender(database, place.blobs)
        send(lines("B-1,Bela Quint,1,"))
        place.orphan(CONTENT)
        halting = Halting(place.upkeep)
        collecting = threading.Thread(target=Collector(database, halting, older_than=ANY_AGE).run)
        collecting.start()
        assert halting.reached.wait(30)
        sending = threading.Thread(target=send, args=(CONTENT,))
        sending.start()
        sending.join(0.5)
        assert sending.is_alive()
        halting.go_on.set()
        for thread in (sending, collecting):
            thread.join(30)
        batch = send(CONTENT)
        assert b"".join(place.blobs.read(batch.storage_key or "")) == CONTENT

    def test_gets_its_file_back_from_a_collector_that_was_halted_and_has_lost_its_lock(
        self, place: Place, database: Engine, look: Look
    ) -> None:
        send = Sender(database, place.blobs)
        send(lines("B-1,Bela Quint,1,"))
        place.orphan(CONTENT)
        halting = Halting(place.upkeep)
        ended: list[type[BaseException]] = []

        def collect() -> None:
            try:
                Collector(database, halting, older_than=ANY_AGE).run()
            except SQLAlchemyError as problem:
                ended.append(type(problem))

        collecting = threading.Thread(target=collect)
        collecting.start()
        assert halting.reached.wait(30)
        assert look.rows(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND pid <> pg_backend_pid()"
        ) == [(True,)]
        batch = send(CONTENT)
        halting.go_on.set()
        collecting.join(30)
        assert len(ended) == 1
        assert b"".join(place.blobs.read(batch.storage_key or "")) == CONTENT
        assert place.keys() == {batch.storage_key, *(s.key for s in place.upkeep.blobs())}

    def test_gets_its_file_back_from_a_collector_that_died_half_way(
        self, place: Place, run: Callable[..., Collected], database: Engine
    ) -> None:
        batch = Sender(database, place.blobs)(CONTENT)
        place.upkeep.set_aside(batch.file_hash)
        assert place.upkeep.find(key_of(batch.file_hash)) is None
        assert run().put_back == 1
        assert place.keys() == {batch.storage_key}
        assert b"".join(place.blobs.read(batch.storage_key or "")) == CONTENT


class TestOldAttempts:
    def test_their_spools_are_counted(self, workshop: Workshop, send: Sender, look: Look) -> None:
        batch = send(CONTENT)
        workshop.spool.mkdir(parents=True)
        left = workshop.spool / f"{batch.id}-3"
        left.mkdir()
        (left / "rows").write_bytes(b"x" * 700)
        intake.sweep_spool(workshop)
        assert Spool.folders(workshop.spool) == []
        assert removed(look) == {"spool": (1, 700)}

    def test_the_transaction_of_a_cancelled_batch_is_ended(self, workshop: Workshop, send: Sender, look: Look) -> None:
        """Its worker may be stopped for good, and would hold its keys against all others."""
        stopped, working = send(CONTENT), send(lines("B-1,Bela Quint,1,"))
        look.change("UPDATE intake.batches SET status = 'staging', fence = 1, lease_until = now() + '1 h'")
        with workshop.engine.connect() as old, workshop.engine.connect() as current:
            judgments.begin_load(old, stopped.id, 1)
            judgments.begin_load(current, working.id, 1)
            look.change(
                "UPDATE intake.batches SET status = 'cancelled', completed_at = now() WHERE id = :id", id=stopped.id
            )
            intake.end_old_attempts(workshop)
            # It may be on its way out.
            assert removed(look) == {}
            look.change("UPDATE intake.batches SET state_since = now() - interval '61 s'")
            intake.end_old_attempts(workshop)
            assert removed(look) == {"connection": (1, 0)}
            assert current.exec_driver_sql("SELECT 1").scalar_one() == 1
            with pytest.raises(SQLAlchemyError):
                old.exec_driver_sql("SELECT 1")
            old.invalidate()
