/** The focus is never lost: where what held it is taken off the page, what it stood in takes it, else the page itself. */

/** A way back to an element: to itself while it is there, else to the nearest around it that is, else to the page. */
export function wayBack(element: Element): () => void {
  const places: HTMLElement[] = [];
  for (let each: Element | null = element; each !== null; each = each.parentElement) {
    if (each instanceof HTMLElement && each !== document.body && (each === element || each.hasAttribute("tabindex"))) places.push(each);
  }
  return () => {
    const place = places.find((each) => each.isConnected) ?? document.getElementById("main");
    place?.focus({ preventScroll: place !== element });
  };
}

/** Watch over the focus from now on. */
export function keepFocus(page: Element): void {
  let held: Element | null = null;
  let back = () => {};
  const isNowhere = () => document.activeElement === document.body;
  document.addEventListener("focusin", ({ target }) => {
    if (!(target instanceof Element)) return;
    held = target;
    back = wayBack(target);
  });
  document.addEventListener("focusout", () => {
    // What is still there has been left on purpose, as by a click beside it.
    queueMicrotask(() => {
      if (held?.isConnected && isNowhere()) held = null;
    });
  });
  new MutationObserver(() => {
    if (held === null || held.isConnected || !isNowhere()) return;
    held = null;
    back();
  }).observe(page, { childList: true, subtree: true });
}
