/** Carries the station's files through: hashes, asks, sends, watches. Stands above the pages, so leaving the station stops nothing. */

import { useQuery } from "@tanstack/react-query";
import { createContext, use, useEffect, useMemo, useReducer, useRef, useState, type ReactNode } from "react";

import * as calls from "../api/calls";
import { Refusal, sentence, UNREACHED, type Batch } from "../api/client";
import { alarm, announce } from "../feel/announce";
import { read, write } from "../feel/theme";
import { hashOf, prepare } from "./hash";
import { isSending, reduce, toResume, type Event, type Item, type Sending, type Station } from "./machine";
import { refusedByItself, refusedByServer, unreadable, type Refused } from "./refused";
import { upload } from "./upload";
import { isFinished, verdict } from "./verdict";

const AT_ONCE = 3;
const POLL_MS = 2000;
const PATIENCE_MS = 8000;
const RESUMED = "dragonfly.batches";
const DEFAULT_SOURCE = "manual";

type Held = File | null;

interface Value {
  items: Station<Held>;
  choose: (files: readonly File[], sending: Sending) => void;
  /** The source of the files to be chosen next; kept while other pages are looked at. */
  source: Batch["source"];
  setSource: (source: Batch["source"]) => void;
  dispatch: (event: Event<Held>) => void;
  /** Stop what is under way for this file; a batch is cancelled on the server. */
  cancel: (item: Item<Held>) => void;
}

const Context = createContext<Value | null>(null);

export function StationProvider({ children }: { children: ReactNode }) {
  const [items, dispatch] = useReducer(reduce<Held>, [], resumed);
  const [source, setSource] = useState<Batch["source"]>(DEFAULT_SOURCE);
  const running = useRef(new Map<string, { task: string; stop: () => void }>());
  const { data: server } = useQuery({ queryKey: ["server"], queryFn: calls.server, staleTime: Number.POSITIVE_INFINITY });
  const mostBytes = server?.max_upload_bytes ?? null;

  useEffect(() => write(RESUMED, JSON.stringify(toResume(items)), "sessionStorage"), [items]);
  useTold(items);
  useEffect(() => void prepare(), []);

  useEffect(() => {
    const tasks = running.current;
    for (const [id, { task, stop }] of tasks) {
      const item = items.find((each) => each.id === id);
      if (item === undefined || taskOf(item) !== task) {
        stop();
        tasks.delete(id);
      }
    }
    const busy = (task: string) => [...tasks.values()].filter((each) => each.task === task).length;
    // The first chosen stands last.
    for (const item of items.toReversed()) {
      const task = taskOf(item);
      if (task === null || item.file === null || tasks.has(item.id)) continue;
      if (busy(task) >= (task === "hash" ? 1 : AT_ONCE)) continue;
      tasks.set(item.id, { task, stop: start(task, item as Item<File>, dispatch, mostBytes) });
    }
  }, [items, mostBytes]);

  useEffect(() => {
    const tasks = running.current;
    return () => {
      for (const { stop } of tasks.values()) stop();
      tasks.clear();
    };
  }, []);

  const sending = items.some(isSending);
  useEffect(() => {
    if (!sending) return undefined;
    const ask = (event: BeforeUnloadEvent) => event.preventDefault();
    window.addEventListener("beforeunload", ask);
    return () => window.removeEventListener("beforeunload", ask);
  }, [sending]);

  const value = useMemo(
    () => ({
      items,
      dispatch,
      source,
      setSource,
      choose: (files: readonly File[], wanted: Sending) =>
        dispatch({
          type: "chosen",
          sending: wanted,
          files: files.map((file) => ({ id: crypto.getRandomValues(new Uint32Array(2)).join("-"), file, refused: refusedByItself(file, mostBytes) })),
        }),
      cancel: (item: Item<Held>) => {
        if (item.phase !== "processing" || item.batchId === null) {
          dispatch({ type: "removed", id: item.id });
          return;
        }
        dispatch({ type: "cancelling", id: item.id });
        calls.cancelBatch(item.batchId).then(
          (batch) => dispatch({ type: "seen", id: item.id, batch }),
          (error: unknown) => {
            // The batch is finished: the next look tells.
            if (error instanceof Refusal && error.status === 409) return;
            const why = `${item.name} could not be cancelled: ${sentence(error)}`;
            dispatch({ type: "uncancelled", id: item.id, why });
            alarm(why);
          },
        );
      },
    }),
    [items, mostBytes, source],
  );

  return (
    <Context value={value}>
      {items.map((item) =>
        "batch" in item && item.batchId !== null ? (
          <Watch key={item.id} id={item.id} batchId={item.batchId} dispatch={dispatch} />
        ) : null,
      )}
      {children}
    </Context>
  );
}

export function useStation(): Value {
  const found = use(Context);
  if (found === null) throw new Error("useStation stands outside StationProvider");
  return found;
}

function resumed(): Station<Held> {
  try {
    const batches = JSON.parse(read(RESUMED, "sessionStorage") ?? "[]") as { id: string; name: string; size: number }[];
    return reduce<Held>([], { type: "resumed", batches });
  } catch {
    return [];
  }
}

/** Leave no file to be found again, for whoever comes next. */
export const forgetFiles = () => write(RESUMED, "[]", "sessionStorage");

