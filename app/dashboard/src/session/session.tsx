/** Who is signed in: asked for once, told when a session ends, and kept apart from the pages so that these stay as they are. */

import { createContext, use, useCallback, useEffect, useMemo, useState, type ReactNode } from "react";

import * as calls from "../api/calls";
import { onSessionEnd, onSessionRenewal, Refusal, sentence, useToken as keepToken, type Session } from "../api/client";

type Standing =
  | { standing: "asking" }
  /** Nobody has signed in on this page yet. */
  | { standing: "out" }
  /** `byForm`: the sign-in form was there a moment ago, and the focus with it. */
  | { standing: "in"; session: Session; byForm: boolean }
  /** The session has ended under a page that is in use. */
  | { standing: "ended" }
  /** Who is signed in could not be found out. */
  | { standing: "unreached"; why: string };

interface Sessions {
  now: Standing;
  begin: (session: Session, byForm: boolean) => void;
  end: () => Promise<void>;
  /** Look who is signed in; whether somebody is. */
  ask: () => Promise<boolean>;
}

const Context = createContext<Sessions | null>(null);

export function SessionProvider({ children }: { children: ReactNode }) {
  const [now, setNow] = useState<Standing>({ standing: "asking" });

  const begin = useCallback((session: Session, byForm: boolean) => {
    keepToken(session.csrf_token);
    setNow({ standing: "in", session, byForm });
  }, []);

  const ask = useCallback(async () => {
    try {
      begin(await calls.session(), false);
      return true;
    } catch (error) {
      const isOut = error instanceof Refusal && error.status === 401;
      setNow((before) => (before.standing === "in" || before.standing === "ended" ? before : isOut ? { standing: "out" } : { standing: "unreached", why: sentence(error) }));
      return false;
    }
  }, [begin]);

  const end = useCallback(async () => {
    await calls.signOut();
    keepToken(null);
    setNow({ standing: "out" });
  }, []);

  useEffect(() => void ask(), [ask]);
  useEffect(
    () => onSessionEnd(() => setNow((before) => (before.standing === "in" ? { standing: "ended" } : before))),
    [],
  );

  useEffect(() => onSessionRenewal((session) => setNow((before) => (before.standing === "in" ? { ...before, session } : before))), []);

  const value = useMemo(() => ({ now, begin, end, ask }), [now, begin, end, ask]);
  return <Context value={value}>{children}</Context>;
}

export function useSession(): Sessions {
  const found = use(Context);
  if (found === null) throw new Error("useSession stands outside SessionProvider");
  return found;
}
