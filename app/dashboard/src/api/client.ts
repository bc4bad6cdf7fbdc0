/** Calls of the API: JSON in and out, the session's CSRF token on every change, every refusal one `Refusal`. */

import type { components } from "./schema";

export type Schemas = components["schemas"];
export type Batch = Schemas["Batch"];
export type Receipt = Schemas["Receipt"];
export type RowError = Schemas["RowError"];
export type Session = Schemas["Session"];
export type Server = Schemas["Server"];

export const UNREACHED = "UNREACHED";
export const SESSION = "/api/v1/session";

/** What a call was refused with: a code of the catalogue, or UNREACHED where no answer came. */
export class Refusal extends Error {
  readonly code: string;
  readonly status: number;
  /** What is wrong, in one sentence. */
  readonly title: string;
  /** What was found and expected, else what to do next. */
  readonly detail: string;
  readonly retryAfterSeconds: number | null;

  constructor(code: string, status: number, title = "", detail = "", retryAfterSeconds: number | null = null) {
    super(`${code} (${status})`);
    this.code = code;
    this.status = status;
    this.title = title;
    this.detail = detail;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** What a call failed with, for whoever asked for it. */
export function sentence(error: unknown): string {
  if (!(error instanceof Refusal)) return "Something failed in this page. Load it again.";
  const said = `${error.title} ${error.detail}`.trim();
  if (said !== "") return said;
  return error.status === 0 || error.status >= 500
    ? "The server does not answer. Check that it runs and that you are connected, then try again."
    : "That did not work. Try again.";
}

let csrfToken: string | null = null;
let hasEnded = false;
const endings = new Set<() => void>();
const renewals = new Set<(session: Session) => void>();

/** The token of the present session, which goes with every change. */
export function useToken(token: string | null): void {
  csrfToken = token;
  hasEnded = false;
}

export function token(): string | null {
  return csrfToken;
}

/** Be told when a call is answered that nobody is signed in; the function returned takes it back. */
export function onSessionEnd(tell: () => void): () => void {
  endings.add(tell);
  return () => endings.delete(tell);
}

/** Be told whose session it is once somebody has signed in on another page; the function returned takes it back. */
export function onSessionRenewal(tell: (session: Session) => void): () => void {
  renewals.add(tell);
  return () => renewals.delete(tell);
}

export function sessionHasEnded(): void {
  hasEnded = true;
  for (const tell of endings) tell();
}

/** The refusal that an answer's body and headers say. */
export function refusalOf(status: number, body: string, retryAfter: string | null): Refusal {
  let problem: Partial<Schemas["Problem"]> = {};
  try {
    problem = JSON.parse(body) as Partial<Schemas["Problem"]>;
  } catch {
    // Not ours: a proxy that answers while the server restarts.
  }
  const seconds = retryAfter === null ? Number.NaN : Number(retryAfter);
  const wait = Number.isFinite(seconds) ? seconds : null;
  return new Refusal(problem.code ?? `HTTP_${status}`, status, problem.title, problem.detail, wait);
}

type Query = Record<string, string | number | boolean | null | undefined>;

/** The address with those of the values that are set. */
export function address(path: string, query: Query = {}): string {
  const set = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(set.map(([name, value]) => [name, String(value)])).toString();
  return text ? `${path}?${text}` : path;
}

interface Call {
  method?: "GET" | "POST" | "DELETE" | "PATCH";
  query?: Query;
  body?: unknown;
  signal?: AbortSignal;
  /** The call is about the session itself: that there is none is its answer, and nobody is told. */
  aboutSession?: boolean;
}

export async function call<Answer>(path: string, wanted: Call = {}): Promise<Answer> {
  const { method = "GET", query, body, signal, aboutSession = false } = wanted;
  // The server counts each call without a session as a sign-in that failed.
  if (hasEnded && !aboutSession) throw new Refusal("UNAUTHENTICATED", 401);
  const headers: Record<string, string> = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrfToken !== null) headers["X-CSRF-Token"] = csrfToken;
  let answer: Response;
  try {
    answer = await fetch(address(path, query), {
      method,
      headers,
      body: body === undefined ? null : JSON.stringify(body),
      signal: signal ?? null,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal(UNREACHED, 0);
  }
  if (!answer.ok) {
    const refusal = refusalOf(answer.status, await answer.text(), answer.headers.get("Retry-After"));
    if (refusal.status === 401 && !aboutSession) sessionHasEnded();
    if (await isOutOfDate(refusal)) return call(path, wanted);
    throw refusal;
  }
  return (answer.status === 204 ? undefined : await answer.json()) as Answer;
}

/** Whether a call was refused for the token only: somebody has signed in on another page, and this one has the new token now. */
export async function isOutOfDate(refusal: Refusal): Promise<boolean> {
  if (refusal.code !== "CSRF_FAILED") return false;
  const before = csrfToken;
  const session = await call<Session>(SESSION);
  csrfToken = session.csrf_token;
  for (const tell of renewals) tell(session);
  return csrfToken !== before;
}
