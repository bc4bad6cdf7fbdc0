/** Keys: / search, ? help, j and k through a list, r look again, u upload; all of them can be switched off. */

import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState, useSyncExternalStore } from "react";
import { useLocation, useNavigate } from "react-router";

import { Dialog } from "./Dialog";
import { read, subscribe, write } from "./theme";

const KEY = "dragonfly.keys";
export const keysAreOn = () => read(KEY) !== "off";
const setKeys = (on: boolean) => write(KEY, on ? "on" : "off");

const KEYS: [key: string, does: string][] = [
  ["/", "go to the search field"],
  ["?", "show or close this help"],
  ["j", "next item of the list"],
  ["k", "previous item of the list"],
  ["r", "look again: ask the server for what is shown"],
  ["u", "choose files to upload"],
];

/** Where a key is text. */
const FIELD = "input:not([type=checkbox]), textarea, select, [contenteditable=true]";

/** Where a click of the page's own may go to open the file chooser; the station's input carries it. */
export const CHOOSER = "chooser";

export function Keys({ open, setOpen }: { open: boolean; setOpen: (open: boolean) => void }) {
  const on = useSyncExternalStore(subscribe, keysAreOn);
  const queries = useQueryClient();
  const navigate = useNavigate();
  const { pathname } = useLocation();
  const [chooseOnArrival, setChooseOnArrival] = useState(false);

  useEffect(() => {
    if (!chooseOnArrival || pathname !== "/") return;
    setChooseOnArrival(false);
    document.getElementById(CHOOSER)?.click();
  }, [chooseOnArrival, pathname]);

  useEffect(() => {
    if (!on) return undefined;
    const listen = (event: KeyboardEvent) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (event.target instanceof Element && event.target.closest(FIELD)) return;
      const inDialog = document.querySelector("[role=dialog]") !== null;
      if (inDialog && event.key !== "?") return;
      switch (event.key) {
        case "/": {
          const field = document.querySelector<HTMLInputElement>("[data-search]");
          if (field === null) void navigate("/batches", { state: { search: true } });
          else field.focus();
          break;
        }
        case "?":
          if (inDialog && !open) return;
          setOpen(!open);
          break;
        case "j":
          move(1);
          break;
        case "k":
          move(-1);
          break;
        case "r":
          void queries.invalidateQueries();
          break;
        case "u":
          if (pathname === "/") document.getElementById(CHOOSER)?.click();
          else {
            setChooseOnArrival(true);
            void navigate("/");
          }
          break;
        default:
          return;
      }
      event.preventDefault();
    };
    document.addEventListener("keydown", listen);
    return () => document.removeEventListener("keydown", listen);
  }, [on, open, setOpen, queries, navigate, pathname]);

  return (
    <Dialog open={open} title="Keys" onClose={() => setOpen(false)}>
      <dl className="keys">
        {KEYS.map(([key, does]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{does}</dd>
          </div>
        ))}
      </dl>
      <label className="check">
        <input type="checkbox" checked={on} onChange={(event) => setKeys(event.target.checked)} /> Use these keys
      </label>
    </Dialog>
  );
}

/** From one [data-step] of the page to the next. */
function move(by: 1 | -1): void {
  const all = [...document.querySelectorAll<HTMLElement>("[data-step]")];
  const here = all.findIndex((each) => each === document.activeElement || each.contains(document.activeElement));
  const next = all[here < 0 ? (by > 0 ? 0 : all.length - 1) : here + by];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}
