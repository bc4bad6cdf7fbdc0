/** SHA-256 of files, each read as a stream: memory stays flat, and the page does not wait. */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

export type Question = { job: number; file: File } | { job: number; stop: true };
export type Answer = { job: number } & ({ read: number } | { hash: string } | { failed: true });

const STEP = 8 * 1024 * 1024;
const stopped = new Set<number>();
const answer = (message: Answer) => self.postMessage(message);

self.onmessage = ({ data }: MessageEvent<Question>) => {
  if ("stop" in data) stopped.add(data.job);
  else void hash(data.job, data.file);
};

async function hash(job: number, file: File): Promise<void> {
  try {
    const digest = sha256.create();
    const reader = file.stream().getReader();
    let [read, told] = [0, 0];
    for (;;) {
      const { done, value } = await reader.read();
      if (stopped.delete(job)) {
        await reader.cancel();
        return;
      }
      if (done) break;
      digest.update(value);
      read += value.length;
      if (read - told >= STEP) {
        told = read;
        answer({ job, read });
      }
    }
    answer({ job, hash: bytesToHex(digest.digest()) });
  } catch {
    answer({ job, failed: true });
  }
}
