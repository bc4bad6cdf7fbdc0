"""The whole local stack: which programs run, in which order, with which addresses, and what is published about them."""

from __future__ import annotations

import datetime
import http.client
import importlib.util
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.local import LocalStackError
from app.local.console import Console
from app.local.home import Home
from app.local.postgres import Postgres, find_programs
from app.local.process import listening_user
from app.local.supervisor import Child, Step, Supervisor
from app.local.valkey import Valkey, free_port

SERVICE_ROLE = "service_role"
READY_FILE_VARIABLE = "DRAGONFLY_READY_FILE"
"""Celery's worker and beat cannot be asked over HTTP: each creates the file that this variable names once it works."""
_FLOWER_USER = "dragonfly"
_FLOWER_CONFIGURATION = "monitoring.flower"
_LOOPBACK = "127.0.0.1"
_MIB = 1024 * 1024
_FREE_BYTES_FIRST = 256 * _MIB
_FREE_BYTES_LATER = 64 * _MIB
_PORT_PATIENCE_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the person who starts the stack decides; an address given here means a server that runs elsewhere."""

    env: Mapping[str, str]
    """What every application program inherits, before the stack's own addresses."""
    port: int
    """The web port; 0 takes a free one."""
    killed_port: int | None = None
    """The web port of a stack that was killed on this home."""
    workers: int
    storage_url: str
    database_url: str | None = None
    database_direct_url: str | None = None
    redis_url: str | None = None
    dragonfly_url: str | None = None
    secret_key: str | None = None
    flower_url: str | None = None
    """Where a browser reaches Flower, if not at the stack's own address for it."""
    pg_bin: Path | None = None
    worker_metrics: tuple[str, int] | None = None
    """Where the worker shows its metrics; None takes a free port."""
    database_only: bool = False
    """Nothing but the local database is started: nobody writes to it while a backup is loaded."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where everything is, once prepared."""

    web: str
    port: int
    database_url: str
    database_direct_url: str | None
    redis_url: str
    storage_url: str
    dragonfly_url: str
    flower_url: str
    flower_user: str
    flower_password: str
    worker_metrics_url: str
    local_database: bool


def run(
    home: Home,
    wanted: Wanted,
    *,
    console: Console,
    prepare_database: Callable[[Addresses], None],
    announce: Callable[[Addresses], None],
) -> int:
    """Run the stack on a home that is held, until it is told to stop; the exit status as Supervisor.run has it.

    ``prepare_database`` runs once the database is ready, in a thread, before anything that uses it starts; ``announce`` once
    everything is ready. Raises LocalStackError where the stack cannot be started.
    """
    started = time.monotonic()
    _require_space(home.path)
    port = wanted.port or free_port()
    # What a killed stack leaves on the port notices within moments that it is alone.
    _require_port(port, patience=_PORT_PATIENCE_SECONDS if wanted.killed_port == port else 0)
    run_folder = home.run_folder()

    children: list[Child] = []
    postgres = valkey = None
    if wanted.database_url is None:
        programs = find_programs(wanted.pg_bin, wanted.env.get("PATH"))
        secret = home.secret("postgres_password")
        postgres = Postgres(data=home.path / "postgres", sockets=run_folder, password=secret, programs=programs)
        postgres.prepare()
        children.append(postgres_child(postgres))
    if wanted.redis_url is None:
        valkey = Valkey(data=home.path / "valkey", password=home.secret("valkey_password"))
        valkey.prepare()
        if not wanted.database_only:
            children.append(valkey_child(valkey))

    addresses = _addresses(home, wanted, port, postgres, valkey)
    prepare = Step(
        name="migrate", run=lambda: prepare_database(addresses), needs=("postgres",) if postgres is not None else ()
    )
    if not wanted.database_only:
        children += _application(home, wanted, addresses, run_folder, broker=("valkey",) if valkey is not None else ())

    def on_ready() -> None:
        versions = {
            "postgres": postgres.version() if postgres is not None else None,
            "valkey": valkey.version() if valkey is not None else None,
        }
        facts = {name: value for name, value in vars(addresses).items() if name != "local_database"}
        now = datetime.datetime.now(datetime.UTC)
        home.write_run({**facts, "pid": os.getpid(), "versions": versions, "started_at": now.isoformat()})
        ready = "The database alone" if wanted.database_only else "Dragonfly"
        place = f"on {home.path}" if wanted.database_only else f"at {addresses.web}"
        console.say("up", f"{ready} is ready {place} ({time.monotonic() - started:.1f} s)")
        announce(addresses)

    try:
        return Supervisor(children, [prepare], console=console).run(on_ready)
    finally:
        home.remove_run()


