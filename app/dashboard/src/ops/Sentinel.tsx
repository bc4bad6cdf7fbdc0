/** What the sentinel says now, and what has changed in it. */

import { Moment } from "../feel/Moment";
import { NotLoaded } from "../feel/NotLoaded";
import { Mark, type Tone } from "../feel/StateMark";
import { age, plural } from "../feel/words";
import { FLIPS, useSentinel } from "./looking";
import { Tile } from "./Tile";

const LEVELS: Record<string, [glyph: string, tone: Tone]> = {
  HEALTHY: ["✓", "good"],
  WARNING: ["▲", "warn"],
  CRITICAL: ["✗", "bad"],
};
const OVERALL: Record<string, string> = { healthy: "HEALTHY", degraded: "WARNING", critical: "CRITICAL" };

function Level({ level }: { level: string }) {
  const [glyph, tone] = LEVELS[level] ?? ["?", "quiet"];
  return (
    <Mark glyph={glyph} tone={tone}>
      {level.toLowerCase()}
    </Mark>
  );
}

export function Sentinel() {
  const { data, isError, refetch } = useSentinel();
  const run = data?.last_run ?? null;
  return (
    <Tile
      title="Sentinel"
      note={run !== null && <>ran {age(run.age_seconds)} ago</>}
    >
      {isError && <NotLoaded what="These figures" again={refetch} />}
      {data !== undefined && run === null && (
        <p className="empty">
          It has not run yet: beat runs it every minute. If it stays so, see whether beat runs; <code>dragonfly sentinel</code> runs it at once.
        </p>
      )}
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

export function Flips() {
  const { data } = useSentinel();
  return (
    <Tile title="Last changes of the sentinel" note={`at most ${FLIPS}`}>
      {data?.flips.length === 0 && <p className="empty">No check has changed its level yet. When one does, it stands here with what it found.</p>}
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
