/** One upload. XMLHttpRequest, for fetch does not tell how much has been sent. */

import { UPLOAD } from "../api/calls";
import { isOutOfDate, Refusal, refusalOf, sessionHasEnded, token, UNREACHED, type Receipt } from "../api/client";

interface Upload {
  file: File;
  source: string;
  threshold: number;
  force: boolean;
  onSent: (sent: number, total: number) => void;
  onReceipt: (receipt: Receipt) => void;
  onRefusal: (refusal: Refusal) => void;
}

/** Starts; the function returned cancels it, and nothing more is told. */
export function upload({ file, source, threshold, force, onSent, onReceipt, onRefusal }: Upload): () => void {
  const form = new FormData();
  form.set("source", source);
  form.set("error_threshold_percent", String(threshold));
  form.set("force", String(force));
  form.set("file", file, file.name);
  let request = new XMLHttpRequest();
  let isCancelled = false;
  const send = () => {
    request = new XMLHttpRequest();
    request.open("POST", UPLOAD);
    request.setRequestHeader("Accept", "application/json");
    const csrf = token();
    if (csrf !== null) request.setRequestHeader("X-CSRF-Token", csrf);
    request.upload.onprogress = ({ loaded, total }) => onSent(loaded, total);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) {
        let receipt: Receipt;
        try {
          receipt = JSON.parse(request.responseText) as Receipt;
        } catch {
          onRefusal(new Refusal(`HTTP_${request.status}`, request.status, "The answer was not the server's own: a proxy may stand in between."));
          return;
        }
        onReceipt(receipt);
        return;
      }
      if (request.status === 401) sessionHasEnded();
      const refusal = refusalOf(request.status, request.responseText, request.getResponseHeader("Retry-After"));
      isOutOfDate(refusal).then(
        (sendAgain) => {
          if (isCancelled) return;
          if (sendAgain) send();
          else onRefusal(refusal);
        },
        (error: unknown) => {
          if (!isCancelled) onRefusal(error instanceof Refusal ? error : refusal);
        },
      );
    };
    request.onerror = () => onRefusal(new Refusal(UNREACHED, 0));
    request.send(form);
  };
  send();
  return () => {
    isCancelled = true;
    request.abort();
  };
}
