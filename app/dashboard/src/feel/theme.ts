/** Dark, light, or as the system has it; kept in the browser. */

import { useSyncExternalStore } from "react";

export type Theme = "system" | "dark" | "light";

const KEY = "dragonfly.theme";

function kept(): Theme {
  const found = read(KEY);
  return found === "dark" || found === "light" ? found : "system";
}

/** Storage may be forbidden, or full: what it does not take is kept for as long as the page lives. */
const untaken = new Map<string, string>();

export function read(key: string, storage: "localStorage" | "sessionStorage" = "localStorage"): string | null {
  try {
    return untaken.get(key) ?? window[storage].getItem(key);
  } catch {
    return null;
  }
}

export function write(key: string, value: string, storage: "localStorage" | "sessionStorage" = "localStorage"): void {
  try {
    window[storage].setItem(key, value);
    untaken.delete(key);
  } catch {
    untaken.set(key, value);
  }
  for (const tell of listeners) tell();
}

const listeners = new Set<() => void>();

/** Be told when something is written, by this page or by another one of this browser. */
export function subscribe(tell: () => void): () => void {
  listeners.add(tell);
  window.addEventListener("storage", tell);
  return () => {
    listeners.delete(tell);
    window.removeEventListener("storage", tell);
  };
}

/** Show the theme from now on, whichever is chosen. */
export function showTheme(): void {
  const show = () => {
    document.documentElement.dataset["theme"] = kept();
  };
  show();
  subscribe(show);
}

export const setTheme = (theme: Theme) => write(KEY, theme);

export const useTheme = () => useSyncExternalStore(subscribe, kept);
