/**
 * Every refused row of a batch as a table of the vendor's own columns: only what is seen is drawn, pages are fetched as far
 * as somebody has scrolled, and the bad cells are marked. The row that is chosen is shown in full below.
 */

import { useInfiniteQuery } from "@tanstack/react-query";
import { createColumnHelper, tableFeatures, useTable } from "@tanstack/react-table";
import { useVirtualizer } from "@tanstack/react-virtual";
import { memo, useEffect, useMemo, useRef, useState, type KeyboardEvent, type ReactNode } from "react";

import * as calls from "../api/calls";
import type { Batch, RowError } from "../api/client";
import { NotLoaded } from "../feel/NotLoaded";
import { keysAreOn } from "../feel/keys";
import { count } from "../feel/words";
import { cellsOf, columnsOf, faultOf, isBad, rawOf, textOf, visible } from "./cells";

const ROW_PIXELS = 30;
const features = tableFeatures({});
const helper = createColumnHelper<typeof features, RowError>();
const FIXED = ["row", "line", "code", "fault"];
/** Begins the id of each of the vendor's own columns, so that none is taken for one of ours. */
const OWN = "cell:";
const NO_ROWS: RowError[] = [];

interface Props {
  batch: Batch;
  code: string | null;
  /** The level of the heading above the table. */
  level: 2 | 3;
}

export default function ErrorTable({ batch, code, level }: Props) {
  const scroller = useRef<HTMLDivElement>(null);
  const [chosen, setChosen] = useState<number | null>(null);
  const { data, fetchNextPage, hasNextPage, isFetching, isError } = useInfiniteQuery({
    queryKey: ["errors", batch.batch_id, batch.state_since, "all", code],
    queryFn: ({ pageParam, signal }) => calls.rowErrors(batch.batch_id, code, pageParam, calls.LARGEST_PAGE, signal),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next_cursor,
    // A finished batch's errors do not change, and comparing 100 pages would be felt.
    structuralSharing: false,
    staleTime: Number.POSITIVE_INFINITY,
    gcTime: 60_000,
  });
  const loaded = useMemo(() => data?.pages.flatMap((page) => page.items) ?? NO_ROWS, [data]);
  const total = data?.pages[0]?.total ?? 0;

  const virtual = useVirtualizer({
    count: total,
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW_PIXELS,
    overscan: 8,
    // The head stands inside, and so may a scroll bar: the rows have that much less to be seen in.
    scrollPaddingEnd: 2 * ROW_PIXELS,
  });
  const seen = virtual.getVirtualItems();
  const first = seen[0]?.index ?? 0;
  const last = seen.at(-1)?.index ?? 0;

  // As far as has been scrolled, page after page; one waits for the other, for its cursor is in it.
  useEffect(() => {
    if (last >= loaded.length - 1 && hasNextPage && !isFetching && !isError) void fetchNextPage();
  }, [last, loaded.length, hasNextPage, isFetching, isError, fetchNextPage]);

  const columns = useMemo(() => tableColumnsOf(batch), [batch]);
  const shown = useMemo(() => loaded.slice(first, last + 1), [loaded, first, last]);
  const table = useTable({ features, columns, data: shown, getRowId: (row) => String(row.id) });
  const rows = table.getRowModel().rows;
  const own = columns.length - FIXED.length;
  const template = `80px 80px 200px 400px repeat(${Math.max(own, 1)}, 168px)`;
  const width = 760 + Math.max(own, 1) * 168;
  const waiting = total > 0 && last >= loaded.length;

  const choose = (index: number) => {
    setChosen(index);
    virtual.scrollToIndex(index, { align: "auto" });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.length === 1 && !keysAreOn()) return;
    const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 12, PageUp: -12 }[event.key];
    if (total === 0 || (step === undefined && event.key !== "Home" && event.key !== "End")) return;
    event.preventDefault();
    const target = event.key === "Home" ? 0 : event.key === "End" ? total - 1 : (chosen ?? -1) + (step ?? 0);
    choose(Math.min(Math.max(target, 0), total - 1));
  };

  const detail = chosen === null ? undefined : loaded[chosen];
  return (
    <>
      <p className="muted" role="status">
        {!isError &&
          (waiting || total === 0
            ? `Loading the rows … ${count(loaded.length)}${total > 0 ? ` of ${count(total)}` : ""}`
            : `${count(total)} rows. Arrow keys choose one, which is shown in full below.`)}
      </p>
      {isError && <NotLoaded what="The rows" again={fetchNextPage} />}
      <div className="grid-scroll" ref={scroller} tabIndex={0} role="region" aria-label="All refused rows" onKeyDown={onKeyDown}>
        <div role="table" aria-label="Refused rows" aria-rowcount={total + 1} aria-colcount={columns.length} className="grid" style={{ width }}>
          <div role="rowgroup" className="grid-head">
            {table.getHeaderGroups().map((group) => (
              <div role="row" aria-rowindex={1} key={group.id} className="grid-row" style={{ gridTemplateColumns: template }}>
                {group.headers.map((header) => (
                  <div role="columnheader" key={header.id} title={String(header.column.columnDef.header)}>
                    <table.FlexRender header={header} />
                  </div>
                ))}
              </div>
            ))}
          </div>
          <div role="rowgroup" className="grid-body" style={{ height: virtual.getTotalSize() }}>
            {seen.map((place) => {
              const row = rows[place.index - first];
              const style = { transform: `translateY(${place.start}px)`, gridTemplateColumns: template };
              if (row === undefined) {
                return (
                  <div role="row" aria-rowindex={place.index + 2} key={place.key} className="grid-row muted" style={style}>
                    <div role="cell">…</div>
                  </div>
                );
              }
              return (
                <Row
                  key={place.key}
                  error={row.original}
                  index={place.index}
                  start={place.start}
                  template={template}
                  isChosen={place.index === chosen}
                  onChoose={setChosen}
                  draw={() => row.getAllCells().map((cell) => [cell.column.id, <table.FlexRender key={cell.id} cell={cell} />])}
                />
              );
            })}
          </div>
        </div>
      </div>
      <div aria-live="polite">{detail !== undefined && <Detail error={detail} columns={columnsOf(batch)} level={level} />}</div>
    </>
  );
}

