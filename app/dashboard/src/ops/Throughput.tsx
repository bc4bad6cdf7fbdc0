/** How many rows came in each hour or day, and how many of them were refused. */

import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useMemo } from "react";

import * as calls from "../api/calls";
import { Moment } from "../feel/Moment";
import { NotLoaded } from "../feel/NotLoaded";
import { part } from "../feel/Part";
import { count, local, percent } from "../feel/words";
import { LOOK_AT_FIGURES_MS } from "./looking";
import { beginOf, bucketsOf, type SpanName } from "./span";

const Chart = part(() => import("./Chart"), "Loading the chart …");
const HOUR_MS = 3_600_000;

const whenShort = (seconds: number) => local(new Date(seconds * 1000).toISOString()).slice(0, 16);
const sayCount = (value: number) => count(Math.round(value));

export function Throughput({ span }: { span: SpanName }) {
  const { data, isError, refetch } = useQuery({
    queryKey: ["ops", "performance", span],
    queryFn: async ({ signal }) => {
      const begin = beginOf(span, new Date());
      const found = await calls.performance({ from: begin.toISOString() }, signal);
      return { begin, found };
    },
    placeholderData: keepPreviousData,
    refetchInterval: LOOK_AT_FIGURES_MS,
  });
  const shown = useMemo(() => {
    if (data === undefined) return null;
    const end = new Date(Math.ceil(new Date(data.found.to).getTime() / HOUR_MS) * HOUR_MS);
    const { buckets, hoursEach } = bucketsOf(data.found.items, data.begin, end);
    return {
      buckets,
      per: hoursEach === 1 ? "hour" : "day",
      step: hoursEach * 3600,
      times: buckets.map((bucket) => bucket.at),
      rows: [{ label: "rows", colour: "--busy", kind: "bars", values: buckets.map((bucket) => bucket.rows) } as const],
      rates: [{ label: "error rate", colour: "--bad", kind: "line", values: buckets.map((bucket) => bucket.errorRate) } as const],
    };
  }, [data]);
  if (isError) return <NotLoaded what="These figures" again={refetch} />;
  if (shown === null) return <p role="status">Loading the figures …</p>;
  const filled = shown.buckets.filter((bucket) => bucket.batches > 0).toReversed();
  const table = (
    <table className="plain">
      <thead>
        <tr>
          <th scope="col">{shown.per === "hour" ? "Hour" : "Day"} from</th>
          {["Batches", "Failed", "Rows", "Ingested", "Errors", "Error rate"].map((name) => (
            <th scope="col" key={name} className="number">
              {name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {filled.map((bucket) => (
          <tr key={bucket.at}>
            <th scope="row">
              <Moment iso={new Date(bucket.at * 1000).toISOString()} />
            </th>
            <td className="number">{count(bucket.batches)}</td>
            <td className="number">{count(bucket.failed)}</td>
            <td className="number">{count(bucket.rows)}</td>
            <td className="number">{count(bucket.inserted)}</td>
            <td className="number">{count(bucket.errors)}</td>
            <td className="number">{percent(bucket.errorRate)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
  return (
    <>
      {filled.length === 0 && <p className="empty">No batch was uploaded in the last {span}. Choose a longer span, or drop a file on the station.</p>}
      <div className="tiles two">
        <section className="tile">
          <Chart title={`Throughput per ${shown.per}`} unit={`rows/${shown.per}`} times={shown.times} step={shown.step} lines={shown.rows} say={sayCount} when={whenShort}>
            {table}
          </Chart>
        </section>
        <section className="tile">
          <Chart title={`Error rate per ${shown.per}`} unit="% of rows" times={shown.times} step={shown.step} lines={shown.rates} say={percent} when={whenShort}>
            {table}
          </Chart>
        </section>
      </div>
    </>
  );
}
