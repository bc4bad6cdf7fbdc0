"""The local PostgreSQL and Valkey, run for real: what a crash leaves, what a strange folder gets, and who may run them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
import pytest
import redis
from psycopg.conninfo import conninfo_to_dict

from app.local import unprivileged
from app.local.home import Home
from app.local.postgres import Postgres
from app.local.valkey import Valkey

SUPERVISED = Path(__file__).with_name("supervised.py")
DAEMON = 1


def as_user(user: int) -> list[str]:
    """What goes before a command line to run it as an ordinary user; nothing where the tests already do."""
    if os.geteuid() != 0:
        return []
    # The Python that runs the tests may stand in a folder of root's; reading is all that this adds to an ordinary user.
    caps = "-all,+dac_read_search"
    ids = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return ["setpriv", *ids, f"--inh-caps={caps}", f"--ambient-caps={caps}", f"--bounding-set={caps}", "--"]


class Servers:
    """A supervised PostgreSQL and Valkey on a home."""

    def __init__(self, home: Path, prefix: list[str] | None = None) -> None:
        self.home = home
        command = [*(prefix or []), sys.executable, str(SUPERVISED), "servers", str(home)]
        self.log = home.with_name(f"{home.name[:20]}.log")
        with self.log.open("ab") as output:
            began = output.tell()
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        deadline = time.monotonic() + 30
        while "up       | ready" not in (text := self.log.read_text()[began:]):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise AssertionError(text)
            time.sleep(0.02)
        self.pids: dict[str, int] = json.loads(text.partition("up       | ready ")[2].splitlines()[0])
        self.facts: dict[str, Any] = json.loads((home / "run.json").read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end()

    def database(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.facts["database_direct_url"])

    def broker(self) -> redis.Redis:
        return redis.Redis.from_url(self.facts["redis_url"])

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)

    def wait_until_said(self, text: str) -> None:
        deadline = time.monotonic() + 15
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose data folders are made, to be copied; making one takes a second."""
    home = tmp_path_factory.mktemp("made") / "home"
    assert Servers(home).end() == 0
    return home


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_home, tmp_path / "home", copy_function=shutil.copy2))


@pytest.fixture
def servers(home: Path) -> Iterator[Servers]:
    with Servers(home) as running:
        yield running


