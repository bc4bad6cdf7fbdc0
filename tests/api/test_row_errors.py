"""Row errors over HTTP: listed, as a file that a spreadsheet opens safely, resolved."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, exc

from app import intake
from app.api.error_file import FileCutShortError
from app.intake import Workshop
from app.store import pages
from tests.conftest import Sender

BATCHES = "/api/v1/intake/batches"


def walk(client: FlaskClient, path: str) -> list[list[Any]]:
    found, cursor = [], ""
    while True:
        page = client.get(path + cursor).get_json()
        found.append(page["items"])
        if page["next_cursor"] is None:
            return found
        cursor = f"{'&' if '?' in path else '?'}cursor={page['next_cursor']}"


def test_errors_are_listed_in_the_files_order_each_once(client: FlaskClient, stored: Any) -> None:
    batch = stored.failed(row_count_invalid=7)
    for row in (5, 0, 3, 9, 1, 12, 2):
        stored.error(batch, row)
    stored.error(stored.failed(), 4)
    for limit in (1, 3, 7):
        read = walk(client, f"{BATCHES}/{batch}/errors?limit={limit}")
        assert [item["row_index"] for items in read for item in items] == [0, 1, 2, 3, 5, 9, 12]
    item = read[0][0]
    assert (item["row_number"], item["line_number"], item["error_code"]) == (2, 2, "INVALID_AMOUNT")
    assert item["raw_data"] == {"Case Number": "C-0", "Amount": "x"}
    assert "raw" not in item


def test_errors_are_narrowed_by_code_and_counted(client: FlaskClient, stored: Any) -> None:
    batch = stored.failed(row_count_invalid=3)
    stored.error(batch, 0)
    stored.error(batch, 1, error_code="INVALID_DATE")
    stored.error(batch, 2, error_code="INVALID_DATE")
    page = client.get(f"{BATCHES}/{batch}/errors?error_code=INVALID_DATE&limit=1").get_json()
    assert [item["row_index"] for item in page["items"]] == [1]
    assert page["total"] == 2
    assert client.get(f"{BATCHES}/{batch}/errors").get_json()["total"] == 3
    assert client.get(f"{BATCHES}/{batch}/errors?error_code=NONSENSE").status_code == 422


def test_very_many_errors_of_a_finished_batch_are_told_not_counted(client: FlaskClient, stored: Any) -> None:
    batch = stored.failed(row_count_invalid=2_000_000)
    stored.error(batch, 0)
    assert client.get(f"{BATCHES}/{batch}/errors").get_json()["total"] == 2_000_000
    assert client.get(f"{BATCHES}/{batch}/errors?error_code=INVALID_AMOUNT").get_json()["total"] == 1
    running = stored.batch(row_count_invalid=2_000_000)
    assert client.get(f"{BATCHES}/{running}/errors").get_json()["total"] == 0


def test_a_page_of_very_large_records_ends_early_and_none_is_lost(
    client: FlaskClient, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 25)
    batch = stored.failed(row_count_invalid=7)
    for row, size in enumerate((10, 10, 10, 10, 100, 100, 5)):
        stored.error(batch, row, raw=b"x" * size)
    read = walk(client, f"{BATCHES}/{batch}/errors")
    assert [item["row_index"] for items in read for item in items] == list(range(7))
    assert [len(items) for items in read[:2]] == [3, 2]


def download(client: FlaskClient, batch: object, query: str = "") -> list[list[str]]:
    response = client.get(f"{BATCHES}/{batch}/errors.csv{query}")
    assert response.status_code == 200
    content = response.get_data()
    assert content.startswith(b"\xef\xbb\xbf")
    assert content.count(b"\r\n") >= 1
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def test_the_file_has_the_vendors_columns_in_their_order_then_why(client: FlaskClient, stored: Any) -> None:
    batch = stored.failed(reading={"headers": ["Defendant", "Case Number", "Note", "Note", ""]})
    stored.error(
        batch,
        1,
        error_message="judgment_amount: found nonsense",
        raw_data={"Case Number": "C-1", "Defendant": 'A "B", Ñ', "Note": "one\ntwo", "Note (2)": "2", "column 5": "e"},
    )
    assert download(client, batch) == [
        ["Defendant", "Case Number", "Note", "Note", "", "row_number", "error_code", "error_message"],
        ['A "B", Ñ', "C-1", "one\ntwo", "2", "e", "3", "INVALID_AMOUNT", "judgment_amount: found nonsense"],
    ]


def test_a_record_that_could_not_be_split_stands_in_a_column_of_its_own(client: FlaskClient, stored: Any) -> None:
    batch = stored.failed(reading={"headers": ["Case Number"]})
    stored.error(batch, 0, raw_data={"Case Number": "C-0"})
    assert "_raw" not in download(client, batch)[0]
    stored.error(batch, 1, error_code="PARSE_ERROR", error_stage="parse", raw_data={"_raw": "C-1,too,many"})
    rows = download(client, batch)
    assert rows[0] == ["Case Number", "_raw", "row_number", "error_code", "error_message"]
    assert [row[:3] for row in rows[1:]] == [["C-0", "", "2"], ["", "C-1,too,many", "3"]]


def test_a_vendors_columns_with_the_names_of_ours_lose_no_cell(client: FlaskClient, stored: Any) -> None:
    theirs = {"_raw": "r", "row_number": "n", "error_code": "c", "error_message": "m"}
    ours = ["row_number", "error_code", "error_message"]
    batch = stored.failed(reading={"headers": [*theirs]})
    stored.error(batch, 0, raw_data=theirs)
    damaged = {"error_code": "PARSE_ERROR", "error_stage": "parse", "error_message": "found too many"}
    stored.error(batch, 1, **damaged, raw_data={**theirs, "_raw": "\\xff"})
    read = download(client, batch)
    assert read[0] == [*theirs, *ours]
    assert [row[:4] for row in read[1:]] == [["r", "n", "c", "m"], ["\\xff", "n", "c", "m"]]
    stored.error(batch, 2, **damaged, raw_data={"_raw": "r,n,c,m,too many"})
    read = download(client, batch)
    assert read[0] == [*theirs, "_raw (2)", *ours]
    assert [row[:5] for row in read[1:]] == [
        ["r", "n", "c", "m", ""],
        ["\\xff", "n", "c", "m", ""],
        ["", "", "", "", "r,n,c,m,too many"],
    ]
    assert read[3][5:] == ["4", "PARSE_ERROR", "found too many"]


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-5", "@SUM(A1)", "\tx", "\rx"])
def test_a_cell_that_a_spreadsheet_would_calculate_is_defused_unless_raw(
    client: FlaskClient, stored: Any, cell: str
) -> None:
    batch = stored.failed(reading={"headers": ["Amount"]})
    stored.error(batch, 0, raw_data={"Amount": cell})
    assert download(client, batch)[1][0] == f"'{cell}"
    assert download(client, batch, "?raw=true")[1][0] == cell
    assert download(client, batch, "?raw=false")[1][0] == f"'{cell}"


def test_the_file_is_an_attachment_with_a_name_that_breaks_nothing(client: FlaskClient, stored: Any) -> None:
    batch = stored.failed(filename='May "final"; ñ.csv')
    response = client.get(f"{BATCHES}/{batch}/errors.csv")
    disposition = response.headers["Content-Disposition"]
    assert disposition.startswith("attachment;")
    assert "\n" not in disposition
    assert "errors.csv" in disposition
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"


def test_a_batch_that_read_no_rows_has_a_file_with_headers_alone(client: FlaskClient, stored: Any) -> None:
    assert download(client, stored.failed()) == [["row_number", "error_code", "error_message"]]


def test_the_file_is_written_page_by_page_with_no_connection_held(
    client: FlaskClient, stored: Any, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_STREAMED_ROWS", 2)
    batch = stored.failed(reading={"headers": ["Case Number"]})
    for row in range(5):
        stored.error(batch, row)
    response = client.get(f"{BATCHES}/{batch}/errors.csv", buffered=False)
    pieces = []
    for piece in response.response:
        pieces.append(piece)
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    response.close()
    assert len(pieces) == 3
    assert b"".join(pieces).count(b"\r\n") == 6


def test_a_file_cut_short_by_the_database_does_not_look_complete(
    client: FlaskClient, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_STREAMED_ROWS", 1)
    batch = stored.failed(reading={"headers": ["Case Number"]})
    stored.error(batch, 0)
    stored.error(batch, 1)
    response = client.get(f"{BATCHES}/{batch}/errors.csv", buffered=False)
    read = iter(response.response)
    next(read)

    def refuse(*args: object, **kwargs: object) -> None:
        raise exc.OperationalError("SELECT", {}, Exception("Ada Marlow"))

    monkeypatch.setattr(pages, "row_errors_page", refuse)
    with pytest.raises(FileCutShortError):
        next(read)
    response.close()


def test_an_error_is_resolved_by_name_and_reopened(client: FlaskClient, stored: Any) -> None:
    error = stored.error(stored.failed(), 0)
    path = f"/api/v1/intake/errors/{error}"
    resolved = client.patch(path, json={"resolved": True, "resolution_notes": "vendor corrected it"}).get_json()
    assert resolved["id"] == error
    assert resolved["resolved_at"].endswith("Z")
    assert (resolved["resolved_by"], resolved["resolution_notes"]) == ("tests", "vendor corrected it")
    reopened = client.patch(path, json={"resolved": False}).get_json()
    assert (reopened["resolved_at"], reopened["resolved_by"]) == (None, None)
    assert reopened["resolution_notes"] == "vendor corrected it"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"resolved": "yes"},
        {"resolved": 1},
        {"resolved": None},
        {"resolved": True, "by": "me"},
        {"resolved": True, "resolution_notes": "\x00"},
        {"resolved": True, "resolution_notes": "\ud800"},
        {"resolved": True, "resolution_notes": "x" * 2001},
    ],
)
def test_a_resolution_that_breaks_a_rule_changes_nothing(client: FlaskClient, stored: Any, body: Any) -> None:
    batch = stored.failed()
    error = stored.error(batch, 0)
    assert client.patch(f"/api/v1/intake/errors/{error}", json=body).status_code == 422
    assert client.get(f"{BATCHES}/{batch}/errors").get_json()["items"][0]["resolved_at"] is None


def test_an_error_that_does_not_exist_cannot_be_resolved(client: FlaskClient) -> None:
    assert client.patch("/api/v1/intake/errors/123456789", json={"resolved": True}).status_code == 404


def test_the_cells_at_fault_are_named_by_their_keys(
    client: FlaskClient, workshop: Workshop, send: Sender, stored: Any
) -> None:
    """As the engine words them: the keys are found in its messages."""
    batch = send(
        b" Amount ,Case Number,Defendant,Entry Date,Amount,Note\r\n"
        b"x,,Ada Marlow,2024-01-31,5.00,; column Note: found y\r\n"
        b'12.00,C-2,"Bo Lindqvist; column Amount: found 3",99/99/9999,5.00,\r\n'
        b"too,few\r\n",
        error_threshold_percent=100,
    )
    intake.ingest(workshop, batch.id)
    items = client.get(f"{BATCHES}/{batch.id}/errors").get_json()["items"]
    assert [(item["error_code"], item["faulty_columns"]) for item in items] == [
        ("MISSING_CASE_NUMBER", ["Case Number", "Amount"]),
        ("INVALID_DATE", ["Entry Date"]),
        ("PARSE_ERROR", []),
    ]
    assert all(column in items[0]["raw_data"] for column in items[0]["faulty_columns"])
    resolved = client.patch(f"/api/v1/intake/errors/{items[1]['id']}", json={"resolved": True}).get_json()
    assert resolved["faulty_columns"] == ["Entry Date"]
