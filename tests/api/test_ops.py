"""What the ops page shows over HTTP: the views' rows, the same of any span, how the pipeline and the sentinel stand."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from app.api.ops import LONGEST_DAYS
from app.batch import State
from tests import reference_figures as counted
from tests.conftest import Look

OPS = "/api/v1/ops"
HOUR = dt.timedelta(hours=1)
NOON = dt.datetime(2025, 3, 9, 12, tzinfo=dt.UTC)
VIEWS = {
    "performance": "ops.v_batch_performance ORDER BY hour_bucket DESC",
    "errors": "ops.v_error_distribution ORDER BY occurrence_count DESC, error_code",
    "trends": "ops.v_error_trend ORDER BY period, bucket DESC",
}


def shown(value: Any) -> Any:
    """As JSON shows a value of the database or of a count."""
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    return float(value) if isinstance(value, Decimal) else value


def shown_rows(rows: counted.Figures) -> counted.Figures:
    return [{name: shown(value) for name, value in row.items()} for row in rows]


def get(client: FlaskClient, call: str, **query: Any) -> Any:
    response = client.get(f"{OPS}/{call}", query_string=query)
    assert response.status_code == 200, response.get_json()
    return response.get_json()


def refused(client: FlaskClient, call: str, **query: Any) -> dict[str, list[str]]:
    """The fields that the refusal names, and why."""
    response = client.get(f"{OPS}/{call}", query_string=query)
    assert response.status_code == 422
    found: dict[str, list[str]] = response.get_json()["errors"]
    return found


@pytest.fixture
def some_batches(stored: Any) -> None:
    """Batches and errors of today, of yesterday, of six days and of a month ago."""
    now = dt.datetime.now(dt.UTC)
    for number, age in enumerate((0.1, 1, 1.2, 25, 140, 700)):
        batch = stored.completed(
            created_at=now - age * HOUR,
            row_count_total=10 + number,
            row_count_valid=8 + number,
            row_count_invalid=2,
            row_count_inserted=8,
            row_count_duplicate=number,
            parse_duration_ms=3 * number,
            db_duration_ms=7,
        )
        stored.error(batch, 0, created_at=now - age * HOUR)
        stored.error(batch, 1, created_at=now - age * HOUR, error_code="FUTURE_DATE" if number % 2 else "INVALID_DATE")


@pytest.mark.parametrize("call", [*VIEWS, "health", "sentinel"])
def test_a_key_is_needed(anonymous: FlaskClient, call: str) -> None:
    assert anonymous.get(f"{OPS}/{call}").status_code == 401


@pytest.mark.parametrize("call", VIEWS)
def test_without_a_span_the_answer_is_the_view(
    client: FlaskClient, some_batches: None, look: Look, engine: Engine, call: str
) -> None:
    answer = get(client, call)
    with engine.connect() as connection:
        rows = connection.execute(text(f"SELECT * FROM {VIEWS[call]}")).mappings()
        expected = shown_rows([dict(row) for row in rows])
    assert len(expected) > 1
    assert answer["items"] == expected
    # Column for column, in the view's order.
    assert [list(item) for item in answer["items"]] == [list(row) for row in expected]


@pytest.mark.parametrize("call", VIEWS)
def test_the_span_of_an_answer_asked_for_gives_the_same_again(
    client: FlaskClient, some_batches: None, call: str
) -> None:
    answer = get(client, call)
    span = {name: answer[name] for name in ("from", "to") if answer[name] is not None}
    assert get(client, call, **span) == answer


def test_the_default_span_is_the_last_seven_days_and_for_trends_everything(client: FlaskClient) -> None:
    for call in ("performance", "errors"):
        answer = get(client, call)
        start, end = (dt.datetime.fromisoformat(answer[name]) for name in ("from", "to"))
        assert end - start == dt.timedelta(hours=168)
        assert abs(dt.datetime.now(dt.UTC) - end) < dt.timedelta(minutes=1)
    assert get(client, "trends")["from"] is None


def test_one_end_alone_gives_the_other(client: FlaskClient, some_batches: None) -> None:
    begin = dt.datetime.now(dt.UTC) - 30 * HOUR
    answer = get(client, "performance", **{"from": begin.isoformat()})
    assert sum(item["total_batches"] for item in answer["items"]) == 4
    assert answer["from"] == shown(begin)
    ended = get(client, "performance", to="2025-03-09T12:00:00Z")
    assert (ended["from"], ended["to"], ended["items"]) == ("2025-03-02T12:00:00Z", "2025-03-09T12:00:00Z", [])
    assert get(client, "trends", to=shown(begin))["from"] is None


def moments() -> st.SearchStrategy[dt.datetime]:
    """Moments within two days of a change of New York's clocks, some of them whole hours."""
    return (st.integers(-2_880, 2_880) | st.integers(-48, 48).map(lambda hours: hours * 60)).map(
        lambda minutes: NOON + dt.timedelta(minutes=minutes)
    )


