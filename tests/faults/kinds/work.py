"""How work is handed out: many messages for one batch, clocks that differ, two beats or none, restarts, overlapping files."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from app.local.process import spawn
from app.pause import Point
from tests.faults.files import Maker
from tests.faults.rounds import Fault
from tests.faults.scene import Scene
from tests.faults.stack import NotThereError, Worker, kill, until

HINTS = 10
OVERLAPPING = 4
SKEW_HOURS = 2
_BEAT_LOCK = 0x62656174


class Undisturbed(Fault):
    """Nothing happens: what the others' times are measured against."""

    name = "no fault (control)"

    def inject(self, scene: Scene) -> None:
        scene.strike("nothing struck, as intended")
        for _ in range(12):
            scene.wait(self.within, [scene.upload()])


class ManyMessages(Fault):
    """The same message is delivered ten times."""

    name = f"the message delivered {HINTS} times"
    outage = True

    def inject(self, scene: Scene) -> None:
        broker = scene.stack.broker
        with scene.stack.workers_still():
            self.batch_id = scene.upload()
            (message,) = until(lambda: self._messages(scene), 10, "the hint waits in the broker")
            broker.lpush("normal", *[message] * (HINTS - 1))
            scene.strike()
            waiting = len(self._messages(scene))
        until(lambda: not self._messages(scene), 30, "every message delivered")
        if waiting == HINTS:
            scene.fired.append(f"{waiting} messages for one batch were taken")

    def _messages(self, scene: Scene) -> list[bytes]:
        """Those of the batch; a canary may be among them."""
        found: list[bytes] = scene.stack.broker.lrange("normal", 0, -1)
        bodies = [base64.b64decode(json.loads(message)["body"]).decode() for message in found]
        return [message for message, body in zip(found, bodies, strict=True) if self.batch_id in body]

    def outcome(self, scene: Scene) -> None:
        batch = scene.batch(self.batch_id)
        assert (batch["fence"], batch["attempts"]) == (1, 1), batch


