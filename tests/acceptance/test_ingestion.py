"""A person drops a file, and its judgments stand in PostgreSQL, every bad row explained."""

from __future__ import annotations

import csv
import io
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.pipeline import Document, Pipeline
from tests.factories import clean_file, csv_bytes, file_with_errors, judgment_cells

SAMPLES = Path(__file__).parent.parent / "samples"
OVERLAP_ROUNDS = int(os.environ.get("OVERLAP_ROUNDS", "3"))
"""``make campaign`` runs twenty."""
EXPECTED: dict[str, Any] = json.loads((SAMPLES / "expected.json").read_text())


def judgments_of(pipeline: Pipeline, batch_id: str) -> int:
    ((count,),) = pipeline.rows("SELECT count(*) FROM public.judgments WHERE batch_id = %s", batch_id)
    return int(count)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_sample_ends_as_its_table_says(pipeline: Pipeline, name: str) -> None:
    expected = EXPECTED[name]
    if expected.get("after"):
        pipeline.ingest((SAMPLES / expected["after"]).read_bytes(), expected["after"])
    batch = pipeline.ingest((SAMPLES / name).read_bytes(), name)
    found = {
        "status": batch["status"],
        "rejection_code": batch["rejection_code"],
        "total": batch["row_count_total"],
        "valid": batch["row_count_valid"],
        "invalid": batch["row_count_invalid"],
    }
    assert found == {key: expected[key] for key in found}
    codes = dict(
        pipeline.rows(
            "SELECT error_code, count(*) FROM intake.row_errors WHERE batch_id = %s GROUP BY 1", batch["batch_id"]
        )
    )
    assert codes == expected["codes"]
    if "duplicate" in expected:
        assert batch["row_count_duplicate"] == expected["duplicate"]


def test_api_database_and_errors_csv_agree_row_for_row(pipeline: Pipeline) -> None:
    batch = pipeline.ingest(file_with_errors(400, 37, seed=41, start=801_000_000), "agree.csv")
    batch_id = batch["batch_id"]
    assert (batch["status"], batch["row_count_total"], batch["row_count_invalid"]) == ("completed", 400, 37)

    items: list[Document] = []
    cursor = ""
    while True:
        page = pipeline.http.get(
            f"/api/v1/intake/batches/{batch_id}/errors", params={"limit": 10, **({"cursor": cursor} if cursor else {})}
        ).json()
        items += page["items"]
        cursor = page["next_cursor"]
        if not cursor:
            break
    stored = pipeline.rows(
        "SELECT row_index, row_number, line_number, error_code, error_message FROM intake.row_errors"
        " WHERE batch_id = %s ORDER BY row_index",
        batch_id,
    )
    columns = ("row_index", "row_number", "line_number", "error_code", "error_message")
    assert [tuple(item[name] for name in columns) for item in items] == stored
    text = pipeline.http.get(f"/api/v1/intake/batches/{batch_id}/errors.csv").content.decode("utf-8-sig")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(int(line["row_number"]), line["error_code"], line["error_message"]) for line in lines] == [
        (number, code, message) for _, number, _, code, message in stored
    ]
    listed = pipeline.http.get("/api/v1/judgments", params={"batch_id": batch_id, "limit": 1000}).json()["items"]
    kept = pipeline.rows(
        "SELECT case_number, judgment_amount, row_index, line_number FROM public.judgments WHERE batch_id = %s"
        " ORDER BY id",
        batch_id,
    )
    assert len(listed) == batch["row_count_inserted"] == 363
    assert sorted(
        (item["case_number"], Decimal(item["judgment_amount"]), item["row_index"], item["line_number"])
        for item in listed
    ) == sorted(kept)


def test_every_row_is_accounted_for_in_rows_and_dollars(pipeline: Pipeline) -> None:
    rows = [judgment_cells(judgment_amount=f"{number}.25") for number in range(1, 60)]
    rows += [dict(rows[0]), {**rows[1], "judgment_amount": "999.99"}, judgment_cells(judgment_amount="x")]
    batch = pipeline.ingest(csv_bytes(rows), "books.csv")
    assert (batch["row_count_total"], batch["row_count_valid"], batch["row_count_invalid"]) == (62, 61, 1)
    assert (batch["row_count_inserted"], batch["row_count_duplicate"], batch["row_count_conflict"]) == (59, 2, 1)
    ((dollars,),) = pipeline.rows(
        "SELECT sum(judgment_amount) FROM public.judgments WHERE batch_id = %s", batch["batch_id"]
    )
    assert dollars == sum(Decimal(f"{number}.25") for number in range(1, 60))
    conflicts = pipeline.http.get(f"/api/v1/intake/batches/{batch['batch_id']}/conflicts").json()["items"]
    (conflict,) = [item for item in conflicts if item["fields"]]
    assert conflict["fields"] == {"judgment_amount": ["2.25", "999.99"]}
    assert (conflict["row_index"], conflict["kept_row_index"]) == (60, 1)


