"""The views: their columns as they are documented, figures worked out by hand, and figures counted in Python."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from app.batch import State
from app.errors import CATALOGUE
from tests import reference_figures as counted
from tests.conftest import Look
from tests.store.conftest import Batches

COLUMNS = {
    "intake.v_batch_observability": (
        "batch_id filename status file_hash row_count_total row_count_valid row_count_invalid row_count_inserted"
        " row_count_duplicate row_count_conflict error_threshold_percent rejection_reason error_rate_percent"
        " parse_duration_ms db_duration_ms total_duration_ms rows_per_second error_count unresolved_error_count"
        " created_at completed_at wall_clock_ms"
    ),
    "intake.v_error_summary": (
        "batch_id error_code error_stage occurrence_count first_seen last_seen unresolved_count"
    ),
    "ops.v_batch_performance": (
        "hour_bucket total_batches completed_batches failed_batches avg_parse_ms avg_db_ms avg_total_ms total_rows"
        " inserted_rows skipped_rows error_rows dedupe_rate_pct error_rate_pct"
    ),
    "ops.v_error_distribution": "error_code occurrence_count affected_batches sample_message last_seen_at",
    "ops.v_pipeline_health": "status batch_count oldest_batch_at oldest_age_minutes newest_batch_at",
    "ops.v_error_trend": "period bucket batches rows error_rate_pct",
}

COUNTED = {
    "row_count_total": 1_000,
    "row_count_valid": 940,
    "row_count_invalid": 60,
    "row_count_inserted": 800,
    "row_count_duplicate": 140,
    "row_count_conflict": 20,
    "parse_duration_ms": 1_500,
    "db_duration_ms": 500,
}
NOON = dt.datetime(2025, 1, 3, 12, tzinfo=dt.UTC)


@pytest.fixture
def seen(database: Engine) -> Any:
    """What the application reads from a view, as mappings."""

    def read(view: str, order: str = "1") -> list[dict[str, Any]]:
        with database.begin() as connection:
            return [dict(row) for row in connection.execute(text(f"SELECT * FROM {view} ORDER BY {order}")).mappings()]

    return read


@pytest.mark.parametrize("view", COLUMNS)
def test_a_view_has_exactly_the_documented_columns(look: Look, view: str) -> None:
    schema, _, name = view.partition(".")
    found = look.rows(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = :schema AND table_name = :name"
        " ORDER BY ordinal_position",
        schema=schema,
        name=name,
    )
    assert [column for (column,) in found] == COLUMNS[view].split()


def test_the_view_that_the_schema_smoke_test_asks_for_exists(look: Look) -> None:
    assert look.rows("SELECT relkind::text FROM pg_class WHERE oid = 'intake.view_batch_metrics'::regclass") == [("v",)]


class TestBatchObservability:
    def test_its_figures(self, made: Batches, seen: Any) -> None:
        batch_id = made.put(
            State.COMPLETED, **COUNTED, created_at=NOON, completed_at=NOON + dt.timedelta(seconds=3, milliseconds=250)
        )
        made.put_error(batch_id, 1)
        made.put_error(batch_id, 2, resolved_at=NOON)
        made.put_error(batch_id, 3)
        made.put_error(made.put(State.COMPLETED), 1)
        (found,) = [row for row in seen("intake.v_batch_observability") if row["batch_id"] == batch_id]
        assert {name: found[name] for name in COUNTED} == COUNTED
        assert found["error_rate_percent"] == Decimal("6.00")
        assert found["total_duration_ms"] == 2_000
        assert found["rows_per_second"] == Decimal("500.0")
        assert (found["error_count"], found["unresolved_error_count"]) == (3, 2)
        assert found["wall_clock_ms"] == 3_250
        assert (found["status"], found["error_threshold_percent"], found["rejection_reason"]) == ("completed", 10, None)

    def test_a_batch_of_which_nothing_is_known_divides_by_nothing(self, made: Batches, seen: Any) -> None:
        made.put(State.UPLOADED)
        (found,) = seen("intake.v_batch_observability")
        unknown = ("error_rate_percent", "total_duration_ms", "rows_per_second", "completed_at", "wall_clock_ms")
        assert [found[name] for name in unknown] == [None] * 5
        assert (found["error_count"], found["unresolved_error_count"]) == (0, 0)

    def test_a_thirds_rate_is_rounded_to_two_places(self, made: Batches, seen: Any) -> None:
        made.put(
            State.FAILED,
            row_count_total=3,
            row_count_valid=2,
            row_count_invalid=1,
            parse_duration_ms=0,
            db_duration_ms=0,
        )
        (found,) = seen("intake.v_batch_observability")
        assert found["error_rate_percent"] == Decimal("33.33")
        assert found["rows_per_second"] is None
        assert found["rejection_reason"] == "Refused for a test."


class TestBatchMetrics:
    def test_they_agree_with_the_observability(self, made: Batches, seen: Any) -> None:
        made.put(State.COMPLETED, **COUNTED)
        (metrics,), (observed,) = seen("intake.view_batch_metrics"), seen("intake.v_batch_observability")
        shared = metrics.keys() & observed.keys()
        assert {"error_rate_percent", "rows_per_second", "total_duration_ms", "row_count_inserted"} <= shared
        assert {name: metrics[name] for name in shared} == {name: observed[name] for name in shared}


class TestErrorSummary:
    def test_its_figures(self, made: Batches, seen: Any) -> None:
        batch_id, other = made.put(State.COMPLETED), made.put(State.COMPLETED)
        later = NOON + dt.timedelta(minutes=5)
        made.put_error(batch_id, 1, created_at=later, resolved_at=later)
        made.put_error(batch_id, 2, created_at=NOON)
        made.put_error(batch_id, 3, created_at=NOON, error_code="INSERT_FAILED", error_stage="upsert")
        made.put_error(other, 1, created_at=later)
        rows = seen("intake.v_error_summary")
        mine = sorted((row for row in rows if row["batch_id"] == batch_id), key=lambda row: row["error_code"])
        assert [tuple(row.values())[1:] for row in mine] == [
            ("INSERT_FAILED", "upsert", 1, NOON, NOON, 1),
            ("INVALID_AMOUNT", "validate", 2, NOON, later, 1),
        ]
        assert len(rows) == 3


class TestBatchPerformance:
    def test_its_figures(self, made: Batches, seen: Any) -> None:
        hour = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0) - dt.timedelta(hours=2)
        made.put(State.COMPLETED, **COUNTED, created_at=hour)
        made.put(
            State.FAILED,
            row_count_total=500,
            row_count_valid=60,
            row_count_invalid=440,
            parse_duration_ms=500,
            db_duration_ms=100,
            created_at=hour + dt.timedelta(minutes=59, seconds=59),
        )
        made.put(State.UPLOADED, created_at=hour + dt.timedelta(minutes=30))
        made.put(State.COMPLETED, created_at=hour + dt.timedelta(hours=1))
        newer, found = seen("ops.v_batch_performance", "hour_bucket DESC")
        assert (newer["total_batches"], newer["dedupe_rate_pct"], newer["error_rate_pct"]) == (1, None, None)
        assert found == {
            "hour_bucket": hour,
            "total_batches": 3,
            "completed_batches": 1,
            "failed_batches": 1,
            "avg_parse_ms": Decimal("1000.0"),
            "avg_db_ms": Decimal("300.0"),
            "avg_total_ms": Decimal("1300.0"),
            "total_rows": 1_500,
            "inserted_rows": 800,
            "skipped_rows": 140,
            "error_rows": 500,
            # 140 duplicates of 1,000 valid rows; 500 invalid of 1,500 rows.
            "dedupe_rate_pct": Decimal("14.00"),
            "error_rate_pct": Decimal("33.33"),
        }

    def test_it_looks_back_seven_days(self, made: Batches, seen: Any) -> None:
        now = dt.datetime.now(dt.UTC)
        made.put(State.COMPLETED, created_at=now - dt.timedelta(days=7, minutes=1))
        made.put(State.COMPLETED, created_at=now - dt.timedelta(days=6, hours=23))
        assert [row["total_batches"] for row in seen("ops.v_batch_performance")] == [1]


class TestErrorDistribution:
    def test_its_figures(self, made: Batches, seen: Any) -> None:
        now = dt.datetime.now(dt.UTC)
        first, second = made.put(State.COMPLETED), made.put(State.COMPLETED)
        made.put_error(first, 1, created_at=now - dt.timedelta(hours=3))
        made.put_error(first, 2, created_at=now - dt.timedelta(hours=2))
        made.put_error(second, 1, created_at=now - dt.timedelta(hours=1))
        made.put_error(second, 2, error_code="FUTURE_DATE", created_at=now)
        made.put_error(second, 3, error_code="FUTURE_DATE", created_at=now - dt.timedelta(days=8))
        assert seen("ops.v_error_distribution", "occurrence_count DESC") == [
            {
                "error_code": "INVALID_AMOUNT",
                "occurrence_count": 3,
                "affected_batches": 2,
                "sample_message": CATALOGUE["INVALID_AMOUNT"].sentence,
                "last_seen_at": now - dt.timedelta(hours=1),
            },
            {
                "error_code": "FUTURE_DATE",
                "occurrence_count": 1,
                "affected_batches": 1,
                "sample_message": CATALOGUE["FUTURE_DATE"].sentence,
                "last_seen_at": now,
            },
        ]

    def test_no_message_of_a_row_is_shown(self, made: Batches, seen: Any) -> None:
        made.put_error(made.put(State.COMPLETED), 1, error_message='found "Ada Marlow"', raw_data={"x": "Ada Marlow"})
        assert "Ada" not in str(seen("ops.v_error_distribution"))


class TestPipelineHealth:
    def test_its_figures(self, made: Batches, seen: Any) -> None:
        now = dt.datetime.now(dt.UTC)
        oldest, newest = now - dt.timedelta(minutes=90), now - dt.timedelta(minutes=3)
        made.put(State.UPLOADED, created_at=newest)
        made.put(State.UPLOADED, created_at=oldest)
        made.put(State.FAILED, created_at=now)
        failed, waiting = seen("ops.v_pipeline_health", "status")
        assert (failed["status"], failed["batch_count"], failed["oldest_age_minutes"]) == ("failed", 1, Decimal("0.0"))
        assert (waiting["status"], waiting["batch_count"]) == ("uploaded", 2)
        assert (waiting["oldest_batch_at"], waiting["newest_batch_at"]) == (oldest, newest)
        assert Decimal("90.0") <= waiting["oldest_age_minutes"] <= Decimal("90.5")


class TestErrorTrend:
    def test_its_figures_by_week_and_by_month(self, made: Batches, seen: Any) -> None:
        # Wednesday, Sunday and the Monday after: two weeks; the last day of January and the first of February.
        for day, total, invalid in (("2025-01-29", 100, 10), ("2025-02-02", 300, 0), ("2025-02-03", 50, 25)):
            made.put(
                State.COMPLETED,
                created_at=dt.datetime.fromisoformat(f"{day}T23:59:59+00:00"),
                row_count_total=total,
                row_count_valid=total - invalid,
                row_count_invalid=invalid,
            )
        found = [tuple(row.values()) for row in seen("ops.v_error_trend", "period, bucket")]
        day = lambda text: dt.datetime.fromisoformat(f"{text}T00:00:00+00:00")  # noqa: E731
        assert found == [
            ("month", day("2025-01-01"), 1, 100, Decimal("10.00")),
            ("month", day("2025-02-01"), 2, 350, Decimal("7.14")),
            ("week", day("2025-01-27"), 2, 400, Decimal("2.50")),
            ("week", day("2025-02-03"), 1, 50, Decimal("50.00")),
        ]

    def test_a_second_before_and_at_midnight_are_two_weeks_and_two_months(self, made: Batches, seen: Any) -> None:
        midnight = dt.datetime(2025, 9, 1, tzinfo=dt.UTC)
        assert midnight.weekday() == 0
        for moment in (midnight - dt.timedelta(microseconds=1), midnight):
            made.put(State.COMPLETED, created_at=moment, row_count_total=1)
        found = [(row["period"], row["bucket"]) for row in seen("ops.v_error_trend", "period, bucket")]
        assert found == [
            ("month", dt.datetime(2025, 8, 1, tzinfo=dt.UTC)),
            ("month", midnight),
            ("week", dt.datetime(2025, 8, 25, tzinfo=dt.UTC)),
            ("week", midnight),
        ]


def test_without_a_batch_every_view_is_empty(database: Engine, seen: Any) -> None:
    for view in (*COLUMNS, "intake.view_batch_metrics"):
        assert seen(view) == []


EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
CLOCK_CHANGES = (dt.datetime(2025, 3, 9, 7, tzinfo=dt.UTC), dt.datetime(2025, 11, 2, 6, tzinfo=dt.UTC))
"""When New York put its clocks forward and back."""


def clocks_changed_on(day: dt.date) -> str:
    """A time zone whose clocks are put forward on this day of every year."""
    start = int(day.strftime("%j"))
    # The form without 29 February counts from 1 to 365.
    start -= day > dt.date(day.year, 2, 28) and dt.date(day.year, 12, 31).strftime("%j") == "366"
    return f"WIN5SUM,J{start},J{(start + 180) % 365 + 1}"


THREE_DAYS_AGO = clocks_changed_on(dt.datetime.now(dt.UTC).date() - dt.timedelta(days=3))
ZONES = ("UTC", "America/New_York", "Asia/Kolkata", THREE_DAYS_AGO)


def read_in(connection: Connection, zone: str, view: str) -> counted.Figures:
    """The view's rows in their own order, read in a session of that time zone."""
    connection.execute(text("SELECT set_config('TimeZone', :zone, true)"), {"zone": zone})
    return [
        {name: value.astimezone(dt.UTC) if isinstance(value, dt.datetime) else value for name, value in row.items()}
        for row in connection.execute(text(f"SELECT * FROM {view}")).mappings()
    ]


