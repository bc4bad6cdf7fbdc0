import assert from "node:assert/strict";
import { describe, test } from "node:test";

import type { Batch, Receipt } from "../api/client.ts";
import { isSending, reduce, toResume, type Event, type Item, type Station } from "./machine.ts";

type File = { name: string; size: number } | null;

const SENDING = { source: "jbi", threshold: 10 };
const HASH = "ab".repeat(32);
const file = (name = "a.csv") => ({ name, size: 100 });

const batchOf = (over: Partial<Batch> = {}) =>
  ({ batch_id: "b1", filename: "a.csv", file_size_bytes: 100, status: "validating", row_count_invalid: 0, ...over }) as Batch;
const receipt = { batch_id: "b1" } as Receipt;
const TROUBLE = { kind: "network-gone", what: "x", next: "y", again: "z", waitSeconds: null };

const run = (events: Event<File>[], from: Station<File> = []) => events.reduce<Station<File>>(reduce, from);
const chosen: Event<File> = { type: "chosen", files: [{ id: "1", file: file(), refused: null }], sending: SENDING };
const toLooking: Event<File>[] = [chosen, { type: "hashing", id: "1", read: 50 }, { type: "hashed", id: "1", hash: HASH }];
const toUploading: Event<File>[] = [...toLooking, { type: "unknown", id: "1" }, { type: "uploading", id: "1", sent: 0, total: 100 }];
const toProcessing: Event<File>[] = [...toUploading, { type: "received", id: "1", receipt }];
const only = (station: Station<File>): Item<File> => {
  assert.equal(station.length, 1);
  return station[0] as Item<File>;
};
const endsAs = (over: Partial<Batch>) => only(run([...toProcessing, { type: "seen", id: "1", batch: batchOf(over) }])).phase;

describe("the way of a file", () => {
  test("a chosen file is idle and waits to be hashed", () => {
    const item = only(run([chosen]));
    assert.deepEqual([item.phase, item.phase === "idle" && item.step], ["idle", "waiting"]);
  });

  test("an unknown file goes from idle over uploading to processing", () => {
    assert.equal(only(run(toUploading)).phase, "uploading");
    const item = only(run(toProcessing));
    assert.deepEqual([item.phase, item.batchId], ["processing", "b1"]);
  });

  test("the verdict ends it as success, partial or error", () => {
    assert.equal(endsAs({ status: "completed" }), "success");
    assert.equal(endsAs({ status: "completed", row_count_invalid: 1 }), "partial");
    assert.equal(endsAs({ status: "failed", row_count_invalid: 15 }), "error");
    assert.equal(endsAs({ status: "cancelled" }), "error");
  });

  test("every unfinished state of a batch is processing", () => {
    for (const status of ["uploaded", "staging", "validating", "awaiting_approval", "inserting"] as const) {
      assert.equal(endsAs({ status }), "processing");
    }
  });

  test("a known file asks, and goes on only when a person says so, with force", () => {
    const asking = run([...toLooking, { type: "known", id: "1", batch: batchOf({ status: "completed" }) }]);
    assert.equal(run([{ type: "uploading", id: "1", sent: 1, total: 100 }], asking), asking);
    const item = only(run([{ type: "again", id: "1" }], asking));
    assert.ok(item.phase === "idle" && item.step === "ready" && item.forced);
  });

  test("a file whose bytes came by another way while it was sent asks too", () => {
    const item = only(run([...toUploading, { type: "known", id: "1", batch: batchOf({ filename: "b.csv" }) }]));
    assert.ok(item.phase === "idle" && item.step === "asking" && item.wasSent);
    assert.deepEqual([item.name, item.batchId], ["a.csv", null]);
    const again = only(run([{ type: "again", id: "1" }], [item]));
    assert.ok(again.phase === "idle" && again.step === "ready" && again.forced);
  });

  test("a file that is wrong by itself is an error at once, and a wrong name may be overruled", () => {
    const refused = { ...TROUBLE, kind: "type" };
    const item = only(run([{ type: "chosen", files: [{ id: "1", file: file("a.pdf"), refused }], sending: SENDING }]));
    assert.equal(item.phase, "error");
    assert.equal(only(run([{ type: "retried", id: "1" }], [item])).overruled, true);
  });
});

