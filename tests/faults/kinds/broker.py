"""The broker killed and emptied, down, hung or full: it only carries hints."""

from __future__ import annotations

import contextlib
import shutil
import signal
import time

import psutil
import redis

from tests.faults.rounds import Fault
from tests.faults.scene import Scene
from tests.faults.stack import Worker, is_gone, kill, still, until

UPLOADS = 3


def _valkey(scene: Scene) -> psutil.Process:
    return scene.stack.processes("valkey-server")[0]


class BrokerWiped(Fault):
    """Killed with hints in it, and started again with nothing."""

    name = "Redis killed and restarted empty"
    outage = True

    def inject(self, scene: Scene) -> None:
        stack = scene.stack
        with stack.workers_still():
            for _ in range(UPLOADS):
                scene.upload()
            until(lambda: stack.queued() >= UPLOADS, 10, "the hints wait in the broker")
            before = stack.broker.info("server")["run_id"]  # type: ignore[index]
            scene.strike()
            kill(_valkey(scene).pid)
            # Before the supervisor starts it again.
            shutil.rmtree(stack.home / "valkey" / "appendonlydir")
            until(lambda: self._answers_anew(scene, before), 30, "the broker is back")
            if stack.queued() == 0:
                scene.fired.append(f"{UPLOADS} hints gone, the broker is another one")
        scene.pass_patience()

    def _answers_anew(self, scene: Scene, before: str) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(scene.stack.broker.info("server")["run_id"] != before)  # type: ignore[index]
        return False


class BrokerDown(Fault):
    """Gone while files are uploaded, and for a while after."""

    name = "Redis down at upload"
    outage = True

    def inject(self, scene: Scene) -> None:
        stack = scene.stack
        # Else it would be started again at once.
        with still(psutil.Process(stack.process.pid)):
            valkey = _valkey(scene)
            scene.strike()
            kill(valkey.pid)
            for _ in range(UPLOADS):
                scene.upload()
            with contextlib.suppress(redis.RedisError):
                stack.broker.ping()
                return
            scene.fired.append(f"{UPLOADS} uploads answered 202 while the broker refused connections")
            # The log has nobody to read it until the supervisor goes on.
            time.sleep(0.5)


class BrokerHung(Fault):
    """Takes connections and says nothing, for as long as the batches need."""

    name = "Redis hung (SIGSTOP)"
    outage = True

    def inject(self, scene: Scene) -> None:
        valkey = _valkey(scene)
        with still(valkey):
            scene.strike()
            for _ in range(UPLOADS):
                scene.upload()
            scene.wait(self.within)
            if valkey.status() == psutil.STATUS_STOPPED:
                scene.fired.append(f"{UPLOADS} batches completed while the broker stood still")


class BrokerFull(Fault):
    """At its memory limit: it answers, and refuses what is sent."""

    name = "Redis full"
    outage = True

    def inject(self, scene: Scene) -> None:
        broker = scene.stack.broker
        broker.config_set("maxmemory", 1)
        scene.strike()
        try:
            broker.set("fault", "no room")
        except redis.ResponseError as refused:
            if "maxmemory" in str(refused):
                for _ in range(UPLOADS):
                    scene.upload()
                scene.wait(self.within)
                scene.fired.append(f"{UPLOADS} batches completed while the broker refused every write")

    def heal(self, scene: Scene) -> None:
        until(scene.stack.answers, 60, "the broker answers")
        scene.stack.broker.config_set("maxmemory", 0)


class WorkerStartsAtFull(BrokerFull):
    """A worker that starts, or connects again, while the broker refuses every write: it stays, and works all the same."""

    name = "a worker starts while Redis is full"

    def inject(self, scene: Scene) -> None:
        stack = scene.stack
        stack.broker.config_set("maxmemory", 1)
        stack.beta.end(signal.SIGKILL)
        began = stack.beta.log.stat().st_size
        scene.strike()
        stack.beta = Worker(stack, "beta")
        stack.beta.wait_until_ready()
        until(
            lambda: b"OutOfMemoryError" in stack.beta.log.read_bytes()[began:], 30, "the worker meets the full broker"
        )
        scene.fired.append("a worker was refused by the broker while it connected")
        for _ in range(UPLOADS):
            scene.upload()
        scene.wait(self.within)
        # One that gives up takes a while to end.
        time.sleep(3)

    def outcome(self, scene: Scene) -> None:
        assert scene.stack.beta.runs, "the worker has given up"


class BrokerNeverBack(Fault):
    """Gone for good, with a backlog: the reconcilers finish the work alone."""

    name = "Redis never back"
    outage = True

    def inject(self, scene: Scene) -> None:
        stack = scene.stack
        with still(psutil.Process(stack.process.pid)):
            valkey = _valkey(scene)
            scene.strike()
            kill(valkey.pid)
            for _ in range(2 * UPLOADS):
                scene.upload(scene.file(scene.rows // 4))
            scene.wait(self.within)
            if is_gone(valkey):
                scene.fired.append(f"{2 * UPLOADS} batches completed without a broker")