/** The first batch that was made of these bytes. */
async function firstOf(hash: string, signal: AbortSignal): Promise<Batch | null> {
  const { items } = await calls.batches({ file_hash: hash }, null, 1, signal);
  const newest = items[0] ?? null;
  return newest === null || newest.first_batch_id === null ? newest : calls.batch(newest.first_batch_id, signal);
}

/** What has to be done for the file now. */
function taskOf(item: Item<Held>): "hash" | "look" | "send" | null {
  if (item.phase === "uploading") return "send";
  if (item.phase !== "idle" || item.step === "asking") return null;
  return item.step === "looking" ? "look" : item.step === "ready" ? "send" : "hash";
}

function start(task: string, item: Item<File>, dispatch: (event: Event<Held>) => void, mostBytes: number | null): () => void {
  const { id, file } = item;
  const refuse = (refused: Refused) => dispatch({ type: "refused", id, refused });
  const refuseBy = (refusal: Refusal) => refuse(refusedByServer(refusal, file, navigator.onLine));
  const refuseByAny = (error: unknown) => refuseBy(error instanceof Refusal ? error : new Refusal(UNREACHED, 0));
  if (task === "hash") {
    const refused = refusedByItself(file, mostBytes);
    if (refused !== null && !(item.overruled && refused.kind === "type")) {
      refuse(refused);
      return () => undefined;
    }
    dispatch({ type: "hashing", id, read: 0 });
    return hashOf(file, {
      onRead: (bytes) => dispatch({ type: "hashing", id, read: bytes }),
      done: (hash) => (hash === null ? refuse(unreadable()) : dispatch({ type: "hashed", id, hash })),
      unreached: () => refuseBy(new Refusal(UNREACHED, 0)),
    });
  }
  if (task === "look" && item.phase === "idle" && item.step === "looking") {
    const leave = new AbortController();
    firstOf(item.hash, leave.signal).then(
      (batch) => dispatch(batch === null ? { type: "unknown", id } : { type: "known", id, batch }),
      (error: unknown) => {
        if (!leave.signal.aborted) refuseByAny(error);
      },
    );
    return () => leave.abort();
  }
  dispatch({ type: "uploading", id, sent: 0, total: file.size });
  return upload({
    file,
    ...item.sending,
    force: item.forced,
    onSent: (sent, total) => dispatch({ type: "uploading", id, sent, total }),
    onReceipt: (receipt) => {
      if (!receipt.is_duplicate) dispatch({ type: "received", id, receipt });
      else calls.batch(receipt.batch_id).then((batch) => dispatch({ type: "known", id, batch }), refuseByAny);
    },
    onRefusal: (refusal) => {
      if (refusal.code !== UNREACHED) {
        refuseBy(refusal);
        return;
      }
      // A file that was changed after it was chosen fails as a broken network does; its first byte tells them apart.
      file.slice(0, 1).arrayBuffer().then(() => refuseBy(refusal), () => refuse(unreadable()));
    },
  });
}

/** Looks at a batch every two seconds while the tab is seen, until its verdict, and then when somebody asks to look again. */
function Watch({ id, batchId, dispatch }: { id: string; batchId: string; dispatch: (event: Event<Held>) => void }) {
  const { data, error, errorUpdateCount, dataUpdatedAt } = useQuery({
    queryKey: ["batch", batchId],
    // A server that hangs is one that cannot be reached.
    queryFn: ({ signal }) => calls.batch(batchId, AbortSignal.any([signal, AbortSignal.timeout(PATIENCE_MS)])),
    refetchInterval: ({ state }) => (state.data && isFinished(state.data) ? false : POLL_MS),
    refetchIntervalInBackground: false,
    retry: false,
    staleTime: 0,
  });
  useEffect(() => {
    if (data !== undefined) dispatch({ type: "seen", id, batch: data });
  }, [data, dataUpdatedAt, id, dispatch]);
  useEffect(() => {
    if (error === null) return;
    // Once somebody has signed in again, the next look tells.
    if (error instanceof Refusal && error.status === 401) return;
    if (error instanceof Refusal && error.status === 404) {
      const refused = { kind: "gone", what: "The server does not know this batch any more.", next: "Choose the file again.", again: "Try again", waitSeconds: null };
      dispatch({ type: "refused", id, refused });
    } else dispatch({ type: "unseen", id });
  }, [error, errorUpdateCount, id, dispatch]);
  return null;
}

/** Says each change of phase once. */
function useTold(items: Station<Held>): void {
  const before = useRef(new Map<string, string>());
  useEffect(() => {
    for (const item of items) {
      const isUnseen = item.phase === "processing" && item.unseen;
      const standing = item.phase === "idle" ? `idle ${item.step}` : isUnseen ? "unseen" : item.phase;
      if (before.current.get(item.id) === standing) continue;
      before.current.set(item.id, standing);
      if (item.phase === "uploading") announce(`${item.name}: uploading`);
      else if (isUnseen) announce(`${item.name}: the server cannot be reached just now. The batch goes on without this page.`);
      else if (item.phase === "processing") announce(`${item.name}: processing`);
      else if (item.phase === "idle" && item.step === "asking") announce(`${item.name}: already ingested. A question waits.`);
      else if (item.phase === "success" || item.phase === "partial") announce(`${item.name}: ${verdict(item.batch)}`);
      else if (item.phase === "error") alarm(`${item.name}: ${"batch" in item ? verdict(item.batch) : `${item.refused.what} ${item.refused.next}`}`);
    }
  }, [items]);
}

