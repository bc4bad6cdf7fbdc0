/** The frame around every page: where to go, who is signed in, how it looks. */

import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState, type ReactNode } from "react";
import { Link, NavLink, Route, Routes, useLocation } from "react-router";

import { sentence } from "./api/client";
import { Announcements, fallSilent } from "./feel/announce";
import { Dialog } from "./feel/Dialog";
import { Keys } from "./feel/keys";
import { Boundary, part } from "./feel/Part";
import { setTheme, useTheme, type Theme } from "./feel/theme";
import { BatchPage } from "./batches/BatchPage";
import { BatchesPage } from "./batches/BatchesPage";
import { JudgmentsPage } from "./judgments/JudgmentsPage";
import { LookAgain, SignInForm, SignInPage, TOKEN } from "./session/SignIn";
import { useSession } from "./session/session";
import { forgetFiles, StationProvider } from "./station/provider";
import { StationPage } from "./station/StationPage";

const Page = ({ children }: { children: ReactNode }) => (
  <main className="page" id="main" tabIndex={-1}>
    {children}
  </main>
);
const OpsPage = part(() => import("./ops/OpsPage"), "Loading …", Page);

export function App() {
  const { now, ask } = useSession();
  const { pathname, hash } = useLocation();
  // A link is redeemed whoever is signed in: its token may not stay behind, in the address and valid.
  if (now.standing === "in" && pathname === "/sign-in" && TOKEN.test(hash)) return <SignInPage />;
  switch (now.standing) {
    case "asking":
      return (
        <main className="page" id="main">
          <p role="status" className="muted">
            Loading …
          </p>
        </main>
      );
    case "unreached":
      return (
        <main className="page narrow" id="main">
          <h1>Dragonfly</h1>
          <p role="alert" className="refusal">
            {now.why}
          </p>
          <button type="button" className="primary" onClick={() => void ask()}>
            Try again
          </button>
        </main>
      );
    case "out":
      return <SignInPage />;
    default:
      return <SignedIn ended={now.standing === "ended"} />;
  }
}

function SignedIn({ ended }: { ended: boolean }) {
  const queries = useQueryClient();
  const hadEnded = useRef(ended);
  useEffect(() => {
    if (hadEnded.current && !ended) void queries.invalidateQueries();
    hadEnded.current = ended;
  }, [ended, queries]);
  return (
    <StationProvider>
      <Frame />
      <Dialog
        open={ended}
        title="Your session has ended"
        description="Sign in again. What is on this page stays, files that were not sent yet too."
        onClose={null}
      >
        <SignInForm />
        <LookAgain />
      </Dialog>
    </StationProvider>
  );
}

function Frame() {
  const { now, end } = useSession();
  const { pathname, hash } = useLocation();
  const queries = useQueryClient();
  const [help, setHelp] = useState(false);
  const [refusal, setRefusal] = useState("");
  usePageFocus(pathname, hash);
  useLookAgain();
  const byForm = useRef(now.standing === "in" && now.byForm);
  useEffect(() => {
    if (byForm.current) document.getElementById("main")?.focus();
  }, []);
  const signOut = () => {
    setRefusal("");
    end().then(
      () => {
        forgetFiles();
        fallSilent();
        queries.clear();
      },
      (error: unknown) => setRefusal(`You are still signed in. ${sentence(error)}`),
    );
  };
  return (
    <>
      <a className="skip" href="#main">
        Skip to the page
      </a>
      <header className="bar">
        <Link to="/" className="brand">
          <svg aria-hidden="true" viewBox="0 0 16 16" fill="none" stroke="currentColor" strokeWidth="1.3" strokeLinecap="round" strokeLinejoin="round">
            <path d="M8 2.5v11M8 5.5 2 3.5v2.5L8 7.5l6-1.5V3.5L8 5.5M8 8.5 3 8v2L8 9.7l5 .3V8L8 8.5" />
          </svg>{" "}
          dragonfly
        </Link>
        <nav aria-label="Pages">
          <NavLink to="/" end>
            Station
          </NavLink>
          <NavLink to="/batches">Batches</NavLink>
          <NavLink to="/judgments">Judgments</NavLink>
          <NavLink to="/ops">Ops</NavLink>
        </nav>
        <span className="spring" />
        <ThemeChoice />
        <button type="button" onClick={() => setHelp(true)}>
          <kbd>?</kbd> Keys
        </button>
        {now.standing === "in" && (
          <button type="button" onClick={signOut} title={`Signed in as ${now.session.name}`}>
            Sign out
          </button>
        )}
        <p role="alert" className="refusal">
          {refusal}
        </p>
      </header>
      <Boundary Around={Page} of={pathname}>
        <Routes>
          <Route path="/" element={<StationPage />} />
          <Route path="/sign-in" element={<StationPage />} />
          <Route path="/batches" element={<BatchesPage />} />
          <Route path="/batches/:id" element={<BatchPage />} />
          <Route path="/judgments" element={<JudgmentsPage />} />
          <Route path="/ops" element={<OpsPage />} />
          <Route path="*" element={<Unknown />} />
        </Routes>
      </Boundary>
      <Keys open={help} setOpen={setHelp} />
      <Announcements />
    </>
  );
}

function ThemeChoice() {
  const theme = useTheme();
  return (
    <label className="theme">
      <span className="unseen">Theme</span>
      <select value={theme} onChange={(event) => setTheme(event.target.value as Theme)}>
        <option value="system">auto theme</option>
        <option value="dark">dark</option>
        <option value="light">light</option>
      </select>
    </label>
  );
}

/** A link to another page puts the focus there, so that a screen reader begins to read and Tab goes on from it. */
function usePageFocus(pathname: string, hash: string): void {
  const before = useRef(pathname);
  useEffect(() => {
    if (before.current === pathname) return;
    before.current = pathname;
    // To a part of the page it is the page itself that scrolls.
    if (hash === "") window.scrollTo(0, 0);
    if (document.activeElement === null || !document.activeElement.matches("input")) document.getElementById("main")?.focus({ preventScroll: true });
  }, [pathname, hash]);
}

/** A link to what is shown already, or the same search again, asks the server again, as it does where pages are loaded. */
function useLookAgain(): void {
  const queries = useQueryClient();
  const { key, pathname, search, hash } = useLocation();
  const before = useRef({ key, address: "" });
  useEffect(() => {
    const address = pathname + search + hash;
    const isAgain = before.current.address === address && before.current.key !== key;
    before.current = { key, address };
    if (isAgain) void queries.invalidateQueries();
  }, [key, pathname, search, hash, queries]);
}

function Unknown() {
  return (
    <main className="page" id="main" tabIndex={-1}>
      <title>Not found · Dragonfly</title>
      <h1>There is no such page</h1>
      <p>
        Go to the <Link to="/">station</Link> or to the <Link to="/batches">batches</Link>.
      </p>
    </main>
  );
}
