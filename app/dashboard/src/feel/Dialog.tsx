/**
 * A dialog: focus kept inside and given back, Escape closes it. The backdrop is ours, for Radix's own needs a style element;
 * so is the giving back, for Radix's own goes to its trigger, and these dialogs have none.
 */

import * as Radix from "@radix-ui/react-dialog";
import { useRef, type ReactNode } from "react";

import { wayBack } from "./focus";

interface Props {
  open: boolean;
  title: string;
  onClose: (() => void) | null;
  description?: string;
  children: ReactNode;
}

export function Dialog({ open, title, onClose, description, children }: Props) {
  const giveBack = useRef<() => void>(undefined);
  return (
    <Radix.Root open={open} onOpenChange={(next) => !next && onClose?.()}>
      <Radix.Portal>
        <div className="backdrop" />
        <Radix.Content
          className="dialog"
          onOpenAutoFocus={() => {
            giveBack.current = wayBack(document.activeElement ?? document.body);
          }}
          onCloseAutoFocus={(event) => {
            event.preventDefault();
            giveBack.current?.();
          }}
          {...(description === undefined ? { "aria-describedby": undefined } : {})}
        >
          <Radix.Title>{title}</Radix.Title>
          {description !== undefined && <Radix.Description>{description}</Radix.Description>}
          {children}
          {onClose !== null && (
            <Radix.Close className="close" aria-label="Close">
              <span aria-hidden="true">✕</span>
            </Radix.Close>
          )}
        </Radix.Content>
      </Radix.Portal>
    </Radix.Root>
  );
}
