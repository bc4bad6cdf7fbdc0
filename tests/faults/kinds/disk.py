"""Disks without room, and writes that are cut short, at an upload and in the spool."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.faults.files import KnownFile
from tests.faults.rounds import Fault
from tests.faults.scene import Scene
from tests.faults.stack import until

_WIDE = 450
"""So that the rows fill more than one block, and go by way of the spool's disk."""
_SHORT = 64 * 1024


class FullAtUpload(Fault):
    """The blob store's disk is full: 507, and nothing is left."""

    name = "disk full at upload"
    outage = True

    def inject(self, scene: Scene) -> None:
        file = scene.file(width=_WIDE)
        before = scene.stack.incoming()
        with scene.stack.blob_disk.full(but=16 * 1024):
            scene.strike()
            answer = scene.post(file)
            scene.fired.append(f"an upload answered {answer.status_code}, {scene.stack.blob_disk.free} bytes free")
        _refused(scene, file, answer.status_code, before)


class ShortWriteAtUpload(Fault):
    """The system takes a part of a write and refuses the rest."""

    name = "short write at upload"
    outage = True

    def inject(self, scene: Scene) -> None:
        file = scene.file(width=_WIDE)
        before = scene.stack.incoming()
        _, children = scene.stack.gunicorn()
        with _no_files_above(_SHORT, children):
            scene.strike()
            answer = scene.post(file)
            scene.fired.append(f"an upload of {len(file.content)} bytes answered {answer.status_code}")
        _refused(scene, file, answer.status_code, before)


class FullInSpool(Fault):
    """The spool's disk is full: the attempt is given back and tried again."""

    name = "disk full in the spool"

    def inject(self, scene: Scene) -> None:
        with scene.stack.spool_disk.full(but=_SHORT):
            self.batch_id = scene.upload(_spooled(scene))
            scene.strike()
            _attempt_ends(scene, self.batch_id)
        scene.heal()

    def outcome(self, scene: Scene) -> None:
        _given_back(scene, self.batch_id)


class ShortWriteInSpool(Fault):
    """Files of a worker's processes may not grow: a write is cut short, the next one refused."""

    name = "short write in the spool"

    def inject(self, scene: Scene) -> None:
        pids = [process.pid for family in scene.stack.worker_families() for process in family]
        with _no_files_above(_SHORT, pids):
            self.batch_id = scene.upload(_spooled(scene))
            scene.strike()
            _attempt_ends(scene, self.batch_id)
        scene.heal()

    def outcome(self, scene: Scene) -> None:
        _given_back(scene, self.batch_id)


def _spooled(scene: Scene) -> KnownFile:
    return scene.file(max(scene.rows, 8_000), width=_WIDE)


def _attempt_ends(scene: Scene, batch_id: str) -> None:
    lines = until(
        lambda: (
            scene.stack.said(batch_id, "attempt ended", "OSError") or scene.batch(batch_id)["status"] == "completed"
        ),
        60,
        "an attempt ended by the disk",
    )
    if lines is not True:
        scene.fired.append("an attempt ended with OSError in the spool")


def _given_back(scene: Scene, batch_id: str) -> None:
    batch = scene.batch(batch_id)
    assert (batch["status"], batch["attempts"]) == ("completed", 1), batch
    assert batch["fence"] > 1, batch
    # Of others that were killed in earlier rounds the reconciler sweeps what is left, once a minute.
    spool = scene.stack.spool_disk.folder
    until(lambda: not list(spool.glob(f"{batch_id}-*")), 10, "no orphan in the spool")


def _refused(scene: Scene, file: KnownFile, status: int, before: set[Path]) -> None:
    """Was answered 507, left nothing beside what killed web servers had left before, and is taken when there is room."""
    stack = scene.stack
    scene.heal()
    assert status == 507
    assert '"STORAGE_FULL"' in scene.bodies[-1].replace(" ", "")
    assert stack.rows("SELECT 1 FROM intake.batches WHERE file_hash = %s", file.file_hash) == []
    until(lambda: not stack.incoming() - before, 10, "no orphan among what comes in")
    assert not list(stack.blob_disk.folder.rglob(file.file_hash))
    assert scene.post(file).status_code == 202


@contextlib.contextmanager
def _no_files_above(size: int, pids: list[int]) -> Iterator[None]:
    """RLIMIT_FSIZE of these processes, until the block is left."""
    before = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            before[pid] = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[pid][1]))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
