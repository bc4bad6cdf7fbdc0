/** The span of time that the charts show, as it stands in the address. */

export const SPANS = ["24h", "7d", "30d", "90d"] as const;
export type SpanName = (typeof SPANS)[number];
export const DEFAULT_SPAN: SpanName = "7d";

const HOURS: Record<SpanName, number> = { "24h": 24, "7d": 7 * 24, "30d": 30 * 24, "90d": 90 * 24 };
const HOUR_MS = 3_600_000;
/** Beyond this many hours the bars would be thinner than a pixel: days are shown. */
const MOST_HOURS = 200;

export const isSpan = (name: string | null): name is SpanName => (SPANS as readonly (string | null)[]).includes(name);

/** Its beginning, on the hour, so that the first bar is a whole one. */
export const beginOf = (name: SpanName, now: Date): Date => new Date(Math.floor(now.getTime() / HOUR_MS) * HOUR_MS - (HOURS[name] - 1) * HOUR_MS);

export interface Hour {
  hour_bucket: string;
  total_rows: number;
  inserted_rows: number;
  error_rows: number;
  total_batches: number;
  failed_batches: number;
}

export interface Bucket {
  /** Seconds since 1970. */
  at: number;
  rows: number;
  inserted: number;
  errors: number;
  batches: number;
  failed: number;
  /** Of all rows; null without a row. */
  errorRate: number | null;
}

/** One bucket for every hour, or every 24 of them where the span is long; those without a batch hold zeros. */
export function bucketsOf(hours: readonly Hour[], begin: Date, end: Date): { buckets: Bucket[]; hoursEach: 1 | 24 } {
  const [first, last] = [begin.getTime() / 1000, end.getTime() / 1000];
  const hoursEach = (last - first) / 3600 > MOST_HOURS ? 24 : 1;
  const size = hoursEach * 3600;
  const buckets: Bucket[] = [];
  for (let at = first; at < last; at += size) buckets.push({ at, rows: 0, inserted: 0, errors: 0, batches: 0, failed: 0, errorRate: null });
  for (const hour of hours) {
    const bucket = buckets[Math.floor((new Date(hour.hour_bucket).getTime() / 1000 - first) / size)];
    if (bucket === undefined) continue;
    bucket.rows += hour.total_rows;
    bucket.inserted += hour.inserted_rows;
    bucket.errors += hour.error_rows;
    bucket.batches += hour.total_batches;
    bucket.failed += hour.failed_batches;
  }
  for (const bucket of buckets) bucket.errorRate = bucket.rows > 0 ? (100 * bucket.errors) / bucket.rows : null;
  return { buckets, hoursEach };
}
