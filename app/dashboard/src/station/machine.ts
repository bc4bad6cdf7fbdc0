/**
 * The station's state: each file on its way from idle over uploading and processing to success, partial or error.
 *
 * One pure reducer; an event that does not fit a file's present state changes nothing, so a late answer cannot bring a
 * file back that was cancelled or sent anew.
 */

import type { Batch, Receipt } from "../api/client";
import type { Refused } from "./refused.ts";
import { ending, isFinished, type Ending } from "./verdict.ts";

export interface Sending {
  source: string;
  threshold: number;
}

/** What is sent; null for a batch that was found again after the page was loaded anew. */
export type Sendable = { name: string; size: number } | null;

/** idle: not a byte was sent. The steps follow one another, and asking waits for a person. */
export type Idle =
  | { phase: "idle"; step: "waiting" }
  | { phase: "idle"; step: "hashing"; read: number }
  | { phase: "idle"; step: "looking"; hash: string }
  | { phase: "idle"; step: "asking"; hash: string | null; known: Batch; wasSent: boolean }
  | { phase: "idle"; step: "ready"; hash: string | null; force: boolean };

export type Progress =
  | Idle
  | { phase: "uploading"; sent: number; total: number }
  | {
      phase: "processing";
      batch: Batch | null;
      unseen: boolean;
      cancelling: boolean;
      /** Why the last cancelling failed. */
      uncancelled: string | null;
    }
  | { phase: Ending; batch: Batch }
  | { phase: "error"; refused: Refused; mayOverrule: boolean };

export type Item<File extends Sendable = Sendable> = {
  id: string;
  file: File;
  name: string;
  size: number;
  /** The batch, from the receipt on. */
  batchId: string | null;
  sending: Sending;
  /** A person has looked at what is wrong with the file itself and wants it sent all the same. */
  overruled: boolean;
  /** The file was sent although its bytes are known. */
  forced: boolean;
} & Progress;

export type Station<File extends Sendable = Sendable> = readonly Item<File>[];

export type Event<File extends Sendable = Sendable> =
  | { type: "chosen"; files: { id: string; file: File & {}; refused: Refused | null }[]; sending: Sending }
  | { type: "resumed"; batches: { id: string; name: string; size: number }[] }
  | { type: "hashing"; id: string; read: number }
  | { type: "hashed"; id: string; hash: string }
  | { type: "known"; id: string; batch: Batch }
  | { type: "unknown"; id: string }
  | { type: "again"; id: string }
  | { type: "uploading"; id: string; sent: number; total: number }
  | { type: "received"; id: string; receipt: Receipt }
  | { type: "seen"; id: string; batch: Batch }
  | { type: "unseen"; id: string }
  | { type: "cancelling"; id: string }
  | { type: "uncancelled"; id: string; why: string }
  | { type: "refused"; id: string; refused: Refused }
  | { type: "retried"; id: string }
  | { type: "restarted"; id: string; batch: Batch }
  | { type: "removed"; id: string }
  | { type: "cleared" };

const BEGUN = { phase: "processing", unseen: false, cancelling: false, uncancelled: null } as const;

type Change = { type: "chosen" | "resumed" | "removed" | "cleared" };

export function reduce<File extends Sendable>(station: Station<File>, event: Event<File>): Station<File> {
  switch (event.type) {
    case "chosen":
      return [
        ...event.files.map(({ id, file, refused }): Item<File> => {
          const own = { id, file, name: file.name, size: file.size, batchId: null, sending: event.sending, overruled: false, forced: false };
          return refused === null
            ? { ...own, phase: "idle", step: "waiting" }
            : { ...own, phase: "error", refused, mayOverrule: refused.kind === "type" };
        }),
        ...station,
      ];
    case "resumed": {
      const here = new Set(station.map((item) => item.batchId));
      const found = event.batches.filter(({ id }) => !here.has(id) && here.add(id));
      return [
        ...station,
        ...found.map(({ id, name, size }): Item<File> => ({
          id,
          file: null as File,
          name,
          size,
          batchId: id,
          sending: { source: "", threshold: 0 },
          overruled: false,
          forced: false,
          ...BEGUN,
          batch: null,
        })),
      ];
    }
    case "removed":
      return station.filter((item) => item.id !== event.id);
    case "cleared":
      return station.filter((item) => !isDone(item));
    default: {
      const place = station.findIndex((item) => item.id === event.id);
      const item = station[place];
      if (item === undefined) return station;
      const next = step(item, event);
      return next === item ? station : station.with(place, next);
    }
  }
}

