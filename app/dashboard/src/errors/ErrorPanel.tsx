/** The refused rows of a batch: the first five, then all of them; by code; as the vendor's own CSV. */

import { useQuery } from "@tanstack/react-query";
import { useId, useState } from "react";

import * as calls from "../api/calls";
import type { Batch, RowError } from "../api/client";
import { ROW_CODES } from "../api/names";
import { NotLoaded } from "../feel/NotLoaded";
import { part } from "../feel/Part";
import { count, plural } from "../feel/words";
import { cellsOf, columnsOf, countsOf, faultOf, rawOf, visible } from "./cells";

const FIRST = 5;
const ErrorTable = part(() => import("./ErrorTable"), "Loading the rows …");

export function ErrorPanel({ batch, level }: { batch: Batch; level: 2 | 3 }) {
  const Heading = level === 2 ? "h2" : "h3";
  const [all, setAll] = useState(false);
  const [code, setCode] = useState<string | null>(null);
  const filterId = useId();
  const counts = new Map(countsOf(batch));
  const total = code === null ? batch.row_count_invalid : (counts.get(code) ?? null);
  const { data, isError, refetch } = useQuery({
    queryKey: ["errors", batch.batch_id, batch.state_since, "first", code],
    queryFn: ({ signal }) => calls.rowErrors(batch.batch_id, code, null, FIRST, signal),
    enabled: !all,
  });
  const more = (data?.total ?? 0) > FIRST;
  return (
    <section aria-label="Refused rows" className="errors">
      <div className="section-head">
        <Heading>
          Errors <span className="muted">{total === null ? "" : count(total)}</span>
        </Heading>
        <div className="inline">
          <label htmlFor={filterId}>Code</label>
          <select id={filterId} value={code ?? ""} onChange={(event) => setCode(event.target.value || null)}>
            <option value="">all codes</option>
            {ROW_CODES.filter((each) => counts.size === 0 || counts.has(each)).map((each) => (
              <option key={each} value={each}>
                {each}
                {counts.has(each) ? ` (${count(counts.get(each) ?? 0)})` : ""}
              </option>
            ))}
          </select>
        </div>
        <span className="spring" />
        <a className="button" href={calls.errorsCsv(batch.batch_id)} download>
          Download All CSV
        </a>
      </div>
      {all ? (
        <ErrorTable key={code ?? ""} batch={batch} code={code} level={level} />
      ) : (
        <>
          {isError && <NotLoaded what="The rows" again={refetch} />}
          <ol className="first-errors">
            {data?.items.map((error) => (
              <FirstError key={error.id} error={error} columns={columnsOf(batch)} />
            ))}
          </ol>
        </>
      )}
      {(all || more) && (
        <p>
          <button type="button" aria-expanded={all} onClick={() => setAll(!all)}>
            {all ? `Show the first ${FIRST} only` : `Show all ${plural(data?.total ?? 0, "error")}`}
          </button>
        </p>
      )}
    </section>
  );
}

function FirstError({ error, columns }: { error: RowError; columns: readonly string[] }) {
  const raw = rawOf(error);
  const bad = cellsOf(error, columns).filter((cell) => cell.isBad);
  return (
    <li>
      <span className="row-number">row {error.row_number === null ? "–" : count(error.row_number)}</span>
      <code className="code">{error.error_code}</code>
      <span className="fault">{faultOf(error)}</span>
      <span className="cells">
        {bad.map((cell) => (
          <span key={cell.column} className="cell-chip">
            <span className="muted">{cell.column} </span>
            <mark>{cell.text === "" ? <i>empty</i> : visible(cell.text)}</mark>
          </span>
        ))}
        {raw !== null && <mark className="raw">{visible(raw)}</mark>}
      </span>
    </li>
  );
}
