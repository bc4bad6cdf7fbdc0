/** The hash of a file, worked out beside the page by one worker, which is there before the network may be gone. */

import type { Answer, Question } from "./hash.worker";

interface Job {
  onRead: (bytes: number) => void;
  done: (hash: string | null) => void;
  /** The worker's own script could not be loaded. */
  unreached: () => void;
}

const jobs = new Map<number, Job>();
let worker: Worker | null = null;
let last = 0;

/** Have the worker's script loaded. */
export function prepare(): Worker {
  if (worker !== null) return worker;
  const made = new Worker(new URL("./hash.worker.ts", import.meta.url), { type: "module" });
  made.onmessage = ({ data }: MessageEvent<Answer>) => {
    const job = jobs.get(data.job);
    if (job === undefined) return;
    if ("read" in data) {
      job.onRead(data.read);
      return;
    }
    jobs.delete(data.job);
    job.done("hash" in data ? data.hash : null);
  };
  made.onerror = () => {
    worker = null;
    const waiting = [...jobs.values()];
    jobs.clear();
    for (const job of waiting) job.unreached();
  };
  worker = made;
  return made;
}

/** Starts; the function returned stops it. `done` gets null for a file that cannot be read. */
export function hashOf(file: File, job: Job): () => void {
  last += 1;
  const own = last;
  jobs.set(own, job);
  const ask = (question: Question) => prepare().postMessage(question);
  ask({ job: own, file });
  return () => {
    if (jobs.delete(own)) ask({ job: own, stop: true });
  };
}
