"""Ingesting on a real database: what a batch's rows become, and that a batch is loaded whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from app import intake
from app.batch import State
from app.formats.csv import Limits
from app.intake import Workshop
from app.store import batches
from app.store.batches import Batch
from tests.conftest import Look, Sender
from tests.factories import clean_file, csv_bytes, file_with_errors, judgment_cells
from tests.intake.conftest import lines

Judgments = Callable[[], dict[str, tuple[Any, ...]]]
Errors = Callable[[], list[tuple[Any, ...]]]
Trigger = Callable[[str], None]


def ingested(workshop: Workshop, send: Sender, look: Look, content: bytes, **upload: Any) -> Batch:
    """The batch of these bytes after one attempt."""
    batch = send(content, **upload)
    state = intake.ingest(workshop, batch.id)
    found = look.batch(batch.id)
    assert state is (found.status if found.completed_at else None)
    return found


def counts(batch: Batch) -> tuple[int, int, int, int, int, int]:
    """total, valid, invalid, inserted, duplicate, conflict."""
    return (
        batch.row_count_total,
        batch.row_count_valid,
        batch.row_count_invalid,
        batch.row_count_inserted,
        batch.row_count_duplicate,
        batch.row_count_conflict,
    )


class TestACleanFile:
    def test_every_row_stands_once_with_its_place(
        self, workshop: Workshop, send: Sender, look: Look, judgments: Judgments
    ) -> None:
        batch = ingested(workshop, send, look, lines("c-2,Ada Marlow,12,", "c-1,Bela Quint,$3.5,1/31/2024"))
        assert (batch.status, counts(batch)) == (State.COMPLETED, (2, 2, 0, 2, 0, 0))
        assert judgments() == {"C-2": ("Ada Marlow", "12.00", 0, 2), "C-1": ("Bela Quint", "3.50", 1, 3)}

    def test_the_batch_owns_one_block_of_ids_in_key_order(self, workshop: Workshop, send: Sender, look: Look) -> None:
        batch = ingested(workshop, send, look, lines("B,x,1,", "Ä,x,1,", "a,x,1,", "C,x,1,", "#,y,1,"))
        assert batch.first_judgment_id is not None
        assert batch.last_judgment_id == batch.first_judgment_id + 4
        found = look.rows(
            "SELECT id - :first, case_number FROM public.judgments ORDER BY id", first=batch.first_judgment_id
        )
        assert found == list(enumerate(["#", "A", "B", "C", "Ä"]))

    def test_the_batch_tells_how_it_was_read_and_how_long_it_took(
        self, workshop: Workshop, send: Sender, look: Look
    ) -> None:
        content = b"\xef\xbb\xbfFile #;Debtor;Amt;Extra\r\n1;Ada;5;x\r\n;;;\r\n2;Bela;NA;\r\n3;Caro;7;y;;\r\n"
        batch = ingested(workshop, send, look, content, error_threshold_percent=50)
        reading = batch.reading
        assert {name: reading[name] for name in ("container", "encoding", "delimiter", "header_line")} == {
            "container": "csv",
            "encoding": "utf-8-sig",
            "delimiter": ";",
            "header_line": 1,
        }
        assert reading["mapping"] == {"case_number": "File #", "defendant_name": "Debtor", "judgment_amount": "Amt"}
        assert reading["unmapped_headers"] == ["Extra"]
        assert (reading["skipped_records"], reading["surplus_empty_cells"]) == (1, 2)
        assert reading["empty_words"] == {"NA": 1}
        assert reading["error_counts"] == {"MISSING_AMOUNT": 1}
        assert batch.parse_duration_ms is not None
        assert batch.db_duration_ms is not None
        assert (batch.rows_processed, batch.bytes_processed) == (3, len(content))
        assert (batch.lease_owner, batch.lease_until, batch.attempts) == (None, None, 1)

    def test_a_finished_batch_is_not_worked_on_again(self, workshop: Workshop, send: Sender, look: Look) -> None:
        batch = ingested(workshop, send, look, clean_file(3))
        assert intake.ingest(workshop, batch.id) is None
        assert look.batch(batch.id) == batch

    def test_an_unknown_batch_is_nobodys_work(self, workshop: Workshop) -> None:
        assert intake.ingest(workshop, uuid4()) is None

    def test_nothing_is_left_on_local_disk(self, workshop: Workshop, send: Sender, look: Look) -> None:
        ingested(workshop, send, look, clean_file(3))
        assert list(workshop.spool.iterdir()) == []

    def test_what_a_killed_attempt_left_on_local_disk_is_removed(
        self, workshop: Workshop, send: Sender, look: Look
    ) -> None:
        batch = send(clean_file(3))
        left, others = workshop.spool / f"{batch.id}-0", workshop.spool / f"{uuid4()}-7"
        for folder in (left, others):
            folder.mkdir(parents=True)
            (folder / "run-00000").touch()
        intake.ingest(workshop, batch.id)
        assert list(workshop.spool.iterdir()) == [others]


class TestDuplicates:
    def test_in_a_file_the_first_valid_row_wins(
        self, workshop: Workshop, send: Sender, look: Look, judgments: Judgments
    ) -> None:
        content = lines("C-1,,5,", "C-2,Zoe,1,", " c-1 ,Ada,6,", "C-1,Bela,6,2024-01-31", "C-1,Ada,6.00,", "c-2,Zoe,1,")
        batch = ingested(workshop, send, look, content, error_threshold_percent=20)
        assert (batch.status, counts(batch)) == (State.COMPLETED, (6, 5, 1, 2, 3, 1))
        assert judgments() == {"C-1": ("Ada", "6.00", 2, 4), "C-2": ("Zoe", "1.00", 1, 3)}
        assert look.rows(
            "SELECT row_index, case_number, kept_batch_id, kept_row_index, fields FROM intake.row_conflicts ORDER BY 1"
        ) == [
            (3, "C-1", batch.id, 2, {"defendant_name": ["Ada", "Bela"], "judgment_date": [None, "2024-01-31"]}),
            (4, "C-1", batch.id, 2, {}),
            (5, "C-2", batch.id, 1, {}),
        ]

    def test_what_stands_already_wins_over_the_file(
        self, workshop: Workshop, send: Sender, look: Look, judgments: Judgments
    ) -> None:
        first = ingested(workshop, send, look, lines("C-1,Ada,6,", "C-3,Caro,8,"))
        second = ingested(
            workshop, send, look, lines("C-3,Caro,8,", "C-2,Dimo,1,", "C-1,Ada,7.25,", "C-1,Esra,7,", "C-4,Finn,2,")
        )
        assert counts(second) == (5, 5, 0, 2, 3, 2)
        assert judgments() == {
            "C-1": ("Ada", "6.00", 0, 2),
            "C-2": ("Dimo", "1.00", 1, 3),
            "C-3": ("Caro", "8.00", 1, 3),
            "C-4": ("Finn", "2.00", 4, 6),
        }
        assert look.rows(
            "SELECT row_index, case_number, kept_batch_id, kept_row_index, fields FROM intake.row_conflicts ORDER BY 1"
        ) == [
            (0, "C-3", first.id, 1, {}),
            (2, "C-1", first.id, 0, {"judgment_amount": ["6.00", "7.25"]}),
            (3, "C-1", first.id, 0, {"defendant_name": ["Ada", "Esra"], "judgment_amount": ["6.00", "7.00"]}),
        ]

    def test_a_file_of_duplicates_only_is_completed_without_judgments(
        self, workshop: Workshop, send: Sender, look: Look
    ) -> None:
        content = clean_file(200)
        ingested(workshop, send, look, content)
        again = ingested(workshop, send, look, content, force=True)
        assert (again.status, counts(again)) == (State.COMPLETED, (200, 200, 0, 0, 200, 0))
        assert (again.first_judgment_id, again.last_judgment_id) == (None, None)

    def test_overlapping_files_leave_every_key_once(self, workshop: Workshop, send: Sender, look: Look) -> None:
        for seed, start in ((1, 0), (2, 500), (3, 250)):
            batch = ingested(workshop, send, look, clean_file(1_000, seed=seed, start=start))
            assert batch.status is State.COMPLETED
        assert batch.row_count_duplicate == 1_000
        assert look.rows("SELECT count(*), count(DISTINCT case_number) FROM public.judgments") == [(1_500, 1_500)]

    @pytest.mark.parametrize("interleaved", [2, 3, 4])
    def test_a_file_whose_keys_stand_among_those_of_others_is_a_file_of_duplicates(
        self, workshop: Workshop, send: Sender, look: Look, interleaved: int
    ) -> None:
        """Larger than what is looked up at once, so that what one part finds decides how the next is sought."""
        rows = 25_000
        files = [
            csv_bytes(
                [judgment_cells(case_number=f"C-{row * interleaved + turn:07}", court="Civil") for row in range(rows)]
            )
            for turn in range(interleaved)
        ]
        for content in files:
            assert ingested(workshop, send, look, content).status is State.COMPLETED
        again = ingested(workshop, send, look, files[0], force=True)
        assert (again.status, again.row_count_duplicate) == (State.COMPLETED, rows)


class TestTheBudget:
    @pytest.mark.parametrize(
        ("case", "state"),
        [
            ((20, 10), State.COMPLETED),
            ((21, 10), State.FAILED),
            ((0, 0), State.COMPLETED),
            ((1, 0), State.FAILED),
            ((200, 100), State.COMPLETED),
        ],
    )
    def test_exactly_the_threshold_passes_and_one_row_more_does_not(
        self, workshop: Workshop, send: Sender, look: Look, case: tuple[int, int], state: State
    ) -> None:
        invalid, threshold = case
        content = file_with_errors(200, invalid)
        batch = ingested(workshop, send, look, content, error_threshold_percent=threshold)
        assert batch.status is state
        assert (batch.row_count_total, batch.row_count_invalid) == (200, invalid)
        assert look.count("intake.row_errors") == invalid
        assert look.count("public.judgments") == (200 - invalid if state is State.COMPLETED else 0)

    def test_a_refused_file_says_why_and_lists_every_bad_row(
        self, workshop: Workshop, send: Sender, look: Look, row_errors: Errors
    ) -> None:
        batch = ingested(workshop, send, look, lines("C-1,Ada,5,", "C-2,,5,", "C-3,Caro,x,"))
        assert (batch.status, batch.rejection_code) == (State.FAILED, "ERROR_BUDGET_EXCEEDED")
        assert batch.rejection_reason == "Error rate 66.7% exceeded the 10% budget (2 of 3 rows)"
        assert counts(batch) == (3, 1, 2, 0, 0, 0)
        assert row_errors() == [
            (1, 3, 3, "MISSING_DEFENDANT", "validate", b"C-2,,5,\n"),
            (2, 4, 4, "INVALID_AMOUNT", "validate", b"C-3,Caro,x,\n"),
        ]

    def test_a_retry_with_a_higher_budget_completes_it_without_old_errors(
        self, workshop: Workshop, send: Sender, look: Look, database: Engine
    ) -> None:
        batch = ingested(workshop, send, look, file_with_errors(100, 30))
        assert batch.status is State.FAILED
        with database.begin() as connection:
            batches.retry(connection, batch.id, 30)
        assert intake.ingest(workshop, batch.id) is State.COMPLETED
        again = look.batch(batch.id)
        assert counts(again) == (100, 70, 30, 70, 0, 0)
        assert (again.rejection_reason, look.count("intake.row_errors")) == (None, 30)


class TestFilesRefusedWhole:
    @pytest.mark.parametrize(
        ("content", "refusal"),
        [
            (b"", ("EMPTY_FILE", "The file is empty")),
            (b"\n \n,,\n", ("EMPTY_FILE", "The file is empty")),
            (lines(), ("EMPTY_FILE", "header and no data rows")),
            (lines(",,,", "NA,-,null,"), ("EMPTY_FILE", "header and no data rows")),
            (b"a,b,c\n1,2,3\n", ("MISSING_COLUMNS", "case_number, defendant_name, judgment_amount")),
            (b"\x89PNG\r\n\x1a\n" + b"\x00" * 50, ("UNREADABLE_FILE", "PNG")),
            (b"\x00" * 1_000, ("UNREADABLE_FILE", "not text")),
            (b'"', ("MISSING_COLUMNS", "Headers found")),
            (lines("C-1,Ada,5,", "x" * 3_000), ("LIMIT_EXCEEDED", "Line 3")),
        ],
    )
    def test_it_fails_with_the_catalogues_code_and_words(
        self, workshop: Workshop, send: Sender, look: Look, content: bytes, refusal: tuple[str, str]
    ) -> None:
        code, words = refusal
        small = dataclasses.replace(workshop, limits=Limits(max_record_bytes=2_048, max_columns=100))
        batch = ingested(small, send, look, content)
        assert (batch.status, batch.rejection_code) == (State.FAILED, code)
        assert batch.rejection_reason is not None
        assert words in batch.rejection_reason
        assert look.count("public.judgments") == 0

    def test_errors_found_before_a_limit_are_kept(
        self, workshop: Workshop, send: Sender, look: Look, row_errors: Errors
    ) -> None:
        small = dataclasses.replace(workshop, limits=Limits(max_record_bytes=2_048, max_columns=100))
        batch = ingested(small, send, look, lines("C-1,Ada,5,", "C-2,,5,", "x" * 3_000))
        assert (batch.rejection_code, [error[3] for error in row_errors()]) == ("LIMIT_EXCEEDED", ["MISSING_DEFENDANT"])

    def test_a_missing_blob_is_an_integrity_error(
        self, workshop: Workshop, send: Sender, look: Look, blob_files: Callable[[], list[Path]]
    ) -> None:
        batch = send(clean_file(3))
        blob_files()[0].unlink()
        assert intake.ingest(workshop, batch.id) is State.FAILED
        found = look.batch(batch.id)
        assert found.rejection_code == "INTEGRITY_ERROR"
        assert "missing" in (found.rejection_reason or "")

    @pytest.mark.parametrize(
        "altered",
        [lines("C-1,Ada,6,"), lines("C-1,Ada,5,")[:-3], lines("C-1,Ada,5,", "C-2,Bela,1,"), b"a,b\n", b"", b"\x89PNG"],
    )
    def test_an_altered_blob_is_an_integrity_error_before_any_other_fault(
        self, workshop: Workshop, send: Sender, look: Look, blob_files: Callable[[], list[Path]], altered: bytes
    ) -> None:
        batch = send(lines("C-1,Ada,5,"))
        blob_files()[0].write_bytes(altered)
        assert intake.ingest(workshop, batch.id) is State.FAILED
        found = look.batch(batch.id)
        assert found.rejection_code == "INTEGRITY_ERROR"
        assert "SHA-256" in (found.rejection_reason or "")
        assert look.count("public.judgments") == 0

    def test_the_reason_shows_a_nul_in_a_header(self, workshop: Workshop, send: Sender, look: Look) -> None:
        batch = ingested(workshop, send, look, b"case_number,def\x00endant\n1,2\n")
        assert batch.status is State.FAILED
        assert "\x00" not in (batch.rejection_reason or "")


class TestToday:
    def test_it_is_the_day_of_the_upload_in_every_attempt(
        self, workshop: Workshop, send: Sender, look: Look, row_errors: Errors
    ) -> None:
        batch = send(
            lines("C-1,Ada,5,2024-03-01", "C-2,Bela,5,2024-03-02", "C-3,Caro,5,3/1/24"), error_threshold_percent=50
        )
        look.change("UPDATE intake.batches SET created_at = '2024-03-01 23:59:59+00' WHERE id = :id", id=batch.id)
        assert intake.ingest(workshop, batch.id) is State.COMPLETED
        assert [(error[0], error[3]) for error in row_errors()] == [(1, "FUTURE_DATE")]
        assert look.rows("SELECT case_number, judgment_date::text FROM public.judgments ORDER BY 1") == [
            ("C-1", "2024-03-01"),
            ("C-3", "2024-03-01"),
        ]

    def test_two_digits_beyond_its_year_are_of_the_last_century(
        self, workshop: Workshop, send: Sender, look: Look
    ) -> None:
        batch = send(lines("C-1,Ada,5,1/1/24", "C-2,Ada,5,1/1/25"))
        look.change("UPDATE intake.batches SET created_at = '2024-06-01 00:00:00+00' WHERE id = :id", id=batch.id)
        assert intake.ingest(workshop, batch.id) is State.COMPLETED
        assert look.rows("SELECT case_number, judgment_date::text FROM public.judgments ORDER BY 1") == [
            ("C-1", "2024-01-01"),
            ("C-2", "1925-01-01"),
        ]


REFUSE_REVILED = "IF NEW.defendant_name = 'Reviled' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW;"


class TestRowsThatTheDatabaseRefuses:
    def file(self, refused: int, total: int = 100) -> bytes:
        rows = [f"C-{number:04},{'Reviled' if number < refused else 'Ada'},1.10," for number in range(total)]
        return lines(*rows[::-1])

    def test_within_the_budget_they_are_errors_and_the_others_stand(
        self, workshop: Workshop, send: Sender, look: Look, on_judgments: Trigger, row_errors: Errors
    ) -> None:
        on_judgments(REFUSE_REVILED)
        batch = ingested(workshop, send, look, self.file(3))
        assert (batch.status, counts(batch)) == (State.COMPLETED, (100, 97, 3, 97, 0, 0))
        assert row_errors() == [
            (row, row + 2, row + 2, "INSERT_FAILED", "upsert", f"C-{99 - row:04},Reviled,1.10,\n".encode())
            for row in (97, 98, 99)
        ]
        assert look.rows("SELECT raw_data FROM intake.row_errors WHERE row_index = 99") == [
            ({"case_number": "C-0000", "defendant_name": "Reviled", "judgment_amount": "1.10", "judgment_date": ""},)
        ]
        assert look.rows("SELECT count(*), sum(judgment_amount) FROM public.judgments") == [(97, Decimal("106.70"))]
        assert batch.reading["error_counts"] == {"INSERT_FAILED": 3}

    def test_exactly_the_budget_passes(
        self, workshop: Workshop, send: Sender, look: Look, on_judgments: Trigger
    ) -> None:
        on_judgments(REFUSE_REVILED)
        assert ingested(workshop, send, look, self.file(10)).status is State.COMPLETED

    def test_above_the_budget_nothing_is_written_but_the_errors(
        self, workshop: Workshop, send: Sender, look: Look, on_judgments: Trigger
    ) -> None:
        on_judgments(REFUSE_REVILED)
        batch = ingested(workshop, send, look, self.file(11))
        assert (batch.status, batch.rejection_code) == (State.FAILED, "ERROR_BUDGET_EXCEEDED")
        assert batch.rejection_reason == "Error rate 11.0% exceeded the 10% budget (11 of 100 rows)"
        assert counts(batch) == (100, 89, 11, 0, 0, 0)
        assert (look.count("public.judgments"), look.count("intake.row_errors")) == (0, 11)

    def test_they_count_together_with_those_that_the_contract_refused(
        self, workshop: Workshop, send: Sender, look: Look, on_judgments: Trigger, row_errors: Errors
    ) -> None:
        on_judgments(REFUSE_REVILED)
        content = self.file(5) + b"C-1000,,1,\nC-1001,,1,\n"
        batch = ingested(workshop, send, look, content)
        assert counts(batch) == (102, 95, 7, 95, 0, 0)
        assert [error[3] for error in row_errors()] == ["INSERT_FAILED"] * 5 + ["MISSING_DEFENDANT"] * 2

    def test_when_the_first_row_of_a_key_is_refused_the_next_one_stands(
        self, workshop: Workshop, send: Sender, look: Look, on_judgments: Trigger, judgments: Judgments
    ) -> None:
        on_judgments(REFUSE_REVILED)
        batch = ingested(
            workshop,
            send,
            look,
            lines("C-1,Reviled,1,", "C-1,Ada,2,", "C-1,Bela,3,", "C-2,Caro,4,"),
            error_threshold_percent=50,
        )
        assert judgments() == {"C-1": ("Ada", "2.00", 1, 3), "C-2": ("Caro", "4.00", 3, 5)}
        assert counts(batch) == (4, 3, 1, 2, 1, 1)

    def test_they_are_found_among_duplicates_of_what_stands(
        self, workshop: Workshop, send: Sender, look: Look, on_judgments: Trigger
    ) -> None:
        ingested(workshop, send, look, lines(*[f"C-{number:04},Ada,1.10," for number in range(20, 60)]))
        on_judgments(REFUSE_REVILED)
        batch = ingested(workshop, send, look, self.file(4))
        assert (batch.status, counts(batch)) == (State.COMPLETED, (100, 96, 4, 56, 40, 0))


class TestTheLedger:
    @pytest.mark.parametrize(
        "lie",
        [
            "IF NEW.defendant_name = 'Ada' THEN RETURN NULL; END IF; RETURN NEW;",
            "NEW.judgment_amount = NEW.judgment_amount + 0.01; RETURN NEW;",
            "NEW.batch_id = gen_random_uuid(); RETURN NEW;",
            "NEW.id = NEW.id + 1000; RETURN NEW;",
        ],
        ids=["rows vanish", "amounts differ", "rows of another batch", "ids outside the block"],
    )
    def test_an_imbalance_aborts_the_commit(
        self, workshop: Workshop, send: Sender, look: Look, on_judgments: Trigger, lie: str
    ) -> None:
        on_judgments(lie)
        content = lines("C-1,Ada,5,", "C-2,Bela,6,", "C-2,Bela,7,", "C-3,,6,")
        batch = ingested(workshop, send, look, content, error_threshold_percent=50)
        assert (batch.status, batch.attempts, batch.setbacks) == (State.UPLOADED, 1, 1)
        assert counts(batch) == (0, 0, 0, 0, 0, 0)
        for table in ("public.judgments", "intake.row_errors", "intake.row_conflicts"):
            assert look.count(table) == 0, table

    def test_after_three_such_attempts_the_batch_fails(
        self, workshop: Workshop, send: Sender, look: Look, on_judgments: Trigger
    ) -> None:
        on_judgments("RETURN NULL;")
        batch = send(clean_file(3))
        for _ in range(4):
            assert intake.ingest(workshop, batch.id) is None
            look.change("UPDATE intake.batches SET not_before = NULL")
        found = look.batch(batch.id)
        assert (found.status, found.rejection_code, found.attempts) == (State.FAILED, "POISONED", 3)
        assert look.count("public.judgments") == 0

    def test_a_lost_duplicate_aborts_the_commit_too(
        self, workshop: Workshop, send: Sender, look: Look, owner_engine: Engine
    ) -> None:
        try:
            look.change("CREATE FUNCTION public.lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
            look.change(
                "CREATE TRIGGER lose BEFORE INSERT ON intake.row_conflicts FOR EACH ROW EXECUTE FUNCTION public.lose()"
            )
            batch = ingested(workshop, send, look, lines("C-1,Ada,5,", "C-1,Ada,5,"))
        finally:
            look.change("DROP FUNCTION public.lose() CASCADE")
        assert (batch.status, look.count("public.judgments")) == (State.UPLOADED, 0)


def test_personal_data_is_in_no_log(
    workshop: Workshop, send: Sender, look: Look, on_judgments: Trigger, capsys: pytest.CaptureFixture[str]
) -> None:
    on_judgments("IF NEW.defendant_name = 'Reviled' THEN RAISE EXCEPTION '%', NEW; END IF; RETURN NULL;")
    rows = [judgment_cells(defendant_name="Quillfeather", case_number=f"Zanzibar-{number}") for number in range(40)]
    rows[3]["defendant_name"] = "Reviled"
    rows[7]["judgment_amount"] = "Quillfeather"
    batch = ingested(workshop, send, look, csv_bytes(rows))
    assert batch.status is State.UPLOADED
    written = "".join(capsys.readouterr())
    assert "attempt ended" in written
    assert "LedgerError" in written
    for word in ("Quillfeather", "Zanzibar", "ZANZIBAR", "Reviled"):
        assert word not in written
