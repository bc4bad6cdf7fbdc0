/** Signing in: with a key, or with the one-time link that `dragonfly up` and `dragonfly sign-in` print. */

import { useEffect, useId, useRef, useState, type FormEvent } from "react";
import { useNavigate, type NavigateFunction } from "react-router";

import * as calls from "../api/calls";
import { Refusal, sentence, type Session } from "../api/client";
import { useSession } from "./session";

/** What a link brings, in the part of its address that no server sees. */
export const TOKEN = /^#token=(.+)$/;

function whyNot(error: unknown): string {
  return error instanceof Refusal && error.code === "TOO_MANY_ATTEMPTS"
    ? `Too many sign-ins have failed from this address. Wait ${error.retryAfterSeconds ?? 60} seconds, then use a valid key.`
    : sentence(error);
}

function leaveSignIn(navigate: NavigateFunction): void {
  if (window.location.pathname === "/sign-in") void navigate("/", { replace: true });
}

/** A link that was cut off in the middle of an escape is for the server to refuse, as any other that is no good. */
function decoded(token: string): string {
  try {
    return decodeURIComponent(token);
  } catch {
    return token;
  }
}

export function SignInPage() {
  return (
    <main className="page narrow" id="main" tabIndex={-1}>
      <title>Sign in · Dragonfly</title>
      <h1>Sign in</h1>
      <p className="muted">Dragonfly takes vendor exports of court judgments in and tells what became of every row.</p>
      <SignInForm />
      <details className="aside">
        <summary>Where do I get a key?</summary>
        <p>
          Whoever runs the server makes one with <code>dragonfly keys create NAME</code>, or prints a link that signs you in
          once with <code>dragonfly sign-in</code>.
        </p>
        <LookAgain />
      </details>
    </main>
  );
}

/** For whoever signs in with a link, which opens a page of its own. */
export function LookAgain() {
  const { ask } = useSession();
  const navigate = useNavigate();
  const [isNobody, setNobody] = useState(false);
  const look = () => {
    setNobody(false);
    void ask().then((isSomebody) => {
      setNobody(!isSomebody);
      if (isSomebody) leaveSignIn(navigate);
    });
  };
  return (
    <div className="actions">
      <button type="button" onClick={look}>
        I have signed in elsewhere: look again
      </button>
      <p role="alert" className="refusal">
        {isNobody && "Nobody is signed in in this browser yet."}
      </p>
    </div>
  );
}

export function SignInForm() {
  const { begin } = useSession();
  const navigate = useNavigate();
  const [refusal, setRefusal] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const key = useRef<HTMLInputElement>(null);
  const [keyId, refusalId] = [useId(), useId()];

  const finish = (promise: Promise<Session>) => {
    setBusy(true);
    promise.then(
      (session) => {
        begin(session, true);
        leaveSignIn(navigate);
      },
      (error: unknown) => {
        setBusy(false);
        setRefusal(whyNot(error));
        key.current?.focus();
      },
    );
  };

  useEffect(() => {
    const token = TOKEN.exec(window.location.hash)?.[1];
    if (token === undefined) return;
    // The token works once: it has no place in the history, and is not read from there a second time.
    window.history.replaceState(null, "", window.location.pathname);
    finish(calls.signInWithToken(decoded(token)));
  });

  const submit = (event: FormEvent) => {
    event.preventDefault();
    const typed = key.current?.value.trim() ?? "";
    if (typed === "") {
      setRefusal("Type or paste a key first.");
      key.current?.focus();
      return;
    }
    setRefusal(null);
    finish(calls.signInWithKey(typed));
  };

  return (
    <form onSubmit={submit} className="stack" noValidate>
      <label htmlFor={keyId}>API key</label>
      <input
        ref={key}
        id={keyId}
        type="password"
        autoComplete="current-password"
        spellCheck={false}
        aria-describedby={refusalId}
        aria-invalid={refusal !== null}
      />
      <p id={refusalId} role="alert" className="refusal">
        {refusal}
      </p>
      <div>
        <button type="submit" className="primary" disabled={busy}>
          {busy ? "Signing in …" : "Sign in"}
        </button>
      </div>
    </form>
  );
}
