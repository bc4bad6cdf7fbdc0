/** A moment: local time to read, UTC on hover and for machines. */

import { local, utc } from "./words";

export function Moment({ iso }: { iso: string | null }) {
  if (iso === null) return <span className="muted">–</span>;
  return (
    <time dateTime={iso} title={utc(iso)}>
      {local(iso)}
    </time>
  );
}
