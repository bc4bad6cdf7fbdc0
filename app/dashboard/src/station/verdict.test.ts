import assert from "node:assert/strict";
import { test } from "node:test";

import type { Batch } from "../api/client.ts";
import { verdict } from "./verdict.ts";

const said = (over: Partial<Batch>) =>
  verdict({ status: "completed", row_count_invalid: 0, row_count_inserted: 0, row_count_total: 0, error_threshold_percent: 10, ...over } as Batch);
const rejected = (row_count_invalid: number, row_count_total: number, error_threshold_percent = 10) =>
  said({ status: "failed", rejection_code: "ERROR_BUDGET_EXCEEDED", row_count_invalid, row_count_total, error_threshold_percent });

test("the verdicts are said word for word", () => {
  assert.equal(said({ row_count_inserted: 5000 }), "Batch Complete. 5,000 Rows Ingested.");
  assert.equal(said({ row_count_inserted: 4950, row_count_invalid: 50 }), "Batch Complete with Warnings. 4,950 Ingested, 50 Errors.");
  assert.equal(rejected(150, 1000), "Batch Rejected. Error Rate 15.0% > 10% Budget.");
});

test("a rate just above the budget has as many decimals as show it", () => {
  assert.equal(rejected(10_001, 100_000), "Batch Rejected. Error Rate 10.001% > 10% Budget.");
  assert.equal(rejected(133, 400), "Batch Rejected. Error Rate 33.2% > 10% Budget.", "a half goes to the even digit");
  assert.equal(rejected(135, 400), "Batch Rejected. Error Rate 33.8% > 10% Budget.");
  assert.equal(rejected(10_000_001, 100_000_000), "Batch Rejected. Error Rate 10.000001% > 10% Budget.");
  assert.equal(rejected(1, 3, 0), "Batch Rejected. Error Rate 33.3% > 0% Budget.");
});

test("one is one", () => {
  assert.equal(said({ row_count_inserted: 1 }), "Batch Complete. 1 Row Ingested.");
  assert.equal(said({ row_count_inserted: 19, row_count_invalid: 1 }), "Batch Complete with Warnings. 19 Ingested, 1 Error.");
});

test("a file that is refused whole says the server's reason", () => {
  assert.equal(
    said({ status: "failed", rejection_code: "EMPTY_FILE", rejection_reason: "The file has no data rows." }),
    "Batch Rejected. The file has no data rows.",
  );
});
