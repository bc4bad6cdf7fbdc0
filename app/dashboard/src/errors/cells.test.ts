import assert from "node:assert/strict";
import { test } from "node:test";

import type { Batch, RowError } from "../api/client.ts";
import { cellsOf, columnsOf, faultOf, rawOf, visible } from "./cells.ts";

const error = (over: Partial<RowError>) =>
  ({ raw_data: { B: "2", A: "1" }, faulty_columns: ["B"], error_message: "", ...over }) as unknown as RowError;

test("cells stand in the vendor's order, the bad ones marked", () => {
  assert.deepEqual(cellsOf(error({}), ["A", "B", "C"]), [
    { column: "A", text: "1", isBad: false },
    { column: "B", text: "2", isBad: true },
  ]);
});

test("columns have the names under which the raw data keeps their cells", () => {
  const batchOf = (reading: Record<string, unknown>) => ({ reading }) as unknown as Batch;
  assert.deepEqual(columnsOf(batchOf({ headers: [" A ", "Note", "Note", ""], columns: ["A", "Note", "Note (2)", "column 4"] })), [
    "A",
    "Note",
    "Note (2)",
    "column 4",
  ]);
  assert.deepEqual(columnsOf(batchOf({ headers: ["A", "B"] })), ["A", "B"], "a batch of before the names were published");
});

test("a record that could not be split is shown as it came", () => {
  assert.equal(rawOf(error({ raw_data: { _raw: "x,y" } as never })), "x,y");
  assert.equal(rawOf(error({})), null);
});

test("what is wrong is said without the row that stands beside it", () => {
  assert.equal(faultOf(error({ error_message: 'Row 1,214, column B: found "x", expected y.' })), 'column B: found "x", expected y.');
  assert.equal(faultOf(error({ error_message: "Row 14: found 8 fields." })), "found 8 fields.");
});

test("what cannot be seen is shown", () => assert.equal(visible("a\u200bb\u0000"), "a⟨200B⟩b⟨0000⟩"));
