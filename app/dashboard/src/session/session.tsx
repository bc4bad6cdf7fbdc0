/** Who is signed in: asked for once, told when a session ends, and kept apart from the pages so that these stay as they are. */

import { createContext, use, useCallback, useEffect, useMemo, useState, type ReactNode } from "react";

import * as calls from "../api/calls";
import { onSessionEnd, Refusal, useToken as keepToken, type Session } from "../api/client";

type Standing =
  | { standing: "asking" }
  /** Nobody has signed in on this page yet. */
  | { standing: "out" }
  | { standing: "in"; session: Session }
  /** The session has ended under a page that is in use. */
  | { standing: "ended" }
  | { standing: "unreached" };

interface Sessions {
  now: Standing;
  begin: (session: Session) => void;
  end: () => Promise<void>;
  ask: () => void;
}

const Context = createContext<Sessions | null>(null);

export function SessionProvider({ children }: { children: ReactNode }) {
  const [now, setNow] = useState<Standing>({ standing: "asking" });

  const begin = useCallback((session: Session) => {
    keepToken(session.csrf_token);
    setNow({ standing: "in", session });
  }, []);

  const ask = useCallback(() => {
    calls.session().then(begin, (error: unknown) => {
      const isOut = error instanceof Refusal && error.status === 401;
      setNow((before) => (before.standing === "in" || before.standing === "ended" ? before : { standing: isOut ? "out" : "unreached" }));
    });
  }, [begin]);

  const end = useCallback(async () => {
    await calls.signOut();
    keepToken(null);
    setNow({ standing: "out" });
  }, []);

  useEffect(ask, [ask]);
  useEffect(
    () => onSessionEnd(() => setNow((before) => (before.standing === "in" ? { standing: "ended" } : before))),
    [],
  );

  const value = useMemo(() => ({ now, begin, end, ask }), [now, begin, end, ask]);
  return <Context value={value}>{children}</Context>;
}

export function useSession(): Sessions {
  const found = use(Context);
  if (found === null) throw new Error("useSession stands outside SessionProvider");
  return found;
}
