/** Says what has happened to those who cannot see it: one status region, one alert region, always there. */

import { useSyncExternalStore } from "react";

interface Said {
  status: string;
  alert: string;
}

let said: Said = { status: "", alert: "" };
const listeners = new Set<() => void>();

function say(next: Partial<Said>): void {
  said = { ...said, ...next };
  for (const tell of listeners) tell();
}

export const announce = (text: string) => say({ status: text });
export const alarm = (text: string) => say({ alert: text });

const subscribe = (tell: () => void) => {
  listeners.add(tell);
  return () => listeners.delete(tell);
};

export function Announcements() {
  const now = useSyncExternalStore(subscribe, () => said);
  return (
    <div className="unseen">
      <div role="status">{now.status}</div>
      <div role="alert">{now.alert}</div>
    </div>
  );
}
