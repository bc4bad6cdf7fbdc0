/** The hash of a file, worked out beside the page. */

import type { Answer } from "./hash.worker";

/** Starts; the function returned stops it. `done` gets null for a file that cannot be read. */
export function hashOf(file: File, onRead: (bytes: number) => void, done: (hash: string | null) => void): () => void {
  const worker = new Worker(new URL("./hash.worker.ts", import.meta.url), { type: "module" });
  const finish = (hash: string | null) => {
    worker.terminate();
    done(hash);
  };
  worker.onmessage = ({ data }: MessageEvent<Answer>) => {
    if ("read" in data) onRead(data.read);
    else finish("hash" in data ? data.hash : null);
  };
  worker.onerror = () => finish(null);
  worker.postMessage(file);
  return () => worker.terminate();
}
