"""What an end-to-end smoke test leaves is removed to the last row, by whatever owner there is, and nothing else ever is."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Engine

from app import intake
from app.batch import State
from app.intake import Workshop
from app.local.postgres import Postgres
from app.store import batches, claims, judgments, traces
from app.store.batches import Batch
from app.store.blobs import BlobMissingError, Blobs, open_blobs
from app.store.claims import LostClaimError
from app.store.database import open_engine, open_single
from app.store.schema import migrate
from app.store.traces import MayNotRemoveError, NotRemovedError, Removed, Run
from monitoring.smoke_trial import BAD_ROWS, GOOD_ROWS, bad_file, good_file
from tests.conftest import SERVICE_PASSWORD, Look, Sender
from tests.factories import clean_file
from tests.monitoring.remains import remains

OLD = "clock_timestamp() - interval '11 minutes'"


@dataclass(frozen=True)
class Runs:
    """Runs of the test as they stand when nobody has cleaned up yet."""

    owner: Engine
    workshop: Workshop
    send: Sender
    look: Look

    def begun(self) -> Run:
        """A run with a key and nothing else."""
        own = Run.new()
        with self.owner.begin() as connection:
            traces.begin(connection, own)
        return own

    def upload(self, own: Run, content: bytes, **overrides: Any) -> Batch:
        return self.send(content, **{"filename": own.filename, "created_by": own.name, **overrides})

    def complete(self) -> tuple[Run, list[UUID]]:
        """A run whose two files have been worked on."""
        own = self.begun()
        ids = [self.upload(own, content).id for content in (good_file(own), bad_file(own))]
        assert [intake.ingest(self.workshop, batch_id) for batch_id in ids] == [State.COMPLETED, State.FAILED]
        return own, ids

    def remove(self, own: Run) -> Removed:
        with self.owner.begin() as connection:
            traces.stop(connection, own)
        with self.owner.begin() as connection:
            return traces.remove(connection, self.workshop.blobs, own)

    def left_behind(self) -> list[Run]:
        with self.owner.begin() as connection:
            return traces.left_behind(connection)

    def age(self) -> None:
        """All that stands was made eleven minutes ago."""
        self.look.change(f"UPDATE intake.batches SET created_at = {OLD}")
        self.look.change(f"UPDATE ops.api_keys SET created_at = {OLD}")


@pytest.fixture
def runs(owner_engine: Engine, workshop: Workshop, send: Sender, look: Look) -> Runs:
    return Runs(owner_engine, workshop, send, look)


@pytest.fixture
def real(workshop: Workshop, send: Sender) -> Batch:
    """A vendor's batch, to be left alone."""
    batch = send(clean_file(50))
    intake.ingest(workshop, batch.id)
    return batch


def test_a_run_is_removed_to_the_last_row_and_file(
    runs: Runs, real: Batch, blobs: Blobs, postgres_server: Postgres
) -> None:
    before = remains(postgres_server.url())
    own, ids = runs.complete()
    hashes = [runs.look.batch(batch_id).file_hash for batch_id in ids]
    removed = runs.remove(own)
    assert sorted(removed.batch_ids) == sorted(ids)
    assert (removed.judgments, removed.row_errors, removed.conflicts, removed.blobs) == (GOOD_ROWS, BAD_ROWS, 0, 2)
    assert removed.lost_blobs == []
    assert remains(postgres_server.url()) == before
    for file_hash in hashes:
        with pytest.raises(BlobMissingError):
            list(blobs.read(f"sha256/{file_hash[:2]}/{file_hash[2:4]}/{file_hash}"))
    assert list(blobs.read(real.storage_key or ""))


def test_removing_again_finds_nothing(runs: Runs) -> None:
    own, _ = runs.complete()
    runs.remove(own)
    assert runs.remove(own) == Removed([], 0, 0, 0, 0, [])


