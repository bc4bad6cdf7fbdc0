/** Why a file could not be sent, and what to do next: one sentence each, and whether sending it again makes sense. */

import { Refusal, UNREACHED } from "../api/client.ts";
import { bytes, plural } from "../feel/words.ts";

export interface Refused {
  /** A word for tests and styles. */
  kind: string;
  what: string;
  next: string;
  /** What the button says that tries again. */
  again: string;
  /** Not before this many seconds have passed. */
  waitSeconds: number | null;
}

const refused = (kind: string, what: string, next: string, again = "Try again", waitSeconds: number | null = null) => ({
  kind,
  what,
  next,
  again,
  waitSeconds,
});

const exactly = (size: number) => plural(size, "byte");

const TEXT_NAMES = /\.(csv|tsv|txt)$/i;

/** What is wrong with a file before it is sent; null where nothing is. */
export function refusedByItself(file: { name: string; size: number }, mostBytes: number | null): Refused | null {
  if (file.size === 0) {
    return refused(
      "empty",
      "The file is empty: it has 0 bytes.",
      "Check the export, then choose the file again.",
      "Look at it again",
    );
  }
  if (mostBytes !== null && file.size > mostBytes) return tooLarge(file.size, mostBytes);
  if (!TEXT_NAMES.test(file.name)) {
    return refused(
      "type",
      `This is not named like a CSV file (.csv, .tsv or .txt).`,
      "Export it as CSV (UTF-8) and choose that file. If it is CSV under another name, send it as it is.",
      "Send it as it is",
    );
  }
  return null;
}

function tooLarge(size: number, most: number | null): Refused {
  const say = most !== null && bytes(size) === bytes(most) ? exactly : bytes;
  const limit = most === null ? "the server takes" : `the ${say(most)} that the server takes`;
  return refused(
    "too-large",
    `The file is too large: ${say(size)} is more than ${limit}.`,
    "Split the file and send its parts.",
  );
}

export const unreadable = (): Refused =>
  refused(
    "unreadable",
    "The file cannot be read any more: it was changed, moved or deleted on this computer.",
    "Put it back, or choose it again.",
  );

/** What the server's refusal of an upload means to the person who sent it. */
export function refusedByServer(refusal: Refusal, file: { size: number }, online: boolean): Refused {
  const wait = refusal.retryAfterSeconds;
  switch (refusal.code) {
    case UNREACHED:
      return online
        ? refused(
            "server-gone",
            "The server stopped answering: it may be restarting.",
            "The file was not taken. It is still here: try again in a moment.",
          )
        : refused(
            "network-gone",
            "The network is gone.",
            "The file was not taken. It is still here: try again once you are connected.",
          );
    case "UNAUTHENTICATED":
    case "CSRF_FAILED":
      return refused(
        "session",
        "Your session has ended.",
        "Sign in again; the file is still here and can be sent then.",
      );
    case "TOO_MANY_ATTEMPTS":
      return refused(
        "429",
        "The server takes no more calls from this address for now.",
        "Too many sign-ins have failed. Wait, then try again; the file is still here.",
        "Try again",
        wait ?? 60,
      );
    case "UPLOAD_TOO_LARGE":
      return tooLarge(file.size, null);
    case "BUSY":
      return refused(
        "503",
        "The server is busy: it is taking as many files as it can.",
        "The file was not taken. It is still here: try again shortly.",
        "Try again",
        wait ?? 5,
      );
    case "DATABASE_UNAVAILABLE":
    case "STORAGE_UNAVAILABLE":
      return refused(
        "503",
        refusal.code === "DATABASE_UNAVAILABLE"
          ? "The server cannot reach its database just now."
          : "The server cannot reach its file store just now.",
        "Nothing was stored. The file is still here: try again shortly, and tell an engineer if it stays so.",
        "Try again",
        wait ?? 5,
      );
    case "STORAGE_FULL":
      return refused(
        "507",
        "The server's disk is full.",
        "Nothing was stored. Tell an engineer, then try again; the file is still here.",
      );
    case "BODY_TOO_SLOW":
      return refused(
        "408",
        "The file came too slowly and was not taken.",
        "It is still here: try again on a better connection.",
      );
    default:
      if (refusal.status === 502 || refusal.status === 503 || refusal.status === 504) {
        return refused(
          "server-gone",
          "The server does not answer: it may be restarting.",
          "The file was not taken. It is still here: try again in a moment.",
          "Try again",
          wait,
        );
      }
      if (refusal.status === 429) {
        return refused("429", "Too many calls in a short time.", "Wait, then try again; the file is still here.", "Try again", wait ?? 30);
      }
      return refused(
        `http-${refusal.status}`,
        refusal.title || `The server refused the file (${refusal.code}).`,
        `${refusal.detail} The file is still here: try again, and tell an engineer the time if it stays so.`.trim(),
        "Try again",
        wait,
      );
  }
}
