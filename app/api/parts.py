"""What the views work with, handed to them by the composition root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast
from uuid import UUID

from flask import Flask, current_app
from sqlalchemy import Engine

from app.api.capacity import Slots
from app.api.problems import ProblemError
from app.api.session_cookie import SessionCookies
from app.settings import Settings
from app.store import batches
from app.store.blobs import Blobs

_NAME = "dragonfly"

Enqueue = Callable[[UUID, str], None]
"""Hands a batch id and its priority on; never blocks, and may drop it."""


class TellOfUpload(Protocol):
    """Is told of every upload that was taken; must not wait, and must not raise."""

    def __call__(self, batch: batches.Batch, began: float, *, is_duplicate: bool) -> None:
        """``began`` is when the request came, as Unix time."""


@dataclass(frozen=True, slots=True)
class Parts:
    """One application's parts."""

    settings: Settings
    engine: Engine
    blobs: Blobs
    enqueue: Enqueue
    upload_slots: Slots
    tell_of_upload: TellOfUpload
    sessions: SessionCookies


def install(app: Flask, parts: Parts) -> None:
    """Give the application its parts."""
    app.extensions[_NAME] = parts


def parts() -> Parts:
    """The parts of the application that answers this request."""
    return cast(Parts, current_app.extensions[_NAME])


def find_batch(batch_id: UUID) -> batches.Batch:
    """The batch, or a ProblemError that says there is none."""
    with parts().engine.connect() as connection:
        batch = batches.get(connection, batch_id)
    if batch is None:
        raise no_batch()
    return batch


def no_batch() -> ProblemError:
    """There is no batch with this id."""
    return ProblemError("NOT_FOUND", "There is no batch with this id.")
