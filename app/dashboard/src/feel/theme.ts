/** Dark, light, or as the system has it; kept in the browser. */

import { useSyncExternalStore } from "react";

export type Theme = "system" | "dark" | "light";

const KEY = "dragonfly.theme";
const listeners = new Set<() => void>();

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
}

export function showTheme(): void {
  document.documentElement.dataset["theme"] = kept();
}

export function setTheme(theme: Theme): void {
  write(KEY, theme);
  showTheme();
  for (const tell of listeners) tell();
}

const subscribe = (tell: () => void) => {
  listeners.add(tell);
  return () => listeners.delete(tell);
};

export const useTheme = () => useSyncExternalStore(subscribe, kept);
