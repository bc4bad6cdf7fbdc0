/** From a judgment back to the file and the line it came from. */

import { useInfiniteQuery } from "@tanstack/react-query";
import { useEffect, useId, useRef, type FormEvent } from "react";
import { Link, useSearchParams } from "react-router";

import * as calls from "../api/calls";
import { Refusal } from "../api/client";
import { Moment } from "../feel/Moment";
import { More } from "../feel/More";
import { NotLoaded } from "../feel/NotLoaded";
import { count } from "../feel/words";

const PAGE = 50;

export function JudgmentsPage() {
  const [address, setAddress] = useSearchParams();
  const id = useId();
  const field = useRef<HTMLInputElement>(null);
  const filter = { case_number: address.get("case_number"), batch_id: address.get("batch_id") };
  const query = useInfiniteQuery({
    queryKey: ["judgments", filter],
    queryFn: ({ pageParam, signal }) => calls.judgments(filter, pageParam, PAGE, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_cursor,
  });
  const { data, error, isPending, refetch, hasNextPage } = query;
  const items = data?.pages.flatMap((page) => page.items) ?? [];
  useEffect(() => {
    if (field.current !== null) field.current.value = filter.case_number ?? "";
  }, [filter.case_number]);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const wanted = field.current?.value.trim() ?? "";
    const isAgain = filter.batch_id === null && wanted === (filter.case_number ?? "");
    setAddress(wanted === "" ? {} : { case_number: wanted }, { replace: isAgain });
  };
  return (
    <main className="page" id="main" tabIndex={-1}>
      <title>Judgments · Dragonfly</title>
      <h1>Judgments</h1>
      <form role="search" className="fields" onSubmit={submit}>
        <div className="grow">
          <label htmlFor={id}>Case number</label>
          <input id={id} ref={field} type="search" data-search defaultValue={filter.case_number ?? ""} placeholder="in any spelling that a file may have" />
        </div>
        <div className="bottom">
          <button type="submit" className="primary">
            Find
          </button>
        </div>
      </form>
      {filter.batch_id !== null && (
        <p>
          Those that <Link to={`/batches/${filter.batch_id}`}>one batch</Link> loaded. <Link to="/judgments">Show all</Link>.
        </p>
      )}
      <p role="status" className="muted">
        {isPending ? "Loading …" : data === undefined ? "" : `${count(items.length)}${hasNextPage ? "+" : ""} shown, newest first`}
      </p>
      {error !== null &&
        (error instanceof Refusal && error.status === 422 ? (
          <p role="alert" className="refusal">
            {error.detail} <Link to="/judgments">Show all</Link>.
          </p>
        ) : (
          <NotLoaded what="The judgments" again={refetch} />
        ))}
      {data !== undefined && items.length === 0 && (
        <p className="empty">
          {filter.case_number === null && filter.batch_id === null ? (
            <>
              No judgment has been loaded yet. <Link to="/">Drop a file on the station</Link>.
            </>
          ) : (
            <>
              No judgment is like that: it may stand among the <Link to="/batches">refused rows of its batch</Link>.
            </>
          )}
        </p>
      )}
      {items.length > 0 && (
        <table role="table" className="list">
          <thead role="rowgroup">
            <tr role="row">
              {["Case number", "Defendant", "Plaintiff"].map((name) => (
                <th role="columnheader" scope="col" key={name}>
                  {name}
                </th>
              ))}
              <th role="columnheader" scope="col" className="number">
                Amount, $
              </th>
              {["Date", "Court, county", "Came from", "Loaded"].map((name) => (
                <th role="columnheader" scope="col" key={name}>
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody role="rowgroup">
            {items.map((judgment) => (
              <tr role="row" key={judgment.id} data-step tabIndex={-1}>
                <td role="cell" data-label="Case number">
                  {judgment.case_number}
                </td>
                <td role="cell" data-label="Defendant">
                  {judgment.defendant_name}
                </td>
                <td role="cell" data-label="Plaintiff">
                  {judgment.plaintiff_name ?? "–"}
                </td>
                <td role="cell" data-label="Amount, $" className="number">
                  {amount(judgment.judgment_amount)}
                </td>
                <td role="cell" data-label="Date">
                  {judgment.judgment_date ?? "–"}
                </td>
                <td role="cell" data-label="Court, county">
                  {[judgment.court, judgment.county].filter(Boolean).join(", ") || "–"}
                </td>
                <td role="cell" data-label="Came from">
                  <Link to={`/batches/${judgment.batch_id}`} className="name">
                    {judgment.filename}
                  </Link>
                  {judgment.line_number !== null && <>, line {count(judgment.line_number)}</>}
                  <span className="muted"> data row {count(judgment.row_index + 1)}</span>
                </td>
                <td role="cell" data-label="Loaded">
                  <Moment iso={judgment.created_at} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <More query={query}>Show {PAGE} more</More>
    </main>
  );
}

/** Amounts are text, and stay exact: only the commas are added. */
const amount = (text: string) => text.replace(/\B(?=(\d{3})+(?!\d)(?=\.|$))/g, ",");
