/** How the pipeline stands, how much it does, what goes wrong, and what the sentinel says. */

import { useQuery } from "@tanstack/react-query";
import { useId } from "react";
import { useSearchParams } from "react-router";

import * as calls from "../api/calls";
import { Distribution, Trends } from "./Errors";
import { Pipeline, Queues } from "./Pipeline";
import { Flips, Sentinel } from "./Sentinel";
import { DEFAULT_SPAN, isSpan, SPANS } from "./span";
import { Throughput } from "./Throughput";

export default function OpsPage() {
  const [address, setAddress] = useSearchParams();
  const asked = address.get("span");
  const span = isSpan(asked) ? asked : DEFAULT_SPAN;
  const spanId = useId();
  const choose = (next: string) =>
    setAddress((before) => {
      const changed = new URLSearchParams(before);
      changed.set("span", next);
      return changed;
    });
  const { data: server } = useQuery({ queryKey: ["server"], queryFn: calls.server, staleTime: Number.POSITIVE_INFINITY });
  return (
    <main className="page wide" id="main" tabIndex={-1}>
      <title>Ops · Dragonfly</title>
      <div className="section-head">
        <h1 className="flush">Ops</h1>
        <span className="spring" />
        <div className="inline">
          <label htmlFor={spanId}>Span</label>
          <select id={spanId} value={span} onChange={(event) => choose(event.target.value)}>
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
