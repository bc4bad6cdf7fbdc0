"""The scripts and commands of compose.yaml, run as they stand there on servers of this machine, without an engine.

What an engine would add is put in place by hand: the secrets that the guide makes, folders for the volumes, free ports for
the containers' own, addresses for the services' names. PgBouncer is left out: DATABASE_URL leads to PostgreSQL itself.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis

from app.local.postgres import Postgres, find_programs
from app.local.valkey import find_program, free_port
from tests.compose_file import REPOSITORY, SECRETS, SERVICES, SOURCE, environment, secrets_snippet

CONTENT = b"case_number,defendant_name,judgment_amount\nCOMPOSE-1,Jane Roe,12.50\n"


class House:
    """A folder that stands for the containers' disks and names."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.ports = {name: free_port() for name in ("web", "worker", "flower", "redis", "postgrest")}
        subprocess.run(["sh", "-eu", "-c", secrets_snippet()], cwd=folder, check=True)
        socket = f"@/dragonfly?host={sockets}"
        for path in self.secrets.iterdir():
            path.chmod(0o644)
            text = path.read_text()
            for away in ("@postgres:5432/dragonfly", "@pgbouncer:6432/dragonfly"):
                text = text.replace(away, socket)
            path.write_text(text.replace("@redis:6379", f"@127.0.0.1:{self.ports['redis']}"))
        for name in ("bin", "home", "blobs", "data", "tmp"):
            (folder / name).mkdir()
        self._program("dragonfly", f'{shlex.quote(sys.executable)} -m app.cli "$@"')
        self._program("valkey-server", f'{shlex.quote(str(find_program()))} "$@"')
        self._places = {
            SECRETS.rstrip("/"): str(self.secrets),
            SOURCE: str(REPOSITORY),
            "/srv/blobs": str(folder / "blobs"),
            "/var/lib/dragonfly": str(folder / "home"),
            "0.0.0.0:8000": f"127.0.0.1:{self.ports['web']}",
            "0.0.0.0:9400": f"127.0.0.1:{self.ports['worker']}",
            "127.0.0.1:9400": f"127.0.0.1:{self.ports['worker']}",
            "127.0.0.1:8000": f"127.0.0.1:{self.ports['web']}",
            "127.0.0.1:5555": f"127.0.0.1:{self.ports['flower']}",
            "--address=0.0.0.0": "--address=127.0.0.1",
            "--port=5555": f"--port={self.ports['flower']}",
            "--port 6379": f"--port {self.ports['redis']}",
            "--dir /data": f"--dir {folder / 'data'}",
            "http://postgrest:3000": f"http://127.0.0.1:{self.ports['postgrest']}",
        }
        self._variables = {"PGHOST": str(sockets)}

    def _program(self, name: str, command: str) -> None:
        program = self.folder / "bin" / name
        program.write_text(f"#!/bin/sh\nexec {command}\n")
        program.chmod(0o700)

    def here(self, text: str) -> str:
        """The text with what only a container has put in the terms of this machine."""
        for there, place in self._places.items():
            text = text.replace(there, place)
        return sys.executable if text == "python" else text

    def environment(self, name: str) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder / "bin"), str(find_programs()), os.defpath])
        given = {variable: self.here(value) for variable, value in environment(name).items()}
        own = {variable: value for variable, value in self._variables.items() if variable in given}
        return {"PATH": path, "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C.UTF-8", **given, **own}

    def start(self, name: str, output: Any = None) -> subprocess.Popen[bytes]:
        service = SERVICES[name]
        command = [self.here(word) for word in [*service.get("entrypoint", []), *service["command"]]]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment(name), stdout=output, stderr=subprocess.STDOUT
        )

    def run(self, name: str) -> str:
        """A one-shot's output, after it ended well."""
        process = self.start(name, subprocess.PIPE)
        said = process.communicate(timeout=120)[0].decode()
        assert process.returncode == 0, said
        return said

    def healthy(self, name: str) -> bool:
        """What the service's own health check says."""
        kind, *words = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD"
        asked = subprocess.run(
            [self.here(word) for word in words],
            cwd=self.folder,
            env=self.environment(name),
            capture_output=True,
            check=False,
            timeout=60,
        )
        return asked.returncode == 0

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text().strip()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Secrets, an empty PostgreSQL, and the broker as compose.yaml starts it."""
    folder = Path(tempfile.mkdtemp(prefix="dfly-"))
    try:
        sockets = folder / "s"
        sockets.mkdir()
        made = House(folder, sockets)
        settings = {"shared_buffers": "64MB", "fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
        with Postgres(
            data=folder / "postgres", sockets=sockets, password=made.secret("postgres_password"), settings=settings
        ):
            broker = made.start("redis", subprocess.DEVNULL)
            try:
                wait_for_broker(made)
                yield made
            finally:
                broker.terminate()
                broker.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_broker(house: House) -> None:
    deadline = time.monotonic() + 20
    with redis.Redis.from_url(house.secret("redis_url")) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return


@pytest.fixture(scope="module")
def migrated(house: House) -> House:
    """After both one-shots have run, and run again, as they do at every start."""
    for _ in range(2):
        house.run("roles")
        house.run("migrate")
    return house


@pytest.fixture(scope="module")
def running(migrated: House) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Web, worker, beat and Flower, each healthy by its own check."""
    names = ("web", "worker", "beat", "flower")
    logs = {name: (migrated.folder / f"{name}.log").open("wb") for name in names}
    processes = {name: migrated.start(name, logs[name]) for name in names}
    try:
        for name in names:
            deadline = time.monotonic() + 60
            while not migrated.healthy(name):
                said = (migrated.folder / f"{name}.log").read_text()
                assert processes[name].poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.3)
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait(30)
        for log in logs.values():
            log.close()


