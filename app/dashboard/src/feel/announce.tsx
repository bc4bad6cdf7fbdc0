/** Says what has happened to those who cannot see it: one status region, one alert region, always there. */

import { useSyncExternalStore } from "react";

type Region = "status" | "alert";

interface Sentence {
  key: number;
  region: Region;
  text: string;
}

/** Several may come at once: so many of the last ones stay. */
const KEPT = 5;

let said: readonly Sentence[] = [];
let last = 0;
const listeners = new Set<() => void>();

function say(region: Region, text: string): void {
  // Each is drawn anew, the same one again too: what has not changed is not read out.
  last += 1;
  const others = said.filter((each) => each.region !== region);
  const own = said.filter((each) => each.region === region).slice(1 - KEPT);
  said = [...others, ...own, { key: last, region, text }];
  for (const tell of listeners) tell();
}

export const announce = (text: string) => say("status", text);
export const alarm = (text: string) => say("alert", text);

/** Leave nothing that was said, for whoever comes next. */
export function fallSilent(): void {
  said = [];
  for (const tell of listeners) tell();
}

const subscribe = (tell: () => void) => {
  listeners.add(tell);
  return () => listeners.delete(tell);
};

export function Announcements() {
  const now = useSyncExternalStore(subscribe, () => said);
  return (
    <div className="unseen">
      {(["status", "alert"] as const).map((region) => (
        <div role={region} aria-atomic={false} key={region}>
          {now
            .filter((each) => each.region === region)
            .map(({ key, text }) => (
              <p key={key}>{text}</p>
            ))}
        </div>
      ))}
    </div>
  );
}
