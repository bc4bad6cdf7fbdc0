"""A supervisor in a process of its own, for tests: stand-in children from JSON, or the real servers of a home.

``supervised.py stand-ins PLAN`` where PLAN is ``{"children": [{"name", "code", ...Child's fields}], "policy": {...}}``; each
child's code finds its ready file as ``READY`` and writes it by itself. ``supervised.py servers HOME`` runs PostgreSQL and
Valkey. Prints ``up | ready`` once all is ready, with the process ids; exit status as the supervisor's, 2 for LocalStackError.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from app.local import LocalStackError
from app.local.console import Console
from app.local.home import Home
from app.local.postgres import Postgres
from app.local.stack import postgres_child, valkey_child
from app.local.supervisor import Child, RestartPolicy, Supervisor
from app.local.valkey import Valkey


def _stand_in(folder: Path, plan: dict[str, Any]) -> Child:
    ready_file = folder / f"{plan['name']}.ready"
    code = f"import os, pathlib, signal, sys, time\nREADY = pathlib.Path({str(ready_file)!r})\n{plan.pop('code')}"
    return Child(
        command=[sys.executable, "-c", code],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ready=ready_file.exists,
        before_start=lambda: ready_file.unlink(missing_ok=True),
        **{**plan, "needs": tuple(plan.get("needs", ()))},
    )


def _run(children: list[Child], policy: RestartPolicy) -> int:
    console = Console(sys.stdout.fileno(), colour=False)
    supervisor = Supervisor(children, console=console, policy=policy)
    try:
        return supervisor.run(lambda: console.say("up", f"ready {json.dumps(dict(supervisor.pids()))}"))
    finally:
        console.close()


def _main(kind: str, argument: str) -> int:
    if kind == "stand-ins":
        plan = json.loads(argument)
        with tempfile.TemporaryDirectory() as folder:
            children = [_stand_in(Path(folder), child) for child in plan["children"]]
            return _run(children, RestartPolicy(**plan["policy"]))
    with Home(Path(argument)) as home:
        postgres = Postgres(
            data=home.path / "postgres", sockets=home.run_folder(), password=home.secret("postgres_password")
        )
        valkey = Valkey(data=home.path / "valkey", password=home.secret("valkey_password"))
        postgres.prepare()
        valkey.prepare()
        home.write_run({"database_direct_url": postgres.url(), "redis_url": valkey.url})
        return _run([postgres_child(postgres), valkey_child(valkey)], RestartPolicy())


if __name__ == "__main__":
    try:
        sys.exit(_main(sys.argv[1], sys.argv[2]))
    except LocalStackError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