interface RowProps {
  error: RowError;
  index: number;
  start: number;
  template: string;
  isChosen: boolean;
  onChoose: (index: number) => void;
  draw: () => [column: string, content: ReactNode][];
}

/** One row; drawn anew only when it is another one, for scrolling moves dozens of them at a time. */
const Row = memo(
  function Row({ error, index, start, template, isChosen, onChoose, draw }: RowProps) {
    const raw = rawOf(error);
    const cells = draw();
    return (
      <div
        role="row"
        aria-rowindex={index + 2}
        className={`grid-row${isChosen ? " chosen" : ""}`}
        style={{ transform: `translateY(${start}px)`, gridTemplateColumns: template }}
        onClick={() => onChoose(index)}
      >
        {(raw === null ? cells : cells.slice(0, FIXED.length)).map(([column, content]) => {
          const bad = column.startsWith(OWN) && isBad(error, column.slice(OWN.length));
          return (
            <div role="cell" key={column} className={bad ? "bad" : FIXED.includes(column) ? column : ""}>
              {bad && (
                <>
                  <span aria-hidden="true">✗ </span>
                  <span className="unseen">at fault: </span>
                </>
              )}
              {content}
            </div>
          );
        })}
        {raw !== null && (
          <div role="cell" className="bad raw" aria-colspan={Math.max(1, cells.length - FIXED.length)}>
            <span aria-hidden="true">✗ </span>
            <span className="unseen">the record as it came: </span>
            {visible(raw)}
          </div>
        )}
      </div>
    );
  },
  (before, after) =>
    before.error === after.error &&
    before.start === after.start &&
    before.template === after.template &&
    before.isChosen === after.isChosen,
);

function tableColumnsOf(batch: Batch) {
  return helper.columns([
    helper.accessor("row_number", { id: "row", header: "Row", cell: ({ getValue }) => number(getValue()) }),
    helper.accessor("line_number", { id: "line", header: "Line", cell: ({ getValue }) => number(getValue()) }),
    helper.accessor("error_code", { id: "code", header: "Code", cell: ({ getValue }) => getValue() }),
    helper.accessor((error: RowError) => faultOf(error), { id: "fault", header: "What is wrong", cell: ({ getValue }) => getValue() }),
    ...columnsOf(batch).map((column) =>
      helper.accessor((error: RowError) => textOf(error, column), {
        id: `${OWN}${column}`,
        header: column,
        cell: ({ getValue }) => visible(getValue()) || "·",
      }),
    ),
  ]);
}

const number = (value: number | null) => (value === null ? "–" : count(value));

function Detail({ error, columns, level }: { error: RowError; columns: readonly string[]; level: 2 | 3 }) {
  const Heading = level === 2 ? "h3" : "h4";
  const isWhole = rawOf(error) !== null;
  return (
    <section className="detail" aria-label={`Row ${error.row_number}`}>
      <Heading>
        Row {number(error.row_number)} <span className="muted">line {number(error.line_number)}</span>{" "}
        <code className="code">{error.error_code}</code>
      </Heading>
      <p>{faultOf(error)}</p>
      <dl className="cells-in-full">
        {cellsOf(error, columns).map((cell) => (
          <div key={cell.column} className={cell.isBad ? "bad" : ""}>
            <dt>
              {cell.isBad && <span aria-hidden="true">✗ </span>}
              {isWhole ? "The record as it came" : cell.column}
              {cell.isBad && <span className="unseen"> (at fault)</span>}
            </dt>
            <dd>{cell.text === "" ? <i className="muted">empty</i> : visible(cell.text)}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}
