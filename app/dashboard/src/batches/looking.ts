/** How a page looks at one batch: every two seconds until its verdict. */

import { useQuery } from "@tanstack/react-query";

import * as calls from "../api/calls";
import { isFinished } from "../station/verdict";

const POLL_MS = 2000;

export const useBatch = (id: string) =>
  useQuery({
    queryKey: ["batch", id],
    queryFn: ({ signal }) => calls.batch(id, signal),
    refetchInterval: ({ state }) => (state.data && isFinished(state.data) ? false : POLL_MS),
  });