def rows(house: House, statement: str) -> list[tuple[Any, ...]]:
    """What the application's role sees."""
    with psycopg.connect(house.secret("database_session_url")) as connection:
        return connection.execute(statement).fetchall()  # type: ignore[call-overload,no-any-return]


def test_the_broker_asks_for_the_password_of_the_secret(house: House) -> None:
    with redis.Redis.from_url(house.secret("redis_url")) as client:
        assert client.ping()
        assert client.config_get("appendonly", "save", "maxmemory-policy") == {
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
    with redis.Redis(port=house.ports["redis"]) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_the_roles_have_what_they_need_and_no_more(migrated: House) -> None:
    rights = "rolcanlogin, rolbypassrls, rolinherit, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication"
    names = "'dragonfly_owner', 'service_role', 'authenticator', 'anon', 'dragonfly_views'"
    found = {
        name: rest
        for name, *rest in rows(migrated, f"SELECT rolname, {rights} FROM pg_roles WHERE rolname IN ({names})")
    }
    assert found == {
        "dragonfly_owner": [True, False, True, False],
        "service_role": [True, True, True, False],
        "authenticator": [True, False, False, False],
        "anon": [False, False, True, False],
        "dragonfly_views": [False, False, True, False],
    }


def test_the_schema_belongs_to_an_owner_who_is_no_superuser(migrated: House) -> None:
    assert rows(migrated, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('intake', 'ops')") == [
        ("dragonfly_owner",)
    ]
    assert rows(migrated, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'dragonfly'") == [
        ("dragonfly_owner",)
    ]


def test_postgrests_role_sees_the_ops_views_as_anon_and_nothing_else(migrated: House) -> None:
    with psycopg.connect(migrated.secret("postgrest_url")) as connection:
        connection.execute("SET ROLE anon")
        assert connection.execute("SELECT count(*) FROM ops.v_pipeline_health").fetchone() is not None
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM intake.batches")


def test_the_keys_of_the_secrets_are_valid(migrated: House) -> None:
    assert rows(migrated, "SELECT name FROM ops.api_keys ORDER BY name") == [("Prometheus",), ("admin",)]


def test_a_file_goes_the_whole_way(migrated: House, running: dict[str, subprocess.Popen[bytes]]) -> None:
    address = f"http://127.0.0.1:{migrated.ports['web']}"
    with httpx.Client(
        base_url=address, headers={"Authorization": f"Bearer {migrated.secret('admin_key')}"}, trust_env=False
    ) as client:
        sent = client.post("/api/v1/intake/upload", files={"file": ("export.csv", CONTENT)})
        assert sent.status_code == 202, sent.text
        deadline = time.monotonic() + 60
        while (batch := client.get(sent.headers["Location"]).json())["status"] != "completed":
            assert time.monotonic() < deadline, batch
            time.sleep(0.1)
        assert batch["row_count_inserted"] == 1


def test_prometheus_gets_the_webs_figures_with_its_key(
    migrated: House, running: dict[str, subprocess.Popen[bytes]]
) -> None:
    address = f"http://127.0.0.1:{migrated.ports['web']}/metrics"
    assert httpx.get(address, trust_env=False).status_code == 401
    key = {"Authorization": f"Bearer {migrated.secret('metrics_key')}"}
    assert "dragonfly_" in httpx.get(address, headers=key, trust_env=False).text


def test_flower_takes_the_password_of_the_secret(migrated: House, running: dict[str, subprocess.Popen[bytes]]) -> None:
    address = f"http://127.0.0.1:{migrated.ports['flower']}/api/tasks"
    assert httpx.get(address, trust_env=False).status_code == 401
    auth = ("dragonfly", migrated.secret("flower_password"))
    assert httpx.get(address, auth=auth, trust_env=False).status_code == 200


def test_beats_health_is_told_by_its_own_sign_of_life(
    migrated: House, running: dict[str, subprocess.Popen[bytes]]
) -> None:
    assert migrated.healthy("beat")
    assert rows(migrated, "SELECT name FROM ops.heartbeats WHERE name = 'beat'") == [("beat",)]


def test_each_program_stops_by_itself_when_it_is_told_to(
    migrated: House, running: dict[str, subprocess.Popen[bytes]]
) -> None:
    for process in running.values():
        process.terminate()
    assert {name: process.wait(60) for name, process in running.items()} == dict.fromkeys(running, 0)


def test_no_secret_is_in_a_log(migrated: House, running: dict[str, subprocess.Popen[bytes]]) -> None:
    secrets = {path.name: path.read_text().strip() for path in migrated.secrets.iterdir()}
    for name in running:
        log = (migrated.folder / f"{name}.log").read_text()
        assert [secret for secret, value in secrets.items() if value and value in log] == []
