// Made from the OpenAPI document by `python -m app.dashboard.generate`; a test holds it to that.

export const STATES = [
  "uploaded",
  "staging",
  "validating",
  "awaiting_approval",
  "inserting",
  "completed",
  "failed",
  "cancelled",
  "reverted",
] as const;

export const SOURCES = [
  "simplicity",
  "jbi",
  "foil",
  "manual",
] as const;

export const ROW_CODES = [
  "PARSE_ERROR",
  "MISSING_CASE_NUMBER",
  "INVALID_CASE_NUMBER",
  "MISSING_DEFENDANT",
  "INVALID_DEFENDANT",
  "MISSING_AMOUNT",
  "INVALID_AMOUNT",
  "INVALID_DATE",
  "FUTURE_DATE",
  "INVALID_TEXT",
  "INSERT_FAILED",
] as const;
