/** The page's beginning. */

import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { BrowserRouter } from "react-router";

import { App } from "./App";
import { Refusal } from "./api/client";
import { keepFocus } from "./feel/focus";
import { showTheme } from "./feel/theme";
import { SessionProvider } from "./session/session";
import "./style.css";

const MOST_TRIES = 2;

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      // Asked even where the browser thinks it is offline: the server may be on this machine.
      networkMode: "always",
      retry: (failures, error) => failures < MOST_TRIES && !(error instanceof Refusal && error.status >= 400 && error.status < 500),
    },
  },
});

showTheme();
const root = document.getElementById("root");
if (root !== null) {
  keepFocus(root);
  createRoot(root).render(
    <StrictMode>
      <QueryClientProvider client={queries}>
        <BrowserRouter>
          <SessionProvider>
            <App />
          </SessionProvider>
        </BrowserRouter>
      </QueryClientProvider>
    </StrictMode>,
  );
}