def _addresses(home: Home, wanted: Wanted, port: int, postgres: Postgres | None, valkey: Valkey | None) -> Addresses:
    web = f"http://{_LOOPBACK}:{port}"
    metrics_host, metrics_port = wanted.worker_metrics or (_LOOPBACK, free_port())
    database_url, direct_url = wanted.database_url, wanted.database_direct_url
    if postgres is not None:
        database_url = postgres.url(SERVICE_ROLE, home.secret("service_role_password"))
        direct_url = postgres.url()
    redis_url = valkey.url if valkey is not None else wanted.redis_url
    if database_url is None or redis_url is None:
        raise LocalStackError("There is no address for the database or the broker.")
    return Addresses(
        web=web,
        port=port,
        database_url=database_url,
        database_direct_url=direct_url,
        redis_url=redis_url,
        storage_url=wanted.storage_url,
        dragonfly_url=wanted.dragonfly_url or web,
        flower_url=f"http://{_LOOPBACK}:{free_port()}",
        flower_user=_FLOWER_USER,
        flower_password=home.secret("flower_password"),
        worker_metrics_url=f"http://{metrics_host}:{metrics_port}/metrics",
        local_database=postgres is not None,
    )


def postgres_child(postgres: Postgres) -> Child:
    """A prepared PostgreSQL as a child to keep running."""
    return Child(
        name="postgres",
        command=postgres.command,
        env=postgres.env,
        before_start=postgres.end_orphan,
        ready=postgres.ready,
        explain=postgres.explain,
        # After a crash it first replays up to max_wal_size of its log.
        start_seconds=900,
        stop_signal=postgres.stop_signal,
        stop_seconds=120,
        hurry_signal=signal.SIGQUIT,
        death_signal=postgres.death_signal,
    )


def valkey_child(valkey: Valkey) -> Child:
    """A prepared Valkey as a child to keep running; without it the stack is degraded, not dead."""
    return Child(
        name="valkey",
        command=valkey.command,
        env=valkey.env,
        input_text=valkey.configuration,
        ready=valkey.ready,
        explain=valkey.explain,
        vital=False,
        start_seconds=120,
        stop_signal=valkey.stop_signal,
        death_signal=valkey.death_signal,
    )


