/** SHA-256 of a file, read as a stream: memory stays flat, and the page does not wait. */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

export type Answer = { read: number } | { hash: string } | { failed: true };

const STEP = 8 * 1024 * 1024;
const answer = (message: Answer) => self.postMessage(message);

self.onmessage = async ({ data: file }: MessageEvent<File>) => {
  try {
    const digest = sha256.create();
    const reader = file.stream().getReader();
    let [read, told] = [0, 0];
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      digest.update(value);
      read += value.length;
      if (read - told >= STEP) {
        told = read;
        answer({ read });
      }
    }
    answer({ hash: bytesToHex(digest.digest()) });
  } catch {
    answer({ failed: true });
  }
};
