/** A part of the ops page. */

import { useId, type ReactNode } from "react";

export function Tile({ title, children, note }: { title: string; children: ReactNode; note?: ReactNode }) {
  const id = useId();
  return (
    <section className="tile" aria-labelledby={id}>
      <div className="section-head">
        <h2 id={id}>{title}</h2>
        <span className="spring" />
        <span className="muted">{note}</span>
      </div>
      {children}
    </section>
  );
}
