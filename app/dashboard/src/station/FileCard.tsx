/** One file on the station, in whichever state it is. */

import { useEffect, useRef, useState, type ReactNode } from "react";
import { Link } from "react-router";

import type { Batch } from "../api/client";
import { useBatch } from "../batches/looking";
import { Outcome } from "../batches/Outcome";
import { Moment } from "../feel/Moment";
import { Mark, StateMark, type Tone } from "../feel/StateMark";
import { bytes, clock, count } from "../feel/words";
import type { Item } from "./machine";
import { useStation } from "./provider";
import type { Refused } from "./refused";

type Own = Item<File | null>;

export function FileCard({ item }: { item: Own }) {
  const { cancel, dispatch } = useStation();
  const [glyph, tone, word] = headOf(item);
  const canCancel = item.phase === "idle" || item.phase === "uploading" || item.phase === "processing";
  const isCancelling = item.phase === "processing" && item.cancelling;
  return (
    <li className={`card ${tone}`} data-step tabIndex={-1} data-phase={item.phase} aria-label={item.name}>
      <header>
        <Mark glyph={glyph} tone={tone}>
          {word}
        </Mark>
        <strong className="name">{item.name}</strong>
        <span className="muted">{bytes(item.size)}</span>
        {item.sending.source !== "" && <span className="muted">{item.sending.source}</span>}
        <span className="spring" />
        {canCancel ? (
          <button
            type="button"
            onClick={() => !isCancelling && cancel(item)}
            aria-disabled={isCancelling}
            aria-label={`Cancel ${item.name}`}
          >
            {isCancelling ? "Cancelling …" : "Cancel"}
          </button>
        ) : (
          <button type="button" onClick={() => dispatch({ type: "removed", id: item.id })} aria-label={`Remove ${item.name} from this list`}>
            Remove
          </button>
        )}
      </header>
      <Body item={item} />
    </li>
  );
}

function headOf(item: Own): [glyph: string, tone: Tone, word: string] {
  switch (item.phase) {
    case "idle":
      return item.step === "asking" ? ["?", "warn", "known file"] : ["○", "quiet", "idle"];
    case "uploading":
      return ["↑", "busy", "uploading"];
    case "processing":
      return ["◑", "busy", "processing"];
    case "success":
      return ["✓", "good", "success"];
    case "partial":
      return ["▲", "warn", "partial"];
    case "error":
      return "batch" in item && item.batch.status !== "failed" ? ["⊘", "quiet", item.batch.status] : ["✗", "bad", "error"];
  }
}

function Body({ item }: { item: Own }): ReactNode {
  switch (item.phase) {
    case "idle":
      switch (item.step) {
        case "hashing":
          return (
            <Gauge label="Computing SHA-256" done={item.read} total={item.size}>
              Computing its SHA-256 here, before anything is sent: {bytes(item.read)} of {bytes(item.size)}
            </Gauge>
          );
        case "asking":
          return <Question item={item} known={item.known} wasSent={item.wasSent} />;
        case "looking":
          return <p>Asking whether this file is known …</p>;
        case "ready":
          return <p className="muted">Waits until another upload is through.</p>;
        default:
          return <p className="muted">Waits for its turn.</p>;
      }
    case "uploading":
      return item.total > 0 && item.sent >= item.total ? (
        <Gauge label="Uploaded" done={item.sent} total={item.total}>
          All {bytes(item.total)} sent; the server is storing the file …
        </Gauge>
      ) : (
        <Gauge label="Uploaded" done={item.sent} total={item.total}>
          {bytes(item.sent)} of {bytes(item.total)} sent
        </Gauge>
      );
    case "processing":
      return (
        <>
          <Processing batch={item.batch} unseen={item.unseen} />
          {item.uncancelled !== null && <p className="refusal">{item.uncancelled}</p>}
        </>
      );
    case "success":
    case "partial":
      return <Outcome batch={item.batch} linked />;
    case "error":
      return "batch" in item ? <Outcome batch={item.batch} linked /> : <Trouble item={item} refused={item.refused} />;
  }
}

