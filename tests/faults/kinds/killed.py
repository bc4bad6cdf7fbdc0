"""SIGKILL: of the process that holds a batch, of a whole worker, of the web server; and what the kernel kills."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import httpx
import psutil

from app.pause import Point
from tests.faults.rounds import Fault
from tests.faults.scene import Scene
from tests.faults.stack import NotThereError, is_gone, kill, until

_RUNNING = ("staging", "validating", "inserting")


class KillAt(Fault):
    """kill -9 of the process that holds the batch, held at a point of its way."""

    def __init__(self, point: Point, name: str) -> None:
        self.name = name
        self._point = point

    def prepare(self, scene: Scene) -> None:
        self.batch_id = scene.placed(self._point)

    def inject(self, scene: Scene) -> None:
        pid = scene.stack.held(self._point, self.batch_id)
        scene.strike()
        scene.fired.append(f"held at {self._point}, {kill(pid)}")

    def outcome(self, scene: Scene) -> None:
        batch = scene.batch(self.batch_id)
        attempts = 1 if self._point is Point.COMMITTED else 2
        assert (batch["attempts"], batch["fence"]) == (attempts, attempts), batch


class KillInReconciler(Fault):
    """kill -9 of a worker whose reconciler has found a batch and is about to hint at it."""

    name = "kill -9 in the reconciler"

    def prepare(self, scene: Scene) -> None:
        self.batch_id = scene.placed(Point.CLAIMED)
        child = scene.stack.held(Point.CLAIMED, self.batch_id)
        scene.stack.order(Point.RECONCILING, "")
        kill(child)

    def inject(self, scene: Scene) -> None:
        # Whoever finds the lease run out.
        pid = scene.stack.held(Point.RECONCILING, "")
        scene.strike()
        gone = kill(pid)
        if scene.batch(self.batch_id)["fence"] == 1:
            scene.fired.append(f"held at {Point.RECONCILING}, {gone}")

    def outcome(self, scene: Scene) -> None:
        assert scene.batch(self.batch_id)["attempts"] == 2


class KillBusy(Fault):
    """kill -9 of a busy worker at any moment of its work: of the child that holds the batch, or of all its processes."""

    def __init__(self, name: str, *, whole: bool) -> None:
        self.name = name
        self._whole = whole

    def inject(self, scene: Scene) -> None:
        for attempt in range(12):
            batch_id = scene.upload(scene.file(scene.rows * (4 + attempt), width=300))
            until(lambda: scene.batch(batch_id)["status"] != "uploaded", 30, "claimed")  # noqa: B023
            time.sleep(scene.chance.uniform(0, 0.1))
            with contextlib.suppress(psutil.NoSuchProcess):
                holder = scene.holder(batch_id)
                victim = holder.parent() if holder and self._whole else holder
                before = scene.batch(batch_id)
                if victim is None or before["status"] not in _RUNNING:
                    continue
                scene.strike()
                gone = kill(victim.pid)
                after = scene.batch(batch_id)
                # It may have committed in the very last moment.
                if after["status"] in _RUNNING or after["fence"] > before["fence"]:
                    scene.fired.append(f"{gone} in {before['status']}")
                    return
                scene.struck_at = None


class KillWeb(Fault):
    """kill -9 of the web server's process, held at a point of an upload: the client sends again."""

    outage = True

    def __init__(self, point: Point, name: str) -> None:
        self.name = name
        self._point = point

    def inject(self, scene: Scene) -> None:
        stack, file = scene.stack, scene.file()
        stack.order(self._point, file.file_hash)
        failed: list[str] = []

        def send() -> None:
            try:
                answer = httpx.post(
                    stack.info["web"] + "/api/v1/intake/upload",
                    headers=dict(stack.http.headers),
                    files={"file": (file.name, file.content)},
                    timeout=30,
                    trust_env=False,
                )
                failed.append(str(answer.status_code))
            except httpx.HTTPError as problem:
                failed.append(type(problem).__name__)

        sender = threading.Thread(target=send)
        sender.start()
        pid = stack.held(self._point, file.file_hash)
        scene.strike()
        gone = kill(pid)
        sender.join(30)
        stack.let_go(self._point, file.file_hash)
        until(stack.answers, 60, "the web server answers again")
        if failed and not failed[0].isdigit():
            scene.fired.append(f"held at {self._point}, {gone}, the client saw {failed[0]}")
        batches = stack.rows("SELECT id::text FROM intake.batches WHERE file_hash = %s", file.file_hash)
        assert len(batches) == (1 if self._point is Point.RECEIVED else 0), batches
        again = scene.post(file)
        assert again.status_code == (200 if self._point is Point.RECEIVED else 202), again.text
        scene.accept(again.json()["batch_id"], file)
        scene.pass_patience()


