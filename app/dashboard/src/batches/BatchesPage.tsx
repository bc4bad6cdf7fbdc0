/** The history: filters and search in the address, so that a link shows what its sender saw. */

import { keepPreviousData, useInfiniteQuery } from "@tanstack/react-query";
import { useEffect, useId, useRef } from "react";
import { Link, useLocation, useSearchParams } from "react-router";

import * as calls from "../api/calls";
import { Refusal, sentence, type Batch } from "../api/client";
import { SOURCES, STATES } from "../api/names";
import { Moment } from "../feel/Moment";
import { More } from "../feel/More";
import { NotLoaded } from "../feel/NotLoaded";
import { StateMark } from "../feel/StateMark";
import { count, percent } from "../feel/words";

const PAGE = 50;
const TYPING_MS = 250;

export function BatchesPage() {
  const [address, setAddress] = useSearchParams();
  const { state } = useLocation() as { state: { search?: boolean } | null };
  const [statusId, sourceId, searchId] = [useId(), useId(), useId()];
  const search = useRef<HTMLInputElement>(null);
  const typing = useRef<ReturnType<typeof setTimeout>>(undefined);
  const filter = { status: address.get("status"), source: address.get("source"), q: address.get("q") };
  const isNarrowed = filter.status !== null || filter.source !== null || filter.q !== null;

  useEffect(() => {
    if (state?.search) search.current?.focus();
  }, [state]);
  useEffect(() => () => clearTimeout(typing.current), []);
  // The address may change by other ways than by this field; what is being typed stays.
  useEffect(() => {
    const field = search.current;
    if (field !== null && typing.current === undefined && field.value.trim() !== (filter.q ?? "")) field.value = filter.q ?? "";
  }, [filter.q]);

  const query = useInfiniteQuery({
    queryKey: ["batches", filter],
    queryFn: ({ pageParam, signal }) => calls.batches(filter, pageParam, PAGE, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_cursor,
    placeholderData: keepPreviousData,
  });
  const { data, error, isPending, isFetching, refetch, hasNextPage } = query;
  const items = data?.pages.flatMap((page) => page.items) ?? [];

  const narrow = (name: string, value: string) =>
    setAddress(
      (before) => {
        const next = new URLSearchParams(before);
        if (value === "") next.delete(name);
        else next.set(name, value);
        return next;
      },
      { replace: name === "q" },
    );
  // Each setter knows the address of its own render only, and what is typed is looked for a moment later.
  const latest = useRef(narrow);
  useEffect(() => {
    latest.current = narrow;
  });
  const look = () => {
    clearTimeout(typing.current);
    typing.current = undefined;
    latest.current("q", search.current?.value.trim() ?? "");
  };

  return (
    <main className="page" id="main" tabIndex={-1}>
      <title>Batches · Dragonfly</title>
      <h1>Batches</h1>
      <form
        role="search"
        className="fields"
        onSubmit={(event) => {
          event.preventDefault();
          look();
        }}
      >
        <div className="grow">
          <label htmlFor={searchId}>Search</label>
          <input
            id={searchId}
            ref={search}
            type="search"
            data-search
            placeholder="part of a file name, beginning of an id or a SHA-256"
            defaultValue={filter.q ?? ""}
            onChange={() => {
              clearTimeout(typing.current);
              typing.current = setTimeout(look, TYPING_MS);
            }}
          />
        </div>
        <div>
          <label htmlFor={statusId}>State</label>
          <select id={statusId} value={filter.status ?? ""} onChange={(event) => narrow("status", event.target.value)}>
            <option value="">any</option>
            {STATES.map((each) => (
              <option key={each} value={each}>
                {each.replaceAll("_", " ")}
              </option>
            ))}
          </select>
        </div>
        <div>
          <label htmlFor={sourceId}>Source</label>
          <select id={sourceId} value={filter.source ?? ""} onChange={(event) => narrow("source", event.target.value)}>
            <option value="">any</option>
            {SOURCES.map((each) => (
              <option key={each}>{each}</option>
            ))}
          </select>
        </div>
      </form>
      <p role="status" className="muted">
        {isPending ? "Loading …" : error !== null ? "" : `${count(items.length)}${hasNextPage ? "+" : ""} shown, newest first${isFetching ? " · looking again …" : ""}`}
      </p>
      {error !== null &&
        (error instanceof Refusal && error.status === 422 ? (
          <p className="refusal" role="alert">
            {sentence(error)} <Link to="/batches">Show all batches</Link>.
          </p>
        ) : (
          <NotLoaded what="The batches" again={refetch} />
        ))}
      {data !== undefined && items.length === 0 && (
        <p className="empty">
          {isNarrowed ? (
            <>
              No batch is like that. <Link to="/batches">Show all batches</Link>.
            </>
          ) : (
            <>
              No file has been ingested yet. <Link to="/">Drop the first one on the station</Link>.
            </>
          )}
        </p>
      )}
      {items.length > 0 && <BatchTable batches={items} />}
      <More query={query}>Show {PAGE} more</More>
    </main>
  );
}

function BatchTable({ batches }: { batches: readonly Batch[] }) {
  return (
    <table role="table" className="list">
      <thead role="rowgroup">
        <tr role="row">
          {["State", "File", "Source", "Uploaded", "By"].map((name) => (
            <th role="columnheader" scope="col" key={name}>
              {name}
            </th>
          ))}
          {["Rows", "Ingested", "Errors", "Duplicates"].map((name) => (
            <th role="columnheader" scope="col" key={name} className="number">
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody role="rowgroup">
        {batches.map((batch) => (
          <tr role="row" key={batch.batch_id}>
            <td role="cell" data-label="State">
              <StateMark batch={batch} />
            </td>
            <td role="cell" data-label="File">
              <Link to={`/batches/${batch.batch_id}`} data-step className="name">
                {batch.filename}
              </Link>
              {batch.first_batch_id !== null && (
                <>
                  {" "}
                  <Link to={`/batches/${batch.first_batch_id}`} className="aside-link">
                    same bytes as the first
                  </Link>
                </>
              )}
            </td>
            <td role="cell" data-label="Source">
              {batch.source}
            </td>
            <td role="cell" data-label="Uploaded">
              <Moment iso={batch.created_at} />
            </td>
            <td role="cell" data-label="By">
              {batch.created_by ?? "–"}
            </td>
            <td role="cell" data-label="Rows" className="number">
              {count(batch.row_count_total)}
            </td>
            <td role="cell" data-label="Ingested" className="number">
              {count(batch.row_count_inserted)}
            </td>
            <td role="cell" data-label="Errors" className="number">
              {count(batch.row_count_invalid)}
              {batch.row_count_invalid > 0 && <span className="muted"> {percent(batch.error_rate_percent)}</span>}
            </td>
            <td role="cell" data-label="Duplicates" className="number">
              {count(batch.row_count_duplicate)}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
