/** Numbers, sizes, durations and moments as a person reads them. */

const WHOLE = new Intl.NumberFormat("en-US");
const ONE = new Intl.NumberFormat("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export const count = (value: number) => WHOLE.format(value);

export const plural = (value: number, one: string, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

export function bytes(value: number): string {
  if (value < 1000) return plural(value, "byte");
  for (const [unit, size] of [["kB", 1e3], ["MB", 1e6], ["GB", 1e9]] as const) {
    if (value < size * 999.95 || unit === "GB") return `${ONE.format(value / size)} ${unit}`;
  }
  return count(value);
}

export function milliseconds(value: number | null): string {
  if (value === null) return "–";
  if (value < 1000) return `${count(Math.round(value))} ms`;
  if (value < 60_000) return `${(value / 1000).toFixed(2)} s`;
  return clock(value);
}

/** 0:07, 12:30, 1:02:03. */
export function clock(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const two = (part: number) => String(part).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  const rest = `${hours ? two(Math.floor(seconds / 60) % 60) : Math.floor(seconds / 60)}:${two(seconds % 60)}`;
  return hours ? `${hours}:${rest}` : rest;
}

/** 5 s, 12 min, 3 h, 2 d. */
export function age(seconds: number | null): string {
  if (seconds === null) return "–";
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${ONE.format(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

export const perSecond = (value: number | null) => (value === null ? "–" : `${count(Math.round(value))} rows/s`);

export const percent = (value: number | null) => (value === null ? "–" : `${Number(value.toFixed(2))}%`);

const MOMENT = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });

/** The moment in the reader's own time zone, as 2025-01-31 14:05:00. */
export const local = (iso: string) => MOMENT.format(new Date(iso));

/** The same moment in UTC, as 2025-01-31 14:05:00 UTC. */
export const utc = (iso: string) => `${new Date(iso).toISOString().slice(0, 19).replace("T", " ")} UTC`;
