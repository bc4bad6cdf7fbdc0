"""Batches over HTTP: listed, shown, tried again, cancelled, and what differs in their duplicates."""

from __future__ import annotations

import datetime as dt
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

BATCHES = "/api/v1/intake/batches"
NOON = dt.datetime(2026, 5, 4, 12, tzinfo=dt.UTC)


def walk(client: FlaskClient, path: str, limit: int) -> list[Any]:
    """Every item of a list, page by page."""
    found: list[Any] = []
    cursor = ""
    while True:
        page = client.get(f"{path}{'&' if '?' in path else '?'}limit={limit}{cursor}").get_json()
        assert len(page["items"]) <= limit
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        assert page["items"]
        cursor = f"&cursor={page['next_cursor']}"


def test_batches_are_listed_newest_first_each_once_whatever_the_page(client: FlaskClient, stored: Any) -> None:
    # Seven share a moment, so that the id has to decide between them.
    made = [stored.batch(created_at=NOON + dt.timedelta(seconds=max(0, n - 6))) for n in range(10)]
    for limit in (1, 2, 3, 7, 10, 11):
        listed = walk(client, BATCHES, limit)
        assert [item["batch_id"] for item in listed[:3]] == [str(made[n]) for n in (9, 8, 7)]
        assert sorted(item["batch_id"] for item in listed) == sorted(map(str, made))


def test_a_batch_added_meanwhile_does_not_shift_the_pages(client: FlaskClient, stored: Any) -> None:
    made = [str(stored.batch(created_at=NOON + dt.timedelta(seconds=n))) for n in range(4)]
    first = client.get(f"{BATCHES}?limit=2").get_json()
    stored.batch(created_at=NOON + dt.timedelta(hours=1))
    second = client.get(f"{BATCHES}?limit=2&cursor={first['next_cursor']}").get_json()
    assert [item["batch_id"] for item in first["items"] + second["items"]] == made[::-1]


def test_the_list_is_narrowed_by_each_filter(client: FlaskClient, stored: Any) -> None:
    one = stored.failed(source="jbi", filename="May_100%.csv", file_hash="ab" * 32)
    two = stored.completed(source="foil", filename="june.csv", file_hash="cd" * 32)

    def ids(query: str) -> list[str]:
        return [item["batch_id"] for item in client.get(f"{BATCHES}?{query}").get_json()["items"]]

    assert ids("status=failed") == [str(one)]
    assert ids("source=foil") == [str(two)]
    assert ids(f"file_hash={'ab' * 32}") == [str(one)]
    assert ids("q=MAY") == [str(one)]
    assert ids("q=100%25") == [str(one)]
    assert ids("q=_1") == [str(one)]
    assert ids("q=y%25") == []
    assert ids("q=CDCD") == [str(two)]
    assert ids(f"q={two}") == [str(two)]
    assert ids("status=failed&source=foil") == []


def test_a_cursor_of_another_list_is_refused(client: FlaskClient, stored: Any) -> None:
    for row in range(2):
        stored.error(batch := stored.failed(), row)
        stored.error(batch, row + 1)
    cursor = client.get(f"{BATCHES}?limit=1").get_json()["next_cursor"]
    assert client.get(f"{BATCHES}/{batch}/errors?cursor={cursor}").status_code == 422