describe("trouble", () => {
  test("a refused upload keeps its file, and starts anew when tried again", () => {
    const refused = run([...toUploading, { type: "refused", id: "1", refused: TROUBLE }]);
    assert.equal(only(refused).phase, "error");
    assert.deepEqual(only(refused).file, file());
    const again = only(run([{ type: "retried", id: "1" }], refused));
    assert.ok(again.phase === "idle" && again.step === "waiting");
  });

  test("what was to be ingested again is not asked about a second time", () => {
    const again = only(
      run([
        ...toLooking,
        { type: "known", id: "1", batch: batchOf() },
        { type: "again", id: "1" },
        { type: "uploading", id: "1", sent: 1, total: 100 },
        { type: "refused", id: "1", refused: TROUBLE },
        { type: "retried", id: "1" },
      ]),
    );
    assert.ok(again.phase === "idle" && again.step === "ready" && again.forced);
  });

  test("a look that fails is noted, and the next one takes the note back", () => {
    const unseen = only(run([...toProcessing, { type: "unseen", id: "1" }]));
    assert.ok(unseen.phase === "processing" && unseen.unseen);
    const seen = only(run([{ type: "seen", id: "1", batch: batchOf() }], [unseen]));
    assert.ok(seen.phase === "processing" && !seen.unseen);
  });

  test("a cancelling that fails may be asked for again, and says why it failed", () => {
    const cancelling = run([...toProcessing, { type: "cancelling", id: "1" }]);
    const failed = only(run([{ type: "uncancelled", id: "1", why: "no answer" }, { type: "seen", id: "1", batch: batchOf() }], cancelling));
    assert.ok(failed.phase === "processing" && !failed.cancelling && failed.uncancelled === "no answer");
    const again = only(run([{ type: "cancelling", id: "1" }], [failed]));
    assert.ok(again.phase === "processing" && again.cancelling && again.uncancelled === null);
  });

  test("a batch that failed goes on when it is tried again", () => {
    const failed = run([...toProcessing, { type: "seen", id: "1", batch: batchOf({ status: "failed" }) }]);
    assert.equal(only(run([{ type: "restarted", id: "1", batch: batchOf({ status: "uploaded" }) }], failed)).phase, "processing");
  });
});

test("an answer of before a batch was tried again changes nothing", () => {
  const failed = batchOf({ status: "failed", state_since: "2025-01-01T00:00:01.000000Z" });
  const restarted = run([
    ...toProcessing,
    { type: "seen", id: "1", batch: failed },
    { type: "restarted", id: "1", batch: batchOf({ status: "uploaded", state_since: "2025-01-01T00:00:02.000000Z" }) },
  ]);
  assert.equal(reduce(restarted, { type: "seen", id: "1", batch: failed }), restarted);
});

test("a verdict stands until the batch has been tried again elsewhere", () => {
  const at = (second: number, over: Partial<Batch>) => batchOf({ state_since: `2025-01-01T00:00:0${second}.000000Z`, ...over });
  const failed = run([...toProcessing, { type: "seen", id: "1", batch: at(1, { status: "failed" }) }]);
  assert.equal(reduce(failed, { type: "seen", id: "1", batch: at(1, { status: "failed" }) }), failed);
  assert.equal(reduce(failed, { type: "seen", id: "1", batch: at(0, { status: "validating" }) }), failed);
  assert.equal(only(reduce(failed, { type: "seen", id: "1", batch: at(2, { status: "uploaded" }) })).phase, "processing");
  assert.equal(only(reduce(failed, { type: "seen", id: "1", batch: at(3, { status: "completed" }) })).phase, "success");
});

describe("late and foreign events", () => {
  const late: Event<File>[] = [
    { type: "hashed", id: "1", hash: HASH },
    { type: "known", id: "1", batch: batchOf() },
    { type: "unknown", id: "1" },
    { type: "again", id: "1" },
    { type: "uploading", id: "1", sent: 5, total: 100 },
    { type: "received", id: "1", receipt },
    { type: "seen", id: "1", batch: batchOf({ status: "failed" }) },
    { type: "unseen", id: "1" },
    { type: "uncancelled", id: "1", why: "no answer" },
    { type: "refused", id: "1", refused: TROUBLE },
    { type: "retried", id: "1" },
    { type: "restarted", id: "1", batch: batchOf() },
  ];

  test("nothing moves a file that has succeeded", () => {
    const done = run([...toProcessing, { type: "seen", id: "1", batch: batchOf({ status: "completed" }) }]);
    for (const event of late) assert.equal(reduce(done, event), done, event.type);
  });

  test("nothing brings a removed file back", () => {
    for (const event of late) assert.deepEqual(reduce(run([chosen, { type: "removed", id: "1" }]), event), [], event.type);
  });

  test("a receipt counts only while uploading", () => {
    const looking = run(toLooking);
    assert.equal(reduce(looking, { type: "received", id: "1", receipt }), looking);
  });
});

describe("a page loaded anew", () => {
  test("finds every batch again that had its receipt", () => {
    const kept = toResume(run([{ ...chosen, files: [{ id: "2", file: file("b.csv"), refused: null }] } as Event<File>], run(toProcessing)));
    assert.deepEqual(kept, [{ id: "b1", name: "a.csv", size: 100 }]);
    const item = only(run([{ type: "resumed", batches: kept }]));
    assert.deepEqual([item.phase, item.file, item.batchId], ["processing", null, "b1"]);
  });

  test("shows no batch twice", () => {
    const twice = ["a.csv", "b.csv"].map((name) => ({ id: "b1", name, size: 1 }));
    assert.equal(run([{ type: "resumed", batches: twice }]).length, 1);
    assert.equal(run([{ type: "resumed", batches: [{ id: "b1", name: "a.csv", size: 1 }] }], run(toProcessing)).length, 1);
  });

  test("asks before bytes on their way are lost", () => {
    assert.equal(isSending(only(run(toUploading))), true);
    assert.equal(isSending(only(run(toProcessing))), false);
  });
});

test("clearing keeps what is under way", () => {
  const two = run([{ type: "chosen", files: [{ id: "2", file: file("b.csv"), refused: TROUBLE }], sending: SENDING }], run(toProcessing));
  assert.deepEqual(
    reduce(two, { type: "cleared" }).map((item) => item.id),
    ["1"],
  );
});
