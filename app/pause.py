"""Pause points: named places on a batch's way at which a fault test holds a process still, to strike it just there.

Nothing is held unless a composition root has named a folder, which the settings refuse in production. In that folder a
test leaves an order, an empty file named after the point, or ``POINT@SUBJECT`` for one batch or upload alone. The first
process to come by adds its process id to the name, by which the test knows whom it holds, and goes on when the file is gone.
"""

from __future__ import annotations

import os
import threading
from enum import StrEnum
from pathlib import Path

_GLANCE_SECONDS = 0.005

_folder: Path | None = None


class Point(StrEnum):
    """Where a process can be held. The subject is the batch's id; of a file that has no batch, its hash."""

    ARRIVED = "arrived"
    """An upload is complete, and not yet kept under its hash."""
    KEPT = "kept"
    """Its blob is durable; there is no batch yet."""
    RECEIVED = "received"
    """Its batch is committed; the answer is not on its way, nor is the hint."""
    CLAIMED = "claimed"
    """An attempt holds the batch and has read nothing."""
    CHECKING = "checking"
    """A block of rows has been checked."""
    COPYING = "copying"
    """Judgments are on their way to the server."""
    COMMITTING = "committing"
    """The last statement has run; nothing is committed."""
    COMMITTED = "committed"
    """The batch is done; its message is not acknowledged."""
    COLLECTING = "collecting"
    """A stored file without a batch is to be removed: its hash is locked, and it is still in its place."""
    RECONCILING = "reconciling"
    """Batches are to be hinted: noted, not committed, and no hint is sent."""


def use(folder: Path | None) -> None:
    """Called by the composition roots: hold processes as the orders in the folder say; None holds nothing."""
    global _folder  # noqa: PLW0603
    _folder = folder


def at(point: Point, subject: object = "") -> None:
    """Held here where an order says so; else, and in every run outside a fault test, this does nothing."""
    if _folder is not None:
        _hold(_folder, point, subject)


def _hold(folder: Path, point: Point, subject: object) -> None:
    for order in (folder / f"{point}@{subject}", folder / point):
        held = order.with_name(f"{order.name}.{os.getpid()}")
        try:
            order.rename(held)
        except FileNotFoundError:
            continue
        # Not time.sleep, which fails under a faked clock.
        waiting = threading.Event()
        while held.exists():
            waiting.wait(_GLANCE_SECONDS)
        return