def _application(
    home: Home, wanted: Wanted, addresses: Addresses, run_folder: Path, *, broker: tuple[str, ...]
) -> list[Child]:
    """Web, worker, beat and Flower: they need the migrated database, and all but the web the broker."""
    chosen = {
        "DRAGONFLY_HOME": str(home.path),
        "PORT": str(addresses.port),
        "DATABASE_URL": addresses.database_url,
        "DATABASE_DIRECT_URL": addresses.database_direct_url,
        "REDIS_URL": addresses.redis_url,
        "STORAGE_URL": addresses.storage_url,
        "DRAGONFLY_URL": addresses.dragonfly_url,
        "FLOWER_URL": wanted.flower_url or addresses.flower_url,
        "DRAGONFLY_SECRET_KEY": wanted.secret_key or home.secret("secret_key"),
        "WORKER_METRICS_PORT": addresses.worker_metrics_url.removeprefix("http://").removesuffix("/metrics"),
        "PYTHONUNBUFFERED": "1",
    }
    # Not among Flower's arguments, which every user of the machine can read.
    for_flower = {"FLOWER_BASIC_AUTH": f"{addresses.flower_user}:{addresses.flower_password}"}
    # A secret that the starter was given by file would be given twice, and refused.
    decided = {*chosen, *for_flower}
    inherited = {name: value for name, value in wanted.env.items() if name.removesuffix("_FILE") not in decided}
    env = {**inherited, **{name: value for name, value in chosen.items() if value is not None}}
    gunicorn = [
        sys.executable,
        "-m",
        "gunicorn",
        "-k",
        "gthread",
        "--threads",
        "32",
        "--no-control-socket",
        "--limit-request-line",
        "8190",
        "--logger-class",
        "app.web_log.WebLogger",
    ]
    celery = [sys.executable, "-m", "celery", "--quiet", "-A", "tasks.worker"]
    flower_port = addresses.flower_url.rpartition(":")[2]
    queues = ("migrate", *broker)
    return [
        Child(
            name="web",
            command=[*gunicorn, "--bind", f"{_LOOPBACK}:{addresses.port}", "app.wsgi:app"],
            env=env,
            ready=lambda: _answers(addresses.web + "/readyz"),
            needs=("migrate",),
            hurry_signal=signal.SIGQUIT,
        ),
        _announced(
            run_folder / "worker.ready",
            name="worker",
            command=[*celery, "worker", "--concurrency", str(wanted.workers)],
            env=env,
            needs=queues,
            # A warm shutdown lets running batches end; past Celery's own limit they are handed over.
            stop_seconds=120,
            hurry_signal=signal.SIGQUIT,
        ),
        _announced(
            run_folder / "beat.ready",
            name="beat",
            command=[*celery, "beat", "--schedule", str(home.folder("beat") / "schedule"), "--pidfile="],
            env=env,
            needs=queues,
        ),
        Child(
            name="flower",
            command=[
                *celery,
                "flower",
                f"--conf={_file_of(_FLOWER_CONFIGURATION)}",
                f"--address={_LOOPBACK}",
                f"--port={flower_port}",
            ],
            env={**env, **for_flower},
            ready=lambda: _answers(addresses.flower_url + "/healthcheck"),
            needs=queues,
            stop_seconds=10,
        ),
    ]


def _announced(
    ready_file: Path,
    *,
    name: str,
    command: list[str],
    env: Mapping[str, str],
    needs: tuple[str, ...],
    stop_seconds: float = 30,
    hurry_signal: signal.Signals = signal.SIGKILL,
) -> Child:
    """A child that says by a file that it is ready (see READY_FILE_VARIABLE)."""
    return Child(
        name=name,
        command=command,
        env={**env, READY_FILE_VARIABLE: str(ready_file)},
        before_start=lambda: ready_file.unlink(missing_ok=True),
        ready=ready_file.exists,
        needs=needs,
        stop_seconds=stop_seconds,
        hurry_signal=hurry_signal,
    )


def _file_of(module: str) -> str:
    """The module's file. Raises LocalStackError where it is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise LocalStackError(f"{module} is not installed beside app: install the whole package.")
    return spec.origin


def _answers(url: str) -> bool:
    """Whether a GET of an http address is answered with 200."""
    place, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(place, timeout=3)
    try:
        connection.request("GET", f"/{path}")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _require_space(folder: Path) -> None:
    needed = _FREE_BYTES_LATER if (folder / "postgres").exists() else _FREE_BYTES_FIRST
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise LocalStackError(
            f"The disk of {folder} has {free // _MIB} MiB free, and a start takes {needed // _MIB}: "
            "free some space or choose another --home."
        )


def _require_port(port: int, *, patience: float) -> None:
    deadline = time.monotonic() + patience
    while True:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_LOOPBACK, port))
            except PermissionError:
                raise LocalStackError(
                    f"Port {port} may not be used by an ordinary user: choose one above 1023 with --port."
                ) from None
            except OSError:
                if time.monotonic() >= deadline:
                    raise LocalStackError(
                        f"Port {port} is taken by another program{listening_user(port)}: choose another with --port."
                    ) from None
            else:
                return
        time.sleep(0.1)
