/** How the pipeline stands, how much it does, what goes wrong, and what the sentinel says. */

import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { lazy, Suspense, useId, useMemo, type ReactNode } from "react";
import { Link, useSearchParams } from "react-router";

import * as calls from "../api/calls";
import { Moment } from "../feel/Moment";
import { Mark, StateWord, type Tone } from "../feel/StateMark";
import { age, count, local, percent, plural } from "../feel/words";
import { beginOf, bucketsOf, DEFAULT_SPAN, isSpan, SPANS, type SpanName } from "./span";

const Chart = lazy(() => import("./Chart"));
const LOOK_MS = 15_000;
const FLIPS = 20;
const HOUR_MS = 3_600_000;
const [WEEK, MONTH] = [7 * 86_400, 30 * 86_400];

const LEVELS: Record<string, [glyph: string, tone: Tone]> = {
  HEALTHY: ["✓", "good"],
  WARNING: ["▲", "warn"],
  CRITICAL: ["✗", "bad"],
};
const OVERALL: Record<string, string> = { healthy: "HEALTHY", degraded: "WARNING", critical: "CRITICAL" };

const whenShort = (seconds: number) => local(new Date(seconds * 1000).toISOString()).slice(0, 16);
const sayCount = (value: number) => count(Math.round(value));

export default function OpsPage() {
  const [address, setAddress] = useSearchParams();
  const asked = address.get("span");
  const span = isSpan(asked) ? asked : DEFAULT_SPAN;
  const spanId = useId();
  const { data: server } = useQuery({ queryKey: ["server"], queryFn: calls.server, staleTime: Number.POSITIVE_INFINITY });
  return (
    <main className="page wide" id="main" tabIndex={-1}>
      <title>Ops · Dragonfly</title>
      <div className="section-head">
        <h1 className="flush">Ops</h1>
        <span className="spring" />
        <div className="inline">
          <label htmlFor={spanId}>Span</label>
          <select id={spanId} value={span} onChange={(event) => setAddress({ span: event.target.value })}>
            {SPANS.map((each) => (
              <option key={each} value={each}>
                last {each}
              </option>
            ))}
          </select>
        </div>
        {server?.flower_url != null && (
          <a className="button" href={server.flower_url} rel="noreferrer">
            Flower: the queues' own page
          </a>
        )}
      </div>
      <div className="tiles two">
        <Sentinel />
        <div className="tile-stack">
          <Pipeline />
          <Queues />
        </div>
      </div>
      <Throughput span={span} />
      <div className="tiles two">
        <Distribution span={span} />
        <Trends />
      </div>
      <Flips />
    </main>
  );
}

function Gone({ again }: { again: () => unknown }) {
  return (
    <p className="refusal" role="alert">
      These figures cannot be loaded just now.{" "}
      <button type="button" onClick={() => void again()}>
        Try again
      </button>
    </p>
  );
}

function Tile({ title, children, note }: { title: string; children: ReactNode; note?: ReactNode }) {
  const id = useId();
  return (
    <section className="tile" aria-labelledby={id}>
      <div className="section-head">
        <h2 id={id}>{title}</h2>
        <span className="spring" />
        <span className="muted">{note}</span>
      </div>
      {children}
    </section>
  );
}

function Level({ level }: { level: string }) {
  const [glyph, tone] = LEVELS[level] ?? ["?", "quiet"];
  return (
    <Mark glyph={glyph} tone={tone}>
      {level.toLowerCase()}
    </Mark>
  );
}

const useSentinel = () =>
  useQuery({ queryKey: ["ops", "sentinel"], queryFn: ({ signal }) => calls.sentinel(FLIPS, signal), refetchInterval: LOOK_MS });
const useHealth = () => useQuery({ queryKey: ["ops", "health"], queryFn: ({ signal }) => calls.health(signal), refetchInterval: LOOK_MS });