@settings(counted.AGAINST_A_DATABASE, max_examples=30)
@given(data=st.data())
def test_the_figures_are_those_counted_in_python(
    client: FlaskClient, stored: Any, look: Look, data: st.DataObject
) -> None:
    look.change("DELETE FROM intake.row_errors")
    look.change("DELETE FROM intake.batches")
    batches, errors = data.draw(counted.batches(moments())), data.draw(counted.errors(moments()))
    start, end = sorted(data.draw(st.tuples(moments(), moments()).filter(lambda both: both[0] != both[1])))
    for batch in batches:
        stored.batch(**batch.columns())
    others = [counted.Batch(NOON, State.COMPLETED, 5, 1, 2, 3, 4)] * 3
    ids = [stored.batch(**batch.columns()) for batch in others]
    for number, error in enumerate(errors):
        stored.error(
            ids[error.batch], number, error_code=error.code, error_stage=error.stage, created_at=error.created_at
        )
    zone = dt.timezone(dt.timedelta(hours=data.draw(st.integers(-12, 14))))
    span = {"from": start.astimezone(zone).isoformat(), "to": end.astimezone(zone).isoformat()}
    everything = [*batches, *others]
    assert get(client, "performance", **span) == {
        "from": shown(start), "to": shown(end), "items": shown_rows(counted.by_hour(everything, start, end)),
    }  # fmt: skip
    assert get(client, "errors", **span)["items"] == shown_rows(counted.by_code(errors, start, end))
    assert get(client, "trends", **span)["items"] == shown_rows(counted.by_week_and_month(everything, start, end))
    assert get(client, "trends")["items"] == shown_rows(counted.by_week_and_month(everything))
    ages = [{name: row[name] for name in ("status", "batch_count")} for row in counted.by_state(everything, NOON)]
    pipeline = get(client, "health")["pipeline"]
    assert [{name: row[name] for name in ("status", "batch_count")} for row in pipeline] == ages


def test_hours_without_a_batch_are_left_out(client: FlaskClient, stored: Any) -> None:
    for hours in (0, 5):
        stored.completed(created_at=NOON + hours * HOUR)
    answer = get(client, "performance", **{"from": shown(NOON), "to": shown(NOON + 6 * HOUR)})
    assert [item["hour_bucket"] for item in answer["items"]] == ["2025-03-09T17:00:00Z", "2025-03-09T12:00:00Z"]


def test_a_span_that_begins_within_an_hour_shows_that_hours_rest(client: FlaskClient, stored: Any) -> None:
    for minutes in (10, 40):
        stored.completed(created_at=NOON + dt.timedelta(minutes=minutes))
    half = {"from": shown(NOON + HOUR / 2), "to": shown(NOON + HOUR)}
    (item,) = get(client, "performance", **half)["items"]
    assert (item["hour_bucket"], item["total_batches"]) == (shown(NOON), 1)


@pytest.mark.parametrize(
    "wrong",
    [
        "2025-03-09T12:00:00",
        "2025-03-09",
        "2025-03-09T12:00:00 00:00",
        "2025-02-30T12:00:00Z",
        "2025-03-09T25:00:00Z",
        "2025-W10-7T12:00:00Z",
        "1741521600",
        "1969-12-31T23:00:00Z",
        "9999-12-31T23:00:00-14:00",
        "yesterday",
        "",
        "٢٠٢٥-03-09T12:00:00Z",
    ],
)
def test_what_is_no_moment_with_an_offset_is_refused_by_name(client: FlaskClient, wrong: str) -> None:
    for name in ("from", "to"):
        found = refused(client, "performance", **{name: wrong})
        assert set(found) == {name}
        assert found[name][0].startswith("Must be a moment")


@pytest.mark.parametrize("call", VIEWS)
def test_every_call_refuses_a_moment_without_an_offset(client: FlaskClient, call: str) -> None:
    assert list(refused(client, call, to="2025-03-09T12:00:00")) == ["to"]


@pytest.mark.parametrize(
    "moment",
    ["2025-03-09T07:00:00-05:00", "2025-03-09T12:00Z", "2025-03-09t12:00:00.000z", "2025-03-09 17:30:00.0+0530"],
)
def test_a_moment_may_be_written_with_any_offset(client: FlaskClient, moment: str) -> None:
    assert get(client, "errors", **{"from": moment, "to": "2025-03-10T00:00:00Z"})["from"] == shown(NOON)


