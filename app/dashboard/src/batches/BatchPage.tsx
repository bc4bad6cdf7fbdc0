/** One batch: how it stands, what it holds, how its file was read, and everything that was refused or differs. */

import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState, type ReactNode } from "react";
import { Link, useLocation, useParams } from "react-router";

import * as calls from "../api/calls";
import { Refusal, sentence, type Batch } from "../api/client";
import { headersOf } from "../errors/cells";
import { Moment } from "../feel/Moment";
import { More } from "../feel/More";
import { NotLoaded } from "../feel/NotLoaded";
import { StateMark } from "../feel/StateMark";
import { bytes, count } from "../feel/words";
import { isFinished } from "../station/verdict";
import { useBatch } from "./looking";
import { Outcome } from "./Outcome";

export function BatchPage() {
  const { id = "" } = useParams();
  return <OneBatch key={id} id={id} />;
}

function OneBatch({ id }: { id: string }) {
  const queries = useQueryClient();
  const { hash, key } = useLocation();
  const { data: batch, error, refetch } = useBatch(id);
  const isHere = batch !== undefined;
  useEffect(() => {
    if (isHere && hash !== "") document.getElementById(hash.slice(1))?.scrollIntoView();
  }, [isHere, hash, key]);

  if (batch === undefined) {
    const isUnknown = error instanceof Refusal && (error.status === 404 || error.status === 422);
    return (
      <main className="page" id="main" tabIndex={-1}>
        <title>Batch · Dragonfly</title>
        <h1>Batch</h1>
        {error === null ? (
          <p role="status">Loading …</p>
        ) : isUnknown ? (
          <p role="alert" className="refusal">
            There is no batch with this id. <Link to="/batches">Look through all batches</Link>
          </p>
        ) : (
          <NotLoaded what="The batch" again={refetch} />
        )}
      </main>
    );
  }
  return (
    <main className="page" id="main" tabIndex={-1}>
      <title>{`${batch.filename} · Dragonfly`}</title>
      <p className="crumbs">
        <Link to="/batches">Batches</Link> <span aria-hidden="true">/</span>
      </p>
      <h1 className="name">{batch.filename}</h1>
      <p role="status">
        <StateMark batch={batch} /> <span className="muted">since</span> <Moment iso={batch.state_since} />
        {error !== null && <span className="note warn"> ▲ The server cannot be reached just now; it looks again every 2 seconds.</span>}
      </p>
      {isFinished(batch) ? (
        <Outcome batch={batch} />
      ) : (
        <Unfinished batch={batch} onChange={(next) => queries.setQueryData(["batch", id], next)} />
      )}
      <Facts batch={batch} />
      {batch.row_count_conflict > 0 && <Conflicts batch={batch} />}
    </main>
  );
}

function Unfinished({ batch, onChange }: { batch: Batch; onChange: (batch: Batch) => void }) {
  const [refusal, setRefusal] = useState("");
  const { rows_processed: rows, bytes_processed: done, bytes_total: total } = batch.progress;
  return (
    <div className="gauge">
      <progress aria-label="Bytes read" max={Math.max(total, 1)} value={done} />
      <p>
        <span className="figure">{count(rows)}</span> rows processed · {bytes(done)} of {bytes(total)} read · attempt{" "}
        {count(batch.attempts)}
      </p>
      <p className="actions">
        <button
          type="button"
          onClick={() =>
            calls.cancelBatch(batch.batch_id).then(onChange, (error: unknown) => setRefusal(sentence(error)))
          }
        >
          Cancel the batch
        </button>
      </p>
      <p role="alert" className="refusal">
        {refusal}
      </p>
    </div>
  );
}

