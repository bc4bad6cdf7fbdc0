"""A call that is bounded, and a process that stands still amid it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from monitoring import bounded

REPOSITORY = Path(__file__).parents[2]

# The process stops itself in the first attempt. The peer is one that is given up after a while, as an attempt to connect is,
# or one that keeps silent.
_SCRIPT = """
import os, signal, sys, threading, time
from monitoring import bounded
bounded.LONGEST_SECONDS, bounded.STANDSTILL_SECONDS = 2.0, 1.0
attempts = []

def work():
    attempts.append(1)
    if len(attempts) > 1:
        return "answered"
    began = time.monotonic()
    os.kill(os.getpid(), signal.SIGSTOP)
    # The signal may come a moment later.
    time.sleep(0.3)
    if sys.argv[1] == "keeps silent":
        threading.Event().wait()
    if time.monotonic() - began > 1:
        raise ConnectionError
    return "did not stand still"

print(bounded.call(work), len(attempts))
"""


@pytest.mark.parametrize("peer", ["gives up", "keeps silent"])
def test_what_went_wrong_while_this_process_stood_still_is_tried_again(peer: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, peer], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        deadline = time.monotonic() + 30
        while psutil.Process(running.pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(3)
        running.send_signal(signal.SIGCONT)
        printed, errors = running.communicate(timeout=30)
    assert (printed, errors, running.returncode) == ("answered 2\n", "", 0)


def test_what_goes_wrong_by_itself_is_raised_at_once() -> None:
    attempts = []

    def fails() -> None:
        attempts.append(1)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        bounded.call(fails)
    assert len(attempts) == 1


def test_a_peer_that_keeps_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "LONGEST_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        bounded.call(lambda: time.sleep(3))
    assert time.monotonic() - began < 3