def test_by_hand_it_is_removed_as_the_page_says(runs: Runs, real: Batch, postgres_server: Postgres) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "smoke-test.md").read_text(encoding="utf-8")
    (statements,) = re.findall(r"^```sql\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    before = remains(postgres_server.url())
    own, _ = runs.complete()
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(statements.replace("RUN", str(own.id)))
    assert remains(postgres_server.url()) == before


class TestLeftBehind:
    def test_what_is_ten_minutes_old_was_left_by_a_killed_run(self, runs: Runs) -> None:
        (older, _), key_only = runs.complete(), runs.begun()
        runs.age()
        runs.complete()
        assert sorted(runs.left_behind(), key=str) == sorted([older, key_only], key=str)

    def test_a_run_at_work_is_not_left_behind_by_its_first_batch(self, runs: Runs) -> None:
        own, _ = runs.complete()
        runs.age()
        runs.upload(own, b"case_number\n")
        assert runs.left_behind() == []

    def test_real_batches_that_look_similar_are_none(self, runs: Runs, real: Batch) -> None:
        own = Run.new()
        runs.upload(own, b"1", created_by="Jane, legal ops")
        runs.upload(own, b"2", filename="export.csv")
        runs.upload(own, b"3", filename=f"{own.filename}.gz")
        runs.upload(own, b"4", created_by="dragonfly-smoke-test", filename="dragonfly-smoke-test.csv")
        runs.upload(own, b"5", created_by=own.name.upper(), filename=f"{own.name.upper()}.csv")
        runs.upload(own, b"6", created_by=f"my {own.name}", filename=f"my {own.name}.csv")
        runs.look.change(
            "INSERT INTO ops.api_keys (name, key_hash, created_by) VALUES (:name, :hash, 'dragonfly keys')",
            name=Run.new().name,
            hash=uuid4().hex * 2,
        )
        runs.age()
        assert runs.left_behind() == []
        batches_before = runs.look.count("intake.batches")
        assert runs.remove(own).batch_ids == []
        assert runs.look.count("intake.batches") == batches_before


class TestNothingElseIsRemoved:
    def refused(self, runs: Runs, own: Run, postgres_server: Postgres) -> str:
        """The sentence with which removing is refused, everything as it was."""
        before = remains(postgres_server.url())
        with pytest.raises(NotRemovedError) as refusal:
            runs.remove(own)
        assert remains(postgres_server.url()) == before
        return str(refusal.value)

    @pytest.mark.parametrize(
        "row", ["2024-CV-1,Ada Marlow,5.00", "SMOKE-1,Ada Marlow,5.00", "2024-CV-1,,5.00"], ids=["real", "near", "bad"]
    )
    def test_a_batch_with_other_case_numbers(self, runs: Runs, postgres_server: Postgres, row: str) -> None:
        own = runs.begun()
        header = "case_number,defendant_name,judgment_amount"
        content = f"{header}\n{own.case_prefix}0001,Ada Marlow,5.00\n{row}\n".encode()
        batch = runs.upload(own, content, error_threshold_percent=100)
        assert intake.ingest(runs.workshop, batch.id) is State.COMPLETED
        message = self.refused(runs, own, postgres_server)
        assert message == f"run {own.id} has 1 rows without its case numbers; its batches: {batch.id}"

    def test_a_judgment_of_another_batch_with_the_runs_case_numbers(
        self, runs: Runs, postgres_server: Postgres
    ) -> None:
        own, _ = runs.complete()
        other = runs.send(f"case_number,defendant_name,judgment_amount\n{own.case_prefix}9999,Ada Marlow,5\n".encode())
        assert intake.ingest(runs.workshop, other.id) is State.COMPLETED
        assert self.refused(runs, own, postgres_server).startswith(f"1 judgments with run {own.id}'s case numbers")

    def test_what_does_not_add_up(self, runs: Runs, postgres_server: Postgres) -> None:
        own, ids = runs.complete()
        runs.look.change("UPDATE intake.batches SET row_count_inserted = 201 WHERE id = :id", id=ids[0])
        assert self.refused(runs, own, postgres_server).startswith(
            f"run {own.id} has 200 judgments where its batches count 201; its batches: "
        )

    def test_a_first_batch_that_somebody_elses_is_made_of(self, runs: Runs, postgres_server: Postgres) -> None:
        own, _ = runs.complete()
        runs.send(good_file(own), force=True)
        assert "1 batches that are not run" in self.refused(runs, own, postgres_server)

    def test_a_file_that_another_batch_has(self, runs: Runs, blobs: Blobs) -> None:
        own, ids = runs.complete()
        batch = runs.look.batch(ids[0])
        runs.look.change(
            "INSERT INTO intake.batches (filename, file_hash, storage_key, forced) VALUES ('x', :hash, :key, true)",
            hash=batch.file_hash,
            key=batch.storage_key,
        )
        assert runs.remove(own).blobs == 1
        assert b"".join(blobs.read(batch.storage_key or "")) == good_file(own)

    def test_without_its_file_the_rows_go_and_the_file_is_named(self, runs: Runs, tmp_path: Path) -> None:
        own, ids = runs.complete()
        elsewhere = open_blobs(str(tmp_path / "elsewhere"))
        keys = sorted(runs.look.batch(batch_id).storage_key or "" for batch_id in ids)
        with runs.owner.begin() as connection:
            removed = traces.remove(connection, elsewhere, own)
        assert sorted(removed.lost_blobs) == keys
        assert runs.look.count("intake.batches") == 0


class TestUnfinished:
    def test_a_waiting_batch_is_removed(self, runs: Runs) -> None:
        own = runs.begun()
        batch = runs.upload(own, good_file(own))
        assert runs.remove(own).batch_ids == [batch.id]
        assert intake.ingest(runs.workshop, batch.id) is None

    def test_once_stopped_it_is_no_longer_to_be_had(self, runs: Runs) -> None:
        own = runs.begun()
        batch = runs.upload(own, good_file(own))
        with runs.owner.begin() as connection:
            assert traces.stop(connection, own) == [batch.id]
        assert intake.ingest(runs.workshop, batch.id) is None
        assert runs.look.batch(batch.id).status is State.CANCELLED

    def test_a_batch_at_work_is_taken_from_its_worker(self, runs: Runs, database: Engine) -> None:
        own = runs.begun()
        batch = runs.upload(own, good_file(own))
        with database.begin() as connection:
            held = claims.claim(connection, batch.id, owner="host/1/2", lease_seconds=60)
        assert held is not None
        assert runs.remove(own).batch_ids == [batch.id]
        with database.begin() as connection, pytest.raises(LostClaimError):
            claims.enter(connection, held, State.VALIDATING)

    def test_a_hanging_workers_open_transaction_is_ended(self, runs: Runs, service_url: str) -> None:
        own = runs.begun()
        batch = runs.upload(own, good_file(own))
        engine = open_single(service_url)
        with engine.begin() as connection:
            held = claims.claim(connection, batch.id, owner="host/1/2", lease_seconds=60)
        assert held is not None
        hanging = engine.connect()
        judgments.begin_load(hanging, batch.id, held.fence)
        for state in (State.VALIDATING, State.INSERTING):
            claims.enter(hanging, held, state)
        claims.complete(hanging, held, batches.Counts(total=200, valid=200, inserted=200), {})
        began = time.monotonic()
        assert runs.remove(own).batch_ids == [batch.id]
        assert time.monotonic() - began < 5
        hanging.invalidate()
        hanging.close()


@dataclass(frozen=True)
class Hosted:
    """A database that belongs to somebody who is no superuser, and the administrator's way into it."""

    owner: Engine
    service: Engine
    admin_url: str
    runs: Runs

    def do(self, statement: str) -> None:
        """As the administrator."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(statement)

    def rights(self) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.admin_url) as connection:
            return connection.execute(
                "SELECT oid::regclass::text, relacl::text FROM pg_class WHERE relkind IN ('r', 'v', 'S') ORDER BY 1"
            ).fetchall()

    def may_delete(self) -> bool:
        """As anybody else sees it."""
        with psycopg.connect(self.admin_url) as connection:
            row = connection.execute(
                "SELECT has_table_privilege('service_role', 'public.judgments', 'DELETE')"
            ).fetchone()
        assert row is not None
        return bool(row[0])


@pytest.fixture
def hosted(postgres_server: Postgres, workshop: Workshop) -> Iterator[Hosted]:
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("CREATE ROLE hosted LOGIN CREATEROLE PASSWORD 'hosted'")
        connection.execute("GRANT dragonfly_views, anon TO hosted WITH ADMIN OPTION")
        connection.execute("CREATE DATABASE hosted OWNER hosted")
        url = postgres_server.url("hosted", "hosted", "hosted")
        migrate(url)
        service = open_engine(postgres_server.url("service_role", SERVICE_PASSWORD, "hosted"))
        admin_url = postgres_server.url(database="hosted")
        owner, look = open_single(url), Look(open_single(admin_url))
        at_work = dataclasses.replace(workshop, engine=service)
        yield Hosted(owner, service, admin_url, Runs(owner, at_work, Sender(service, workshop.blobs), look))
        service.dispose()
        connection.execute("DROP DATABASE hosted WITH (FORCE)")
        connection.execute("DROP OWNED BY hosted")
        connection.execute("DROP ROLE hosted")


class TestOwners:
    def test_one_whom_row_level_security_binds_removes_as_the_applications_role(self, hosted: Hosted) -> None:
        hosted.do("GRANT service_role TO hosted")
        before, rights = remains(hosted.admin_url), hosted.rights()
        own, _ = hosted.runs.complete()
        hosted.runs.age()
        assert hosted.runs.left_behind() == [own]
        removed = hosted.runs.remove(own)
        assert (len(removed.batch_ids), removed.judgments, removed.blobs) == (2, GOOD_ROWS, 2)
        assert remains(hosted.admin_url) == before
        assert hosted.rights() == rights

    def test_nobody_else_ever_sees_the_right_that_is_lent(self, hosted: Hosted) -> None:
        hosted.do("GRANT service_role TO hosted")
        own, _ = hosted.runs.complete()
        seen = []

        class Watching:
            def remove(self, key: str) -> None:
                # The rows are deleted by now, and the transaction is open.
                seen.append(hosted.may_delete())

        with hosted.owner.begin() as connection:
            traces.remove(connection, Watching(), own)  # type: ignore[arg-type]
        assert seen == [False, False]
        assert not hosted.may_delete()
        assert hosted.runs.look.count("public.judgments") == 0

    def test_one_who_bypasses_row_level_security_removes_as_himself(self, hosted: Hosted) -> None:
        hosted.do("ALTER ROLE hosted BYPASSRLS")
        before = remains(hosted.admin_url)
        own, _ = hosted.runs.complete()
        assert hosted.runs.remove(own).judgments == GOOD_ROWS
        assert remains(hosted.admin_url) == before

    def test_one_who_would_not_see_the_rows_does_not_begin(self, hosted: Hosted) -> None:
        with hosted.owner.begin() as connection, pytest.raises(MayNotRemoveError, match="GRANT service_role TO it"):
            traces.begin(connection, Run.new())
        assert remains(hosted.admin_url)["ops.api_keys"][0] == 0

    def test_the_application_does_not_begin(self, hosted: Hosted) -> None:
        with hosted.service.begin() as connection, pytest.raises(MayNotRemoveError, match="may not delete from"):
            traces.begin(connection, Run.new())
