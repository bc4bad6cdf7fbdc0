/** What became of a finished batch: the verdict, its figures, its refused rows, and what can be done next. */

import { useQueryClient } from "@tanstack/react-query";
import { useId, useState, type FormEvent } from "react";
import { Link } from "react-router";

import * as calls from "../api/calls";
import { sentence, type Batch } from "../api/client";
import { ErrorPanel } from "../errors/ErrorPanel";
import { Dialog } from "../feel/Dialog";
import { count, milliseconds, perSecond, percent, plural } from "../feel/words";
import { useStation } from "../station/provider";
import { ending, verdict } from "../station/verdict";

interface Props {
  batch: Batch;
  /** Link to the batch's own page. */
  linked?: boolean;
}

export function Outcome({ batch, linked = false }: Props) {
  const { items, dispatch } = useStation();
  const how = ending(batch);
  return (
    <div className="outcome">
      <p className={`verdict ${how}`}>{verdict(batch)}</p>
      {batch.status === "failed" && (
        <p>
          Nothing of the file was loaded.{" "}
          {batch.rejection_code === "ERROR_BUDGET_EXCEEDED"
            ? "Correct the rows listed below and upload the file again, or try it again with a higher budget."
            : "Correct the file and upload it again."}
        </p>
      )}
      <Metrics batch={batch} />
      {batch.row_count_duplicate > 0 && (
        <p>
          {plural(batch.row_count_duplicate, "row")} with a case number that stands already: not loaded again
          {batch.row_count_conflict > 0 && (
            <>
              ; {count(batch.row_count_conflict)} of them <Link to={`/batches/${batch.batch_id}#conflicts`}>differ from what stands</Link>
            </>
          )}
          .
        </p>
      )}
      <p className="actions">
        {linked && (
          <Link className="button" to={`/batches/${batch.batch_id}`}>
            Open the batch
          </Link>
        )}
        {batch.status === "failed" && (
          <TryAgain
            batch={batch}
            onRestart={(next) => {
              const item = items.find(({ batchId }) => batchId === batch.batch_id);
              if (item !== undefined) dispatch({ type: "restarted", id: item.id, batch: next });
            }}
          />
        )}
      </p>
      {batch.row_count_invalid > 0 && <ErrorPanel batch={batch} level={linked ? 3 : 2} />}
    </div>
  );
}

export function Metrics({ batch }: { batch: Batch }) {
  const figures: [string, string][] = [
    ["Rows", count(batch.row_count_total)],
    ["Ingested", count(batch.row_count_inserted)],
    ["Errors", batch.row_count_total > 0 ? `${count(batch.row_count_invalid)} (${percent(batch.error_rate_percent)})` : "–"],
    ["Duplicates", count(batch.row_count_duplicate)],
    ["Parse Time", milliseconds(batch.parse_duration_ms)],
    ["DB Time", milliseconds(batch.db_duration_ms)],
    ["Throughput", perSecond(batch.rows_per_second)],
  ];
  return (
    <dl className="metrics">
      {figures.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function TryAgain({ batch, onRestart }: { batch: Batch; onRestart: (batch: Batch) => void }) {
  const queries = useQueryClient();
  const [open, setOpen] = useState(false);
  const [budget, setBudget] = useState(String(batch.error_threshold_percent));
  const [refusal, setRefusal] = useState<string | null>(null);
  const [id, note] = [useId(), useId()];
  const begin = () => {
    setBudget(String(batch.error_threshold_percent));
    setRefusal(null);
    setOpen(true);
  };
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (!/^\d{1,3}$/.test(budget) || Number(budget) > 100) {
      setRefusal("The error budget must be a whole number from 0 to 100.");
      return;
    }
    calls.retryBatch(batch.batch_id, Number(budget)).then(
      (next) => {
        queries.setQueryData(["batch", batch.batch_id], next);
        setOpen(false);
        onRestart(next);
      },
      (error: unknown) => setRefusal(sentence(error)),
    );
  };
  return (
    <>
      <button type="button" onClick={begin}>
        Try the batch again …
      </button>
      <Dialog
        open={open}
        title="Try the batch again"
        description="Its counts and listed errors are cleared, and the stored file is read once more."
        onClose={() => setOpen(false)}
      >
        <form onSubmit={submit} className="stack" noValidate>
          <label htmlFor={id}>Error budget, %</label>
          <input id={id} inputMode="numeric" className="short" value={budget} aria-describedby={note} onChange={(event) => setBudget(event.target.value.trim())} />
          <p id={note} role="alert" className="refusal">
            {refusal}
          </p>
          <div className="actions">
            <button type="submit" className="primary">
              Try again
            </button>
            <button type="button" onClick={() => setOpen(false)}>
              Leave it
            </button>
          </div>
        </form>
      </Dialog>
    </>
  );
}
