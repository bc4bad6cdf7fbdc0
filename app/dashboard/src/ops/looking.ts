/** How often the ops page looks, and what more than one of its parts looks at. */

import { useQuery } from "@tanstack/react-query";

import * as calls from "../api/calls";

export const LOOK_MS = 15_000;
/** Figures of hours and days change slowly. */
export const LOOK_AT_FIGURES_MS = LOOK_MS * 4;
export const FLIPS = 20;

export const useSentinel = () =>
  useQuery({ queryKey: ["ops", "sentinel"], queryFn: ({ signal }) => calls.sentinel(FLIPS, signal), refetchInterval: LOOK_MS });
export const useHealth = () => useQuery({ queryKey: ["ops", "health"], queryFn: ({ signal }) => calls.health(signal), refetchInterval: LOOK_MS });
