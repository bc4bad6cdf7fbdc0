/** The cells of a refused row: which there are, and which are at fault. */

import type { Batch, RowError } from "../api/client";

/** Under this name, and alone, a record is kept that could not be split into the header's columns. */
const RAW = "_raw";

export interface Cell {
  column: string;
  text: string;
  isBad: boolean;
}

export const textOf = (error: RowError, column: string): string => {
  const cell = has(error, column) ? (error.raw_data as Record<string, unknown>)[column] : null;
  return cell === undefined || cell === null ? "" : String(cell);
};

/** A vendor may call a column as JavaScript calls what every object has. */
const has = (error: RowError, column: string): boolean => error.raw_data !== null && Object.hasOwn(error.raw_data, column);

export const isBad = (error: RowError, column: string): boolean => error.faulty_columns.includes(column);

/** The record as it came, where it could not be split; else null. A vendor's own column of that name is never alone. */
export const rawOf = (error: RowError): string | null =>
  error.error_stage === "parse" && has(error, RAW) && Object.keys(error.raw_data ?? {}).length === 1 ? textOf(error, RAW) : null;

/** Each cell, the vendor's columns in their order first. */
export function cellsOf(error: RowError, columns: readonly string[]): Cell[] {
  const raw = error.raw_data ?? {};
  const others = Object.keys(raw).filter((column) => !columns.includes(column));
  return [...columns.filter((column) => has(error, column)), ...others].map((column) => ({
    column,
    text: textOf(error, column),
    isBad: isBad(error, column),
  }));
}

/** The vendor's own columns as the raw data names them, in their order. */
export const columnsOf = (batch: Batch): string[] => namesIn(batch, "columns") ?? headersOf(batch);

/** The vendor's headers as they stand in the file. */
export const headersOf = (batch: Batch): string[] => namesIn(batch, "headers") ?? [];

function namesIn(batch: Batch, part: "columns" | "headers"): string[] | null {
  const found = batch.reading[part];
  return Array.isArray(found) ? [...new Set(found.map(String))] : null;
}

/** How many rows there are of each code. */
export function countsOf(batch: Batch): [code: string, rows: number][] {
  const found = batch.reading["error_counts"];
  return found !== null && typeof found === "object" ? Object.entries(found as Record<string, number>) : [];
}

/** What is wrong, without the row and its number, which stand beside it. */
export const faultOf = (error: RowError): string => error.error_message.replace(/^Row [\d,]+(?:, |: )/, "");

/** Characters that cannot be seen, shown as their code. */
export const visible = (text: string): string =>
  text.replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (found) => `⟨${found.codePointAt(0)?.toString(16).toUpperCase().padStart(4, "0")}⟩`);
