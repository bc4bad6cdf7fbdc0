"""A worker's pool is forked beside the worker's own threads: no child inherits a lock that nobody will release."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from app.settings import Settings

REPOSITORY = Path(__file__).parents[2]
ROUNDS = 6
"""Each of them leaves a child that waits for ever where nothing is done about it, half of the time or so."""

# The first connection of a process sets OpenSSL up; children are forked all the while, and each connects in its turn.
_FIRST_CONNECTIONS = """
import faulthandler, os, sys, threading, time
from app.store.database import connect
from tasks import worker
url = sys.argv[1]
threads = [threading.Thread(target=lambda: connect(url).close()) for _ in range(2)]
for thread in threads:
    thread.start()
children = []
while len(children) < 40 and (not children or any(thread.is_alive() for thread in threads)):
    child = os.fork()
    if not child:
        faulthandler.dump_traceback_later(20)
        time.sleep(0.3)
        connect(url).close()
        os._exit(0)
    children.append(child)
deadline = time.monotonic() + 30
while children and time.monotonic() < deadline:
    children = [child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)]
    time.sleep(0.01)
for child in children:
    os.kill(child, 9)
print(len(children), "hang")
"""

_ORDER = """
import os, sys, threading, time
from app import forks
gate = forks.Gate(longest_seconds=float(sys.argv[1]))
gate.guard()
said, inside = [], threading.Event()

def stay():
    with gate.apart():
        inside.set()
        time.sleep(float(sys.argv[2]))
        said.append("left")

staying = threading.Thread(target=stay)
staying.start()
inside.wait()
child = os.fork()
if not child:
    with gate.apart():
        os._exit(7)
said.append("forked")
with gate.apart():
    said.append("entered")
staying.join()
print(*said, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run(script: str, *arguments: str, settings: Settings | None = None) -> tuple[list[str], str]:
    """The words that the last line of its output has, and where its children hang."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    if settings is not None:
        env |= {
            "DATABASE_URL": str(settings.database_url),
            "REDIS_URL": str(settings.redis_url),
            "DRAGONFLY_HOME": str(settings.home),
        }
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.splitlines()[-1].split(), done.stderr


def test_no_child_that_is_forked_beside_a_first_connection_waits_for_ever(settings: Settings) -> None:
    url = settings.require_database_url()
    for _ in range(ROUNDS):
        hanging, where = run(_FIRST_CONNECTIONS, url, settings=settings)
        assert hanging == ["0", "hang"], where


def test_a_fork_waits_for_who_is_inside_and_its_child_waits_for_nobody() -> None:
    assert run(_ORDER, "60", "0.5")[0] == ["left", "forked", "entered", "7"]


def test_a_fork_waits_for_a_bounded_time() -> None:
    assert run(_ORDER, "0.2", "3")[0] == ["forked", "entered", "left", "7"]
