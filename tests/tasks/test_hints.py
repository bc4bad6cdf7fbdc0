"""Hints never make a request wait, whatever the broker does; one that is lost is told of."""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from uuid import UUID, uuid4

import pytest
from celery import Celery
from structlog.testing import capture_logs

from app.local.valkey import Valkey
from app.settings import Settings
from tasks.hints import CAPACITY, Hinter, Publisher
from tests.tasks.conftest import Queues, begun

logging.getLogger("celery").setLevel(logging.CRITICAL)


def slowest_enqueue(hinter: Hinter, hints: int) -> float:
    """The longest that any of so many hints made its caller wait."""
    slowest = 0.0
    for _ in range(hints):
        began = time.monotonic()
        hinter.enqueue(uuid4(), "normal")
        slowest = max(slowest, time.monotonic() - began)
    return slowest


Hinters = Callable[..., Hinter]


class TestALivingBroker:
    def test_hints_arrive_in_their_order(self, celery: Celery, queues: Queues, hinter_of: Hinters) -> None:
        ids = [uuid4() for _ in range(20)]
        hinter = hinter_of(celery)
        for batch_id in ids:
            hinter.enqueue(batch_id, "low")
        deadline = time.monotonic() + 20
        while len(queues.raw("low")) < len(ids):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert queues.ids("low") == [str(batch_id) for batch_id in ids]

    def test_no_thread_is_started_before_the_first_hint(self, celery: Celery, hinter_of: Hinters) -> None:
        before = threading.active_count()
        hinter_of(celery)
        assert threading.active_count() == before

    def test_nothing_is_reported_as_dropped(self, celery: Celery, queues: Queues, hinter_of: Hinters) -> None:
        dropped: list[UUID] = []
        hinter = hinter_of(celery, dropped=dropped.append)
        hinter.enqueue(uuid4(), "high")
        deadline = time.monotonic() + 20
        while not queues.raw("high"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert dropped == []


def test_a_broker_that_was_restarted_gets_the_next_hint(celery: Celery, queues: Queues) -> None:
    with closing(Publisher(celery)) as publisher:
        assert publisher.publish(uuid4(), "normal")
        queues.disconnect_everybody()
        batch_id = uuid4()
        assert publisher.publish(batch_id, "normal")
        assert queues.ids("normal")[-1] == str(batch_id)


def test_hints_share_a_connection(celery: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    connect = celery.connection_for_write
    monkeypatch.setattr(celery, "connection_for_write", lambda: opened.append(connect()) or opened[-1])
    with closing(Publisher(celery)) as publisher:
        assert all(publisher.publish(uuid4(), "low") for _ in range(5))
    assert len(opened) == 1


class TestADeadBroker:
    @pytest.fixture
    def celery(self, settings: Settings, dead_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
        url = f"redis://:x@127.0.0.1:{dead_port}/0"
        with begun(dataclasses.replace(settings, redis_url=url), monkeypatch) as configured:
            yield configured

    def test_no_caller_waits(self, celery: Celery, hinter_of: Hinters) -> None:
        assert slowest_enqueue(hinter_of(celery), 200) < 0.25

    def test_publishing_gives_up_within_its_timeouts(self, celery: Celery) -> None:
        began = time.monotonic()
        assert not Publisher(celery).publish(uuid4(), "normal")
        assert time.monotonic() - began < 6

    def test_every_hint_that_was_not_taken_is_told_of(self, celery: Celery, hinter_of: Hinters) -> None:
        told: queue.Queue[UUID] = queue.Queue()
        hinter = hinter_of(celery, dropped=told.put)
        ids = [uuid4() for _ in range(3)]
        for batch_id in ids:
            hinter.enqueue(batch_id, "normal")
        assert [told.get(timeout=20) for _ in ids] == ids

    def test_a_listener_that_fails_does_not_end_the_publisher(self, celery: Celery, hinter_of: Hinters) -> None:
        told: queue.Queue[UUID] = queue.Queue()

        def fail(batch_id: UUID) -> None:
            told.put(batch_id)
            raise ValueError("no database either")

        hinter = hinter_of(celery, dropped=fail)
        hinter.enqueue(uuid4(), "normal")
        hinter.enqueue(uuid4(), "normal")
        assert told.get(timeout=20) != told.get(timeout=20)


class TestAHungBroker:
    @pytest.fixture
    def celery(self, settings: Settings, hung_broker: Valkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
        with begun(dataclasses.replace(settings, redis_url=hung_broker.url), monkeypatch) as configured:
            yield configured

    def test_no_caller_waits_and_what_does_not_fit_is_dropped(self, celery: Celery, hinter_of: Hinters) -> None:
        hinter = hinter_of(celery, capacity=10)
        with capture_logs() as said:
            assert slowest_enqueue(hinter, 200) < 0.25
        dropped = [entry for entry in said if entry["event"] == "hint dropped"]
        assert 188 <= len(dropped) <= 190

    def test_publishing_gives_up_within_its_timeouts(self, celery: Celery) -> None:
        began = time.monotonic()
        assert not Publisher(celery).publish(uuid4(), "normal")
        assert time.monotonic() - began < 10

    def test_the_hint_is_told_of(self, celery: Celery, hinter_of: Hinters) -> None:
        told: queue.Queue[UUID] = queue.Queue()
        batch_id = uuid4()
        hinter_of(celery, dropped=told.put).enqueue(batch_id, "normal")
        assert told.get(timeout=20) == batch_id


def test_the_queue_is_bounded() -> None:
    assert 100 <= CAPACITY <= 10_000
