"""What a worker needs for its attempts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from app.formats.csv import Limits
from app.observer import Observer, Observers
from app.store.blobs import Blobs


@dataclass(frozen=True, slots=True)
class Workshop:
    """A worker's connections, the files, local disk, its limits, the name under which it claims, and who watches it."""

    engine: Engine
    blobs: Blobs
    spool: Path
    limits: Limits
    lease_seconds: int
    owner: str
    observer: Observer = field(default_factory=Observers)