def test_the_same_bytes_are_one_batch(pipeline: Pipeline) -> None:
    content = clean_file(50, seed=5, start=900_000_000)
    first = pipeline.upload(content)
    pipeline.wait(first["batch_id"])
    again = pipeline.upload(content, "other name.csv")
    assert again == {**first, "status": "completed", "is_duplicate": True}


def test_twenty_uploads_at_once_are_one_batch(pipeline: Pipeline) -> None:
    content = clean_file(2_000, seed=6, start=910_000_000)
    with ThreadPoolExecutor(20) as pool:
        receipts = list(pool.map(lambda _: pipeline.upload(content), range(20)))
    assert len({receipt["batch_id"] for receipt in receipts}) == 1
    assert sorted(receipt["is_duplicate"] for receipt in receipts) == [False] + [True] * 19
    assert pipeline.wait(receipts[0]["batch_id"])["row_count_inserted"] == 2_000
    assert pipeline.rows("SELECT count(*) FROM intake.batches WHERE file_hash = %s", receipts[0]["file_hash"]) == [(1,)]


def test_force_makes_a_second_batch_whose_rows_are_all_duplicates(pipeline: Pipeline) -> None:
    content = clean_file(50, seed=7, start=920_000_000)
    first = pipeline.ingest(content)
    forced = pipeline.ingest(content, force="true")
    assert forced["batch_id"] != first["batch_id"]
    assert (forced["first_batch_id"], forced["forced"]) == (first["batch_id"], True)
    assert (forced["row_count_inserted"], forced["row_count_duplicate"], forced["row_count_conflict"]) == (0, 50, 0)


def test_above_the_budget_every_bad_row_is_listed_and_no_judgment_written(pipeline: Pipeline) -> None:
    batch = pipeline.ingest(file_with_errors(1_000, 150, seed=8, start=802_000_000))
    assert (batch["status"], batch["rejection_code"]) == ("failed", "ERROR_BUDGET_EXCEEDED")
    assert batch["rejection_reason"] == "Error rate 15.0% exceeded the 10% budget (150 of 1,000 rows)"
    assert judgments_of(pipeline, batch["batch_id"]) == 0
    errors = pipeline.http.get(f"/api/v1/intake/batches/{batch['batch_id']}/errors", params={"limit": 1000}).json()
    assert errors["total"] == len(errors["items"]) == 150


def test_exactly_the_budget_is_completed(pipeline: Pipeline) -> None:
    batch = pipeline.ingest(file_with_errors(1_000, 100, seed=9, start=803_000_000))
    assert (batch["status"], batch["row_count_inserted"], batch["row_count_invalid"]) == ("completed", 900, 100)


def test_a_failed_batch_is_retried_with_a_higher_budget(pipeline: Pipeline) -> None:
    batch = pipeline.ingest(file_with_errors(100, 15, seed=10, start=804_000_000))
    answer = pipeline.http.post(
        f"/api/v1/intake/batches/{batch['batch_id']}/retry", json={"error_threshold_percent": 20}
    )
    assert answer.status_code == 202
    retried = pipeline.wait(batch["batch_id"])
    assert (retried["status"], retried["row_count_inserted"], retried["row_count_invalid"]) == ("completed", 85, 15)
    assert retried["rejection_reason"] is None
    assert pipeline.rows("SELECT count(*) FROM intake.row_errors WHERE batch_id = %s", batch["batch_id"]) == [(15,)]


def test_overlapping_files_loaded_at_once_give_every_row_once(pipeline: Pipeline) -> None:
    random_order = random.Random(11)
    for round_number in range(OVERLAP_ROUNDS):
        start = 930_000_000 + round_number * 100_000
        contents = [
            clean_file(3_000, seed=random_order.randrange(10**6), start=start + shift) for shift in (0, 1_500, 3_000)
        ]
        with ThreadPoolExecutor(3) as pool:
            batches = list(pool.map(pipeline.ingest, contents))
        assert [batch["status"] for batch in batches] == ["completed"] * 3
        assert sum(batch["row_count_inserted"] for batch in batches) == 6_000
        assert sum(batch["row_count_duplicate"] for batch in batches) == 3_000
        assert sum(judgments_of(pipeline, batch["batch_id"]) for batch in batches) == 6_000


def test_the_command_shows_progress_and_verdicts(pipeline: Pipeline, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_bytes(clean_file(200, seed=12, start=940_000_000))
    bad.write_bytes(file_with_errors(100, 20, seed=13, start=805_000_000))
    done = pipeline.command("ingest", str(good), str(bad), "--wait")
    assert done.returncode == 1, done.stderr
    assert "200 inserted" in done.stdout
    assert "Error rate 20.0% exceeded the 10% budget (20 of 100 rows)" in done.stdout
    told = pipeline.command("ingest", str(good), "--wait", "--json")
    assert told.returncode == 0
    (document,) = json.loads(told.stdout)
    assert (document["status"], document["row_count_inserted"]) == ("completed", 200)