@pytest.mark.parametrize("call", VIEWS)
def test_a_span_without_length_or_backwards_is_refused(client: FlaskClient, call: str) -> None:
    for span in (
        {"from": shown(NOON), "to": shown(NOON)},
        {"from": shown(NOON + HOUR), "to": shown(NOON)},
        {"from": shown(dt.datetime.now(dt.UTC) + HOUR)},
    ):
        assert list(refused(client, call, **span)) == ["from"]


@pytest.mark.parametrize("call", ["performance", "errors"])
def test_a_span_of_more_than_a_quarter_is_refused_but_for_trends(client: FlaskClient, call: str) -> None:
    longest = {"from": shown(NOON - dt.timedelta(days=LONGEST_DAYS)), "to": shown(NOON)}
    assert get(client, call, **longest)["items"] == []
    longer = {**longest, "to": shown(NOON + dt.timedelta(seconds=1))}
    assert refused(client, call, **longer) == {"from": [f"Must be at most {LONGEST_DAYS} days before to."]}
    assert get(client, "trends", **longer)["items"] == []
    assert list(refused(client, call, **{"from": shown(NOON)})) == ["from"]


@pytest.mark.parametrize("call", [*VIEWS, "sentinel"])
def test_an_unknown_field_is_refused(client: FlaskClient, call: str) -> None:
    assert list(refused(client, call, since="2025-03-09T12:00:00Z")) == ["since"]


class TestHealth:
    def test_an_empty_database(self, client: FlaskClient) -> None:
        answer = get(client, "health")
        assert answer["pipeline"] == []
        assert answer["workers"] == {"alive": 0, "silent": 0, "places": 0}
        assert {queue["claimable"] for queue in answer["queues"]} == {0}

    def test_it_shows_states_with_ages_queues_and_workers(
        self, client: FlaskClient, stored: Any, engine: Engine
    ) -> None:
        now = dt.datetime.now(dt.UTC)
        stored.batch(created_at=now - HOUR, priority="high")
        stored.batch(created_at=now - 2 * HOUR, not_before=now + HOUR)
        stored.completed(created_at=now - 3 * HOUR)
        with engine.begin() as connection:
            connection.execute(
                text("INSERT INTO ops.workers (name, host, pid, concurrency, version) VALUES ('w', 'h', 1, 4, '1')")
            )
        answer = get(client, "health")
        done, waiting = answer["pipeline"]
        assert (done["status"], done["batch_count"]) == ("completed", 1)
        assert 180 <= done["oldest_age_minutes"] < 181
        assert (waiting["status"], waiting["batch_count"]) == ("uploaded", 2)
        assert (waiting["oldest_batch_at"], waiting["newest_batch_at"]) == (shown(now - 2 * HOUR), shown(now - HOUR))
        high, normal, low = answer["queues"]
        assert (high["priority"], high["claimable"], high["backing_off"]) == ("high", 1, 0)
        assert 3_600 <= high["oldest_age_seconds"] < 3_660
        assert (normal["claimable"], normal["backing_off"], normal["oldest_age_seconds"]) == (0, 1, None)
        assert low["priority"] == "low"
        assert answer["workers"] == {"alive": 1, "silent": 0, "places": 4}


