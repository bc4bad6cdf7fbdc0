/** The Intake Station: choose a source, drop files, see what becomes of each. */

import { useQuery } from "@tanstack/react-query";
import { useEffect, useId, useRef, useState } from "react";
import { useDropzone } from "react-dropzone";

import * as calls from "../api/calls";
import type { Batch } from "../api/client";
import { SOURCES } from "../api/names";
import { alarm } from "../feel/announce";
import { CHOOSER } from "../feel/keys";
import { bytes } from "../feel/words";
import { FileCard } from "./FileCard";
import { isDone } from "./machine";
import { useStation } from "./provider";

const UNTAKEN = "The files were not taken: the error budget must be a whole number from 0 to 100.";

const budgetOf = (text: string) => (/^\d{1,3}$/.test(text) && Number(text) <= 100 ? Number(text) : null);

export function StationPage() {
  const { items, choose, dispatch, source, setSource } = useStation();
  const { data: server } = useQuery({ queryKey: ["server"], queryFn: calls.server, staleTime: Number.POSITIVE_INFINITY });
  const [threshold, setThreshold] = useState<string | null>(null);
  const [wasTaken, setTaken] = useState(true);
  const [sourceId, budgetId, budgetNote] = [useId(), useId(), useId()];
  const list = useRef<HTMLHeadingElement>(null);

  const shown = threshold ?? String(server?.default_error_threshold_percent ?? 10);
  const budget = budgetOf(shown);
  const { getRootProps, getInputProps, inputRef, isDragActive, open } = useDropzone({
    noClick: true,
    noKeyboard: true,
    multiple: true,
    useFsAccessApi: false,
    onDrop: (accepted, rejected) => {
      // A chooser that still holds a file says nothing when the same one is chosen again.
      if (inputRef.current !== null) inputRef.current.value = "";
      setTaken(budget !== null);
      if (budget === null) alarm(UNTAKEN);
      else choose([...accepted, ...rejected.map(({ file }) => file)], { source, threshold: budget });
    },
  });

  // Where a card goes that held the focus, the list's heading takes it.
  const before = useRef(items.length);
  useEffect(() => {
    if (items.length < before.current && document.activeElement === document.body) list.current?.focus();
    before.current = items.length;
  }, [items.length]);

  const done = items.filter(isDone).length;
  return (
    <main className="page" id="main" tabIndex={-1}>
      <title>Intake Station · Dragonfly</title>
      <h1>Intake Station</h1>
      <section aria-label="Upload" className="intake">
        <div className="fields">
          <div>
            <label htmlFor={sourceId}>Source</label>
            <select id={sourceId} value={source} onChange={(event) => setSource(event.target.value as Batch["source"])}>
              {SOURCES.map((each) => (
                <option key={each}>{each}</option>
              ))}
            </select>
          </div>
          <div>
            <label htmlFor={budgetId}>Error budget, %</label>
            <input
              id={budgetId}
              inputMode="numeric"
              className="short"
              value={shown}
              aria-invalid={budget === null}
              aria-describedby={budgetNote}
              onChange={({ target }) => {
                const typed = target.value.trim();
                setThreshold(typed);
                if (budgetOf(typed) !== null) setTaken(true);
              }}
            />
          </div>
          <p id={budgetNote} className={budget === null ? "refusal" : "muted"}>
            {budget === null
              ? "The error budget must be a whole number from 0 to 100."
              : `A file with more than ${budget}% invalid rows is refused whole; every bad row is listed.`}
          </p>
        </div>
        <div {...getRootProps({ className: `drop${isDragActive ? " over" : ""}`, role: "presentation" })}>
          <input {...getInputProps({ id: CHOOSER, "aria-label": "Files to upload", tabIndex: -1 })} />
          <p className="drop-line">
            {isDragActive ? (
              <strong>Let go to send</strong>
            ) : (
              <>
                <strong>Drop CSV files here</strong>
                <span className="muted"> or </span>
                <button type="button" className="primary" onClick={open} disabled={budget === null}>
                  Choose files
                </button>
              </>
            )}
          </p>
          {!wasTaken && <p className="refusal">{UNTAKEN}</p>}
          <p className="muted">
            Several at once are fine. CSV in UTF-8{server ? `, up to ${bytes(server.max_upload_bytes)} each` : ""}.
          </p>
        </div>
      </section>
      <section aria-labelledby="files">
        <div className="section-head">
          <h2 id="files" ref={list} tabIndex={-1}>
            Files <span className="muted">{items.length}</span>
          </h2>
          {done > 0 && (
            <button type="button" onClick={() => dispatch({ type: "cleared" })}>
              Clear {done} done
            </button>
          )}
        </div>
        {items.length === 0 ? (
          <p className="empty">
            Nothing here yet. Drop a vendor's export above: its rows are checked one by one, and you see here what was
            loaded and what was refused, with the reason.
          </p>
        ) : (
          <ul className="cards">
            {items.map((item) => (
              <FileCard key={item.id} item={item} />
            ))}
          </ul>
        )}
      </section>
    </main>
  );
}
