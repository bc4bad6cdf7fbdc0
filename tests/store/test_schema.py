"""What the database itself refuses, and that the application's own words for tables and states are the database's."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Column, Engine, Table, inspect, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import TypeEngine

from app.batch import FINISHED, PRIORITIES, RUNNING, SOURCES, TRANSITIONS, State
from app.errors import CATALOGUE
from app.store import tables
from tests.conftest import TABLES, Look
from tests.store.conftest import Batches, fitting

PAIRS = [(start, end) for start in State for end in State if start is not end]


def refused_by(problem: pytest.ExceptionInfo[IntegrityError]) -> str | None:
    """The name of the rule that the database names."""
    diagnosis = getattr(problem.value.orig, "diag", None)
    return None if diagnosis is None else diagnosis.constraint_name


class TestTables:
    @pytest.mark.parametrize("table", tables.metadata.sorted_tables, ids=lambda table: table.fullname)
    def test_they_are_the_database_column_for_column(self, owner_engine: Engine, table: Table) -> None:
        found = inspect(owner_engine).get_columns(table.name, schema=table.schema)
        assert [column["name"] for column in found] == [column.name for column in table.columns]
        for column, reflected in zip(table.columns, found, strict=True):
            assert reflected["nullable"] == column.nullable, column
            assert same_type(column, reflected["type"]), f"{column}: {reflected['type']!r} is not {column.type!r}"

    @pytest.mark.parametrize("table", tables.metadata.sorted_tables, ids=lambda table: table.fullname)
    def test_their_primary_keys_are_the_databases(self, owner_engine: Engine, table: Table) -> None:
        found = inspect(owner_engine).get_pk_constraint(table.name, schema=table.schema)
        assert found["constrained_columns"] == [column.name for column in table.primary_key]

    def test_there_are_no_others(self, owner_engine: Engine) -> None:
        inspector = inspect(owner_engine)
        found = {
            f"{schema}.{name}" for schema in ("intake", "ops", "public") for name in inspector.get_table_names(schema)
        }
        assert found == {table.fullname for table in tables.metadata.sorted_tables} | {"public.alembic_version"}

    def test_every_one_is_emptied_between_tests_but_the_catalogue(self) -> None:
        assert set(TABLES) == {table.fullname for table in tables.metadata.sorted_tables} - {"ops.error_codes"}

    def test_the_catalogue_is_that_of_the_code(self, look: Look) -> None:
        assert {code for (code,) in look.rows("SELECT code FROM ops.error_codes")} == set(CATALOGUE)


def same_type(declared: Column[Any], found: TypeEngine[Any]) -> bool:
    """Whether the database keeps what the column declares."""
    dialect = postgresql.dialect()
    return found.compile(dialect).partition(" COLLATE ")[0] == declared.type.compile(dialect)


class TestStates:
    def test_the_check_names_exactly_those_of_the_code(self, look: Look) -> None:
        ((definition,),) = look.rows(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'batches_status_check'"
        )
        assert set(re.findall(r"'(\w+)'", definition)) == {state.value for state in State}

    @pytest.mark.parametrize(("column", "words"), [("source", SOURCES), ("priority", PRIORITIES)])
    def test_sources_and_priorities_are_those_of_the_code(
        self, look: Look, column: str, words: tuple[str, ...]
    ) -> None:
        ((definition,),) = look.rows(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = :name",
            name=f"batches_{column}_check",
        )
        assert set(re.findall(r"'(\w+)'", definition)) == set(words)


class TestTransitionGuard:
    def move(self, look: Look, batch_id: UUID, end: State, fence: int, **columns: Any) -> None:
        values = {**fitting(end), **columns}
        sets = ", ".join(f"{name} = :{name}" for name in values)
        look.change(
            f"UPDATE intake.batches SET status = :end, fence = :fence, {sets} WHERE id = :id",
            id=batch_id,
            end=end.value,
            fence=fence,
            **values,
        )

    @pytest.mark.parametrize(("start", "end"), PAIRS, ids=lambda state: state.value)
    def test_with_a_higher_fence_it_lets_pass_exactly_the_transitions(
        self, made: Batches, look: Look, start: State, end: State
    ) -> None:
        batch_id = made.put(start, fence=3)
        if end in TRANSITIONS[start]:
            self.move(look, batch_id, end, 4)
            assert look.batch(batch_id).status is end
            return
        with pytest.raises(IntegrityError) as problem:
            self.move(look, batch_id, end, 4)
        assert refused_by(problem) == "batches_transition"
        assert look.batch(batch_id).status is start

    @pytest.mark.parametrize(("start", "end"), PAIRS, ids=lambda state: state.value)
    def test_with_the_same_fence_a_running_batch_is_not_taken_over(
        self, made: Batches, look: Look, start: State, end: State
    ) -> None:
        batch_id = made.put(start, fence=3)
        if end in TRANSITIONS[start] and not (start in RUNNING and end is State.STAGING):
            self.move(look, batch_id, end, 3)
            assert look.batch(batch_id).status is end
            return
        with pytest.raises(IntegrityError) as problem:
            self.move(look, batch_id, end, 3)
        assert refused_by(problem) == "batches_transition"

    def test_staging_is_taken_over_with_a_higher_fence(self, made: Batches, look: Look) -> None:
        batch_id = made.put(State.STAGING, fence=3)
        before = look.batch(batch_id)
        self.move(look, batch_id, State.STAGING, 4)
        after = look.batch(batch_id)
        assert (after.status, after.fence) == (State.STAGING, 4)
        assert after.state_since > before.state_since

    @pytest.mark.parametrize("state", list(State), ids=lambda state: state.value)
    def test_the_fence_never_falls(self, made: Batches, look: Look, state: State) -> None:
        batch_id = made.put(state, fence=3)
        with pytest.raises(IntegrityError) as problem:
            self.move(look, batch_id, state, 2)
        assert refused_by(problem) == "batches_fence_rises"

    def test_the_fence_may_not_fall_with_a_transition_either(self, made: Batches, look: Look) -> None:
        batch_id = made.put(State.UPLOADED, fence=3)
        with pytest.raises(IntegrityError) as problem:
            self.move(look, batch_id, State.STAGING, 2)
        assert refused_by(problem) == "batches_fence_rises"

    def test_entering_a_state_sets_its_time_and_a_heartbeat_does_not(self, made: Batches, look: Look) -> None:
        batch_id = made.put(State.STAGING, fence=1)
        begun = look.batch(batch_id).state_since
        look.change("UPDATE intake.batches SET rows_processed = 5, status = 'staging' WHERE id = :id", id=batch_id)
        assert look.batch(batch_id).state_since == begun
        self.move(look, batch_id, State.VALIDATING, 1)
        assert look.batch(batch_id).state_since > begun

    def test_a_failed_batch_needs_a_reason(self, made: Batches, look: Look) -> None:
        batch_id = made.put(State.VALIDATING, fence=1)
        with pytest.raises(IntegrityError) as problem:
            self.move(look, batch_id, State.FAILED, 1, rejection_reason=None)
        assert refused_by(problem) == "batches_failed_has_a_reason"

    @pytest.mark.parametrize("state", [state for state in State if state is not State.FAILED], ids=str)
    def test_no_other_state_has_a_reason(self, made: Batches, state: State) -> None:
        with pytest.raises(IntegrityError) as problem:
            made.put(state, rejection_reason="Why?")
        assert refused_by(problem) == "batches_failed_has_a_reason"

    def test_a_code_needs_a_reason(self, made: Batches) -> None:
        with pytest.raises(IntegrityError) as problem:
            made.put(State.UPLOADED, rejection_code="POISONED")
        assert refused_by(problem) == "batches_code_has_a_reason"

    @pytest.mark.parametrize("state", list(State), ids=lambda state: state.value)
    def test_exactly_the_finished_states_have_an_end(self, made: Batches, state: State) -> None:
        opposite = None if state in FINISHED else fitting(State.COMPLETED)["completed_at"]
        with pytest.raises(IntegrityError) as problem:
            made.put(state, completed_at=opposite)
        assert refused_by(problem) == "batches_finished_has_an_end"


class TestIdempotency:
    def test_the_same_bytes_have_one_batch(self, made: Batches) -> None:
        made.put(State.COMPLETED, file_hash="a" * 64)
        with pytest.raises(IntegrityError) as problem:
            made.put(State.UPLOADED, file_hash="a" * 64)
        assert refused_by(problem) == "batches_file_hash_key"

    def test_any_number_of_forced_ones_may_follow(self, made: Batches, look: Look) -> None:
        first = made.put(State.COMPLETED, file_hash="a" * 64)
        for _ in range(2):
            made.put(State.UPLOADED, file_hash="a" * 64, forced=True, first_batch_id=first)
        assert look.count("intake.batches") == 3

    @pytest.mark.parametrize("wrong", ["", "abc", "A" * 64, "g" * 64, "a" * 65])
    def test_a_hash_is_sixty_four_hex_digits(self, made: Batches, wrong: str) -> None:
        with pytest.raises(IntegrityError) as problem:
            made.put(State.UPLOADED, file_hash=wrong)
        assert refused_by(problem) == "batches_file_hash_check"

    @pytest.mark.parametrize("percent", [-1, 101])
    def test_a_budget_is_a_percentage(self, made: Batches, percent: int) -> None:
        with pytest.raises(IntegrityError) as problem:
            made.put(State.UPLOADED, error_threshold_percent=percent)
        assert refused_by(problem) == "batches_error_threshold_percent_check"

    def test_a_row_has_one_error(self, made: Batches) -> None:
        batch_id = made.put(State.COMPLETED)
        made.put_error(batch_id, 4)
        with pytest.raises(IntegrityError) as problem:
            made.put_error(batch_id, 4)
        assert refused_by(problem) == "row_errors_batch_id_row_index_key"

    def test_a_case_number_stands_once(self, made: Batches) -> None:
        batch_id = made.put(State.COMPLETED)
        made.put_judgment(batch_id, 1, case_number="C-1")
        with pytest.raises(IntegrityError) as problem:
            made.put_judgment(batch_id, 2, case_number="C-1")
        assert refused_by(problem) == "judgments_case_number_key"

    def test_case_numbers_sort_by_their_bytes(self, made: Batches, look: Look) -> None:
        batch_id = made.put(State.COMPLETED)
        for number, case_number in enumerate(["Ä", "b", "a", "B", "Z", "-"], start=1):
            made.put_judgment(batch_id, number, case_number=case_number)
        found = [key for (key,) in look.rows("SELECT case_number FROM public.judgments ORDER BY case_number")]
        assert found == sorted(found, key=str.encode) == ["-", "B", "Z", "a", "b", "Ä"]


class TestDeletion:
    def test_a_batch_with_judgments_is_not_deleted(self, made: Batches, look: Look) -> None:
        batch_id = made.put(State.COMPLETED)
        made.put_judgment(batch_id, 7)
        with pytest.raises(IntegrityError) as problem:
            look.change("DELETE FROM intake.batches WHERE id = :id", id=batch_id)
        assert refused_by(problem) == "judgments_batch_id"
        assert look.count("intake.batches") == 1

    def test_not_even_where_the_batch_names_no_block_of_ids(self, made: Batches, look: Look) -> None:
        batch_id = made.put(State.COMPLETED)
        made.put_judgment(batch_id, 7)
        look.change(
            "UPDATE intake.batches SET first_judgment_id = NULL, last_judgment_id = NULL WHERE id = :id", id=batch_id
        )
        with pytest.raises(IntegrityError) as problem:
            look.change("DELETE FROM intake.batches WHERE id = :id", id=batch_id)
        assert refused_by(problem) == "judgments_batch_id"

    def test_a_batch_without_judgments_goes_with_its_errors_and_duplicates(self, made: Batches, look: Look) -> None:
        batch_id = made.put(State.FAILED)
        made.put_error(batch_id, 1)
        made.put_row(
            "intake.row_conflicts",
            {"batch_id": batch_id, "row_index": 1, "case_number": "C", "kept_batch_id": uuid4(), "kept_row_index": 0},
        )
        assert look.change("DELETE FROM intake.batches WHERE id = :id", id=batch_id) == 1
        assert (look.count("intake.row_errors"), look.count("intake.row_conflicts")) == (0, 0)

    def test_a_block_of_ids_that_holds_others_judgments_does_not_keep_a_batch(
        self, made: Batches, look: Look, owner_engine: Engine
    ) -> None:
        other = made.put(State.COMPLETED)
        made.put_judgment(other, 7)
        batch_id = made.put(State.FAILED, first_judgment_id=7, last_judgment_id=7)
        with owner_engine.begin() as connection:
            assert connection.execute(text("DELETE FROM intake.batches WHERE id = :id"), {"id": batch_id}).rowcount == 1


def test_judgments_have_no_foreign_key_and_no_index_on_their_batch(look: Look) -> None:
    """Either doubles the time of a load."""
    assert (
        look.rows("SELECT conname FROM pg_constraint WHERE conrelid = 'public.judgments'::regclass AND contype = 'f'")
        == []
    )
    indexes = {name for (name,) in look.rows("SELECT indexname FROM pg_indexes WHERE tablename = 'judgments'")}
    assert indexes == {"judgments_pkey", "judgments_case_number_key"}