class SkewedClock(Fault):
    """A worker whose clock is hours off holds a batch beside workers whose clocks are right."""

    outage = True

    def __init__(self, name: str, hours: int) -> None:
        self.name = name
        self._hours = hours
        self._worker: Worker | None = None

    def prepare(self, scene: Scene) -> None:
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
        if library is None:
            raise NotThereError("libfaketime (Debian's package faketime)")
        self._worker = Worker(
            scene.stack,
            f"skewed{self._hours:+d}",
            concurrency=1,
            env={"LD_PRELOAD": str(library), "FAKETIME": f"{self._hours:+d}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
        )
        self._worker.wait_until_ready()

    def inject(self, scene: Scene) -> None:
        assert self._worker is not None
        with scene.stack.workers_still():
            self.batch_id = scene.placed(Point.CHECKING)
            pid = scene.stack.held(Point.CHECKING, self.batch_id)
            family = [process.pid for process in self._worker.family()]
        scene.strike()
        # The others look for leases that have run out, and find none.
        time.sleep(scene.stack.lease_seconds / 4)
        scene.stack.let_go(Point.CHECKING, self.batch_id)
        scene.wait(self.within)
        off = self._hours_off()
        if pid in family and off == self._hours:
            scene.fired.append(f"process {pid}, whose clock is {off:+d} h off, held the batch beside others")

    def outcome(self, scene: Scene) -> None:
        batch = scene.batch(self.batch_id)
        assert (batch["fence"], batch["attempts"]) == (1, 1), batch

    def heal(self, scene: Scene) -> None:
        if self._worker is not None:
            self._worker.end(signal.SIGKILL)

    def _hours_off(self) -> int | None:
        """By the times that the worker's log bears."""
        assert self._worker is not None
        for line in reversed(self._worker.log.read_text().splitlines()):
            with contextlib.suppress(ValueError, KeyError):
                said = dt.datetime.fromisoformat(json.loads(line)["timestamp"])
                return round((said - dt.datetime.now(dt.UTC)) / dt.timedelta(hours=1))
        return None


class BeatDead(Fault):
    """kill -9 of beat; the supervisor starts it again."""

    name = "beat killed"

    def inject(self, scene: Scene) -> None:
        before = scene.stack.processes("celery beat")[0].pid
        scene.upload()
        scene.strike(kill(before))
        until(lambda: self._another(scene, before), 60, "another beat shows that it lives")

    def _another(self, scene: Scene, before: int) -> bool:
        beats = scene.stack.processes("celery beat")
        return bool(beats) and beats[0].pid != before and _beats_since(scene, scene.struck_at)


class TwoBeats(Fault):
    """A second beat beside the first: it stands by, and one alone holds the lock of the one that fires."""

    name = "two beats"

    def __init__(self) -> None:
        self._second: subprocess.Popen[bytes] | None = None

    def inject(self, scene: Scene) -> None:
        stack = scene.stack
        first = self._holders(scene)
        log = stack.home.with_name("second-beat.log")
        schedule = stack.home.with_name("second-beat-schedule")
        with log.open("ab") as output:
            command = [sys.executable, "-m", "celery", "--quiet", "-A", "tasks.worker", "beat", "--pidfile="]
            self._second = spawn(
                [*command, "--schedule", str(schedule)],
                env={**stack.env, "DRAGONFLY_HOME": str(stack.home)},
                output=output,
            )
        until(lambda: "another beat is at work" in log.read_text(), 60, "the second beat stands by")
        scene.strike("the second beat stood by")
        scene.upload()
        assert self._holders(scene) == first != []

    def _holders(self, scene: Scene) -> list[int]:
        rows = scene.stack.owner(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND granted", _BEAT_LOCK
        )
        return [pid for (pid,) in rows]

    def heal(self, scene: Scene) -> None:
        if self._second is not None:
            self._second.kill()
            self._second.wait()
            scene.stack.home.with_name("second-beat.log").unlink()


class RollingRestart(Fault):
    """Every worker, then the web server, told to restart by SIGTERM or SIGHUP under load: no attempt counts."""

    name = "rolling restart under load"
    within = 90.0
    strikes_all = True

    def inject(self, scene: Scene) -> None:
        stack = scene.stack
        batch_ids = [scene.upload(scene.file(scene.rows * 2, width=200)) for _ in range(2)]
        scene.strike()
        status = stack.beta.end(within=60)
        batch_ids += [scene.upload() for _ in range(2)]
        stack.beta = Worker(stack, "beta")
        stack.beta.wait_until_ready()
        supervised = stack.processes("celery worker")[0].pid
        psutil.Process(supervised).send_signal(signal.SIGTERM)
        batch_ids += [scene.upload() for _ in range(2)]
        until(lambda: self._another(scene, "celery worker", supervised), 60, "the supervised worker restarted")
        main, before = stack.gunicorn()
        psutil.Process(main).send_signal(signal.SIGHUP)
        until(lambda: not set(stack.gunicorn()[1]) & set(before), 60, "the web server's process replaced")
        until(stack.answers, 30, "the web server answers")
        batch_ids.append(scene.upload())
        scene.wait(self.within)
        if status == 0:
            scene.fired.append("both workers and the web server's process replaced, the first with exit status 0")
        self.batch_ids = batch_ids

    def _another(self, scene: Scene, name: str, before: int) -> bool:
        found = scene.stack.processes(name)
        return bool(found) and found[0].pid != before

    def outcome(self, scene: Scene) -> None:
        silent = [batch for batch in map(scene.batch, self.batch_ids) if batch["attempts"] != 1]
        assert not silent, silent


class Overlapping(Fault):
    """Four workers load files that share all their case numbers, each in an order of its own."""

    name = f"overlapping batches from {OVERLAPPING} workers"
    outage = True

    def inject(self, scene: Scene) -> None:
        maker = Maker()
        deadlocks = self._deadlocks(scene)
        # More than one piece of COPY each, so that each has sent some of its keys when it is held.
        rows = max(scene.rows, 4_000)
        with scene.stack.workers_still():
            batch_ids = [scene.upload(maker.file(rows, seed)) for seed in range(OVERLAPPING)]
            for batch_id in batch_ids:
                scene.expect(batch_id, shared=True)
                scene.stack.order(Point.COPYING, batch_id)
        pids = {scene.stack.held(Point.COPYING, batch_id) for batch_id in batch_ids}
        scene.strike()
        for batch_id in batch_ids:
            scene.stack.let_go(Point.COPYING, batch_id)
        scene.wait(self.within)
        if len(pids) == OVERLAPPING:
            scene.fired.append(f"{OVERLAPPING} processes in COPY at once with the same case numbers")
        assert self._deadlocks(scene) == deadlocks, "batches ran into a deadlock"

    def _deadlocks(self, scene: Scene) -> int:
        scene.stack.owner("SELECT pg_stat_clear_snapshot()")
        time.sleep(0.3)
        ((count,),) = scene.stack.owner("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(count)


def _beats_since(scene: Scene, moment: float | None) -> bool:
    """Whether beat has shown a sign of life since the moment."""
    if moment is None:
        return False
    ((age,),) = scene.stack.owner(
        "SELECT extract(epoch FROM now() - max(seen_at)) FROM ops.heartbeats WHERE name = 'beat'"
    )
    return age is not None and float(age) < time.monotonic() - moment
