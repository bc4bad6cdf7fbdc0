import assert from "node:assert/strict";
import { test } from "node:test";

import { Refusal, UNREACHED } from "../api/client.ts";
import { refusedByItself, refusedByServer } from "./refused.ts";

const FILE = { name: "a.csv", size: 2_000_000 };
const by = (code: string, status: number, online = true, wait: number | null = null) =>
  refusedByServer(new Refusal(code, status, "title", "detail", wait), FILE, online);

test("a file is looked at before anything is sent", () => {
  assert.equal(refusedByItself({ name: "a.csv", size: 0 }, null)?.kind, "empty");
  assert.equal(refusedByItself({ name: "a.xlsx", size: 5 }, null)?.kind, "type");
  assert.equal(refusedByItself(FILE, 1_000_000)?.what, "The file is too large: 2.0 MB is more than the 1.0 MB that the server takes.");
  assert.equal(
    refusedByItself({ name: "a.csv", size: 1_000_001 }, 1_000_000)?.what,
    "The file is too large: 1,000,001 bytes is more than the 1,000,000 bytes that the server takes.",
  );
  assert.equal(refusedByItself({ name: "A.CSV", size: 1 }, 1_000_000), null);
});

test("each trouble has a sentence of its own", () => {
  const all = [
    refusedByItself({ name: "a.csv", size: 0 }, null),
    refusedByItself({ name: "a.png", size: 5 }, null),
    refusedByItself(FILE, 1),
    by(UNREACHED, 0, false),
    by(UNREACHED, 0, true),
    by("UNAUTHENTICATED", 401),
    by("TOO_MANY_ATTEMPTS", 429),
    by("BUSY", 503),
    by("DATABASE_UNAVAILABLE", 503),
    by("STORAGE_UNAVAILABLE", 503),
    by("STORAGE_FULL", 507),
    by("BODY_TOO_SLOW", 408),
  ];
  assert.equal(new Set(all.map((each) => each?.what)).size, all.length);
  for (const each of all) assert.ok(each !== null && each.next.length > 20 && each.again.length > 0);
});

test("what has no sentence here is said in the server's own, then what to do", () => {
  const { what, next } = by("INTERNAL_ERROR", 500);
  assert.equal(what, "title");
  assert.ok(next.startsWith("detail "));
});

test("Retry-After is kept to", () => {
  assert.equal(by("BUSY", 503, true, 7).waitSeconds, 7);
  assert.equal(by("TOO_MANY_ATTEMPTS", 429, true, 42).waitSeconds, 42);
});

test("a proxy that answers for a restarting server is told from a busy one", () => {
  assert.equal(by("HTTP_502", 502).kind, "server-gone");
  assert.equal(by("BUSY", 503).kind, "503");
});
