"""The home: the 0700 folder that holds all a local stack keeps, locked by the one stack that runs on it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from app.local import LocalStackError

_LOCK = "lock"
_SECRETS = "secrets.json"
_RUN_FILE = "run.json"
_COMMAND_KEY = "command.key"
_OURS = frozenset({_LOCK, _SECRETS, _RUN_FILE, _COMMAND_KEY, "run", "postgres", "valkey", "beat", "blobs", "spool"})
_LONGEST_SOCKET_FOLDER = 85
"""A socket's path has 107 bytes at most; this leaves room for the longest name of a socket in the folder."""


class Home:
    """A folder taken for one running stack, as a context manager: the lock is held for the block.

    Entering raises LocalStackError, with nothing changed, where the folder holds something else, belongs to another
    user, cannot be written, or already has a running stack.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._secrets: dict[str, str] = {}
        self._short_run: Path | None = None

    def __enter__(self) -> Self:
        try:
            self._take()
            self._secrets = self._read_secrets()
        except OSError as problem:
            self._release()
            raise LocalStackError(
                f"The home {self.path} cannot be used: {problem.strerror}; choose another with --home."
            ) from None
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._short_run is not None:
            shutil.rmtree(self._short_run, ignore_errors=True)
        self._release()

    def secret(self, name: str) -> str:
        """A password of this home, made when first asked for and the same ever after."""
        if name not in self._secrets:
            self.keep_secret(name, secrets.token_urlsafe(32))
        return self._secrets[name]

    def has_secret(self, name: str) -> bool:
        """Whether ``secret`` has been called for this name before, or ``keep_secret``."""
        return name in self._secrets

    def keep_secret(self, name: str, value: str) -> None:
        """Keep a secret of the caller's own making, in a 0600 file."""
        self._secrets = {**self._secrets, name: value}
        _write_private(self.path / _SECRETS, json.dumps(self._secrets, indent=2) + "\n")

    def command_key(self) -> str:
        """The API key of the local command line, in a 0600 file of its own that the command reads."""
        file = self.path / _COMMAND_KEY
        if not file.exists() or not file.read_text().strip():
            _write_private(file, secrets.token_urlsafe(32) + "\n")
        return file.read_text().strip()

    def folder(self, name: str) -> Path:
        """A 0700 folder in the home, made if missing."""
        folder = self.path / name
        _make_private(folder)
        return folder

    def run_folder(self) -> Path:
        """The 0700 folder for sockets and ready files: in the home, else, where that path is too long for a socket, in /tmp.

        The latter goes when the home is released.
        """
        inside = self.path / "run"
        if len(os.fsencode(inside)) <= _LONGEST_SOCKET_FOLDER:
            return self.folder("run")
        name = f"dragonfly-{os.geteuid()}-{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]}"
        for base in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - checked to be ours alone below
            folder = base / name
            if len(os.fsencode(folder)) <= _LONGEST_SOCKET_FOLDER:
                _make_private(folder)
                self._short_run = folder
                return folder
        raise LocalStackError(
            f"The home {self.path} is too long a path for a socket: choose a shorter one with --home."
        )

    def previous_run(self) -> Mapping[str, Any]:
        """What a stack that was killed left in its run file; empty after a clean stop."""
        return read_run(self.path)

    def write_run(self, facts: Mapping[str, Any]) -> None:
        """Publish the running stack's addresses, all at once, to be read by this user only."""
        _write_private(self.path / _RUN_FILE, json.dumps({"home": str(self.path), **facts}, indent=2) + "\n")

    def remove_run(self) -> None:
        """No stack runs here any more."""
        with contextlib.suppress(OSError):
            (self.path / _RUN_FILE).unlink(missing_ok=True)

    def _take(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.path.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise LocalStackError(f"The home {self.path} is not a folder: choose another with --home.")
        if found.st_uid != os.geteuid():
            raise LocalStackError(
                f"The home {self.path} belongs to user id {found.st_uid}, not to you ({os.geteuid()}): "
                "run as that user, or choose another with --home."
            )
        foreign = sorted(entry.name for entry in self.path.iterdir() if entry.name not in _OURS)
        if foreign and not (self.path / _LOCK).is_file():
            raise LocalStackError(
                f"{self.path} is not a home of Dragonfly's, it holds {foreign[0]!r}: choose an empty folder with --home."
            )
        self.path.chmod(0o700)
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 20, 0).decode(errors="replace").strip() or "unknown"
            raise LocalStackError(
                f"A Dragonfly stack (pid {pid}) already runs on {self.path}: stop it, or choose another --home and --port."
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _read_secrets(self) -> dict[str, str]:
        file = self.path / _SECRETS
        try:
            content = json.loads(file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise LocalStackError(f"{file} is damaged, and it holds the servers' passwords: restore it from a backup.")
        return {str(name): str(value) for name, value in content.items()}


def running_pid(home: Path) -> str | None:
    """The process id of the stack that holds the home's lock, or None."""
    try:
        lock = os.open(home / _LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(lock, 20, 0).decode(errors="replace").strip()
    finally:
        os.close(lock)
    return None


def read_run(home: Path) -> Mapping[str, Any]:
    """The run file's content; empty where there is none or it cannot be read."""
    try:
        content = json.loads((home / _RUN_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # As root, PostgreSQL's sockets may have been handed to nobody; a stranger's folder or link is never used.
    if not stat.S_ISDIR(found.st_mode) or (os.geteuid() != 0 and found.st_uid != os.geteuid()):
        raise LocalStackError(f"{folder} is not a folder of yours: remove it, or choose another --home.")
    folder.chmod(0o700)


def _write_private(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(text)
        output.flush()
        os.fsync(output.fileno())
    partial.replace(file)
