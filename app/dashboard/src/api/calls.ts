/** Each call that the pages make, by name. */

import { address, call, SESSION, type Batch, type RowError, type Schemas, type Server, type Session } from "./client";

const BATCHES = "/api/v1/intake/batches";
export const UPLOAD = "/api/v1/intake/upload";
/** The most items of a page that the API takes. */
export const LARGEST_PAGE = 1000;

export type Page<Item> = { items: Item[]; next_cursor: string | null };
export type ErrorPage = Page<RowError> & { total: number };
export type Conflict = Schemas["Conflict"];
export type Judgment = Schemas["JudgmentItem"];

export const session = () => call<Session>(SESSION, { aboutSession: true });
export const signInWithKey = (key: string) =>
  call<Session>(SESSION, { method: "POST", body: { key }, aboutSession: true });
export const signInWithToken = (token: string) =>
  call<Session>(SESSION, { method: "POST", body: { token }, aboutSession: true });
export const signOut = () => call<void>(SESSION, { method: "DELETE", aboutSession: true });

export const server = () => call<Server>("/api/v1/server");

export interface BatchFilter {
  status?: string | null;
  source?: string | null;
  q?: string | null;
  file_hash?: string;
}

export const batches = (filter: BatchFilter, cursor: string | null, limit: number, signal?: AbortSignal) =>
  call<Page<Batch>>(BATCHES, { query: { ...filter, cursor, limit }, signal });
export const batch = (id: string, signal?: AbortSignal) => call<Batch>(`${BATCHES}/${id}`, { signal });
export const cancelBatch = (id: string) => call<Batch>(`${BATCHES}/${id}/cancel`, { method: "POST" });
export const retryBatch = (id: string, threshold: number) =>
  call<Batch>(`${BATCHES}/${id}/retry`, { method: "POST", body: { error_threshold_percent: threshold } });
export const rowErrors = (
  id: string,
  code: string | null,
  cursor: string | null,
  limit: number,
  signal?: AbortSignal,
) => call<ErrorPage>(`${BATCHES}/${id}/errors`, { query: { error_code: code, cursor, limit }, signal });
export const errorsCsv = (id: string) => address(`${BATCHES}/${id}/errors.csv`);
export const conflicts = (id: string, cursor: string | null, limit: number, signal?: AbortSignal) =>
  call<Page<Conflict>>(`${BATCHES}/${id}/conflicts`, { query: { cursor, limit }, signal });

export const judgments = (
  filter: { case_number?: string | null; batch_id?: string | null },
  cursor: string | null,
  limit: number,
  signal?: AbortSignal,
) => call<Page<Judgment>>("/api/v1/judgments", { query: { ...filter, cursor, limit }, signal });

export const intakeState = (signal?: AbortSignal) => call<Schemas["IntakeState"]>("/api/v1/intake/state", { signal });

export interface Span {
  from: string;
  to?: string | null;
}

export const performance = (span: Span, signal?: AbortSignal) =>
  call<Schemas["Performance"]>("/api/v1/ops/performance", { query: { ...span }, signal });
export const errorDistribution = (span: Span, signal?: AbortSignal) =>
  call<Schemas["Errors"]>("/api/v1/ops/errors", { query: { ...span }, signal });
export const trends = (signal?: AbortSignal) => call<Schemas["Trends"]>("/api/v1/ops/trends", { signal });
export const health = (signal?: AbortSignal) => call<Schemas["Health"]>("/api/v1/ops/health", { signal });
export const sentinel = (limit: number, signal?: AbortSignal) =>
  call<Schemas["Sentinel"]>("/api/v1/ops/sentinel", { query: { limit }, signal });
