"""Debian's PgBouncer in transaction mode before a server of ours."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from app.local.process import spawn
from app.local.unprivileged import choose_launcher
from app.local.valkey import free_port
from tests.faults.stack import NotThereError, until

DATABASE = "dragonfly"


class Pooler:
    """Running while it is entered; ``users`` are those whom it knows, with their passwords."""

    def __init__(self, folder: Path, *, server_sockets: Path, users: dict[str, str]) -> None:
        program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
        if program is None:
            raise NotThereError("pgbouncer (Debian's package)")
        self._program = program
        self._folder = folder
        self._users = users
        self.port = free_port()
        folder.mkdir(mode=0o700)
        (folder / "users").write_text("".join(f'"{user}" "{password}"\n' for user, password in users.items()))
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": folder / "users",
            "admin_users": ", ".join(users),
            "pool_mode": "transaction",
            "default_pool_size": 60,
            "max_client_conn": 500,
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        server = f"{DATABASE} = host={server_sockets} dbname={DATABASE}"
        (folder / "pgbouncer.ini").write_text("\n".join(["[databases]", server, "[pgbouncer]", *lines, ""]))
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, user: str, database: str = DATABASE) -> str:
        return f"postgresql://{user}:{self._users[user]}@127.0.0.1:{self.port}/{database}"

    def show(self, what: str) -> list[dict[str, Any]]:
        """What its console tells."""
        with psycopg.connect(self.url(next(iter(self._users)), "pgbouncer"), autocommit=True) as connection:
            # The console speaks the simple protocol alone.
            cursor = psycopg.ClientCursor(connection).execute(f"SHOW {what}".encode())
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def version(self) -> str:
        return subprocess.run([self._program, "--version"], capture_output=True, text=True, check=True).stdout.split()[
            1
        ]

    def __enter__(self) -> Self:
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        # It refuses root, as PostgreSQL does.
        launcher = choose_launcher([self._program, "--version"], env)
        launcher.own(self._folder)
        command = [*launcher.prefix, self._program, str(self._folder / "pgbouncer.ini")]
        with self._folder.with_suffix(".log").open("ab") as output:
            self._process = spawn(command, env=env, output=output)
        until(self._answers, 30, f"PgBouncer answers: {self._folder.with_suffix('.log').read_text()[-500:]}")
        return self

    def _answers(self) -> bool:
        try:
            return bool(self.show("VERSION"))
        except psycopg.OperationalError:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
