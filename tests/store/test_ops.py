"""The figures of any span of time: those counted in Python, those of the views over the same span, in every time zone."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from app.batch import State
from app.store import ops
from app.store.ops import Span
from tests import reference_figures as counted
from tests.conftest import Look
from tests.store.conftest import Batches

HOUR = dt.timedelta(hours=1)
FORWARD, BACK = dt.datetime(2025, 3, 9, 7, tzinfo=dt.UTC), dt.datetime(2025, 11, 2, 6, tzinfo=dt.UTC)
"""When New York put its clocks forward and back."""
ZONES = ("UTC", "America/New_York", "Asia/Kolkata", "Pacific/Chatham")


def around(moment: dt.datetime) -> st.SearchStrategy[dt.datetime]:
    """Moments within a day and a half, some of them whole hours."""
    seconds = st.integers(-129_600, 129_600) | st.integers(-36, 36).map(lambda hours: hours * 3_600)
    return seconds.map(lambda away: moment + dt.timedelta(seconds=away))


def in_zone(connection: Connection, zone: str) -> None:
    connection.execute(text("SELECT set_config('TimeZone', :zone, true)"), {"zone": zone})


def row_of(batch: counted.Batch) -> dict[str, Any]:
    return {"filename": "export.csv", "file_hash": uuid4().hex * 2, **batch.columns()}


@settings(counted.AGAINST_A_DATABASE, max_examples=50)
@given(data=st.data(), change=st.sampled_from((FORWARD, BACK)))
def test_they_are_those_counted_in_python(
    made: Batches, look: Look, database: Engine, data: st.DataObject, change: dt.datetime
) -> None:
    zone = data.draw(st.sampled_from(ZONES))
    look.change("DELETE FROM intake.row_errors")
    look.change("DELETE FROM intake.batches")
    batches = data.draw(counted.batches(around(change)))
    errors = data.draw(counted.errors(around(change)))
    start, end = sorted((data.draw(around(change)), data.draw(around(change)) + HOUR))
    for batch in batches:
        made.put_row("intake.batches", row_of(batch))
    others = [counted.Batch(change, State.COMPLETED, 1, 0, 0, 1, 1)] * 3
    ids = [made.put_row("intake.batches", row_of(batch)) for batch in others]
    for number, error in enumerate(errors):
        made.put_error(
            ids[error.batch], number, error_code=error.code, error_stage=error.stage, created_at=error.created_at
        )
    span = Span(start, end)
    with database.begin() as connection:
        in_zone(connection, zone)
        assert ops.performance(connection, span) == counted.by_hour([*batches, *others], start, end)
        assert ops.error_distribution(connection, span) == counted.by_code(errors, start, end)
        assert ops.error_trend(connection, span) == counted.by_week_and_month([*batches, *others], start, end)
        assert ops.error_trend(connection, Span(None, end)) == counted.by_week_and_month([*batches, *others], None, end)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("change", [FORWARD, BACK], ids=str)
def test_every_hour_around_a_change_of_the_clocks_is_one_hour(
    made: Batches, database: Engine, change: dt.datetime, zone: str
) -> None:
    for hours in range(-30, 30):
        made.put(State.COMPLETED, created_at=change + hours * HOUR)
        made.put(State.COMPLETED, created_at=change + (hours + 1) * HOUR - dt.timedelta(microseconds=1))
    with database.begin() as connection:
        in_zone(connection, zone)
        found = ops.performance(connection, Span(change - 30 * HOUR, change + 30 * HOUR))
    assert [(row["hour_bucket"], row["total_batches"]) for row in found] == [
        (change + hours * HOUR, 2) for hours in reversed(range(-30, 30))
    ]


def test_over_the_same_span_they_are_the_views(made: Batches, database: Engine) -> None:
    now = dt.datetime.now(dt.UTC)
    batch_id = made.put(State.COMPLETED, row_count_total=7, row_count_valid=4, row_count_invalid=3)
    for number, age in enumerate((0, 1, 1, 25, 150, 167, 169, 400)):
        made.put(State.COMPLETED, created_at=now - age * HOUR, row_count_total=age, parse_duration_ms=age)
        made.put_error(batch_id, number, created_at=now - age * HOUR, error_code=f"CODE_{age % 2}")
    with database.begin() as connection:
        end = ops.now(connection) + HOUR
        week = Span(end - HOUR - dt.timedelta(hours=ops.LAST_HOURS), end)
        assert ops.performance(connection, week) == ops.performance(connection) != []
        assert ops.error_distribution(connection, week) == ops.error_distribution(connection) != []
        assert ops.error_trend(connection, Span(None, end)) == ops.error_trend(connection) != []


def test_the_end_of_a_span_is_not_in_it(made: Batches, database: Engine) -> None:
    batch_id = made.put(State.COMPLETED, created_at=BACK)
    made.put_error(batch_id, 1, created_at=BACK)
    with database.begin() as connection:
        for span, times in ((Span(BACK, BACK + HOUR), 1), (Span(BACK - HOUR, BACK), 0)):
            assert sum(row["total_batches"] for row in ops.performance(connection, span)) == times
            assert sum(row["occurrence_count"] for row in ops.error_distribution(connection, span)) == times
            assert sum(row["batches"] for row in ops.error_trend(connection, span)) == 2 * times


class TestQueues:
    def test_what_may_be_claimed_is_counted_by_priority(self, made: Batches, database: Engine, look: Look) -> None:
        with database.begin() as connection:
            now = ops.now(connection)
        made.put(State.UPLOADED, created_at=now - HOUR)
        made.put(State.UPLOADED, created_at=now - 2 * HOUR)
        made.put(State.UPLOADED, created_at=now - 3 * HOUR, not_before=now + HOUR)
        made.put(State.UPLOADED, created_at=now, not_before=now - HOUR, priority="high")
        made.put(State.VALIDATING, created_at=now - 4 * HOUR, lease_until=now + HOUR, priority="high")
        made.put(State.COMPLETED, created_at=now - 5 * HOUR)
        left_behind = made.claimed(priority="low")
        look.expire(left_behind.id)
        with database.begin() as connection:
            high, normal, low = ops.queues(connection)
        assert [row["priority"] for row in (high, normal, low)] == ["high", "normal", "low"]
        assert [row["claimable"] for row in (high, normal, low)] == [1, 2, 1]
        assert [row["backing_off"] for row in (high, normal, low)] == [0, 1, 0]
        assert 7_200 <= normal["oldest_age_seconds"] < 7_260
        assert 0 <= high["oldest_age_seconds"] < 60

    def test_they_are_all_named_where_nothing_waits(self, database: Engine) -> None:
        with database.begin() as connection:
            found = ops.queues(connection)
        assert found == [
            {"priority": name, "claimable": 0, "backing_off": 0, "oldest_age_seconds": None}
            for name in ("high", "normal", "low")
        ]


class TestWorkers:
    def put(self, made: Batches, name: str, **columns: Any) -> None:
        values = {"name": name, "host": "h", "pid": 1, "concurrency": 2, "version": "1", **columns}
        made.put_row("ops.workers", values)

    def test_the_living_and_the_silent_are_told_apart(self, made: Batches, database: Engine) -> None:
        with database.begin() as connection:
            now = ops.now(connection)
        long_ago = now - dt.timedelta(hours=1)
        self.put(made, "a", started_at=long_ago, last_seen_at=now, concurrency=3)
        self.put(made, "b", started_at=long_ago, last_seen_at=now - dt.timedelta(seconds=20))
        self.put(made, "c", started_at=long_ago, last_seen_at=now - dt.timedelta(minutes=5), concurrency=8)
        with database.begin() as connection:
            assert ops.workers(connection, silent_after_seconds=30) == {"alive": 2, "silent": 1, "places": 5}
            assert ops.workers(connection, silent_after_seconds=600) == {"alive": 3, "silent": 0, "places": 13}

    def test_one_in_whose_place_another_was_started_is_missed_by_nobody(self, made: Batches, database: Engine) -> None:
        with database.begin() as connection:
            now = ops.now(connection)
        self.put(made, "killed", last_seen_at=now - dt.timedelta(minutes=5))
        self.put(made, "heir", started_at=now - dt.timedelta(minutes=4), last_seen_at=now)
        with database.begin() as connection:
            assert ops.workers(connection, silent_after_seconds=30) == {"alive": 1, "silent": 0, "places": 2}

    def test_without_one_there_is_none(self, database: Engine) -> None:
        with database.begin() as connection:
            assert ops.workers(connection, silent_after_seconds=30) == {"alive": 0, "silent": 0, "places": 0}
