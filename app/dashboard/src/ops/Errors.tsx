/** Which errors there were, and whether they become more or fewer. */

import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useId, useMemo } from "react";
import { Link, useSearchParams } from "react-router";

import * as calls from "../api/calls";
import { Moment } from "../feel/Moment";
import { NotLoaded } from "../feel/NotLoaded";
import { part } from "../feel/Part";
import { count, percent } from "../feel/words";
import { LOOK_AT_FIGURES_MS } from "./looking";
import { beginOf, type SpanName } from "./span";
import { Tile } from "./Tile";

const Chart = part(() => import("./Chart"), "Loading the chart …");
const [WEEK, MONTH] = [7 * 86_400, 30 * 86_400];

const whenDay = (seconds: number) => new Date(seconds * 1000).toISOString().slice(0, 10);

export function Distribution({ span }: { span: SpanName }) {
  const { data, isError, refetch } = useQuery({
    queryKey: ["ops", "errors", span],
    queryFn: ({ signal }) => calls.errorDistribution({ from: beginOf(span, new Date()).toISOString() }, signal),
    placeholderData: keepPreviousData,
    refetchInterval: LOOK_AT_FIGURES_MS,
  });
  const most = Math.max(1, ...(data?.items.map((each) => each.occurrence_count) ?? []));
  return (
    <Tile title="Errors by code" note={`last ${span}`}>
      {isError && <NotLoaded what="These figures" again={refetch} />}
      {data?.items.length === 0 && <p className="empty">No row was refused in the last {span}. A longer span looks further back.</p>}
      {data !== undefined && data.items.length > 0 && (
        <table className="plain">
          <thead>
            <tr>
              <th scope="col">Code</th>
              <th scope="col" className="number">
                Rows
              </th>
              <th scope="col" aria-hidden="true" />
              <th scope="col" className="number">
                Batches
              </th>
              <th scope="col">Last seen</th>
            </tr>
          </thead>
          <tbody>
            {data.items.map((each) => (
              <tr key={each.error_code}>
                <th scope="row" title={each.sample_message ?? ""}>
                  <code className="code">{each.error_code}</code>
                </th>
                <td className="number">{count(each.occurrence_count)}</td>
                <td className="meter" aria-hidden="true">
                  <span style={{ width: `${(100 * each.occurrence_count) / most}%` }} />
                </td>
                <td className="number">{count(each.affected_batches)}</td>
                <td>
                  <Moment iso={each.last_seen_at} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Tile>
  );
}

export function Trends() {
  const [address, setAddress] = useSearchParams();
  const period = address.get("period") === "month" ? "month" : "week";
  const { data, isError, refetch } = useQuery({ queryKey: ["ops", "trends"], queryFn: ({ signal }) => calls.trends(signal), refetchInterval: LOOK_AT_FIGURES_MS });
  const items = useMemo(() => (data?.items ?? []).filter((each) => each.period === period).slice(0, 53), [data, period]);
  const chart = useMemo(() => {
    const inOrder = items.toReversed();
    return {
      times: inOrder.map((each) => new Date(each.bucket).getTime() / 1000),
      lines: [{ label: "error rate", colour: "--warn", kind: "line", values: inOrder.map((each) => each.error_rate_pct) } as const],
    };
  }, [items]);
  const choose = (next: string) =>
    setAddress((before) => {
      const changed = new URLSearchParams(before);
      changed.set("period", next);
      return changed;
    });
  const id = useId();
  return (
    <Tile
      title="Trend of the error rate"
      note={
        <span className="inline">
          <label htmlFor={id}>by</label>
          <select id={id} value={period} onChange={(event) => choose(event.target.value)}>
            <option value="week">week</option>
            <option value="month">month</option>
          </select>
        </span>
      }
    >
      {isError && <NotLoaded what="These figures" again={refetch} />}
      {data !== undefined && items.length === 0 && (
        <p className="empty">
          No batch yet, so no trend. <Link to="/">Drop a file on the station</Link>.
        </p>
      )}
      {items.length > 0 && (
        <Chart title={`Error rate by ${period}`} unit="% of rows" times={chart.times} step={period === "week" ? WEEK : MONTH} lines={chart.lines} say={percent} when={whenDay} inUtc>
          <table className="plain">
            <thead>
              <tr>
                <th scope="col">{period === "week" ? "Week" : "Month"} from (UTC)</th>
                {["Batches", "Rows", "Error rate"].map((name) => (
                  <th scope="col" key={name} className="number">
                    {name}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {items.map((each) => (
                <tr key={each.bucket}>
                  <th scope="row">{each.bucket.slice(0, 10)}</th>
                  <td className="number">{count(each.batches)}</td>
                  <td className="number">{count(each.rows)}</td>
                  <td className="number">{percent(each.error_rate_pct)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Chart>
      )}
    </Tile>
  );
}