def before(moment: dt.datetime, most_days: int) -> st.SearchStrategy[dt.datetime]:
    """Moments up to so many days before, to the microsecond."""
    return st.builds(lambda age: moment - age, st.timedeltas(dt.timedelta(seconds=1), dt.timedelta(days=most_days)))


class TestTheSessionsTimeZone:
    def test_a_week_in_which_the_clocks_change_is_as_long_as_any_other(self, made: Batches, database: Engine) -> None:
        now = dt.datetime.now(dt.UTC)
        batch_id = made.put(State.COMPLETED)
        for number, hours in enumerate((166.5, 167.5, 168.5, 169.5)):
            moment = now - dt.timedelta(hours=hours)
            made.put(State.COMPLETED, created_at=moment)
            made.put_error(batch_id, number, created_at=moment)
        with database.begin() as connection:
            hours = read_in(connection, THREE_DAYS_AGO, "ops.v_batch_performance")
            (errors,) = read_in(connection, THREE_DAYS_AGO, "ops.v_error_distribution")
            # The premise: here a day is not 24 hours.
            assert connection.scalar(text("SELECT now() - interval '7 days' <> now() - interval '168 hours'"))
        assert sum(row["total_batches"] for row in hours) == 3
        assert errors["occurrence_count"] == 2

    @pytest.mark.parametrize("change", CLOCK_CHANGES, ids=str)
    @pytest.mark.parametrize("zone", ZONES)
    def test_weeks_and_months_are_those_of_utc_where_the_clocks_change(
        self, made: Batches, database: Engine, change: dt.datetime, zone: str
    ) -> None:
        """The batches around the change: at each half hour, at local and at UTC midnight, on both sides of the week."""
        moments = [change + dt.timedelta(minutes=30 * number) for number in range(-100, 101)]
        given_batches = [
            counted.Batch(moment, State.COMPLETED, number, number % 7, number // 2, None, None)
            for number, moment in enumerate(moments)
        ]
        for batch in given_batches:
            made.put_row("intake.batches", row_of(batch))
        with database.begin() as connection:
            found = read_in(connection, zone, "ops.v_error_trend")
        assert found == counted.by_week_and_month(given_batches)
        assert len([row for row in found if row["period"] == "week"]) == 2


def row_of(batch: counted.Batch) -> dict[str, Any]:
    return {"filename": "export.csv", "file_hash": uuid4().hex * 2, **batch.columns()}


class TestTheFiguresAreThoseCountedInPython:
    @settings(counted.AGAINST_A_DATABASE, max_examples=40)
    @given(data=st.data(), zone=st.sampled_from(ZONES))
    def test_whatever_the_batches_and_errors(
        self, made: Batches, look: Look, database: Engine, data: st.DataObject, zone: str
    ) -> None:
        look.change("DELETE FROM intake.row_errors")
        look.change("DELETE FROM intake.batches")
        now = dt.datetime.now(dt.UTC)
        batches = data.draw(counted.batches(before(now, 9)))
        errors = data.draw(counted.errors(before(now, 9)))
        for batch in batches:
            made.put_row("intake.batches", row_of(batch))
        # These three are so old that they are in no hour, and have no rows.
        old = [counted.Batch(EPOCH, State.COMPLETED, 0, 0, 0, None, None)] * 3
        ids = [made.put_row("intake.batches", row_of(batch)) for batch in old]
        for number, error in enumerate(errors):
            made.put_error(
                ids[error.batch],
                number,
                error_code=error.code,
                error_stage=error.stage,
                created_at=error.created_at,
            )
        with database.begin() as connection:
            found = {view: read_in(connection, zone, view) for view in COLUMNS if view.startswith("ops.")}
            now = connection.execute(text("SELECT now()")).scalar_one()
        week_ago = now - dt.timedelta(hours=168)
        later = now + dt.timedelta(hours=1)
        assert found["ops.v_batch_performance"] == counted.by_hour(batches, week_ago, later)
        assert found["ops.v_error_distribution"] == counted.by_code(errors, week_ago, later)
        assert found["ops.v_error_trend"] == counted.by_week_and_month([*batches, *old])
        by_state = sorted(found["ops.v_pipeline_health"], key=lambda row: row["status"])
        assert by_state == counted.by_state([*batches, *old], now)
