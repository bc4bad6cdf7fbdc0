"""Free disk space, as a worker tells it and as the sentinel measures it where no worker does."""

from __future__ import annotations

import os
from pathlib import Path

from app.settings import Settings


def free_percent(settings: Settings) -> float | None:
    """What an unprivileged program may still use of the fullest disk that is written to here: the home's, the blobs'.

    None where neither can be asked. An object store has no disk.
    """
    folders = [settings.home]
    if "://" not in settings.storage:
        folders.append(Path(settings.storage))
    found = [free for free in map(_free_percent, folders) if free is not None]
    return min(found, default=None)


def _free_percent(folder: Path) -> float | None:
    for place in (folder, *folder.parents):
        try:
            disk = os.statvfs(place)
        except FileNotFoundError:
            # The folder is made with the first file; its disk is that of the nearest one that is there.
            continue
        except OSError:
            return None
        usable = disk.f_blocks - disk.f_bfree + disk.f_bavail
        return 100 * disk.f_bavail / usable if usable else None
    return None