@pytest.fixture(scope="module")
def shared(made_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers for tests that leave them as they are."""
    home = tmp_path_factory.mktemp("shared") / "home"
    shutil.copytree(made_home, home, copy_function=shutil.copy2)
    with Servers(home) as running:
        yield running


def all_gone(processes: list[psutil.Process], *, within: float = 8) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=within)
    return not [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def dragonfly(*arguments: str, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*(prefix or []), sys.executable, "-m", "app.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def refusal(home: Path, *options: str, prefix: list[str] | None = None) -> str:
    """The one sentence with which ``dragonfly up`` refuses a home."""
    done = dragonfly("up", "--home", str(home), "--port", "0", *options, prefix=prefix)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("Error: ").strip()


def test_a_killed_supervisor_leaves_no_orphan_and_no_loss(servers: Servers) -> None:
    with servers.database() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    servers.broker().set("kept", "1")
    time.sleep(1.1)  # Valkey's log reaches the disk once a second.
    busy = servers.database()
    busy.execute("SELECT 1")
    processes = servers.tree()
    assert {"postgres", "valkey-server"} <= {process.name() for process in processes}
    servers.end(signal.SIGKILL)
    assert all_gone(processes)
    busy.close()

    with Servers(servers.home) as again:
        with again.database() as connection:
            assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
        assert again.broker().get("kept") == b"1"


def test_a_killed_postgres_is_started_again_and_valkey_is_left_alone(servers: Servers) -> None:
    with servers.database() as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    os.kill(servers.pids["postgres"], signal.SIGKILL)
    servers.wait_until_said("postgres is up again")
    with servers.database() as connection:
        assert connection.execute("SELECT one FROM kept").fetchone() == (1,)
    assert psutil.Process(servers.pids["valkey"]).name() == "valkey-server"


def test_a_server_left_on_the_data_folder_is_ended_before_the_next(home: Path) -> None:
    with Home(home) as held:
        left = Postgres(data=home / "postgres", sockets=held.run_folder(), password=held.secret("postgres_password"))
        left.prepare()
        orphan = subprocess.Popen(left.command, env=left.env, start_new_session=True, stderr=subprocess.DEVNULL)
        while not left.ready():
            time.sleep(0.02)
    with Servers(home):
        assert orphan.wait(5) == 0


def test_a_stale_pid_file_that_names_a_living_stranger_does_not_matter(home: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        lines = [
            str(stranger.pid),
            str(home / "postgres"),
            "1700000000",
            "5432",
            str(home / "run"),
            "",
            "  1234567   1234",
        ]
        (home / "postgres" / "postmaster.pid").write_text("\n".join(lines) + "\n")
        with Servers(home):
            assert stranger.poll() is None
        stranger.kill()


def test_a_stop_leaves_no_run_file_and_no_process(servers: Servers) -> None:
    processes = servers.tree()
    assert servers.end() == 0
    assert all_gone(processes, within=0.5)


def test_nothing_takes_a_connection_without_its_password(shared: Servers) -> None:
    direct_url = shared.facts["database_direct_url"]
    user_part, _, place = direct_url.partition("@")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"{user_part.rpartition(':')[0]}@{place}")
    port = redis.Redis.from_url(shared.facts["redis_url"]).connection_pool.connection_kwargs["port"]
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(host="127.0.0.1", port=port, retry=None).ping()


def test_what_the_home_keeps_is_for_its_owner_alone(shared: Servers) -> None:
    assert shared.home.stat().st_mode & 0o777 == 0o700
    for name in ("secrets.json", "run.json", "lock"):
        assert (shared.home / name).stat().st_mode & 0o777 == 0o600
    for process in shared.tree():
        assert "password" not in " ".join(process.cmdline()).lower()


def test_the_bulk_load_settings_are_in_force(shared: Servers) -> None:
    wanted = {
        "shared_buffers": "512MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "30min",
        "log_error_verbosity": "terse",
        "fsync": "on",
        "full_page_writes": "on",
        "server_encoding": "UTF8",
    }
    with shared.database() as connection:
        for name, value in wanted.items():
            found = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
            assert found == (value,), name


def test_a_second_stack_on_the_same_home_is_refused(shared: Servers) -> None:
    assert f"(pid {shared.process.pid}) already runs on {shared.home}" in refusal(shared.home)


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refusal(tmp_path / "home", "--port", str(port))
    assert said.startswith(f"Port {port} is taken by another program (pid {os.getpid()}")


def test_a_folder_with_other_files_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    tmp_path.chmod(0o755)
    assert "holds 'letters.txt'" in refusal(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("damage", ["foreign", "no version", "other version", "no control file", "a file"])
def test_a_data_folder_that_cannot_be_used_is_refused_and_left_alone(home: Path, damage: str) -> None:
    data = home / "postgres"
    if damage == "foreign":
        (data / "dragonfly.conf").unlink()
    elif damage == "no version":
        (data / "PG_VERSION").unlink()
    elif damage == "other version":
        (data / "PG_VERSION").write_text("15\n")
    elif damage == "no control file":
        (data / "global" / "pg_control").unlink()
    else:
        shutil.rmtree(data)
        data.write_text("not a folder")
    before = sorted(path for path in home.rglob("*") if path.is_relative_to(data))
    said = refusal(home)
    assert str(data) in said
    assert "nothing was changed" in said
    assert sorted(path for path in home.rglob("*") if path.is_relative_to(data)) == before


def test_a_damaged_control_file_is_refused(home: Path) -> None:
    (home / "postgres" / "global" / "pg_control").write_bytes(b"\0" * 8192)
    assert "is damaged, its control file cannot be read" in refusal(home)


def test_damaged_secrets_are_refused(home: Path) -> None:
    (home / "secrets.json").write_text("{")
    assert f"{home / 'secrets.json'} is damaged" in refusal(home)


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "closed"
    place.mkdir(mode=0o555)
    said = refusal(place / "home", prefix=as_user(DAEMON))
    assert said == f"The home {place / 'home'} cannot be used: Permission denied; choose another with --home."


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_home_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, DAEMON, DAEMON)
    assert f"belongs to user id {DAEMON}" in refusal(tmp_path)


def test_a_full_disk_is_said_before_anything_is_made(tmp_path: Path) -> None:
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)); "
    run = limited + "sys.argv[0] = 'dragonfly'; runpy.run_module('app.cli', run_name='__main__')"
    command = [sys.executable, "-c", run, "up", "--home", str(tmp_path / "home"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "could not be made" in done.stderr
    assert not (tmp_path / "home" / "postgres").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_has_filled_up_is_refused_and_serves_again_once_freed(home: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(disk)], check=True)
    try:
        small = Path(shutil.copytree(home, disk / "home"))
        filler = disk / "filler"
        filler.write_bytes(b"x" * (shutil.disk_usage(disk).free - 2**20))
        assert refusal(small).startswith(f"The disk of {small} has 1 MiB free")
        filler.unlink()
        assert Servers(small).end() == 0
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_an_ordinary_user_runs_the_servers(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, DAEMON, DAEMON)
    with Servers(tmp_path / "home", as_user(DAEMON)) as servers:
        effective = {process.uids().effective for process in servers.tree()}
        assert effective == {DAEMON if os.geteuid() == 0 else os.geteuid()}
        with servers.database() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert servers.end() == 0


def test_a_home_with_a_long_path_keeps_its_sockets_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30) / "home"
    home.parent.mkdir()
    with Servers(home) as servers:
        with servers.database() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        folder = Path(str(conninfo_to_dict(servers.facts["database_direct_url"])["host"]))
        assert not folder.is_relative_to(home)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert servers.end() == 0
    assert not folder.exists()


@pytest.mark.parametrize(
    "launcher", unprivileged.launchers()[:2], ids=lambda launcher: " ".join(launcher.prefix[:1]) or "itself"
)
def test_postgres_runs_under_every_launcher_that_this_user_has(home: Path, launcher: unprivileged.Launcher) -> None:
    with Home(home) as held:
        sockets, password = held.run_folder(), held.secret("postgres_password")
        server = Postgres(data=home / "postgres", sockets=sockets, password=password, launchers=[launcher])
        with server, psycopg.connect(server.url()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_throwaway_valkey_answers_within_its_block(tmp_path: Path) -> None:
    with Valkey(data=tmp_path, password='odd " \\ word') as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()
        settings: Any = client.config_get("appendonly", "save", "maxmemory-policy")
        assert settings == {"appendonly": "yes", "save": "", "maxmemory-policy": "noeviction"}
    assert not server.ready()