function Sentinel() {
  const { data, isError, refetch } = useSentinel();
  const run = data?.last_run ?? null;
  return (
    <Tile
      title="Sentinel"
      note={run !== null && <>ran {age(run.age_seconds)} ago</>}
    >
      {isError && <Gone again={refetch} />}
      {data !== undefined && run === null && <p className="empty">It has not run yet: beat runs it every minute.</p>}
      {run !== null && (
        <>
          <p className="overall">
            <Level level={OVERALL[run.overall_status] ?? run.overall_status} />
            <span className="muted"> {plural(data?.checks.length ?? 0, "check")}</span>
            {data !== undefined && data.alerts.waiting > 0 && (
              <span className="warn">
                {" "}
                · {plural(data.alerts.waiting, "alert")} not delivered yet, for {age(data.alerts.oldest_waiting_seconds)}
              </span>
            )}
          </p>
          <table className="plain">
            <caption className="unseen">Checks</caption>
            <thead className="unseen">
              <tr>
                <th scope="col">Check</th>
                <th scope="col">Level</th>
                <th scope="col">What it found</th>
              </tr>
            </thead>
            <tbody>
              {data?.checks.map((check) => (
                <tr key={check.check}>
                  <th scope="row">{check.check.replaceAll("_", " ")}</th>
                  <td>
                    <Level level={check.level} />
                  </td>
                  <td className="muted">
                    {check.message}
                    {check.level !== "HEALTHY" && check.unhealthy_since !== null && (
                      <>
                        {" "}
                        since <Moment iso={check.unhealthy_since} />
                      </>
                    )}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </>
      )}
    </Tile>
  );
}

function Pipeline() {
  const { data, isError, refetch } = useHealth();
  return (
    <Tile title="Pipeline" note="batches by state">
      {isError && <Gone again={refetch} />}
      {data?.pipeline.length === 0 && (
        <p className="empty">
          No batch yet. <Link to="/">Drop a file on the station</Link>.
        </p>
      )}
      {data !== undefined && data.pipeline.length > 0 && (
        <table className="plain">
          <thead>
            <tr>
              <th scope="col">State</th>
              <th scope="col" className="number">
                Batches
              </th>
              <th scope="col" className="number">
                Oldest
              </th>
              <th scope="col">Newest</th>
            </tr>
          </thead>
          <tbody>
            {data.pipeline.map((each) => (
              <tr key={each.status}>
                <td>
                  <Link to={`/batches?status=${each.status}`} className="quiet-link">
                    <StateWord state={each.status} />
                  </Link>
                </td>
                <td className="number">{count(each.batch_count)}</td>
                <td className="number">{age(each.oldest_age_minutes * 60)}</td>
                <td>
                  <Moment iso={each.newest_batch_at} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Tile>
  );
}

function Queues() {
  const { data, isError, refetch } = useHealth();
  return (
    <Tile
      title="Queues"
      note={
        data !== undefined && (
          <>
            {plural(data.workers.alive, "worker")} with {plural(data.workers.places, "place")}
            {data.workers.silent > 0 && <span className="bad"> · {data.workers.silent} silent</span>}
          </>
        )
      }
    >
      {isError && <Gone again={refetch} />}
      {data !== undefined && (
        <table className="plain">
          <thead>
            <tr>
              <th scope="col">Priority</th>
              <th scope="col" className="number">
                Waiting
              </th>
              <th scope="col" className="number">
                Backing off
              </th>
              <th scope="col" className="number">
                Oldest
              </th>
            </tr>
          </thead>
          <tbody>
            {data.queues.map((queue) => (
              <tr key={queue.priority}>
                <th scope="row">{queue.priority}</th>
                <td className="number">{count(queue.claimable)}</td>
                <td className="number">{count(queue.backing_off)}</td>
                <td className="number">{age(queue.oldest_age_seconds)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Tile>
  );
}

function Throughput({ span }: { span: SpanName }) {
  const { data, isError, refetch } = useQuery({
    queryKey: ["ops", "performance", span],
    queryFn: async ({ signal }) => {
      const begin = beginOf(span, new Date());
      const found = await calls.performance({ from: begin.toISOString() }, signal);
      return { begin, found };
    },
    placeholderData: keepPreviousData,
    refetchInterval: LOOK_MS * 4,
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
  if (isError) return <Gone again={refetch} />;
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
    <Suspense fallback={<p role="status">Loading the charts …</p>}>
      {filled.length === 0 && <p className="empty">No batch was uploaded in the last {span}. Choose a longer span, or drop a file on the station.</p>}
      <div className="tiles two">
        <section className="tile">
          <Chart title={`Throughput per ${shown.per}`} unit={`rows/${shown.per}`} times={shown.times} step={shown.step} lines={shown.rows} say={sayCount} when={whenShort}>
            {table}
          </Chart>
        </section>
        <section className="tile">
          <Chart title={`Error rate per ${shown.per}`} unit="% of rows" times={shown.times} step={shown.step} lines={shown.rates} say={sayPercent} when={whenShort}>
            {table}
          </Chart>
        </section>
      </div>
    </Suspense>
  );
}

const sayPercent = (value: number) => percent(value);

function Distribution({ span }: { span: SpanName }) {
  const { data, isError, refetch } = useQuery({
    queryKey: ["ops", "errors", span],
    queryFn: ({ signal }) => calls.errorDistribution({ from: beginOf(span, new Date()).toISOString() }, signal),
    placeholderData: keepPreviousData,
    refetchInterval: LOOK_MS * 4,
  });
  const most = Math.max(1, ...(data?.items.map((each) => each.occurrence_count) ?? []));
  return (
    <Tile title="Errors by code" note={`last ${span}`}>
      {isError && <Gone again={refetch} />}
      {data?.items.length === 0 && <p className="empty">No row was refused in the last {span}.</p>}
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

function Trends() {
  const [address, setAddress] = useSearchParams();
  const period = address.get("period") === "month" ? "month" : "week";
  const { data, isError, refetch } = useQuery({ queryKey: ["ops", "trends"], queryFn: ({ signal }) => calls.trends(signal), refetchInterval: LOOK_MS * 4 });
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
      {isError && <Gone again={refetch} />}
      {data !== undefined && items.length === 0 && <p className="empty">No batch yet, so no trend.</p>}
      {items.length > 0 && (
        <Suspense fallback={<p role="status">Loading the chart …</p>}>
          <Chart title={`Error rate by ${period}`} unit="% of rows" times={chart.times} step={period === "week" ? WEEK : MONTH} lines={chart.lines} say={sayPercent} when={whenDay}>
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
        </Suspense>
      )}
    </Tile>
  );
}

const whenDay = (seconds: number) => new Date(seconds * 1000).toISOString().slice(0, 10);

function Flips() {
  const { data } = useSentinel();
  return (
    <Tile title="Last changes of the sentinel" note={`at most ${FLIPS}`}>
      {data?.flips.length === 0 && <p className="empty">No check has changed its level yet.</p>}
      {data !== undefined && data.flips.length > 0 && (
        <table role="table" className="list">
          <thead role="rowgroup">
            <tr role="row">
              {["When", "Check", "From", "To", "What it found"].map((name) => (
                <th role="columnheader" scope="col" key={name}>
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody role="rowgroup">
            {data.flips.map((flip) => (
              <tr role="row" key={flip.id} data-step tabIndex={-1}>
                <td role="cell" data-label="When">
                  <Moment iso={flip.at} />
                </td>
                <td role="cell" data-label="Check">
                  {flip.check.replaceAll("_", " ")}
                </td>
                <td role="cell" data-label="From">
                  <Level level={flip.level_before} />
                </td>
                <td role="cell" data-label="To">
                  <Level level={flip.level_after} />
                </td>
                <td role="cell" data-label="What it found">
                  {flip.message}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Tile>
  );
}
