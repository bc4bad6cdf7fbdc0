"""The reconciler, on a real broker and without one: no batch is forgotten because its hint was lost."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from celery import Celery
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.batch import State
from app.local.valkey import Valkey
from app.settings import Settings
from app.store import claims, hinting, judgments
from tasks import process
from tasks.reconciler import Reconciler, hand_over, sign_off
from tests.conftest import Look, Sender
from tests.factories import clean_file
from tests.tasks.conftest import Queues, assert_soon, begun


@contextmanager
def reconciling(celery: Celery) -> Iterator[Reconciler]:
    """The step of a worker, started and stopped as the worker does it."""
    worker = SimpleNamespace(app=celery, concurrency=2, steps=[])
    step = Reconciler(worker)
    step.start(worker)
    try:
        yield step
    finally:
        step.stop(worker)
        for thread in threading.enumerate():
            if thread.name == "ingest":
                thread.join(20)


def hinted(look: Look, seconds: int | None) -> None:
    look.change(
        "UPDATE intake.batches SET hinted_at = clock_timestamp() - make_interval(secs => CAST(:age AS double precision))",
        age=seconds,
    )


class TestWithABroker:
    def test_it_hints_again_when_a_hint_has_had_its_time(
        self, celery: Celery, queues: Queues, send: Sender, look: Look
    ) -> None:
        lost = send(clean_file(2), priority="high")
        hinted(look, 31)
        fresh = send(clean_file(3, start=10))
        with reconciling(celery):
            assert_soon(lambda: bool(queues.raw("high")))
            time.sleep(1.2)
        assert queues.ids("high") == [str(lost.id)]
        assert queues.raw("normal") == []
        assert [look.batch(batch.id).status for batch in (lost, fresh)] == [State.UPLOADED] * 2

    def test_a_batch_whose_lease_has_run_out_is_hinted_at_once(
        self, celery: Celery, queues: Queues, send: Sender, look: Look
    ) -> None:
        batch = send(clean_file(2))
        with process.engine().begin() as connection:
            claims.claim(connection, batch.id, owner="ghost/1/2", lease_seconds=15)
        look.expire(batch.id)
        with reconciling(celery):
            assert_soon(lambda: queues.ids("high") == [str(batch.id)])

    def test_behind_many_messages_only_such_a_batch_is_hinted_at_and_before_them(
        self, celery: Celery, queues: Queues, send: Sender, look: Look, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tasks.reconciler._ENOUGH_WAITING", 0)
        waiting, died = send(clean_file(2)), send(clean_file(2, start=10))
        with process.engine().begin() as connection:
            claims.claim(connection, died.id, owner="ghost/1/2", lease_seconds=15)
        look.expire(died.id)
        look.change("UPDATE intake.batches SET hinted_at = NULL")
        with reconciling(celery):
            assert_soon(lambda: queues.ids("high") == [str(died.id)])
            time.sleep(1.2)
        assert queues.raw("normal") == []
        assert look.batch(waiting.id).hinted_at is None

    def test_a_batch_that_its_stopped_worker_has_locked_is_hinted_at_once(
        self, celery: Celery, queues: Queues, send: Sender, look: Look
    ) -> None:
        """As one that stands still between its last statement and its commit."""
        batch = send(clean_file(2))
        with process.engine().begin() as connection:
            claims.claim(connection, batch.id, owner="ghost/1/2", lease_seconds=15)
        look.expire(batch.id)
        stopped = process.engine().connect()
        judgments.begin_load(stopped, batch.id, 1)
        stopped.execute(text("UPDATE intake.batches SET rows_processed = 2 WHERE id = :id"), {"id": batch.id})
        with reconciling(celery):
            assert_soon(lambda: queues.ids("high") == [str(batch.id)])
        with pytest.raises(OperationalError):
            stopped.execute(text("SELECT 1"))
        stopped.close()

    def test_it_keeps_the_workers_row_and_takes_it_away_at_the_end(self, celery: Celery, look: Look) -> None:
        seen = "SELECT name, pid, queues, concurrency, broker_seen_at IS NOT NULL FROM ops.workers"
        with reconciling(celery):
            assert_soon(lambda: bool(look.rows(seen)))
            assert look.rows(seen) == [
                (process.worker_prefix(), os.getpid(), ["watch", "high", "normal", "low"], 2, True)
            ]
        sign_off()
        assert look.rows(seen) == []

    def test_it_says_that_it_is_ready(
        self, settings: Settings, queues: Queues, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ready = settings.home / "ready"
        with begun(dataclasses.replace(settings, ready_file=ready), monkeypatch) as celery, reconciling(celery):
            assert ready.exists()

    def test_at_the_end_it_returns_the_leases_of_its_own_processes(
        self, celery: Celery, send: Sender, look: Look
    ) -> None:
        mine, others = send(clean_file(2)), send(clean_file(2, start=10))
        with process.engine().begin() as connection:
            claims.claim(connection, mine.id, owner=f"{process.worker_prefix()}77", lease_seconds=15)
            claims.claim(connection, others.id, owner="ghost/1/2", lease_seconds=15)
        hand_over()
        assert (look.batch(mine.id).status, look.batch(mine.id).attempts) == (State.UPLOADED, 0)
        assert (look.batch(others.id).status, look.batch(others.id).attempts) == (State.STAGING, 1)


class TestWithoutABroker:
    def assert_works_by_itself(self, celery: Celery, send: Sender, look: Look) -> None:
        low = send(clean_file(5), priority="low")
        high = send(clean_file(5, start=100), priority="high")
        hinted(look, None)
        with reconciling(celery):
            assert_soon(lambda: {look.batch(batch.id).status for batch in (low, high)} == {State.COMPLETED}, within=60)
        assert look.count("public.judgments") == 10
        first, second = look.batch(high.id).completed_at, look.batch(low.id).completed_at
        assert first is not None
        assert second is not None
        assert first < second

    def test_it_ingests_by_itself_by_priority(
        self, settings: Settings, dead_port: int, monkeypatch: pytest.MonkeyPatch, send: Sender, look: Look
    ) -> None:
        url = f"redis://:x@127.0.0.1:{dead_port}/0"
        with begun(dataclasses.replace(settings, redis_url=url), monkeypatch) as celery:
            self.assert_works_by_itself(celery, send, look)

    def test_a_hung_broker_is_none(
        self, settings: Settings, hung_broker: Valkey, monkeypatch: pytest.MonkeyPatch, send: Sender, look: Look
    ) -> None:
        with begun(dataclasses.replace(settings, redis_url=hung_broker.url), monkeypatch) as celery:
            self.assert_works_by_itself(celery, send, look)

    def test_a_full_broker_is_none(self, celery: Celery, queues: Queues, send: Sender, look: Look) -> None:
        queues.client.config_set("maxmemory", 1)
        try:
            self.assert_works_by_itself(celery, send, look)
        finally:
            queues.client.config_set("maxmemory", 0)

    def test_what_it_could_not_hint_does_not_count_as_hinted(
        self, settings: Settings, dead_port: int, monkeypatch: pytest.MonkeyPatch, send: Sender, look: Look
    ) -> None:
        waiting = send(clean_file(5))
        look.change("UPDATE intake.batches SET hinted_at = NULL")
        monkeypatch.setattr("tasks.reconciler.intake.ingest", lambda *_: None)
        url = f"redis://:x@127.0.0.1:{dead_port}/0"
        with begun(dataclasses.replace(settings, redis_url=url), monkeypatch) as celery, reconciling(celery):
            assert_soon(lambda: bool(look.rows("SELECT 1 FROM ops.workers")))
            time.sleep(1.5)
        assert look.batch(waiting.id).hinted_at is None


class TestWithoutADatabase:
    def test_it_waits_for_it_and_goes_on(
        self, celery: Celery, queues: Queues, send: Sender, look: Look, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = send(clean_file(2))
        hinted(look, 60)
        take, failures = hinting.take_unhinted, []

        def fail_twice(connection: object, **how: object) -> object:
            if len(failures) < 2:
                failures.append(1)
                raise ZeroDivisionError("whatever it is")
            return take(connection, **how)  # type: ignore[arg-type]

        monkeypatch.setattr(hinting, "take_unhinted", fail_twice)
        with reconciling(celery):
            assert_soon(lambda: queues.ids("normal") == [str(batch.id)])
        assert len(failures) == 2


class TestAWorkerThatStandsStill:
    def test_the_server_ends_each_of_its_short_transactions(self, celery: Celery) -> None:
        with process.engine().begin() as connection:
            assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "1min"

    def test_it_holds_no_batch_for_longer_than_its_transaction_may_idle(
        self, celery: Celery, send: Sender, look: Look, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hinting, "_HINTING_SECONDS", 1)
        batch = send(clean_file(2))
        hinted(look, 60)
        stopped = process.engine().connect()
        assert hinting.take_unhinted(stopped) == [(batch.id, "normal")]
        time.sleep(1.5)
        with process.engine().begin() as connection:
            assert hinting.take_unhinted(connection) == [(batch.id, "normal")]
        with pytest.raises(SQLAlchemyError):
            stopped.execute(text("SELECT 1"))
        stopped.close()

    def test_killed_before_its_hints_it_has_noted_nothing(
        self, celery: Celery, queues: Queues, send: Sender, look: Look, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = send(clean_file(2))
        hinted(look, None)
        sent = []

        def dies_once(*_: object) -> None:
            sent.append(1)
            if len(sent) == 1:
                raise ZeroDivisionError("killed")

        monkeypatch.setattr("tasks.reconciler.pause.at", dies_once)
        with reconciling(celery):
            assert_soon(lambda: queues.ids("normal") == [str(batch.id)], within=5)
        assert len(sent) == 2
