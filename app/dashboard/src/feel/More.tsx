/** The button under a list that has more pages. */

import type { ReactNode } from "react";

interface Props {
  query: { hasNextPage: boolean; isFetching: boolean; fetchNextPage: () => unknown };
  children: ReactNode;
}

/** While the next page comes it is not disabled but says so: disabled, it would lose the focus. */
export function More({ query: { hasNextPage, isFetching, fetchNextPage }, children }: Props) {
  return hasNextPage ? (
    <p>
      <button type="button" aria-disabled={isFetching} onClick={() => !isFetching && void fetchNextPage()}>
        {children}
      </button>
    </p>
  ) : null;
}
