"""Many row errors are stored while the file is still being checked, and still nobody sees any before the batch ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from app import intake
from app.batch import State
from app.engine import spool
from app.intake import Workshop
from app.store import row_errors as store
from tests.conftest import Look, Sender
from tests.factories import clean_file, file_with_errors
from tests.intake.conftest import lines

OnJudgments = Callable[[str], None]


@pytest.fixture(autouse=True)
def storing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that stored errors, one for each portion; a portion is a few rows."""
    threads: list[str] = []
    real = store.store

    def noted(*arguments: Any) -> None:
        threads.append(threading.current_thread().name)
        real(*arguments)

    monkeypatch.setattr(spool, "_ERROR_BYTES", 20_000)
    monkeypatch.setattr(store, "store", noted)
    return threads


def test_errors_are_stored_beside_the_check_and_all_of_them(
    workshop: Workshop, send: Sender, look: Look, storing: list[str]
) -> None:
    batch = send(file_with_errors(8_000, 700))
    assert intake.ingest(workshop, batch.id) is State.COMPLETED
    assert sum(name.startswith("errors-") for name in storing) > 5
    assert look.rows("SELECT count(*), count(DISTINCT row_index) FROM intake.row_errors") == [(700, 700)]
    assert look.count("public.judgments") == 7_300


def test_a_refused_file_keeps_all_its_errors(workshop: Workshop, send: Sender, look: Look) -> None:
    batch = send(file_with_errors(2_000, 900))
    assert intake.ingest(workshop, batch.id) is State.FAILED
    assert look.count("intake.row_errors") == look.batch(batch.id).row_count_invalid == 900
    assert look.count("public.judgments") == 0


def test_when_the_database_refuses_too_many_rows_the_errors_stay_and_the_judgments_go(
    workshop: Workshop, send: Sender, look: Look, on_judgments: OnJudgments
) -> None:
    on_judgments("IF NEW.row_index % 5 = 0 THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW;")
    batch = send(file_with_errors(1_000, 90))
    assert intake.ingest(workshop, batch.id) is State.FAILED
    found = look.batch(batch.id)
    assert found.rejection_code == "ERROR_BUDGET_EXCEEDED"
    assert look.rows("SELECT error_code = 'INSERT_FAILED', count(*) FROM intake.row_errors GROUP BY 1 ORDER BY 1") == [
        (False, 90),
        (True, found.row_count_invalid - 90),
    ]
    assert found.row_count_invalid > 200
    assert look.count("public.judgments") == look.count("intake.row_conflicts") == 0


def test_a_connection_lost_while_errors_are_stored_ends_the_attempt_uncounted(
    workshop: Workshop, send: Sender, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise psycopg.OperationalError("server closed the connection")

    batch = send(file_with_errors(8_000, 700))
    with monkeypatch.context() as patched:
        patched.setattr(store, "store", lost)
        assert intake.ingest(workshop, batch.id) is None
    found = look.batch(batch.id)
    assert (found.status, found.attempts) == (State.UPLOADED, 0)
    assert look.count("intake.row_errors") == 0
    look.change("UPDATE intake.batches SET not_before = NULL")
    assert intake.ingest(workshop, batch.id) is State.COMPLETED
    assert look.count("intake.row_errors") == 700


def test_an_attempt_that_is_fenced_off_while_errors_are_stored_leaves_none(
    workshop: Workshop, send: Sender, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = send(file_with_errors(8_000, 700))
    real = store.store

    def cancelled(*arguments: Any) -> None:
        real(*arguments)
        look.change("UPDATE intake.batches SET status = 'cancelled', fence = fence + 1, completed_at = now()")
        monkeypatch.setattr(store, "store", real)

    monkeypatch.setattr(store, "store", cancelled)
    assert intake.ingest(workshop, batch.id) is None
    assert look.batch(batch.id).status is State.CANCELLED
    assert look.count("intake.row_errors") == look.count("public.judgments") == 0


def test_nobody_sees_errors_before_the_batch_has_ended(
    workshop: Workshop, send: Sender, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = store.store

    def looked(*arguments: Any) -> None:
        real(*arguments)
        seen.append(look.count("intake.row_errors"))

    monkeypatch.setattr(store, "store", looked)
    batch = send(file_with_errors(8_000, 700))
    assert intake.ingest(workshop, batch.id) is State.COMPLETED
    assert len(seen) > 5
    assert not any(seen)


def test_few_errors_take_no_thread(workshop: Workshop, send: Sender, look: Look, storing: list[str]) -> None:
    batch = send(clean_file(100) + lines("X-1,Ada,12.,").split(b"\n", 1)[1])
    assert intake.ingest(workshop, batch.id) is State.COMPLETED
    assert storing
    assert not any(name.startswith("errors-") for name in storing)
