import assert from "node:assert/strict";
import { test } from "node:test";

import { age, bytes, clock, milliseconds, perSecond, percent, plural, utc } from "./words.ts";

test("sizes", () => assert.deepEqual([0, 1, 999, 1000, 40_456_580, 2_147_483_648].map(bytes), ["0 bytes", "1 byte", "999 bytes", "1.0 kB", "40.5 MB", "2.1 GB"]));
test("durations", () => assert.deepEqual([null, 4, 1337, 61_000].map(milliseconds), ["–", "4 ms", "1.34 s", "1:01"]));
test("a clock", () => assert.deepEqual([-5, 7_000, 750_000, 3_723_000].map(clock), ["0:00", "0:07", "12:30", "1:02:03"]));
test("ages", () => assert.deepEqual([null, 5, 720, 10_800, 200_000].map(age), ["–", "5 s", "12 min", "3.0 h", "2 d"]));
test("rates", () => assert.deepEqual([perSecond(31_446.5), percent(2.5), percent(15), percent(null)], ["31,447 rows/s", "2.5%", "15%", "–"]));
test("one and many", () => assert.deepEqual([plural(1, "row"), plural(5000, "row")], ["1 row", "5,000 rows"]));
test("a moment in UTC", () => assert.equal(utc("2025-01-31T14:05:00.123Z"), "2025-01-31 14:05:00 UTC"));
