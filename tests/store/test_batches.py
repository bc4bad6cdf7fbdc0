"""The batches: claims, fences, takeovers, setbacks and hints, on the real clock of the real database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from app.batch import FINISHED, RUNNING, UNFINISHED, State
from app.store import batches, claims, hinting, judgments
from app.store.batches import Batch, Counts
from app.store.claims import LostClaimError
from tests.conftest import Look
from tests.store.conftest import Batches

WRITES: dict[str, Callable[[Connection, Batch], object]] = {
    "renew": lambda connection, batch: claims.renew(connection, batch, lease_seconds=15, rows=7, bytes_read=70),
    "enter": lambda connection, batch: claims.enter(connection, batch, State.VALIDATING),
    "complete": lambda connection, batch: claims.complete(connection, batch, Counts(total=7, valid=7), {}),
    "fail": lambda connection, batch: claims.fail(
        connection, batch, Counts(total=7, invalid=7), {}, code="EMPTY_FILE", reason="Empty."
    ),
}
"""Every write of an attempt that raises when its claim is gone."""


class TestInsert:
    def test_a_new_batch_waits_and_counts_as_hinted(self, made: Batches, look: Look) -> None:
        batch = made.new(priority="high", error_threshold_percent=25, source="jbi")
        assert batch == look.batch(batch.id)
        assert (batch.status, batch.fence, batch.attempts, batch.forced) == (State.UPLOADED, 0, 0, False)
        assert (batch.priority, batch.error_threshold_percent, batch.source) == ("high", 25, "jbi")
        assert batch.hinted_at is not None
        assert batch.completed_at is None

    def test_one_with_a_first_batch_is_forced(self, made: Batches) -> None:
        first = made.new()
        again = made.new(file_hash=first.file_hash, first_batch_id=first.id)
        assert (again.forced, again.first_batch_id) == (True, first.id)

    def test_the_first_of_some_bytes_is_the_unforced_one(self, made: Batches, database: Engine) -> None:
        first = made.new()
        made.new(file_hash=first.file_hash, first_batch_id=first.id)
        with database.begin() as connection:
            assert batches.first_of(connection, first.file_hash) == first
            assert batches.first_of(connection, "0" * 64) is None

    def test_its_today_is_the_utc_day_of_its_upload(self, made: Batches, look: Look) -> None:
        batch = made.new()
        look.change("UPDATE intake.batches SET created_at = '2024-03-01 23:30:00-05' WHERE id = :id", id=batch.id)
        assert look.batch(batch.id).today.isoformat() == "2024-03-02"

    def test_an_unknown_batch_is_none(self, database: Engine) -> None:
        with database.begin() as connection:
            assert batches.get(connection, uuid4()) is None


class TestClaim:
    def test_it_takes_an_uploaded_batch_with_a_lease_and_a_higher_fence(self, made: Batches, look: Look) -> None:
        batch = made.claimed(owner="host/1/2", lease_seconds=15)
        assert (batch.status, batch.fence, batch.attempts, batch.lease_owner) == (State.STAGING, 1, 1, "host/1/2")
        assert look.rows(
            "SELECT lease_until - clock_timestamp() BETWEEN interval '10 s' AND interval '15 s', hinted_at IS NULL,"
            " started_at IS NOT NULL FROM intake.batches"
        ) == [(True, True, True)]

    def test_a_claimed_batch_cannot_be_claimed_again(self, made: Batches, look: Look) -> None:
        batch = made.claimed()
        assert made.claim(batch.id) is None
        assert look.batch(batch.id) == batch

    def test_of_eight_claims_at_once_one_gets_it(self, made: Batches, look: Look) -> None:
        for _ in range(5):
            batch = made.new()
            start = threading.Barrier(8)

            def claim(number: int, batch: Batch = batch, start: threading.Barrier = start) -> Batch | None:
                start.wait()
                return made.claim(batch.id, owner=f"host/{number}/{number}")

            with ThreadPoolExecutor(8) as pool:
                got = [found for found in pool.map(claim, range(8)) if found]
            assert len(got) == 1
            stands = look.batch(batch.id)
            assert (stands.fence, stands.attempts, stands.lease_owner) == (1, 1, got[0].lease_owner)

    @pytest.mark.parametrize("state", [State.AWAITING_APPROVAL, *FINISHED], ids=str)
    def test_nobody_takes_one_that_waits_for_a_person_or_is_finished(self, made: Batches, state: State) -> None:
        assert made.claim(made.put(state)) is None

    @pytest.mark.parametrize("state", sorted(RUNNING), ids=str)
    def test_it_takes_over_when_the_lease_has_run_out(self, made: Batches, look: Look, state: State) -> None:
        batch_id = made.put(state, fence=4, attempts=1, lease_owner="host/9/9", rows_processed=50, bytes_processed=500)
        look.change("UPDATE intake.batches SET lease_until = clock_timestamp() + interval '1 hour'")
        assert made.claim(batch_id) is None
        look.expire(batch_id)
        batch = made.claim(batch_id)
        assert batch is not None
        assert (batch.status, batch.fence, batch.attempts, batch.lease_owner) == (State.STAGING, 5, 2, "host/1/2")
        assert (batch.rows_processed, batch.bytes_processed) == (0, 0)

    def test_a_lease_runs_out_by_the_databases_clock(self, made: Batches) -> None:
        begun = time.monotonic()
        batch = made.claimed(lease_seconds=1)
        while (again := made.claim(batch.id)) is None:
            assert time.monotonic() - begun < 20
            time.sleep(0.02)
        assert time.monotonic() - begun > 0.9
        assert again.fence == 2

    def test_a_renewed_lease_does_not_run_out(self, made: Batches, database: Engine, look: Look) -> None:
        batch = made.claimed()
        look.expire(batch.id)
        with database.begin() as connection:
            claims.renew(connection, batch, lease_seconds=15, rows=12, bytes_read=345)
        assert made.claim(batch.id) is None
        stands = look.batch(batch.id)
        assert (stands.rows_processed, stands.bytes_processed) == (12, 345)

    def test_the_first_start_is_kept(self, made: Batches, look: Look) -> None:
        batch = made.claimed()
        look.expire(batch.id)
        again = made.claim(batch.id)
        assert again is not None
        assert again.started_at == batch.started_at


class TestPoison:
    def test_the_fourth_claim_after_three_silent_ends_fails_the_batch(self, made: Batches, look: Look) -> None:
        batch_id = made.new().id
        for attempt in (1, 2, 3):
            batch = made.claim(batch_id)
            assert batch is not None
            assert batch.attempts == attempt
            look.expire(batch_id)
        assert made.claim(batch_id) is None
        stands = look.batch(batch_id)
        assert (stands.status, stands.rejection_code) == (State.FAILED, "POISONED")
        assert stands.rejection_reason
        assert stands.completed_at is not None
        assert (stands.fence, stands.lease_until, stands.lease_owner) == (4, None, None)

    def test_the_third_attempt_is_not_ended_while_it_holds_its_lease(self, made: Batches, look: Look) -> None:
        batch = made.claimed()
        look.change("UPDATE intake.batches SET attempts = 3 WHERE id = :id", id=batch.id)
        assert made.claim(batch.id) is None
        assert look.batch(batch.id).status is State.STAGING

    def test_a_poisoned_attempt_that_still_lives_can_write_nothing(
        self, made: Batches, look: Look, database: Engine
    ) -> None:
        batch = made.claimed()
        look.change("UPDATE intake.batches SET attempts = 3 WHERE id = :id", id=batch.id)
        look.expire(batch.id)
        assert made.claim(batch.id) is None
        with database.begin() as connection, pytest.raises(LostClaimError):
            claims.complete(connection, batch, Counts(), {})


class TestFence:
    @pytest.mark.parametrize("write", WRITES)
    def test_a_write_with_an_older_fence_changes_nothing(
        self, made: Batches, look: Look, database: Engine, write: str
    ) -> None:
        old = made.claimed()
        look.expire(old.id)
        new = made.claim(old.id)
        assert new is not None
        with database.begin() as connection, pytest.raises(LostClaimError):
            WRITES[write](connection, old)
        assert look.batch(old.id) == new

    @pytest.mark.parametrize("write", WRITES)
    @pytest.mark.parametrize("state", [state for state in State if state not in RUNNING], ids=str)
    def test_a_write_to_a_batch_that_does_not_run_changes_nothing(
        self, made: Batches, look: Look, database: Engine, write: str, state: State
    ) -> None:
        batch = look.batch(made.put(state, fence=2))
        with database.begin() as connection, pytest.raises(LostClaimError):
            WRITES[write](connection, batch)
        assert look.batch(batch.id) == batch

    def test_a_release_with_an_older_fence_changes_nothing(self, made: Batches, look: Look, database: Engine) -> None:
        old = made.claimed()
        look.expire(old.id)
        new = made.claim(old.id)
        with database.begin() as connection:
            assert not claims.release(connection, old, counts_against_batch=False)
        assert look.batch(old.id) == new

    def test_a_write_with_the_present_fence_is_made(self, made: Batches, look: Look, database: Engine) -> None:
        batch = made.claimed()
        counts = Counts(
            total=10,
            valid=9,
            invalid=1,
            inserted=7,
            duplicate=2,
            conflict=1,
            parse_duration_ms=5,
            db_duration_ms=6,
            first_judgment_id=100,
            last_judgment_id=108,
        )
        with database.begin() as connection:
            claims.enter(connection, batch, State.VALIDATING)
            claims.enter(connection, batch, State.INSERTING)
            claims.complete(connection, batch, counts, {"container": "csv"})
        stands = look.batch(batch.id)
        assert (stands.status, stands.fence, stands.lease_until, stands.lease_owner) == (State.COMPLETED, 1, None, None)
        assert (stands.row_count_total, stands.row_count_valid, stands.row_count_invalid) == (10, 9, 1)
        assert (stands.row_count_inserted, stands.row_count_duplicate, stands.row_count_conflict) == (7, 2, 1)
        assert (stands.first_judgment_id, stands.last_judgment_id) == (100, 108)
        assert (stands.rows_processed, stands.bytes_processed) == (10, 1_000)
        assert (stands.parse_duration_ms, stands.db_duration_ms, stands.reading) == (5, 6, {"container": "csv"})


class TestRelease:
    def test_it_gives_the_attempt_back(self, made: Batches, look: Look, database: Engine) -> None:
        batch = made.claimed()
        with database.begin() as connection:
            assert claims.release(connection, batch, counts_against_batch=False)
        stands = look.batch(batch.id)
        assert (stands.status, stands.attempts, stands.setbacks, stands.lease_until) == (State.UPLOADED, 0, 1, None)

    def test_an_attempt_that_failed_by_our_own_fault_stays_counted(
        self, made: Batches, look: Look, database: Engine
    ) -> None:
        batch = made.claimed()
        with database.begin() as connection:
            assert claims.release(connection, batch, counts_against_batch=True)
        assert (look.batch(batch.id).attempts, look.batch(batch.id).setbacks) == (1, 1)

    def test_the_wait_doubles_up_to_a_minute(self, made: Batches, look: Look, database: Engine) -> None:
        batch_id = made.new().id
        waits = []
        for _ in range(9):
            batch = made.claim(batch_id)
            assert batch is not None
            with database.begin() as connection:
                claims.release(connection, batch, counts_against_batch=False)
                waits.append(
                    connection.scalar(
                        text("SELECT extract(epoch FROM not_before - clock_timestamp()) FROM intake.batches")
                    )
                )
            assert made.claim(batch_id) is None, "claimed before its time"
            look.change("UPDATE intake.batches SET not_before = clock_timestamp()")
        assert [round(wait) for wait in waits] == [1, 2, 4, 8, 16, 32, 60, 60, 60]

    def test_many_setbacks_overflow_nothing(self, made: Batches, look: Look, database: Engine) -> None:
        batch = made.claimed()
        look.change("UPDATE intake.batches SET setbacks = 1000000")
        with database.begin() as connection:
            assert claims.release(connection, batch, counts_against_batch=False)

    def test_the_batch_can_be_claimed_when_the_wait_is_over(self, made: Batches, database: Engine) -> None:
        batch = made.claimed()
        with database.begin() as connection:
            claims.release(connection, batch, counts_against_batch=False)
        begun = time.monotonic()
        while made.claim(batch.id) is None:
            assert time.monotonic() - begun < 10
            time.sleep(0.02)
        assert time.monotonic() - begun > 0.7

    @pytest.mark.parametrize("end", ["complete", "fail"])
    def test_an_end_forgets_the_setbacks(self, made: Batches, look: Look, database: Engine, end: str) -> None:
        batch = made.claimed()
        look.change("UPDATE intake.batches SET setbacks = 5, status = 'validating'")
        look.change("UPDATE intake.batches SET status = 'inserting'")
        with database.begin() as connection:
            WRITES[end](connection, batch)
        assert look.batch(batch.id).setbacks == 0


class TestShutdown:
    def test_a_worker_gives_back_all_it_holds_at_once_and_nothing_of_others(
        self, made: Batches, look: Look, database: Engine
    ) -> None:
        mine = [made.claimed(owner="host/10/11"), made.claimed(owner="host/10/12")]
        others = [made.claimed(owner="host/100/11"), made.claimed(owner="ghost/10/11")]
        finished = made.put(State.COMPLETED, lease_owner="host/10/11")
        with database.begin() as connection:
            returned = claims.release_all_of(connection, "host/10/")
        assert sorted(returned, key=lambda batch: batch.id) == sorted(mine, key=lambda batch: batch.id)
        for batch in mine:
            stands = look.batch(batch.id)
            assert (stands.status, stands.attempts, stands.setbacks, stands.not_before) == (State.UPLOADED, 0, 0, None)
            assert made.claim(batch.id) is not None
        for batch in others:
            assert look.batch(batch.id) == batch
        assert look.batch(finished).status is State.COMPLETED

    def test_a_name_is_no_pattern(self, made: Batches, database: Engine) -> None:
        made.claimed(owner="host/10/11")
        with database.begin() as connection:
            assert claims.release_all_of(connection, "h%/10/") == []


class TestHints:
    def take(self, engine: Engine, **how: Any) -> list[tuple[Any, str]]:
        with engine.begin() as connection:
            return hinting.take_unhinted(connection, **how)

    def age(self, look: Look, seconds: int) -> None:
        look.change(
            "UPDATE intake.batches SET hinted_at = clock_timestamp() - make_interval(secs => :age)", age=seconds
        )

    def test_a_hint_has_thirty_seconds(self, made: Batches, look: Look, database: Engine) -> None:
        batch = made.new(priority="low")
        self.age(look, 28)
        assert self.take(database) == []
        self.age(look, 31)
        assert self.take(database) == [(batch.id, "low")]

    def test_a_missing_hint_is_made_good_at_once_and_only_once(
        self, made: Batches, look: Look, database: Engine
    ) -> None:
        batch = made.new()
        look.change("UPDATE intake.batches SET hinted_at = NULL")
        assert self.take(database) == [(batch.id, "normal")]
        assert self.take(database) == []

    def test_a_forgotten_hint_is_due_again(self, made: Batches, database: Engine) -> None:
        batch = made.new()
        with database.begin() as connection:
            hinting.forget_hint(connection, batch.id)
        assert self.take(database) == [(batch.id, "normal")]

    def test_two_reconcilers_share_the_work(self, made: Batches, look: Look, database: Engine) -> None:
        ids = {made.new().id for _ in range(10)}
        self.age(look, 60)
        with database.begin() as one, database.begin() as two:
            first = hinting.take_unhinted(one, limit=4)
            second = hinting.take_unhinted(two, limit=100)
        assert (len(first), len(second)) == (4, 6)
        assert {batch_id for batch_id, _ in first + second} == ids

    def test_the_oldest_come_first(self, made: Batches, look: Look, database: Engine) -> None:
        made.new()
        old = made.new()
        look.change("UPDATE intake.batches SET created_at = created_at - interval '1 day' WHERE id = :id", id=old.id)
        self.age(look, 60)
        assert self.take(database, limit=1) == [(old.id, "normal")]

    def test_only_what_can_be_claimed_is_hinted(self, made: Batches, look: Look, database: Engine) -> None:
        for state in State:
            made.put(state)
        waiting = made.put(State.UPLOADED)
        look.change(
            "UPDATE intake.batches SET not_before = clock_timestamp() + interval '1 minute' WHERE id = :id", id=waiting
        )
        held, expired = made.put(State.VALIDATING, fence=1), made.put(State.INSERTING, fence=1)
        look.change(
            "UPDATE intake.batches SET lease_until = clock_timestamp() + interval '1 minute' WHERE id = :id", id=held
        )
        look.expire(expired)
        found = {look.batch(batch_id).status for batch_id, _ in self.take(database)}
        assert found == {State.UPLOADED, State.INSERTING}
        assert look.rows("SELECT count(*) FROM intake.batches WHERE hinted_at IS NOT NULL") == [(2,)]


class TestNextClaimable:
    def test_priority_goes_before_age(self, made: Batches, database: Engine) -> None:
        low, normal, high, later = (made.new(priority=priority).id for priority in ("low", "normal", "high", "high"))
        found = []
        for _ in range(4):
            with database.begin() as connection:
                chosen = hinting.next_claimable(connection)
            assert chosen is not None
            found.append(chosen)
            assert made.claim(chosen) is not None
        assert found == [high, later, normal, low]

    def test_nothing_is_next_where_nothing_waits(self, made: Batches, database: Engine) -> None:
        made.claimed()
        made.put(State.COMPLETED)
        with database.begin() as connection:
            assert hinting.next_claimable(connection) is None


class TestRetry:
    def test_it_clears_all_that_the_attempt_left(self, made: Batches, look: Look, database: Engine) -> None:
        batch = made.failed()
        made.put_error(batch.id, 1)
        made.put_row(
            "intake.row_conflicts",
            {"batch_id": batch.id, "row_index": 1, "case_number": "C", "kept_batch_id": batch.id, "kept_row_index": 0},
        )
        look.change("UPDATE intake.batches SET attempts = 3, setbacks = 4, reading = '{\"a\": 1}'")
        with database.begin() as connection:
            again = batches.retry(connection, batch.id, 35)
        assert again is not None
        assert (again.status, again.error_threshold_percent) == (State.UPLOADED, 35)
        assert (again.rejection_code, again.rejection_reason, again.completed_at) == (None, None, None)
        assert (again.attempts, again.setbacks, again.not_before, again.reading) == (0, 0, None, {})
        assert (again.row_count_total, again.row_count_invalid, again.rows_processed) == (0, 0, 0)
        assert again.fence == batch.fence + 1
        assert (look.count("intake.row_errors"), look.count("intake.row_conflicts")) == (0, 0)
        assert made.claim(batch.id) is not None

    def test_without_a_threshold_the_batchs_own_stays(self, made: Batches, database: Engine) -> None:
        batch = made.failed()
        with database.begin() as connection:
            again = batches.retry(connection, batch.id)
        assert again is not None
        assert again.error_threshold_percent == 10

    @pytest.mark.parametrize("state", [state for state in State if state is not State.FAILED], ids=str)
    def test_only_a_failed_batch_is_retried(self, made: Batches, look: Look, database: Engine, state: State) -> None:
        batch = look.batch(made.put(state))
        made.put_error(batch.id, 1)
        with database.begin() as connection:
            assert batches.retry(connection, batch.id, 50) is None
        assert look.batch(batch.id) == batch
        assert look.count("intake.row_errors") == 1


class TestCancel:
    @pytest.mark.parametrize("state", sorted(UNFINISHED), ids=str)
    def test_an_unfinished_batch_ends(self, made: Batches, look: Look, database: Engine, state: State) -> None:
        batch_id = made.put(state, fence=2, lease_owner="host/1/2")
        with database.begin() as connection:
            found = batches.cancel(connection, batch_id)
        assert found == look.batch(batch_id)
        assert (found.status, found.fence, found.lease_until, found.lease_owner) == (State.CANCELLED, 3, None, None)
        assert found.completed_at is not None
        assert made.claim(batch_id) is None

    @pytest.mark.parametrize("state", sorted(FINISHED), ids=str)
    def test_a_finished_batch_stays_as_it_is(self, made: Batches, look: Look, database: Engine, state: State) -> None:
        batch = look.batch(made.put(state))
        with database.begin() as connection:
            assert batches.cancel(connection, batch.id) is None
        assert look.batch(batch.id) == batch

    @pytest.mark.parametrize("write", WRITES)
    def test_the_attempt_can_write_nothing_more(self, made: Batches, look: Look, database: Engine, write: str) -> None:
        batch = made.claimed()
        with database.begin() as connection:
            batches.cancel(connection, batch.id)
        with database.begin() as connection, pytest.raises(LostClaimError):
            WRITES[write](connection, batch)
        assert look.batch(batch.id).status is State.CANCELLED


class TestStaleBackends:
    def loading(self, service_url: str, batch: Batch, fence: int | None = None) -> psycopg.Connection:
        """A transaction that carries the batch's name, as a load's does."""
        connection = psycopg.connect(service_url)
        connection.execute(
            "SELECT set_config('application_name', %s, true)",
            [f"dragonfly:{batch.id}:{batch.fence if fence is None else fence}"],
        )
        return connection

    def is_alive(self, connection: psycopg.Connection) -> bool:
        try:
            connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def end(self, engine: Engine, batch: Batch) -> int:
        with engine.begin() as connection:
            return claims.end_stale_backends(connection, batch.id)

    def test_the_load_itself_gives_the_name(self, made: Batches, look: Look, database: Engine) -> None:
        batch = made.claimed()
        with database.connect() as connection:
            transaction = connection.begin()
            judgments.begin_load(connection, batch.id, batch.fence)
            look.expire(batch.id)
            assert self.end(database, batch) == 1
            with pytest.raises(OperationalError):
                connection.execute(text("SELECT 1"))
            transaction.close()

    def test_the_name_ends_with_its_transaction(self, made: Batches, look: Look, database: Engine) -> None:
        batch = made.claimed()
        with database.connect() as connection:
            with connection.begin():
                judgments.begin_load(connection, batch.id, batch.fence)
            look.expire(batch.id)
            assert self.end(database, batch) == 0
            assert connection.scalar(text("SELECT 1")) == 1

    def test_exactly_those_of_the_lost_lease_are_ended(
        self, made: Batches, look: Look, database: Engine, service_url: str
    ) -> None:
        lost, other = made.claimed(), made.claimed()
        look.expire(lost.id)
        look.expire(other.id)
        stale = [self.loading(service_url, lost), self.loading(service_url, lost, fence=0)]
        kept = [
            self.loading(service_url, other),
            self.loading(service_url, lost, fence=lost.fence + 1),
            psycopg.connect(service_url, application_name=f"dragonfly:{lost.id}:x"),
            psycopg.connect(service_url, application_name=f"x dragonfly:{lost.id}:1"),
        ]
        assert self.end(database, lost) == 2
        assert [self.is_alive(connection) for connection in stale] == [False, False]
        assert [self.is_alive(connection) for connection in kept] == [True] * 4
        for connection in stale + kept:
            connection.close()

    def test_a_batch_that_is_held_keeps_its_connections(
        self, made: Batches, database: Engine, service_url: str
    ) -> None:
        batch = made.claimed()
        with self.loading(service_url, batch) as connection:
            assert self.end(database, batch) == 0
            assert self.is_alive(connection)

    def test_what_a_released_attempt_left_open_is_ended(
        self, made: Batches, database: Engine, service_url: str
    ) -> None:
        batch = made.claimed()
        with database.begin() as connection:
            claims.release(connection, batch, counts_against_batch=False)
        with self.loading(service_url, batch) as left:
            assert self.end(database, batch) == 1
            assert not self.is_alive(left)

    def test_its_uncommitted_keys_block_nobody_any_more(
        self, made: Batches, look: Look, database: Engine, service_url: str
    ) -> None:
        batch = made.claimed()
        insert = (
            "INSERT INTO public.judgments (id, case_number, defendant_name, judgment_amount, batch_id, row_index)"
            " VALUES (%s, 'C-1', 'Ada Marlow', 1, %s, 0)"
        )
        stopped = self.loading(service_url, batch)
        stopped.execute(insert, [1, batch.id])
        look.expire(batch.id)
        assert self.end(database, batch) == 1
        with psycopg.connect(service_url) as connection:
            connection.execute("SET LOCAL lock_timeout = '2s'")
            connection.execute(insert, [2, batch.id])
        assert look.rows("SELECT id FROM public.judgments") == [(2,)]
        stopped.close()