function Facts({ batch }: { batch: Batch }) {
  const { reading } = batch as { reading: Record<string, unknown> };
  const headers = headersOf(batch);
  const mapping = Object.entries((reading["mapping"] ?? {}) as Record<string, string>).sort(
    ([, left], [, right]) => headers.indexOf(left) - headers.indexOf(right),
  );
  const unmapped = (reading["unmapped_headers"] ?? []) as string[];
  const warnings = (reading["warnings"] ?? []) as string[];
  const words = Object.entries((reading["empty_words"] ?? {}) as Record<string, unknown>);
  const facts: [string, ReactNode][] = [
    ["Batch", <code key="id">{batch.batch_id}</code>],
    ["SHA-256", <code key="hash">{batch.file_hash}</code>],
    ["Size", bytes(batch.file_size_bytes)],
    ["Source", batch.source],
    ["Error budget", `${batch.error_threshold_percent}%`],
    ["Priority", batch.priority],
    ["Uploaded", <Moment key="created" iso={batch.created_at} />],
    ["By", batch.created_by ?? "–"],
    ["Started", <Moment key="started" iso={batch.started_at} />],
    ["Finished", <Moment key="completed" iso={batch.completed_at} />],
    ["Attempts", count(batch.attempts)],
  ];
  if (batch.first_batch_id !== null) {
    facts.splice(2, 0, [
      "Same bytes as",
      <Link key="first" to={`/batches/${batch.first_batch_id}`}>
        the first batch made of them
      </Link>,
    ]);
  }
  if (batch.row_count_inserted > 0) {
    facts.push([
      "Judgments",
      <Link key="judgments" to={`/judgments?batch_id=${batch.batch_id}`}>
        see the {count(batch.row_count_inserted)} that it loaded
      </Link>,
    ]);
  }
  return (
    <section aria-label="Facts">
      <h2>Facts</h2>
      <dl className="facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {mapping.length > 0 && (
        <details open>
          <summary>How the file was read</summary>
          <dl className="facts">
            <div>
              <dt>Form</dt>
              <dd>
                {String(reading["container"] ?? "–")}, {String(reading["encoding"] ?? "–")}, header on line {String(reading["header_line"] ?? "–")}
              </dd>
            </div>
            {mapping.map(([field, header]) => (
              <div key={field}>
                <dt>{field}</dt>
                <dd>from column “{header}”</dd>
              </div>
            ))}
            {unmapped.length > 0 && (
              <div>
                <dt>Not used</dt>
                <dd>{unmapped.join(", ")}</dd>
              </div>
            )}
            {Number(reading["skipped_records"] ?? 0) > 0 && (
              <div>
                <dt>Skipped</dt>
                <dd>{count(Number(reading["skipped_records"]))} records of nothing but empty cells</dd>
              </div>
            )}
            {words.length > 0 && (
              <div>
                <dt>Read as empty</dt>
                <dd>{words.map(([word, times]) => `${word} × ${String(times)}`).join(", ")}</dd>
              </div>
            )}
            {warnings.length > 0 && (
              <div>
                <dt>Warnings</dt>
                <dd>{warnings.join("; ")}</dd>
              </div>
            )}
          </dl>
        </details>
      )}
    </section>
  );
}

function Conflicts({ batch }: { batch: Batch }) {
  const query = useInfiniteQuery({
    queryKey: ["conflicts", batch.batch_id, batch.state_since],
    queryFn: ({ pageParam, signal }) => calls.conflicts(batch.batch_id, pageParam, 50, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_cursor,
  });
  const items = query.data?.pages.flatMap((page) => page.items) ?? [];
  return (
    <section aria-labelledby="conflicts">
      <h2 id="conflicts">
        Duplicates that differ <span className="muted">{count(batch.row_count_conflict)}</span>
      </h2>
      <table role="table" className="list">
        <thead role="rowgroup">
          <tr role="row">
            {["Case number", "Data row", "What stands", "What this file says"].map((name) => (
              <th role="columnheader" scope="col" key={name}>
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {items.map((conflict) => {
            const fields = Object.entries(conflict.fields as Record<string, [unknown, unknown]>);
            const side = (which: 0 | 1) => fields.map(([field, both]) => `${field}: ${String(both[which] ?? "empty")}`).join("; ");
            return (
              <tr role="row" key={conflict.row_index}>
                <td role="cell" data-label="Case number">
                  <Link to={`/judgments?case_number=${encodeURIComponent(conflict.case_number)}`} data-step>
                    {conflict.case_number}
                  </Link>
                </td>
                <td role="cell" data-label="Data row">
                  {count(conflict.row_index + 1)}
                </td>
                <td role="cell" data-label="What stands">
                  {side(0)} <Link to={`/batches/${conflict.kept_batch_id}`}>its batch</Link>
                </td>
                <td role="cell" data-label="What this file says">
                  <mark className="differs">{side(1)}</mark>
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
      <More query={query}>Show more</More>
    </section>
  );
}
