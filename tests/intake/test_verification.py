"""Verification: it finds nothing where nothing is wrong, whatever the file, and names each cell that was changed."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from app import intake
from app.batch import State
from app.cli import dragonfly
from app.comparison import Compared, Difference, What
from app.store import batches
from app.store.batches import Batch
from app.store.blobs import Blobs
from app.verification import Verification
from app.workshop import Workshop
from tests.conftest import Look, Sender
from tests.engine.reading import hostile_file
from tests.factories import file_with_errors
from tests.intake.conftest import lines

FIRST = lines(
    "A-1,Ada Marlow,12.50,2024-01-31",
    "A-2,Bela Quint,much,2024-01-31",
    "A-3,Caro Lind,3,",
    "A-1,Ada Marlow,99,",
    "A-4,Dora Venn,4,",
    'A-5,"broken" quote,5,',
    "A-3,Caro Lind,3,",
)
SECOND = lines("A-4,Dora Venn,4,", "A-1,Eva Sand,12.50,", "B-1,Fay Holt,1,")


@pytest.fixture
def ingested(workshop: Workshop, send: Sender, look: Look) -> Callable[..., Batch]:
    """The batch of these bytes after one attempt."""

    def ingest(content: bytes, **upload: Any) -> Batch:
        batch = send(content, **upload)
        intake.ingest(workshop, batch.id)
        return look.batch(batch.id)

    return ingest


@pytest.fixture
def verified(database: Engine, blobs: Blobs, workshop: Workshop) -> Callable[[], tuple[Compared, list[Difference]]]:
    """What a verification of all batches finds."""

    def verify() -> tuple[Compared, list[Difference]]:
        found: list[Difference] = []
        verification = Verification(blobs, workshop.limits, tell=found.append)
        verification.compare_all(database)
        assert verification.done.differences == len(found)
        return verification.done, found

    return verify


Ingested = Callable[..., Batch]
Verified = Callable[[], tuple[Compared, list[Difference]]]


class TestWhereNothingIsWrong:
    def test_every_row_is_compared(self, ingested: Ingested, verified: Verified) -> None:
        first, second = ingested(FIRST, error_threshold_percent=50), ingested(SECOND)
        assert (first.status, second.status) == (State.COMPLETED, State.COMPLETED)
        done, found = verified()
        assert found == []
        assert (done.batches, done.rows, done.judgments, done.errors, done.conflicts) == (2, 10, 4, 2, 4)

    def test_the_same_bytes_again_by_force_are_duplicates_of_the_first(
        self, ingested: Ingested, verified: Verified
    ) -> None:
        ingested(FIRST, error_threshold_percent=50)
        again = ingested(FIRST, error_threshold_percent=50, force=True)
        assert again.row_count_duplicate == 5
        assert verified()[1] == []

    def test_a_refused_file_has_its_row_errors_and_its_verdict(self, ingested: Ingested, verified: Verified) -> None:
        for content in (
            file_with_errors(100, 20),
            b"",
            lines(),
            b"name,sum\nx,1\n",
            b"\x89PNG not a table",
            lines("A-1,Ada,1,", "A-2," + "x" * 2_000_000 + ",1,", "A-3,x,1,"),
        ):
            assert ingested(content).status is State.FAILED
        done, found = verified()
        assert found == []
        assert done.errors == 20

    def test_a_batch_without_a_verdict_is_counted(
        self, ingested: Ingested, send: Sender, verified: Verified, database: Engine, look: Look
    ) -> None:
        send(FIRST)
        cancelled = send(SECOND)
        with database.begin() as connection:
            batches.cancel(connection, cancelled.id)
        poisoned = send(lines("C-1,x,1,"))
        look.change(
            "UPDATE intake.batches SET status = 'failed', rejection_code = 'POISONED', rejection_reason = 'r',"
            " completed_at = now() WHERE id = :id",
            id=poisoned.id,
        )
        done, found = verified()
        assert found == []
        assert (done.unfinished, done.not_derivable, done.rows) == (1, 1, 0)

    def test_a_row_that_the_database_refused_is_known_by_its_error(
        self, ingested: Ingested, verified: Verified, on_judgments: Callable[[str], None]
    ) -> None:
        on_judgments("IF NEW.judgment_amount = 13 THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW;")
        batch = ingested(
            lines("A-1,Ada Marlow,13,", "A-1,Ada Marlow,14,", "A-2,Bela Quint,1,"), error_threshold_percent=50
        )
        assert (batch.row_count_invalid, batch.row_count_inserted) == (1, 2)
        done, found = verified()
        assert found == []
        assert (done.errors, done.judgments) == (1, 2)

    def test_a_resolved_error_is_the_same_error(self, ingested: Ingested, verified: Verified, look: Look) -> None:
        ingested(FIRST, error_threshold_percent=50)
        look.change("UPDATE intake.row_errors SET resolved_at = now(), resolved_by = 'x', resolution_notes = 'n'")
        assert verified()[1] == []

    def test_today_is_the_batchs(self, ingested: Ingested, send: Sender, verified: Verified, look: Look) -> None:
        batch = send(lines("A-1,Ada Marlow,1,2024-06-01", "A-2,Ada Marlow,1,2023-06-01"), error_threshold_percent=50)
        look.change("UPDATE intake.batches SET created_at = '2024-01-01' WHERE id = :id", id=batch.id)
        ingested(lines("A-1,Ada Marlow,1,2024-06-01", "A-2,Ada Marlow,1,2023-06-01"), error_threshold_percent=50)
        assert look.rows("SELECT error_code FROM intake.row_errors") == [("FUTURE_DATE",)]
        assert verified()[1] == []

    @pytest.mark.parametrize("seed", range(4))
    def test_whatever_is_in_the_file(self, ingested: Ingested, verified: Verified, seed: int) -> None:
        chance = random.Random(seed)
        ended = {ingested(hostile_file(chance), error_threshold_percent=100, force=True).status for _ in range(12)}
        assert ended <= {State.COMPLETED, State.FAILED}
        assert verified()[1] == []


class TestAChange:
    """Each made by the tables' owner, behind the application's back."""

    @pytest.mark.parametrize(
        ("statement", "expected"),
        [
            (
                f"UPDATE public.judgments SET {column} = {value} WHERE case_number = 'A-4'",
                {(What.JUDGMENT, 4, column)},
            )
            for column, value in (
                ("defendant_name", "'Dora  Venn'"),
                ("plaintiff_name", "'x'"),
                ("judgment_amount", "4.01"),
                ("judgment_date", "'2024-01-01'"),
                ("court", "'x'"),
                ("county", "''"),
                ("line_number", "7"),
            )
        ]
        + [
            (
                f"UPDATE intake.row_errors SET {column} = {value} WHERE row_index = 1",
                {(What.ERROR, 1, column)},
            )
            for column, value in (
                ("line_number", "4"),
                ("row_number", "2"),
                ("error_code", "'INVALID_DATE'"),
                ("error_message", "error_message || '!'"),
                ("error_stage", "'parse'"),
                ("raw_data", 'raw_data || \'{"case_number": "A-9"}\''),
                ("raw", "raw || 'x'::bytea"),
            )
        ]
        + [
            (f"UPDATE intake.row_conflicts SET {column} = {value} WHERE row_index = 3", {(What.CONFLICT, 3, column)})
            for column, value in (
                ("kept_batch_id", "gen_random_uuid()"),
                ("kept_row_index", "2"),
                ("fields", "'{}'"),
            )
        ]
        + [
            (f"UPDATE intake.batches SET {column} = {column} + 1", {(What.COUNT, None, column)})
            for column in (
                "row_count_total",
                "row_count_valid",
                "row_count_invalid",
                "row_count_duplicate",
                "row_count_conflict",
            )
        ]
        + [
            (
                "UPDATE intake.batches SET row_count_inserted = 4",
                {(What.COUNT, None, "row_count_inserted"), (What.COUNT, None, "judgments in the table")},
            ),
            (
                "UPDATE intake.batches SET error_threshold_percent = 5",
                {(What.VERDICT, None, "rejection_code"), (What.VERDICT, None, "rejection_reason")},
            ),
            ("DELETE FROM intake.row_errors WHERE row_index = 1", {(What.ERROR_MISSING, 1, None)}),
            (
                "INSERT INTO intake.row_errors (batch_id, row_index, error_code, error_message, error_stage)"
                " SELECT id, row_index, 'INVALID_DATE', 'm', 'validate' FROM intake.batches, unnest(ARRAY[2, 70]) row_index",
                {(What.ERROR_SURPLUS, 2, None), (What.ERROR_SURPLUS, 70, None)},
            ),
            ("DELETE FROM intake.row_conflicts WHERE row_index = 6", {(What.CONFLICT_MISSING, 6, None)}),
            (
                "INSERT INTO intake.row_conflicts (batch_id, row_index, case_number, kept_batch_id, kept_row_index, fields)"
                " SELECT id, 4, 'A-4', id, 0, '{}' FROM intake.batches",
                {(What.CONFLICT_SURPLUS, 4, None)},
            ),
            (
                "DELETE FROM public.judgments WHERE case_number = 'A-4'",
                {(What.JUDGMENT_MISSING, 4, None), (What.COUNT, None, "judgments in the table")},
            ),
            (
                "INSERT INTO public.judgments (id, case_number, defendant_name, judgment_amount, batch_id, row_index)"
                " SELECT last_judgment_id, 'Z-9', 'x', 1, id, 9 FROM intake.batches",
                {(What.JUDGMENT_SURPLUS, 9, None), (What.COUNT, None, "judgments in the table")},
            ),
            (
                "INSERT INTO public.judgments (id, case_number, defendant_name, judgment_amount, batch_id, row_index)"
                " VALUES (900000, 'Z-9', 'x', 1, gen_random_uuid(), 9)",
                {(What.COUNT, None, "judgments in the table")},
            ),
            (
                "UPDATE public.judgments SET case_number = 'A-33' WHERE case_number = 'A-3'",
                {
                    (What.JUDGMENT_MISSING, 2, None),
                    (What.JUDGMENT_MISSING, 6, None),
                    (What.JUDGMENT_SURPLUS, 2, None),
                    (What.CONFLICT_SURPLUS, 6, None),
                    (What.COUNT, None, "row_count_inserted"),
                    (What.COUNT, None, "row_count_duplicate"),
                },
            ),
        ],
    )
    def test_is_named_by_its_row_and_column(
        self,
        ingested: Ingested,
        verified: Verified,
        look: Look,
        statement: str,
        expected: set[tuple[What, int | None, str | None]],
    ) -> None:
        ingested(FIRST, error_threshold_percent=50)
        assert verified()[1] == []
        assert look.change(statement) > 0
        found = verified()[1]
        assert {(each.what, each.row_index, each.column) for each in found} == expected

    def test_the_first_valid_row_stands_and_no_other(self, ingested: Ingested, verified: Verified, look: Look) -> None:
        ingested(FIRST, error_threshold_percent=50)
        look.change("UPDATE public.judgments SET row_index = 6, line_number = 8 WHERE case_number = 'A-3'")
        found = {(each.what, each.row_index) for each in verified()[1]}
        assert (What.WRONG_ROW, 2) in found

    def test_the_earlier_batch_wins(self, ingested: Ingested, verified: Verified, look: Look) -> None:
        ingested(FIRST, error_threshold_percent=50)
        second = ingested(SECOND)
        look.change(
            "UPDATE intake.batches SET completed_at = completed_at - interval '1 h' WHERE id = :id", id=second.id
        )
        assert {(each.batch_id, each.what, each.row_index) for each in verified()[1]} == {
            (second.id, What.WRONG_ROW, 0),
            (second.id, What.WRONG_ROW, 1),
        }

    def test_rows_of_a_batch_that_has_none_are_too_many(
        self, send: Sender, verified: Verified, database: Engine, look: Look
    ) -> None:
        batch = send(FIRST)
        look.change(
            "INSERT INTO intake.row_errors (batch_id, row_index, error_code, error_message, error_stage)"
            " VALUES (:id, 1, 'INVALID_DATE', 'm', 'validate')",
            id=batch.id,
        )
        assert [(each.what, each.row_index) for each in verified()[1]] == [(What.ERROR_SURPLUS, 1)]

    @pytest.mark.parametrize(
        ("damage", "expected"),
        [
            (lambda path: path.unlink(), What.FILE_MISSING),
            (lambda path: path.write_bytes(FIRST.replace(b"A-1", b"A-7")), What.FILE_ALTERED),
            (lambda path: path.write_bytes(FIRST[:-1]), What.FILE_ALTERED),
        ],
    )
    def test_a_file_that_is_lost_or_altered_is_named_once(
        self,
        ingested: Ingested,
        verified: Verified,
        tmp_path: Path,
        damage: Callable[[Path], object],
        expected: What,
    ) -> None:
        batch = ingested(FIRST, error_threshold_percent=50)
        damage(tmp_path / "blobs" / (batch.storage_key or ""))
        assert [(each.batch_id, each.what) for each in verified()[1]] == [(batch.id, expected)]

    def test_a_batch_that_failed_for_its_lost_file_is_as_it_says(
        self, send: Sender, workshop: Workshop, verified: Verified, tmp_path: Path, look: Look
    ) -> None:
        batch = send(FIRST)
        (tmp_path / "blobs" / (batch.storage_key or "")).unlink()
        intake.ingest(workshop, batch.id)
        assert look.batch(batch.id).rejection_code == "INTEGRITY_ERROR"
        done, found = verified()
        assert (found, done.not_derivable) == ([], 1)


class TestTheCommand:
    @pytest.fixture
    def command(
        self, service_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., tuple[int, str, str]]:
        """Runs the command; exit status, stdout, stderr."""
        monkeypatch.setenv("DATABASE_URL", service_url)
        monkeypatch.setenv("STORAGE_URL", str(tmp_path / "blobs"))
        monkeypatch.chdir(tmp_path)

        def run(*arguments: str) -> tuple[int, str, str]:
            result = CliRunner().invoke(dragonfly, [*arguments, "--home", str(tmp_path / "home")])
            return result.exit_code, result.stdout, result.stderr

        return run

    def test_it_ends_with_0_where_all_is_well(self, ingested: Ingested, command: Callable[..., Any]) -> None:
        ingested(FIRST, error_threshold_percent=50)
        batch = ingested(SECOND)
        status, said, _ = command("verify")
        assert status == 0
        assert said.startswith("2 batches, 10 rows in ")
        assert said.endswith("4 judgments, 2 row errors and 4 conflicts compared, 0 differences.\n")
        status, said, _ = command("verify", str(batch.id))
        assert status == 0
        assert said.startswith("1 batch, 3 rows in ")

    def test_it_ends_with_1_and_shows_values_to_whoever_asks(
        self, ingested: Ingested, command: Callable[..., Any], look: Look
    ) -> None:
        batch = ingested(FIRST, error_threshold_percent=50)
        look.change("UPDATE public.judgments SET defendant_name = 'Mallory Vane' WHERE case_number = 'A-4'")
        status, said, errors = command("verify")
        assert status == 1
        assert said.splitlines()[0] == f"batch {batch.id}, row_index 4, column defendant_name: the judgment differs"
        assert not {"Mallory", "Dora"} & set((said + errors).replace("'", " ").split())
        status, said, _ = command("verify", "--values")
        assert said.splitlines()[0].endswith("differs (derived 'Dora Venn', stored 'Mallory Vane')")
        status, said, _ = command("verify", "--json", str(batch.id))
        difference, summary = map(json.loads, said.splitlines())
        assert difference == {
            "batch_id": str(batch.id),
            "what": "judgment",
            "row_index": 4,
            "column": "defendant_name",
        }
        assert (status, summary["differences"], summary["rows"]) == (1, 1, 7)

    def test_a_judgment_too_many_is_found_for_one_batch_too(
        self, ingested: Ingested, send: Sender, command: Callable[..., Any], look: Look
    ) -> None:
        ingested(FIRST, error_threshold_percent=50)
        waiting = send(SECOND)
        assert command("verify", str(waiting.id))[0] == 0
        look.change(
            "INSERT INTO public.judgments (case_number, defendant_name, judgment_amount, batch_id, row_index)"
            " VALUES ('X-1', 'Gil Moor', 1, :id, 0)",
            id=waiting.id,
        )
        status, said, _ = command("verify", str(waiting.id))
        assert status == 1
        assert said.splitlines()[0].startswith(f"batch {waiting.id}, column ")

    def test_a_judgment_outside_its_batchs_block_of_ids_is_named(
        self, ingested: Ingested, command: Callable[..., Any], look: Look
    ) -> None:
        batch = ingested(FIRST, error_threshold_percent=50)
        look.change("UPDATE intake.batches SET first_judgment_id = first_judgment_id + 1")
        status, said, _ = command("verify", str(batch.id))
        assert status == 1
        assert said.splitlines()[0].endswith(": a judgment stands outside its batch's block of ids")

    def test_it_ends_with_2_where_it_could_not_ask(
        self,
        command: Callable[..., Any],
        database: Engine,
        send: Sender,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        assert command("verify", "00000000-0000-0000-0000-000000000001")[0] == 2
        send(FIRST)
        (tmp_path / "blobs").rename(tmp_path / "elsewhere")
        monkeypatch.setenv("STORAGE_URL", "s3://bucket?endpoint=http://127.0.0.1:1")
        for name, value in (("AWS_ENDPOINT", "http://127.0.0.1:1"), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "x")):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/x")
        status, _, said = command("verify")
        assert (status, said.startswith("Error: The database could not be asked (")) == (2, True)

    @staticmethod
    def orphan(blobs: Blobs, tmp_path: Path, content: bytes) -> str:
        """A file without a batch, 50 hours old; returns its key."""
        incoming = blobs.incoming()
        incoming.write(content)
        key = blobs.keep(incoming)
        stamp = time.time() - 50 * 3600 - 60
        os.utime(tmp_path / "blobs" / key, (stamp, stamp))
        return key

    def test_collect_says_what_it_would_remove_and_then_removes_it(
        self, command: Callable[..., Any], send: Sender, blobs: Blobs, tmp_path: Path
    ) -> None:
        send(FIRST)
        key = self.orphan(blobs, tmp_path, b"orphan")
        status, said, _ = command("collect", "--dry-run")
        assert (status, said.splitlines()) == (
            0,
            [
                f"would remove blob {key} (6 bytes, 50 hours old)",
                "2 files looked at; 1 without a batch and 0 that never arrived would be removed, 6 bytes.",
            ],
        )
        assert (tmp_path / "blobs" / key).exists()
        assert json.loads(command("collect", "--json")[1])["removed"] == {"blob": 1, "arrival": 0}
        assert not (tmp_path / "blobs" / key).exists()

    def test_collect_removes_many_only_where_it_is_told_to(
        self, command: Callable[..., Any], send: Sender, blobs: Blobs, tmp_path: Path
    ) -> None:
        send(FIRST)
        keys = [self.orphan(blobs, tmp_path, str(number).encode()) for number in range(21)]
        status, _, said = command("collect")
        assert status == 1
        assert said.startswith("More than 20 files have no batch, and none of them was removed.")
        status, printed, _ = command("collect", "--json")
        refused = json.loads(printed)
        assert (status, refused["too_many"], refused["removed"]) == (1, True, {"blob": 0, "arrival": 0})
        assert all((tmp_path / "blobs" / key).exists() for key in keys)
        assert command("collect", "--dry-run")[0] == 0
        assert json.loads(command("collect", "--all", "--json")[1])["removed"]["blob"] == 21
        assert not any((tmp_path / "blobs" / key).exists() for key in keys)
