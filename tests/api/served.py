"""The application as gunicorn serves it to the transport tests: small limits, so that they are reached in seconds."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

from app.api import create_app
from app.settings import Settings
from app.store.database import open_engine


def _drop(batch_id: UUID, priority: str) -> None:
    """No broker: a hint may be lost."""


_home = Path(os.environ["SERVED_HOME"])
app = create_app(
    Settings(home=_home, storage_url=str(_home / "blobs"), max_upload_bytes=int(os.environ["SERVED_MAX_BYTES"])),
    _drop,
    engine=open_engine(os.environ["SERVED_DATABASE"], pool_size=4),
    web_threads=4,
    body_window_seconds=float(os.environ["SERVED_WINDOW"]),
)