function step<File extends Sendable>(item: Item<File>, event: Exclude<Event<File>, Change>): Item<File> {
  const { phase } = item;
  switch (event.type) {
    case "hashing":
      return isStep(item, "waiting", "hashing") ? { ...own(item), phase: "idle", step: "hashing", read: event.read } : item;
    case "hashed":
      return isStep(item, "waiting", "hashing") ? { ...own(item), phase: "idle", step: "looking", hash: event.hash } : item;
    case "known":
      // While uploading, it is the receipt that tells: the same bytes came by another way since the look.
      if (phase === "uploading") return { ...own(item), phase: "idle", step: "asking", hash: null, known: event.batch, wasSent: true };
      return item.phase === "idle" && item.step === "looking"
        ? { ...own(item), phase: "idle", step: "asking", hash: item.hash, known: event.batch, wasSent: false }
        : item;
    case "unknown":
      return item.phase === "idle" && item.step === "looking"
        ? { ...own(item), phase: "idle", step: "ready", hash: item.hash, force: false }
        : item;
    case "again":
      return item.phase === "idle" && item.step === "asking"
        ? { ...own(item), forced: true, phase: "idle", step: "ready", hash: item.hash, force: true }
        : item;
    case "uploading":
      return isStep(item, "ready") || phase === "uploading"
        ? { ...own(item), phase: "uploading", sent: event.sent, total: event.total }
        : item;
    case "received":
      return phase === "uploading"
        ? { ...own(item), batchId: event.receipt.batch_id, ...BEGUN, batch: null }
        : item;
    case "seen":
      if (!("batch" in item) || isOlder(event.batch, item.batch)) return item;
      // A verdict stands until the batch has been tried again elsewhere.
      if (item.phase !== "processing" && event.batch.state_since === item.batch.state_since) return item;
      if (isFinished(event.batch)) return { ...named(item, event.batch), phase: ending(event.batch), batch: event.batch };
      return item.phase === "processing"
        ? { ...item, ...named(item, event.batch), batch: event.batch, unseen: false }
        : { ...named(item, event.batch), ...BEGUN, batch: event.batch };
    case "unseen":
      return item.phase === "processing" && !item.unseen ? { ...item, unseen: true } : item;
    case "cancelling":
      return item.phase === "processing" ? { ...item, cancelling: true, uncancelled: null } : item;
    case "uncancelled":
      return item.phase === "processing" && item.cancelling ? { ...item, cancelling: false, uncancelled: event.why } : item;
    case "refused":
      return phase === "idle" || phase === "uploading" || phase === "processing"
        ? { ...own(item), phase: "error", refused: event.refused, mayOverrule: false }
        : item;
    case "retried":
      return item.phase === "error" && "refused" in item && item.file !== null
        ? {
            ...own(item),
            overruled: item.overruled || item.mayOverrule,
            ...(item.forced ? { phase: "idle", step: "ready", hash: null, force: true } : { phase: "idle", step: "waiting" }),
          }
        : item;
    case "restarted":
      return phase === "error" && "batch" in item
        ? { ...own(item), ...BEGUN, batch: event.batch }
        : item;
  }
}

/** Whether an answer tells of a state that the batch has left already, as before it was tried again. */
const isOlder = (answer: Batch, known: Batch | null) => known !== null && answer.state_since < known.state_since;

const isStep = (item: Item, ...steps: Idle["step"][]) => item.phase === "idle" && steps.includes(item.step);

/** An item without what belongs to its phase. */
function own<File extends Sendable>({ id, file, name, size, batchId, sending, overruled, forced }: Item<File>) {
  return { id, file, name, size, batchId, sending, overruled, forced };
}

/** The same with the name and size that the server knows, for an item that was found again. */
function named<File extends Sendable>(item: Item<File>, batch: Batch) {
  return { ...own(item), name: batch.filename, size: batch.file_size_bytes };
}

export const isDone = (item: Item) => item.phase === "success" || item.phase === "partial" || item.phase === "error";

/** Whether bytes are on their way, so that leaving the page would lose them. */
export const isSending = (item: Item) => item.phase === "idle" || item.phase === "uploading";

/** The batches to be found again after the page is loaded anew. */
export const toResume = (station: Station) =>
  station.flatMap((item) => (item.batchId === null ? [] : [{ id: item.batchId, name: item.name, size: item.size }]));
