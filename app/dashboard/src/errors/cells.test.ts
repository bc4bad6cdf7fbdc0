import assert from "node:assert/strict";
import { test } from "node:test";

import type { Batch, RowError } from "../api/client.ts";
import { cellsOf, columnsOf, faultOf, rawOf, textOf, visible } from "./cells.ts";

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
  assert.equal(rawOf(error({ error_stage: "parse", raw_data: { _raw: "x,y" } as never })), "x,y");
  assert.equal(rawOf(error({})), null);
});

test("a vendor's own column with the name of such a record is a column", () => {
  const raw_data = { A: "1", _raw: "x" } as never;
  for (const error_stage of ["parse", "validate"] as const) assert.equal(rawOf(error({ error_stage, raw_data })), null);
});

test("a column that is called as something of every object is empty where the row has none", () => {
  assert.deepEqual(cellsOf(error({}), ["constructor", "A"]).map((cell) => cell.column), ["A", "B"]);
  assert.equal(textOf(error({}), "constructor"), "");
});

test("what is wrong is said without the row that stands beside it", () => {
  assert.equal(faultOf(error({ error_message: 'Row 1,214, column B: found "x", expected y.' })), 'column B: found "x", expected y.');
  assert.equal(faultOf(error({ error_message: "Row 14: found 8 fields." })), "found 8 fields.");
});

test("what cannot be seen is shown", () => assert.equal(visible("a\u200bb\u0000"), "a⟨200B⟩b⟨0000⟩"));
