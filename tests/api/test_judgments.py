"""Judgments over HTTP, each with the row it came from."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from flask.testing import FlaskClient

JUDGMENTS = "/api/v1/judgments"


def test_a_judgment_tells_its_lineage_and_its_amount_as_a_string(client: FlaskClient, stored: Any) -> None:
    batch = stored.completed(filename="may.csv", file_hash="ab" * 32)
    stored.judgments(batch, 1, ["C-1", "C-2"])
    item = client.get(f"{JUDGMENTS}?case_number=C-2").get_json()["items"][0]
    assert item["batch_id"] == str(batch)
    assert (item["filename"], item["file_hash"], item["row_index"], item["line_number"]) == (
        "may.csv",
        "ab" * 32,
        1,
        3,
    )
    assert item["judgment_amount"] == "1234.50"
    assert item["judgment_date"] == "2024-01-31"
    assert item["plaintiff_name"] is None


def test_a_case_number_is_found_in_any_spelling_that_the_contract_takes(client: FlaskClient, stored: Any) -> None:
    stored.judgments(stored.completed(), 1, ["CV 2024-1", "CV 2024-12"])
    for spelling in ("CV 2024-1", "cv  2024-1", "  cv%092024-1 "):
        items = client.get(f"{JUDGMENTS}?case_number={spelling}").get_json()["items"]
        assert [item["case_number"] for item in items] == ["CV 2024-1"]


def test_a_refused_case_number_is_not_repeated(client: FlaskClient) -> None:
    response = client.get(f"{JUDGMENTS}?case_number={'X' * 101}")
    assert response.status_code == 422
    assert "XXX" not in response.get_data(as_text=True)


def test_judgments_of_a_batch_are_those_of_its_ids_newest_first_page_by_page(client: FlaskClient, stored: Any) -> None:
    one, two = stored.completed(), stored.completed()
    stored.judgments(one, 1, [f"A-{n}" for n in range(5)])
    stored.judgments(two, 10, [f"B-{n}" for n in range(5)])
    found: list[int] = []
    cursor = ""
    while True:
        page = client.get(f"{JUDGMENTS}?batch_id={one}&limit=2{cursor}").get_json()
        found += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == [5, 4, 3, 2, 1]
    assert len(client.get(JUDGMENTS).get_json()["items"]) == 10
    assert client.get(f"{JUDGMENTS}?batch_id={uuid4()}").get_json() == {"items": [], "next_cursor": None}
    assert client.get(f"{JUDGMENTS}?batch_id={stored.batch()}").get_json()["items"] == []
