"""The supervisor's promises, shown on small stand-in programs that are real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

SUPERVISED = Path(__file__).with_name("supervised.py")

OBEDIENT = """
def end(number, frame):
    print("got", signal.Signals(number).name)
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, end)
READY.touch()
while True:
    time.sleep(60)
"""
STUBBORN = OBEDIENT.replace("sys.exit(0)", "pass")
DYING = "print('no such luck'); sys.exit(3)"
DIES_LATER = "READY.touch(); time.sleep(0.3); print('no such luck'); sys.exit(3)"


class Running:
    """A supervisor process and what it has said so far."""

    def __init__(self, plan: dict[str, Any], folder: Path) -> None:
        self.log = folder / "log"
        command = [sys.executable, str(SUPERVISED), "stand-ins", json.dumps(plan)]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    @property
    def lines(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if not line.isspace()]

    def wait_for(self, text: str, *, within: float = 10) -> str:
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            for line in self.lines:
                if text in line:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"{text!r} was not said:\n" + "\n".join(self.lines))

    def pids(self) -> dict[str, int]:
        pids: dict[str, int] = json.loads(self.wait_for("ready {").partition("ready ")[2])
        return pids

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(15)

    def said(self, part: str) -> list[str]:
        return [line.partition("| ")[2] for line in self.lines if part in line]


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Running] = []

    def run(*children: dict[str, Any], **policy: float) -> Running:
        chosen = {"first_delay": 0.1, "longest_delay": 0.5, **policy}
        running.append(Running({"children": list(children), "policy": chosen}, tmp_path))
        return running[-1]

    yield run
    for one in running:
        one.process.kill()
        one.process.wait()


def child(name: str, code: str = OBEDIENT, **fields: Any) -> dict[str, Any]:
    return {"name": name, "code": code, **fields}


def gone(pid: int, *, within: float = 5) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
            time.sleep(0.02)
        return False
    return True


def test_a_child_starts_when_what_it_needs_is_ready(start: Start) -> None:
    slow = "time.sleep(0.5); print('now ready')\n" + OBEDIENT
    stack = start(child("second", "print('begins')\n" + OBEDIENT, needs=["first"]), child("first", slow))
    stack.pids()
    assert [line for line in stack.lines if "|" in line][:2] == ["first    | now ready", "second   | begins"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_all_in_reverse_order(start: Start, how: signal.Signals) -> None:
    # Whoever runs the tests under nohup has SIGHUP ignored, and the supervisor would take that over.
    before = signal.signal(how, signal.SIG_DFL) if how is signal.SIGHUP else None
    stack = start(child("one"), child("two"), child("three"))
    if before is not None:
        signal.signal(how, before)
    pids = stack.pids()
    assert stack.end(how) == 0
    assert stack.said("stopped") == ["three stopped", "two stopped", "one stopped"]
    assert all(gone(pid) for pid in pids.values())


def test_ctrl_c_on_the_terminal_reaches_the_supervisor_alone(start: Start) -> None:
    stack = start(child("one", OBEDIENT), child("two", OBEDIENT))
    stack.pids()
    os.killpg(stack.process.pid, signal.SIGINT)
    assert stack.process.wait(10) == 0
    assert stack.said("got") == ["got SIGTERM", "got SIGTERM"]


def test_a_second_signal_hurries_a_child_that_does_not_end(start: Start) -> None:
    stack = start(child("one", STUBBORN, stop_seconds=60))
    stack.pids()
    stack.process.send_signal(signal.SIGINT)
    stack.wait_for("got SIGTERM")
    began = time.monotonic()
    assert stack.end(signal.SIGINT) == 0
    assert time.monotonic() - began < 5
    assert stack.said("hurried") == ["one is hurried"]


def test_a_child_that_does_not_end_in_its_time_is_ended(start: Start) -> None:
    stack = start(child("one", STUBBORN, stop_seconds=0.3))
    pids = stack.pids()
    assert stack.end() == 0
    assert gone(pids["one"])


def test_a_dead_child_is_started_again_and_its_neighbours_are_left_alone(start: Start) -> None:
    stack = start(child("one"), child("two", needs=["one"]))
    pids = stack.pids()
    os.kill(pids["one"], signal.SIGKILL)
    stack.wait_for("one is up again")
    assert stack.said("one died") == ["one died: it was killed by SIGKILL; starting it again in 0.1 s"]
    assert psutil.pid_exists(pids["two"])
    assert not stack.said("two died")


def test_each_start_again_waits_twice_as_long(start: Start) -> None:
    stack = start(child("one", DIES_LATER.replace("0.3", "0.1")), first_delay=0.05, longest_delay=60)
    stack.wait_for("cannot be kept up")
    waits = [line.rpartition(" in ")[2] for line in stack.said("starting it again")]
    assert waits == ["0.05 s", "0.1 s", "0.2 s", "0.4 s"]


def test_a_vital_child_that_cannot_be_kept_up_stops_the_stack_with_its_last_words(start: Start) -> None:
    stack = start(child("one"), child("two", DIES_LATER))
    pids = stack.pids()
    assert stack.process.wait(15) == 1
    assert "two said: no such luck" in stack.said("two said")
    assert stack.said("cannot be kept up") == ["two cannot be kept up, it died 5 times: no such luck"]
    assert gone(pids["one"])


def test_a_stack_that_never_became_ready_could_not_start(start: Start) -> None:
    stack = start(child("one"), child("two", DYING))
    assert stack.process.wait(15) == 2
    assert stack.lines[-1] == "two cannot be kept up, it died 3 times: no such luck"


def test_a_broker_that_cannot_be_kept_up_degrades_the_stack(start: Start) -> None:
    stack = start(child("broker", DYING, vital=False), child("worker", needs=["broker"]), first_delay=0.05)
    stack.wait_for("the stack goes on without it, degraded")
    pids = stack.pids()
    assert psutil.pid_exists(pids["worker"])
    assert stack.end() == 0


def test_a_child_may_die_as_often_as_it_likes_while_what_it_needs_is_away(start: Start) -> None:
    worker = child("worker", DIES_LATER.replace("0.3", "0.1"), needs=["broker"])
    stack = start(child("broker", DYING, vital=False), worker, first_delay=0.02, longest_delay=0.02)
    stack.wait_for("ready {")
    deadline = time.monotonic() + 10
    while len(stack.said("worker died")) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert stack.process.poll() is None


def test_a_child_that_is_never_ready_is_ended_and_counts_as_dead(start: Start) -> None:
    stack = start(child("one", "print('thinking'); time.sleep(60)", start_seconds=0.3))
    assert stack.process.wait(15) == 2
    assert "one is not ready after 0.3 s; ending it" in stack.said("not ready")


def test_what_a_dead_child_leaves_in_its_session_is_ended(start: Start) -> None:
    with_grandchild = (
        "import subprocess; p = subprocess.Popen(['sleep', '600']); print('grandchild', p.pid)\n" + OBEDIENT
    )
    stack = start(child("one", with_grandchild))
    pids = stack.pids()
    grandchild = int(stack.wait_for("grandchild").split()[-1])
    os.kill(pids["one"], signal.SIGKILL)
    assert gone(grandchild)


def test_a_killed_supervisor_leaves_no_orphans_not_even_gunicorns_workers(start: Start) -> None:
    web = (
        "READY.touch(); os.execv(sys.executable, [sys.executable, '-m', 'gunicorn', '-k', 'gthread', '--no-control-socket',"
        " '--bind', '127.0.0.1:0', '--workers', '2', 'wsgiref.simple_server:demo_app'])"
    )
    stack = start(child("one", STUBBORN), child("web", web))
    pids = stack.pids()
    workers = [int(stack.wait_for("Booting worker with pid").split()[-1])]
    stack.end(signal.SIGKILL)
    assert all(gone(pid) for pid in [*pids.values(), *workers])


def test_output_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    loud = "READY.touch()\nfor number in range(60_000): print('x' * 100)\npathlib.Path({!r}).touch()\ntime.sleep(60)"
    done = tmp_path / "done"
    plan = {"children": [child("loud", loud.format(str(done)))], "policy": {}}
    command = [sys.executable, str(SUPERVISED), "stand-ins", json.dumps(plan)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 20
        while not done.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(15) == 0