class OutOfMemory(Fault):
    """The kernel kills the child that holds the batch, because its memory cgroup is used up."""

    name = "OOM kill of a child"

    def prepare(self, scene: Scene) -> None:
        self._group = _memory_group()
        self.batch_id = scene.placed(Point.CLAIMED, file=scene.file(max(scene.rows, 8_000), width=450))

    def inject(self, scene: Scene) -> None:
        pid = scene.stack.held(Point.CLAIMED, self.batch_id)
        victim = psutil.Process(pid)
        (self._group / "cgroup.procs").write_text(str(pid))
        for limit in ("memory.limit_in_bytes", "memory.max"):
            if (self._group / limit).exists():
                (self._group / limit).write_text(str(2 * 1024 * 1024))
        scene.strike()
        scene.stack.let_go(Point.CLAIMED, self.batch_id)
        until(lambda: is_gone(victim), 30, "the child killed by the kernel")
        kills = _kills(self._group)
        if kills:
            scene.fired.append(f"process {pid} killed, oom_kill {kills} of its cgroup")

    def outcome(self, scene: Scene) -> None:
        assert scene.batch(self.batch_id)["attempts"] == 2

    def heal(self, scene: Scene) -> None:
        group = getattr(self, "_group", None)
        if group is not None:
            with contextlib.suppress(OSError):
                group.rmdir()


def _memory_group() -> Path:
    """A memory cgroup of our own. Raises NotThereError where none may be made."""
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        group = root / f"dragonfly-fault-{time.monotonic_ns()}"
        with contextlib.suppress(OSError):
            if (root / "cgroup.controllers").exists():
                (root / "cgroup.subtree_control").write_text("+memory")
            group.mkdir()
            if (group / "memory.oom_control").exists() or (group / "memory.max").exists():
                return group
            group.rmdir()
    raise NotThereError("a memory cgroup to be used up: it takes root and a writable /sys/fs/cgroup")


def _kills(group: Path) -> int:
    for name in ("memory.oom_control", "memory.events"):
        with contextlib.suppress(OSError):
            for line in (group / name).read_text().splitlines():
                word, _, number = line.partition(" ")
                if word == "oom_kill":
                    return int(number)
    return 0


class Poison(Fault):
    """A batch that kills whoever takes it, every time."""

    name = "poison batch"

    def prepare(self, scene: Scene) -> None:
        self.batch_id = scene.placed(Point.CHECKING)
        self.other = scene.upload(scene.file(100))

    def inject(self, scene: Scene) -> None:
        for attempt in range(1, 4):
            pid = scene.stack.held(Point.CHECKING, self.batch_id)
            assert scene.batch(self.batch_id)["fence"] == attempt
            scene.stack.let_go(Point.CHECKING, self.batch_id)
            if attempt < 3:
                scene.stack.order(Point.CHECKING, self.batch_id)
            scene.strike()
            scene.fired.append(kill(pid))
        scene.expect(self.batch_id, status="failed", code="POISONED")

    def outcome(self, scene: Scene) -> None:
        assert scene.batch(self.batch_id)["attempts"] == 3
        assert len(scene.fired) == 3
