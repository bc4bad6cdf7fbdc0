/** What a finished batch says, word for word, and which of the three endings it is. */

import type { Batch } from "../api/client";
import { count, plural } from "../feel/words.ts";

export type Ending = "success" | "partial" | "error";
type State = Batch["status"];

const FINISHED: ReadonlySet<State> = new Set<State>(["completed", "failed", "cancelled", "reverted"]);

export const isFinished = (batch: Batch) => FINISHED.has(batch.status);

export function ending(batch: Batch): Ending {
  if (batch.status !== "completed") return "error";
  return batch.row_count_invalid > 0 ? "partial" : "success";
}

/** The verdict in one line. */
export function verdict(batch: Batch): string {
  switch (batch.status) {
    case "completed":
      return batch.row_count_invalid === 0
        ? `Batch Complete. ${plural(batch.row_count_inserted, "Row")} Ingested.`
        : `Batch Complete with Warnings. ${count(batch.row_count_inserted)} Ingested, ${plural(batch.row_count_invalid, "Error")}.`;
    case "failed":
      return batch.rejection_code === "ERROR_BUDGET_EXCEEDED"
        ? `Batch Rejected. Error Rate ${rate(batch)} > ${batch.error_threshold_percent}% Budget.`
        : `Batch Rejected. ${batch.rejection_reason ?? ""}`.trim();
    case "cancelled":
      return "Batch Cancelled. Nothing was loaded.";
    case "reverted":
      return "Batch Reverted. Its rows were taken out again.";
    default:
      return "";
  }
}

/**
 * The error rate with as many decimals, at least one, as it takes to see that it is above the budget. A half goes to the even
 * digit, and nothing is rounded before: the reason that the server gives says the same.
 */
function rate(batch: Batch): string {
  const [invalid, total, budget] = [BigInt(batch.row_count_invalid), BigInt(batch.row_count_total), BigInt(batch.error_threshold_percent)];
  for (let decimals = 1; decimals < 12; decimals += 1) {
    const unit = 10n ** BigInt(decimals);
    const exact = invalid * 100n * unit;
    const [below, twiceTheRest] = [exact / total, (exact % total) * 2n];
    const rounded = twiceTheRest > total || (twiceTheRest === total && below % 2n === 1n) ? below + 1n : below;
    if (rounded > budget * unit) return `${rounded / unit}.${String(rounded % unit).padStart(decimals, "0")}%`;
  }
  return `${batch.error_rate_percent}%`;
}
