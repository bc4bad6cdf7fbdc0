import assert from "node:assert/strict";
import { test } from "node:test";

import { beginOf, bucketsOf } from "./span.ts";

const NOW = new Date("2025-03-09T10:20:00Z");
const hour = (hour_bucket: string, total_rows: number, error_rows: number) => ({
  hour_bucket,
  total_rows,
  error_rows,
  inserted_rows: total_rows - error_rows,
  total_batches: 1,
  failed_batches: 0,
});

test("a span begins on the hour and ends with the present one", () => {
  assert.equal(beginOf("24h", NOW).toISOString(), "2025-03-08T11:00:00.000Z");
});

test("hours without a batch hold nothing, and have no error rate", () => {
  const begin = beginOf("24h", NOW);
  const { buckets, hoursEach } = bucketsOf([hour("2025-03-09T10:00:00Z", 200, 3)], begin, new Date("2025-03-09T11:00:00Z"));
  assert.deepEqual([buckets.length, hoursEach], [24, 1]);
  assert.equal(buckets.at(-1)?.errorRate, 1.5);
  assert.equal(buckets[0]?.errorRate, null);
});

test("a long span is shown by the day, and its rate is that of all its rows", () => {
  const { buckets, hoursEach } = bucketsOf(
    [hour("2025-03-09T10:00:00Z", 100, 10), hour("2025-03-09T09:00:00Z", 300, 10)],
    beginOf("30d", NOW),
    new Date("2025-03-09T11:00:00Z"),
  );
  assert.deepEqual([buckets.length, hoursEach], [30, 24]);
  assert.deepEqual([buckets.at(-1)?.rows, buckets.at(-1)?.errorRate], [400, 5]);
});
