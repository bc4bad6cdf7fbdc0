"""Processes that stand still past their lease, and wake to a batch that is another's."""

from __future__ import annotations

import contextlib

import psutil

from app.pause import Point
from tests.faults.rounds import Fault
from tests.faults.scene import Scene
from tests.faults.stack import until


class StopPastLease(Fault):
    """SIGSTOP of the process that holds the batch, at a point of its way; SIGCONT when another one has completed it."""

    def __init__(self, point: Point, name: str) -> None:
        self.name = name
        self._point = point
        self._victim: psutil.Process | None = None

    def prepare(self, scene: Scene) -> None:
        self.batch_id = scene.placed(self._point)

    def inject(self, scene: Scene) -> None:
        stack = scene.stack
        pid = stack.held(self._point, self.batch_id)
        self._victim = psutil.Process(pid)
        self._victim.suspend()
        scene.strike()
        # When it wakes it does what it was about to do.
        stack.let_go(self._point, self.batch_id)
        scene.wait(self.within, [self.batch_id])
        completed = self._whole(scene)
        stood = self._victim.status() == psutil.STATUS_STOPPED
        before = set(stack.said(self.batch_id))
        self._victim.resume()
        until(lambda: self._noticed(scene), 30, "the woken process noticed that its claim is gone")
        if stood:
            scene.fired.append(f"process {pid} stopped at {self._point} until fence {completed['fence']} had completed")
        self._completed = completed
        self._after_waking = set(stack.said(self.batch_id)) - before

    def outcome(self, scene: Scene) -> None:
        assert self._completed["fence"] == 2, self._completed
        assert self._whole(scene) == self._completed, "the stale attempt has written"
        assert not [line for line in self._after_waking if "batch changed" in line], "the stale attempt moved the batch"

    def heal(self, scene: Scene) -> None:
        if self._victim is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._victim.resume()

    def _whole(self, scene: Scene) -> dict[str, object]:
        return scene.stack.batch(self.batch_id) | scene.batch(self.batch_id)

    def _noticed(self, scene: Scene) -> bool:
        lines = scene.stack.said(self.batch_id, '"fence": 1')
        return any("claim lost" in line or "attempt ended" in line for line in lines)


class WakeBeside(Fault):
    """SIGSTOP of the process that holds the batch past its lease; SIGCONT while another one is at work on it."""

    name = "SIGSTOP past the lease, CONT beside the other attempt"

    def __init__(self) -> None:
        self._victim: psutil.Process | None = None

    def prepare(self, scene: Scene) -> None:
        self.batch_id = scene.placed(Point.CHECKING)

    def inject(self, scene: Scene) -> None:
        stack = scene.stack
        first = stack.held(Point.CHECKING, self.batch_id)
        self._victim = psutil.Process(first)
        self._victim.suspend()
        scene.strike()
        stack.let_go(Point.CHECKING, self.batch_id)
        stack.order(Point.CHECKING, self.batch_id)
        second = stack.held(Point.CHECKING, self.batch_id)
        stood = self._victim.status() == psutil.STATUS_STOPPED
        before = set(stack.said(self.batch_id))
        self._victim.resume()
        with contextlib.suppress(AssertionError):
            until(lambda: self._stale(scene, before), stack.lease_seconds / 2, "the woken process said something")
        self._said = self._stale(scene, before)
        stack.let_go(Point.CHECKING, self.batch_id)
        if stood and second != first:
            scene.fired.append(f"process {first} woke while process {second} held the batch")

    def outcome(self, scene: Scene) -> None:
        assert self._said, "the woken process never noticed that its claim is gone"
        assert not [line for line in self._said if "batch changed" in line], "the stale attempt moved the batch"
        assert scene.batch(self.batch_id)["fence"] == 2

    def heal(self, scene: Scene) -> None:
        if self._victim is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._victim.resume()

    def _stale(self, scene: Scene, before: set[str]) -> list[str]:
        """What the first attempt has said since."""
        lines = set(scene.stack.said(self.batch_id, '"fence": 1,')) - before
        return [
            line for line in lines if any(word in line for word in ("claim lost", "attempt ended", "batch changed"))
        ]
