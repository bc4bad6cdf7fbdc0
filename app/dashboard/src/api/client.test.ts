import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { call, onSessionEnd, Refusal, SESSION, useToken as keepToken } from "./client.ts";

const fetched = globalThis.fetch;
let asked: string[] = [];
/** Answers each call; the session's token is now this one. */
const serve = (csrf: string | null) => {
  asked = [];
  globalThis.fetch = async (path, { method, headers } = {}) => {
    const sent = (headers as Record<string, string>)["X-CSRF-Token"];
    asked.push(`${method} ${String(path)} ${sent ?? ""}`.trim());
    if (csrf === null) return Response.json({ code: "UNAUTHENTICATED" }, { status: 401 });
    if (path === SESSION) return Response.json({ csrf_token: csrf });
    return sent === csrf ? Response.json("done") : Response.json({ code: "CSRF_FAILED" }, { status: 403 });
  };
};
const change = () => call<string>("/change", { method: "POST" });

afterEach(() => {
  globalThis.fetch = fetched;
  keepToken(null);
});

test("a change is asked for again with the token of a sign-in on another page", async () => {
  keepToken("old");
  serve("new");
  assert.equal(await change(), "done");
  assert.deepEqual(asked, ["POST /change old", `GET ${SESSION}`, "POST /change new"]);
});

test("a token that is refused although it is the session's own is not sent for ever", async () => {
  keepToken("own");
  serve("own");
  globalThis.fetch = ((serving) => async (path: string, wanted: RequestInit) =>
    path === SESSION ? serving(path, wanted) : serving(path, { ...wanted, headers: {} }))(globalThis.fetch) as typeof fetch;
  await assert.rejects(change(), (error) => error instanceof Refusal && error.code === "CSRF_FAILED");
  assert.equal(asked.length, 2);
});

test("once the session has ended nothing is asked for until somebody signs in", async () => {
  let told = 0;
  const forget = onSessionEnd(() => (told += 1));
  keepToken("old");
  serve(null);
  await assert.rejects(change(), (error) => error instanceof Refusal && error.status === 401);
  await assert.rejects(change(), (error) => error instanceof Refusal && error.status === 401);
  assert.deepEqual([asked.length, told], [1, 1]);
  keepToken("new");
  serve("new");
  assert.equal(await change(), "done");
  forget();
});
