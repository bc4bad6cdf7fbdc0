/** A state as word, glyph and colour, never as colour alone. */

import type { Batch } from "../api/client";

type State = Batch["status"];
export type Tone = "quiet" | "busy" | "good" | "warn" | "bad";

const STATES: Record<State, [glyph: string, tone: Tone]> = {
  uploaded: ["○", "quiet"],
  staging: ["◔", "busy"],
  validating: ["◑", "busy"],
  awaiting_approval: ["◇", "warn"],
  inserting: ["◕", "busy"],
  completed: ["✓", "good"],
  failed: ["✗", "bad"],
  cancelled: ["⊘", "quiet"],
  reverted: ["↺", "quiet"],
};

export function Mark({ glyph, tone, children }: { glyph: string; tone: Tone; children: string }) {
  return (
    <span className={`mark ${tone}`}>
      <span aria-hidden="true" className="glyph">
        {glyph}
      </span>{" "}
      {children}
    </span>
  );
}

export function StateMark({ batch }: { batch: Pick<Batch, "status" | "row_count_invalid"> }) {
  if (batch.status === "completed" && batch.row_count_invalid > 0) {
    return (
      <Mark glyph="▲" tone="warn">
        completed, with errors
      </Mark>
    );
  }
  return <StateWord state={batch.status} />;
}

export function StateWord({ state }: { state: State }) {
  const [glyph, tone] = STATES[state];
  return (
    <Mark glyph={glyph} tone={tone}>
      {state.replaceAll("_", " ")}
    </Mark>
  );
}
