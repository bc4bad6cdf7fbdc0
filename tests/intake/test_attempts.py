"""Attempts that do not go undisturbed: what others see of them meanwhile, and what ends them without a trace."""

from __future__ import annotations

import dataclasses
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from app import intake
from app.batch import State
from app.intake import Workshop
from app.store import batches, claims
from app.store.blobs import StorageError
from app.store.database import open_engine
from tests.conftest import Look, Sender
from tests.factories import clean_file
from tests.intake.conftest import Halting, lines

TABLES = ("public.judgments", "intake.row_errors", "intake.row_conflicts")


def wide_file(megabytes: int) -> bytes:
    """A clean file of few, long rows: many pieces to read and little to check."""
    filler = "x" * 4_000
    rows = megabytes * 1024 * 1024 // 4_060
    return b"case_number,defendant_name,judgment_amount,filler\n" + b"".join(
        f"C-{number:06},Ada Marlow,12.50,{filler}\n".encode() for number in range(rows)
    )


def wait_for(condition: Callable[[], bool], within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def halted(
    workshop: Workshop, send: Sender, content: bytes, before_piece: int
) -> Iterator[tuple[Halting, Future[State | None]]]:
    """An attempt that stands still in mid-file, goes on behind the block, and its end."""
    store = Halting(workshop.blobs, before_piece)
    batch = send(content)
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(intake.ingest, dataclasses.replace(workshop, blobs=store), batch.id)
        try:
            assert store.reached.wait(30)
            yield store, end
        finally:
            store.go_on.set()
        end.result(60)


def the_batch(look: Look) -> batches.Batch:
    ((batch_id,),) = look.rows("SELECT id FROM intake.batches")
    return look.batch(batch_id)


@pytest.mark.parametrize("lease_seconds", [2])
class TestWhileItRuns:
    def test_others_see_its_progress_and_nothing_of_its_rows(
        self, workshop: Workshop, send: Sender, look: Look
    ) -> None:
        with halted(workshop, send, wide_file(16), before_piece=15):
            wait_for(lambda: the_batch(look).rows_processed > 0)
            seen = the_batch(look)
            assert seen.status is State.VALIDATING
            assert 0 < seen.bytes_processed < seen.file_size_bytes
            assert [look.count(table) for table in TABLES] == [0, 0, 0]
        done = the_batch(look)
        assert (done.status, done.rows_processed, done.bytes_processed) == (
            State.COMPLETED,
            done.row_count_total,
            done.file_size_bytes,
        )

    def test_an_attempt_that_stands_still_loses_its_lease_although_its_process_lives(
        self, workshop: Workshop, send: Sender, look: Look
    ) -> None:
        with halted(workshop, send, wide_file(3), before_piece=1) as (_, end):
            wait_for(lambda: look.rows("SELECT lease_until < clock_timestamp() FROM intake.batches") == [(True,)])
            other = dataclasses.replace(workshop, owner="host/7/8")
            assert intake.ingest(other, the_batch(look).id) is State.COMPLETED
            stands = the_batch(look)
        assert end.result() is None
        assert the_batch(look) == stands
        assert stands.fence == 2
        assert look.rows("SELECT count(*), count(DISTINCT row_index) FROM public.judgments") == [
            (stands.row_count_total, stands.row_count_total)
        ]

    def test_one_that_has_lost_its_claim_stops_early_and_writes_nothing(
        self, workshop: Workshop, send: Sender, look: Look, database: Engine
    ) -> None:
        with halted(workshop, send, wide_file(40), before_piece=10) as (store, end):
            with database.begin() as connection:
                assert batches.cancel(connection, the_batch(look).id) is not None
            # Its heartbeat notices at the next piece that moves.
            store.go_on.set()
        assert end.result() is None
        assert the_batch(look).status is State.CANCELLED
        assert [look.count(table) for table in TABLES] == [0, 0, 0]
        assert list(workshop.spool.iterdir()) == []

    def test_a_taken_over_attempt_does_not_release_the_new_ones_claim(
        self, workshop: Workshop, send: Sender, look: Look
    ) -> None:
        with halted(workshop, send, wide_file(3), before_piece=1) as (store, _):
            look.change(
                "UPDATE intake.batches SET status = 'staging', fence = fence + 1, lease_owner = 'host/7/8',"
                " lease_until = clock_timestamp() + interval '1 hour'"
            )
            taken_over = the_batch(look)
            store.go_on.set()
        assert the_batch(look) == taken_over
        assert look.count("public.judgments") == 0


def test_a_reader_sees_judgments_errors_and_state_together(
    workshop: Workshop, send: Sender, look: Look, service_url: str, on_judgments: Callable[[str], None]
) -> None:
    on_judgments("PERFORM pg_sleep(0.004); RETURN NEW;")
    batch = send(lines(*[f"C-{number},Ada,{'x' if number % 20 == 0 else 1}," for number in range(200)]))
    stop, seen = threading.Event(), set()

    def watch() -> None:
        with psycopg.connect(service_url, autocommit=True) as connection:
            while not stop.is_set():
                seen.add(
                    connection.execute(
                        "SELECT status = 'completed', (SELECT count(*) FROM public.judgments),"
                        " (SELECT count(*) FROM intake.row_errors), row_count_inserted FROM intake.batches"
                    ).fetchone()
                )

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert intake.ingest(workshop, batch.id) is State.COMPLETED
    finally:
        time.sleep(0.05)
        stop.set()
        watcher.join()
    assert seen == {(False, 0, 0, 0), (True, 190, 10, 190)}


class TestSurroundings:
    def released(self, look: Look) -> None:
        """The batch waits again, nothing of it was written, and the attempt does not count."""
        batch = the_batch(look)
        assert (batch.status, batch.attempts, batch.setbacks) == (State.UPLOADED, 0, 1)
        assert batch.not_before is not None
        assert (batch.lease_until, batch.lease_owner) == (None, None)
        assert [look.count(table) for table in TABLES] == [0, 0, 0]

    def test_a_full_disk_releases_the_batch_uncounted_and_the_next_attempt_completes_it(
        self, workshop: Workshop, send: Sender, look: Look
    ) -> None:
        # More rows than are kept in memory: they have to go to the disk.
        batch = send(clean_file(60_000))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, before[1]))
        try:
            assert intake.ingest(workshop, batch.id) is None
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        self.released(look)
        assert list(workshop.spool.iterdir()) == []
        assert intake.ingest(workshop, batch.id) is None, "it waits before it is tried again"
        look.change("UPDATE intake.batches SET not_before = NULL")
        assert intake.ingest(workshop, batch.id) is State.COMPLETED
        done = the_batch(look)
        assert (done.row_count_inserted, done.attempts, done.setbacks) == (60_000, 1, 0)

    def test_a_store_that_fails_releases_the_batch(self, workshop: Workshop, send: Sender, look: Look) -> None:
        class Failing(Halting):
            def read(self, key: str) -> Iterator[bytes]:
                raise StorageError("could not read a file: Input/output error")

        batch = send(clean_file(3))
        assert intake.ingest(dataclasses.replace(workshop, blobs=Failing(workshop.blobs, 0)), batch.id) is None
        self.released(look)

    def test_a_database_that_ends_the_load_releases_the_batch(
        self, workshop: Workshop, send: Sender, look: Look, on_judgments: Callable[[str], None]
    ) -> None:
        on_judgments("PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW;")
        batch = send(clean_file(3))
        assert intake.ingest(workshop, batch.id) is None
        self.released(look)

    @pytest.mark.parametrize("sqlstate", ["40P01", "55P03", "53100", "57014"])
    def test_a_deadlock_a_timeout_a_full_disk_of_the_database_releases_the_batch(
        self, workshop: Workshop, send: Sender, look: Look, on_judgments: Callable[[str], None], sqlstate: str
    ) -> None:
        on_judgments(f"RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}';")
        batch = send(clean_file(3))
        assert intake.ingest(workshop, batch.id) is None
        self.released(look)

    def test_without_a_database_there_is_no_attempt(self, workshop: Workshop, send: Sender, look: Look) -> None:
        batch = send(clean_file(3))
        gone = open_engine("postgresql://service_role@/dragonfly?host=/nonexistent")
        assert intake.ingest(dataclasses.replace(workshop, engine=gone), batch.id) is None
        assert look.batch(batch.id) == batch

    def test_a_spool_that_cannot_be_made_releases_the_batch(
        self, workshop: Workshop, send: Sender, look: Look, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        batch = send(clean_file(3))
        assert intake.ingest(dataclasses.replace(workshop, spool=tmp_path / "file" / "spool"), batch.id) is None
        self.released(look)

    def test_a_defect_of_ours_counts_against_the_batch(self, workshop: Workshop, send: Sender, look: Look) -> None:
        class Defective(Halting):
            def read(self, key: str) -> Iterator[bytes]:
                raise ZeroDivisionError

        batch = send(clean_file(3))
        assert intake.ingest(dataclasses.replace(workshop, blobs=Defective(workshop.blobs, 0)), batch.id) is None
        assert (the_batch(look).status, the_batch(look).attempts) == (State.UPLOADED, 1)


class TestTakeover:
    def test_a_stopped_workers_open_transaction_blocks_nobody(
        self, workshop: Workshop, send: Sender, look: Look, service_url: str
    ) -> None:
        content = lines("C-1,Ada,5,", "C-2,Bela,6,")
        batch = send(content)
        with workshop.engine.begin() as connection:
            claimed = claims.claim(connection, batch.id, owner="host/7/8", lease_seconds=15)
        assert claimed is not None
        with psycopg.connect(service_url) as stopped:
            stopped.execute("SELECT set_config('application_name', %s, true)", [f"dragonfly:{batch.id}:1"])
            stopped.execute(
                "INSERT INTO public.judgments (id, case_number, defendant_name, judgment_amount, batch_id, row_index)"
                " VALUES (1, 'C-1', 'Ada', 5, %s, 0)",
                [batch.id],
            )
            look.expire(batch.id)
            begun = time.monotonic()
            assert intake.ingest(workshop, batch.id) is State.COMPLETED
            assert time.monotonic() - begun < 5
            with pytest.raises(psycopg.OperationalError):
                stopped.execute("SELECT 1")
            stopped.close()
        assert look.rows("SELECT count(*) FROM public.judgments") == [(2,)]

    def test_overlapping_batches_wait_for_each_other_and_never_deadlock(
        self, workshop: Workshop, send: Sender, look: Look
    ) -> None:
        for round_number in range(4):
            found = [
                send(clean_file(2_000, seed=10 * round_number + place, start=round_number * 5_000 + place * 1_000))
                for place in range(3)
            ]
            start = threading.Barrier(3)

            def load(batch: batches.Batch, start: threading.Barrier = start) -> State | None:
                start.wait()
                return intake.ingest(workshop, batch.id)

            with ThreadPoolExecutor(3) as pool:
                assert list(pool.map(load, found)) == [State.COMPLETED] * 3
            loaded = [look.batch(batch.id) for batch in found]
            assert sum(batch.row_count_inserted for batch in loaded) == 4_000
            assert sum(batch.row_count_duplicate for batch in loaded) == 2_000
            assert [(batch.attempts, batch.setbacks) for batch in loaded] == [(1, 0)] * 3
        assert look.rows("SELECT count(*), count(DISTINCT case_number) FROM public.judgments") == [(16_000, 16_000)]


def test_a_load_writes_in_key_order(
    workshop: Workshop, send: Sender, look: Look, on_judgments: Callable[[str], None]
) -> None:
    """In another order, overlapping batches would deadlock."""
    look.change("CREATE SEQUENCE public.test_order; GRANT USAGE ON SEQUENCE public.test_order TO service_role")
    look.change(
        'CREATE TABLE public.test_writes (place bigint, case_number text COLLATE "C"); GRANT INSERT ON public.test_writes TO service_role'
    )
    try:
        standing = send(clean_file(500, seed=1, start=250))
        assert intake.ingest(workshop, standing.id) is State.COMPLETED
        on_judgments(
            "INSERT INTO public.test_writes VALUES (nextval('public.test_order'), NEW.case_number); RETURN NEW;"
        )
        batch = send(clean_file(1_000, seed=2))
        assert intake.ingest(workshop, batch.id) is State.COMPLETED
        keys = [key for (key,) in look.rows("SELECT case_number FROM public.test_writes ORDER BY place")]
    finally:
        look.change("DROP TABLE public.test_writes; DROP SEQUENCE public.test_order")
    assert len(keys) == 500
    assert keys == sorted(keys, key=str.encode)


def test_this_process_is_not_left_with_open_files(workshop: Workshop, send: Sender) -> None:
    def open_files() -> int:
        return sum(
            1
            for link in Path("/proc/self/fd").iterdir()
            if "blobs" in os.fspath(_target(link)) or "spool" in os.fspath(_target(link))
        )

    for number in range(3):
        intake.ingest(workshop, send(clean_file(100, seed=number, start=number * 1_000)).id)
    assert open_files() == 0


def _target(link: Path) -> Path:
    try:
        return link.readlink()
    except OSError:
        return Path()