def test_a_batch_shows_what_a_person_may_see(client: FlaskClient, stored: Any) -> None:
    batch = stored.completed(
        row_count_total=4950,
        row_count_valid=4900,
        row_count_invalid=50,
        row_count_inserted=4890,
        row_count_duplicate=10,
        parse_duration_ms=1500,
        db_duration_ms=500,
        rows_processed=4950,
        bytes_processed=1000,
        file_size_bytes=1000,
        reading={"headers": ["Case Number"]},
        created_at=dt.datetime(2026, 5, 4, 10, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    )
    shown = client.get(f"{BATCHES}/{batch}").get_json()
    assert shown["batch_id"] == str(batch)
    assert shown["error_rate_percent"] == 1.01
    assert shown["rows_per_second"] == 2475.0
    assert shown["progress"] == {"rows_processed": 4950, "bytes_processed": 1000, "bytes_total": 1000}
    assert shown["created_at"] == "2026-05-04T08:00:00Z"
    assert shown["reading"] == {"headers": ["Case Number"]}
    assert not {"fence", "lease_owner", "storage_key", "lease_until"} & shown.keys()


def test_a_batch_without_rows_has_no_rates(client: FlaskClient, stored: Any) -> None:
    shown = client.get(f"{BATCHES}/{stored.batch()}").get_json()
    assert shown["error_rate_percent"] is None
    assert shown["rows_per_second"] is None


def test_a_failed_batch_is_tried_again_with_a_new_budget(client: FlaskClient, stored: Any, sent: Any) -> None:
    batch = stored.failed(priority="low")
    stored.error(batch, 0)
    response = client.post(f"{BATCHES}/{batch}/retry", json={"error_threshold_percent": 30})
    shown = response.get_json()
    assert response.status_code == 202
    assert (shown["status"], shown["error_threshold_percent"], shown["rejection_reason"]) == ("uploaded", 30, None)
    assert sent.batches == [(batch, "low")]
    assert client.get(f"{BATCHES}/{batch}/errors").get_json()["items"] == []


def test_a_retry_without_a_body_keeps_the_budget(client: FlaskClient, stored: Any) -> None:
    batch = stored.failed(error_threshold_percent=15)
    assert client.post(f"{BATCHES}/{batch}/retry").get_json()["error_threshold_percent"] == 15


@pytest.mark.parametrize(("action", "state"), [("retry", "completed"), ("retry", "uploaded"), ("cancel", "completed")])
def test_what_the_state_does_not_allow_is_a_conflict_that_names_it(
    client: FlaskClient, stored: Any, sent: Any, action: str, state: str
) -> None:
    batch = stored.completed() if state == "completed" else stored.batch()
    response = client.post(f"{BATCHES}/{batch}/{action}")
    document = response.get_json()
    assert (response.status_code, document["code"], document["batch_status"]) == (409, "CONFLICT", state)
    assert state in document["detail"]
    assert sent.batches == []


def test_an_unfinished_batch_is_cancelled_once(client: FlaskClient, stored: Any) -> None:
    batch = stored.batch()
    response = client.post(f"{BATCHES}/{batch}/cancel")
    assert (response.status_code, response.get_json()["status"]) == (202, "cancelled")
    assert client.post(f"{BATCHES}/{batch}/cancel").status_code == 409


def test_only_duplicates_that_differ_are_conflicts(client: FlaskClient, stored: Any, engine: Engine) -> None:
    batch: UUID = stored.completed(row_count_conflict=3)
    with engine.begin() as connection:
        connection.execute(
            text(
                """
                INSERT INTO intake.row_conflicts
                    (batch_id, row_index, case_number, kept_batch_id, kept_row_index, fields)
                SELECT :batch, n, 'C-' || n, :batch, 0,
                    CASE WHEN n % 2 = 0 THEN '{"court": ["A", "B"]}' ELSE '{}' END::jsonb
                FROM generate_series(1, 6) n
                """
            ),
            {"batch": batch},
        )
    items = walk(client, f"{BATCHES}/{batch}/conflicts", 2)
    assert [item["row_index"] for item in items] == [2, 4, 6]
    assert items[0]["fields"] == {"court": ["A", "B"]}
    assert items[0]["kept_batch_id"] == str(batch)


def test_the_state_tells_backlog_workers_and_the_last_failure(client: FlaskClient, stored: Any, engine: Engine) -> None:
    stored.batch(created_at=dt.datetime.now(dt.UTC) - dt.timedelta(minutes=5))
    stored.batch()
    stored.completed()
    stored.failed(completed_at=NOON)
    last = stored.failed(completed_at=NOON + dt.timedelta(days=1), created_at=NOON - dt.timedelta(days=30))
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO ops.workers (name, host, pid, concurrency, version) VALUES ('w@h', 'h', 7, 2, '0.1')")
        )
    state = client.get("/api/v1/intake/state").get_json()
    backlog = {entry["status"]: entry for entry in state["backlog"]}
    assert set(backlog) == {"uploaded", "staging", "validating", "awaiting_approval", "inserting"}
    assert backlog["uploaded"]["count"] == 2
    assert 300 <= backlog["uploaded"]["oldest_age_seconds"] < 400
    assert backlog["staging"] == {"status": "staging", "count": 0, "oldest_age_seconds": None}
    assert [worker["name"] for worker in state["workers"]] == ["w@h"]
    assert state["last_failure"]["batch_id"] == str(last)