class TestSentinel:
    @pytest.fixture
    def keep(self, engine: Engine) -> Any:
        """Adds a row to a table of the sentinel's."""

        def add(table: str, **values: Any) -> None:
            written = {
                name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in values.items()
            }
            marks = ", ".join(
                f"CAST(:{name} AS jsonb)" if name in ("findings", "details") else f":{name}" for name in written
            )
            with engine.begin() as connection:
                connection.execute(text(f"INSERT INTO ops.{table} ({', '.join(written)}) VALUES ({marks})"), written)

        return add

    def run(self, keep: Any, at: dt.datetime, *findings: tuple[str, str, str]) -> None:
        keep(
            "sentinel_runs",
            started_at=at,
            duration_ms=40,
            environment="dev",
            host="h",
            overall_status="critical" if any(level == "CRITICAL" for _, level, _ in findings) else "healthy",
            findings=[
                {"check": check, "level": level, "message": message, "details": {"count": 3}}
                for check, level, message in findings
            ],
        )

    def flip(self, keep: Any, check: str, at: dt.datetime, levels: tuple[str, str], **values: Any) -> None:
        keep(
            "sentinel_flips",
            check_name=check,
            level_before=levels[0],
            level_after=levels[1],
            at=at,
            **{"message": "it changed", "details": {"n": 1}, **values},
        )

    def test_before_its_first_run(self, client: FlaskClient) -> None:
        assert get(client, "sentinel") == {
            "last_run": None,
            "checks": [],
            "flips": [],
            "alerts": {"waiting": 0, "oldest_waiting_seconds": None, "refused": 0, "last_sent_at": None},
        }

    def test_it_shows_the_last_run_and_how_each_check_stands_since_when(self, client: FlaskClient, keep: Any) -> None:
        now = dt.datetime.now(dt.UTC)
        self.run(keep, now - 2 * HOUR, ("backlog", "HEALTHY", "nothing waits"))
        self.run(
            keep,
            now - HOUR / 60,
            ("stuck_batches", "CRITICAL", "3 batches stuck > 10m: validating(3)"),
            ("backlog", "HEALTHY", "nothing waits"),
            ("beat", "HEALTHY", "beat lives"),
        )
        self.flip(keep, "stuck_batches", now - 3 * HOUR, ("HEALTHY", "WARNING"), unhealthy_since=now - 3 * HOUR)
        self.flip(keep, "stuck_batches", now - HOUR, ("WARNING", "CRITICAL"), unhealthy_since=now - 3 * HOUR)
        self.flip(keep, "beat", now - 5 * HOUR, ("CRITICAL", "HEALTHY"), unhealthy_since=now - 6 * HOUR)
        self.flip(keep, "database", now - 9 * HOUR, ("CRITICAL", "HEALTHY"), message="PostgreSQL answers again")
        answer = get(client, "sentinel")
        last = answer["last_run"]
        assert (last["started_at"], last["overall_status"]) == (shown(now - HOUR / 60), "critical")
        assert 60 <= last["age_seconds"] < 120
        assert [finding["check"] for finding in last["findings"]] == ["stuck_batches", "backlog", "beat"]
        assert last["findings"][0]["details"] == {"count": 3}
        assert answer["checks"] == [
            {
                "check": "stuck_batches",
                "level": "CRITICAL",
                "message": "3 batches stuck > 10m: validating(3)",
                "since": shown(now - HOUR),
                "unhealthy_since": shown(now - 3 * HOUR),
            },
            {
                "check": "backlog",
                "level": "HEALTHY",
                "message": "nothing waits",
                "since": None,
                "unhealthy_since": None,
            },
            {
                "check": "beat",
                "level": "HEALTHY",
                "message": "beat lives",
                "since": shown(now - 5 * HOUR),
                "unhealthy_since": None,
            },
            {
                "check": "database",
                "level": "HEALTHY",
                "message": "PostgreSQL answers again",
                "since": shown(now - 9 * HOUR),
                "unhealthy_since": None,
            },
        ]

    def test_the_last_flips_come_first_and_no_more_than_asked_for(self, client: FlaskClient, keep: Any) -> None:
        now = dt.datetime.now(dt.UTC)
        for number in range(60):
            levels = ("HEALTHY", "WARNING") if number % 2 else ("WARNING", "HEALTHY")
            self.flip(keep, "backlog", now + dt.timedelta(seconds=number), levels, message=f"flip {number}")
        assert len(get(client, "sentinel")["flips"]) == 50
        flips = get(client, "sentinel", limit=2)["flips"]
        assert [flip["message"] for flip in flips] == ["flip 59", "flip 58"]
        assert (flips[0]["check"], flips[0]["level_before"], flips[0]["level_after"]) == (
            "backlog", "HEALTHY", "WARNING",
        )  # fmt: skip
        assert (flips[0]["at"], flips[0]["details"]) == (shown(now + dt.timedelta(seconds=59)), {"n": 1})
        assert len(get(client, "sentinel", limit=1000)["flips"]) == 60

    @pytest.mark.parametrize("limit", ["0", "-1", "1001", "ten", "1.5"])
    def test_another_limit_is_refused(self, client: FlaskClient, limit: str) -> None:
        assert list(refused(client, "sentinel", limit=limit)) == ["limit"]

    def test_it_counts_what_the_webhook_has_not_taken(self, client: FlaskClient, keep: Any) -> None:
        now = dt.datetime.now(dt.UTC)
        for created, sent, failed in (
            (now - 3 * HOUR, now - 2 * HOUR, None),
            (now - HOUR, None, None),
            (now - HOUR / 2, None, None),
            (now - 2 * HOUR, None, now),
        ):
            keep(
                "alerts",
                dedupe_key=str(uuid4()),
                kind="raised",
                check_name="beat",
                level="CRITICAL",
                environment="dev",
                message="m",
                happened_at=created,
                created_at=created,
                sent_at=sent,
                failed_at=failed,
            )
        alerts = get(client, "sentinel")["alerts"]
        assert (alerts["waiting"], alerts["refused"], alerts["last_sent_at"]) == (2, 1, shown(now - 2 * HOUR))
        assert 3_600 <= alerts["oldest_waiting_seconds"] < 3_660
