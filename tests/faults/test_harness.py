"""The harness itself: a fault that does not fire fails, each breach of an invariant is seen, and figures are added up rightly."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from app import intake
from app.batch import State
from app.intake import Workshop
from tests.conftest import Look, Sender
from tests.faults import mutations
from tests.faults.faults import KINDS
from tests.faults.files import Maker
from tests.faults.invariants import Books, Expected, balance, holds_mark
from tests.faults.report import CONTROL, page, percentile, problems
from tests.faults.rounds import Campaign, Fault, Record, append_record, read_records
from tests.faults.watchers import Reader, Seen

RECORD = Record(
    fault="kill -9 in COPY",
    lease_seconds=2,
    fired=True,
    evidence="process 7 killed",
    rows=1_000,
    batches=1,
    lost=0,
    duplicated=0,
    unaccounted=0,
    breaches=[],
    resumed=2.5,
    terminal=3.0,
    uploads=[0.02],
    others=[0.1],
    reads=10,
    seconds=4.0,
)


@pytest.fixture
def loaded(workshop: Workshop, send: Sender, service_url: str) -> Any:
    """A completed batch, and what is found of it after a change."""
    file = Maker().file(500)
    batch = send(file.content)
    assert intake.ingest(workshop, batch.id) is State.COMPLETED
    expected = Expected(str(batch.id), file)

    def found(expected: Expected = expected) -> Books:
        with psycopg.connect(service_url, autocommit=True) as connection:
            return balance(connection, expected)

    return SimpleNamespace(file=file, batch=batch, expected=expected, found=found)


def test_a_sound_batch_has_no_breach(loaded: Any) -> None:
    books = loaded.found()
    assert (books.breaches, books.rows, books.lost, books.duplicated, books.unaccounted) == ([], 500, 0, 0, 0)
    assert loaded.file.invalid
    assert loaded.file.repeats


def test_a_missing_judgment_is_lost_and_unaccounted(loaded: Any, look: Look) -> None:
    assert (
        look.change("DELETE FROM public.judgments WHERE row_index = (SELECT max(row_index) FROM public.judgments)") == 1
    )
    books = loaded.found()
    assert (books.lost, books.unaccounted) == (1, 1)
    assert any(breach.startswith("I4") for breach in books.breaches)
    assert any(breach.startswith("I2") for breach in books.breaches)


def test_a_judgment_that_stands_twice_is_duplicated(loaded: Any, look: Look) -> None:
    columns = "plaintiff_name, defendant_name, judgment_amount, judgment_date, court, county, batch_id, row_index"
    look.change("ALTER TABLE public.judgments DROP CONSTRAINT judgments_case_number_key")
    try:
        look.change(
            f"INSERT INTO public.judgments (case_number, {columns})"
            f" SELECT case_number, {columns} FROM public.judgments ORDER BY row_index LIMIT 1"
        )
        books = loaded.found()
        assert books.duplicated == 2
        assert any(breach.startswith("I3") for breach in books.breaches)
    finally:
        look.change("DELETE FROM public.judgments")
        look.change("ALTER TABLE public.judgments ADD CONSTRAINT judgments_case_number_key UNIQUE (case_number)")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE public.judgments SET judgment_amount = judgment_amount + 0.01 WHERE row_index = 0",
        "UPDATE public.judgments SET row_index = 1 WHERE row_index = 0",
        "UPDATE public.judgments SET defendant_name = upper(defendant_name) WHERE row_index = 0",
        "UPDATE public.judgments SET court = county WHERE row_index = 0",
        "UPDATE public.judgments SET line_number = line_number + 1 WHERE row_index = 0",
        "UPDATE intake.row_errors SET raw = raw || 'x' WHERE row_index = 46",
        "UPDATE intake.row_errors SET error_code = 'INVALID_DATE' WHERE row_index = 46",
        "UPDATE intake.row_conflicts SET case_number = 'X' WHERE row_index = 60",
        "DELETE FROM intake.row_errors WHERE row_index = 46",
        "DELETE FROM intake.row_conflicts WHERE row_index = 60",
        "UPDATE intake.batches SET row_count_inserted = row_count_inserted - 1, row_count_duplicate = row_count_duplicate + 1",
    ],
)
def test_books_that_do_not_balance_are_seen(loaded: Any, look: Look, change: str) -> None:
    assert look.change(change) == 1
    assert any(breach.startswith("I2") for breach in loaded.found().breaches)


def test_an_end_that_was_not_expected_is_a_breach(loaded: Any, send: Sender, service_url: str) -> None:
    other = dataclasses.replace(loaded.expected, status="failed", code="POISONED")
    assert loaded.found(other).breaches
    waiting = Maker().file(10)
    unfinished = Expected(str(send(waiting.content).id), waiting)
    assert any(breach.startswith("I1") for breach in loaded.found(unfinished).breaches)
    gone = dataclasses.replace(loaded.expected, batch_id="00000000-0000-0000-0000-000000000000")
    assert loaded.found(gone).lost == 500


def test_a_part_of_a_batch_is_seen_by_the_reader() -> None:
    reader = cast(Any, Reader.__new__(Reader))
    reader.breaches = []
    seen = Seen(("A", "Z"))
    for row in (
        ("a", "inserting", 1, 0, 0, 0, 0, 0, 0),
        ("a", "completed", 1, 7, 2, 1, 7, 2, 1),
        ("a", "failed", 1, 0, 5, 0, 0, 5, 0),
    ):
        reader._note(seen, row, 1.0)
    assert reader.breaches == []
    for part in (
        ("a", "inserting", 1, 0, 0, 0, 3, 0, 0),
        ("a", "completed", 1, 7, 2, 1, 6, 2, 1),
        ("a", "failed", 1, 0, 5, 0, 1, 5, 0),
    ):
        reader._note(seen, part, 1.0)
    assert len(reader.breaches) == 3


def test_marks_are_in_every_file_and_found_wherever_they_stand() -> None:
    file = Maker().file(3)
    assert holds_mark(file.name)
    assert all(holds_mark(line) for line in file.content.decode().splitlines()[1:])
    assert not holds_mark('{"event": "batch changed"}')


class Silent(Fault):
    """Says that it strikes, and does nothing."""

    name = "a fault that does not fire"

    def inject(self, scene: Any) -> None:
        scene.strike()


class Broken(Silent):
    """Fires, and the outcome is another one."""

    name = "a fault with another outcome"

    def inject(self, scene: Any) -> None:
        scene.strike("struck")

    def outcome(self, scene: Any) -> None:
        raise AssertionError("the stale attempt has written")


@pytest.mark.parametrize(
    ("fault", "fired", "breach"),
    [(Silent, False, "a fault that does not fire did not fire"), (Broken, True, "the stale attempt has written")],
)
def test_a_round_without_evidence_or_with_another_outcome_is_a_breach(
    monkeypatch: pytest.MonkeyPatch, fault: type[Fault], fired: bool, breach: str
) -> None:
    stack = SimpleNamespace(mend=lambda: None, let_all_go=lambda: None, lease_seconds=2)
    campaign = cast(Any, Campaign.__new__(Campaign))
    campaign.stack, campaign.short = stack, True
    campaign.reader = SimpleNamespace(reads=0, breaches=[])
    campaign.others = SimpleNamespace(done=[], breaches=[])
    monkeypatch.setattr(Campaign, "_books", lambda *_: Books())
    monkeypatch.setattr(fault, "outage", True)
    record = campaign.run(fault(), rows=10)
    assert (record.fired, record.breaches) == (fired, [breach])
    assert problems([record])


def test_records_are_written_and_read_again(tmp_path: Path) -> None:
    results = tmp_path / "build" / "faults.jsonl"
    assert read_records(results) == []
    append_record(results, RECORD)
    append_record(results, dataclasses.replace(RECORD, lease_seconds=15))
    assert read_records(results) == [RECORD, dataclasses.replace(RECORD, lease_seconds=15)]


def test_the_page_adds_rounds_up_and_tells_which_promise_is_broken() -> None:
    control = dataclasses.replace(RECORD, fault=CONTROL, others=[0.1] * 100, resumed=None)
    slow = dataclasses.replace(RECORD, resumed=21.0, others=[0.3] * 100)
    written = page([control, RECORD, slow], "| ledger check | a test |\n")
    assert "**2 faults fired, 3,000 rows: 0 lost, 0 duplicated, 0 unaccounted, 0 breaches**" in written
    assert "| kill -9 in COPY | 2 | 2 | 2,000 | 0 | 0 | 0 | 2.50 | 21.00 | 3.00 | 3.00 | 0.30 |" in written
    assert "| ledger check | a test |" in written
    assert len(problems([control, RECORD, slow])) == 2
    assert problems([control, RECORD]) == []
    assert problems([dataclasses.replace(RECORD, fired=False)]) == ["kill -9 in COPY did not fire"]


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([], 0.99) is None
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(map(float, range(1, 101)), 0.99) == 99.0


def test_every_kind_has_a_name_of_its_own() -> None:
    names = [kind().name for kind in KINDS]
    assert all(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_what_a_mutation_takes_out_is_there(mutation: mutations.Mutation) -> None:
    source = (mutations.REPOSITORY / mutation.file).read_text(encoding="utf-8")
    assert source.count(mutation.before) == 1
    assert mutation.after != mutation.before