function Gauge({ label, done, total, children }: { label: string; done: number; total: number; children: ReactNode }) {
  return (
    <div className="gauge">
      <progress aria-label={label} max={Math.max(total, 1)} value={Math.min(done, total)} />
      <p>{children}</p>
    </div>
  );
}

function Question({ item, known: found, wasSent }: { item: Own; known: Batch; wasSent: boolean }) {
  const { dispatch } = useStation();
  // The question may wait for long, and the batch goes on.
  const { data: known = found } = useBatch(found.batch_id);
  const was = known.status === "completed" ? "ingested" : known.status === "failed" ? "uploaded, and refused," : "uploaded";
  return (
    <div role="group" aria-label={`${item.name} is known`}>
      <p>
        These very bytes were already {was} on <Moment iso={known.created_at} /> as{" "}
        <span className="name">{known.filename}</span>: <StateMark batch={known} />. {wasSent ? "They were not stored a second time." : "Nothing has been sent."}
      </p>
      <p className="actions">
        <Link className="button" to={`/batches/${known.batch_id}`}>
          View it
        </Link>
        <button type="button" onClick={() => dispatch({ type: "again", id: item.id })}>
          Ingest again
        </button>
      </p>
    </div>
  );
}

function Processing({ batch, unseen }: { batch: Batch | null; unseen: boolean }) {
  const now = useNow();
  if (batch === null) {
    return (
      <>
        <p>Looking for the batch …</p>
        {unseen && <Unseen />}
      </>
    );
  }
  const { rows_processed: rows, bytes_processed: done, bytes_total: total } = batch.progress;
  const elapsed = clock(now - new Date(batch.created_at).getTime());
  return (
    <>
      <Gauge label="Bytes read" done={done} total={total}>
        <StateMark batch={batch} />
        {"  "}
        <span className="figure">{count(rows)}</span> rows processed{" · "}
        {bytes(done)} of {bytes(total)} read{" · "}
        <span className="figure">{elapsed}</span> elapsed
        {batch.attempts > 1 && <> · attempt {batch.attempts}: a worker stopped, another one took over</>}
      </Gauge>
      {unseen && <Unseen />}
      <p>
        <Link to={`/batches/${batch.batch_id}`}>Open the batch</Link>
      </p>
    </>
  );
}

const Unseen = () => (
  <p className="note warn" data-note="unseen">
    <span aria-hidden="true">▲ </span>
    The server cannot be reached just now. The batch goes on without this page; it looks again every 2 seconds.
  </p>
);

function Trouble({ item, refused }: { item: Own; refused: Refused }) {
  const { dispatch } = useStation();
  const left = useCountdown(refused.waitSeconds, refused);
  return (
    <div data-refused={refused.kind}>
      <p className="refusal">{refused.what}</p>
      <p>{refused.next}</p>
      {item.file !== null && (
        <p className="actions">
          <button type="button" className="primary" disabled={left > 0} onClick={() => dispatch({ type: "retried", id: item.id })}>
            {refused.again}
          </button>
          {left > 0 && <span className="muted">in {left} s</span>}
        </p>
      )}
    </div>
  );
}

function useNow(): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  return now;
}

function useCountdown(seconds: number | null, of: unknown): number {
  const until = useRef<{ of: unknown; at: number }>({ of: null, at: 0 });
  const [, tick] = useState(0);
  if (until.current.of !== of) until.current = { of, at: Date.now() + (seconds ?? 0) * 1000 };
  const left = Math.max(0, Math.ceil((until.current.at - Date.now()) / 1000));
  useEffect(() => {
    if (left === 0) return undefined;
    const timer = setTimeout(() => tick((before) => before + 1), 500);
    return () => clearTimeout(timer);
  });
  return left;
}
