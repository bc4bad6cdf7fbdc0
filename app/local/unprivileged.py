"""How PostgreSQL's programs, which refuse to run as root, are run for root all the same."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.local import LocalStackError

_NOBODY = 65534


@dataclass(frozen=True)
class Launcher:
    """What goes before a program's command line, and the user id that its files must belong to on disk."""

    prefix: tuple[str, ...]
    owner: int

    def own(self, folder: Path) -> None:
        """Hand a folder with all in it to the user the programs run as; only root can and need do so."""
        if os.geteuid() != 0 or folder.stat().st_uid == self.owner:
            return
        for parent, _, names in os.walk(folder):
            for path in (Path(parent), *(Path(parent) / name for name in names)):
                os.chown(path, self.owner, self.owner, follow_symlinks=False)


def launchers() -> tuple[Launcher, ...]:
    """The ways to run PostgreSQL's programs, best first; for an ordinary user simply the program itself.

    A user namespace leaves the files with root. Where it is forbidden (containers often do), the program runs as nobody,
    with the right to pass folders such as /root where root itself has that right to give.
    """
    as_nobody = ("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--")
    user = os.geteuid()
    if user != 0:
        itself = Launcher((), user)
        # initdb asks for its user's name, which a container's made-up user id does not have.
        return (itself,) if _has_name(user) else (Launcher(as_nobody, user), itself)
    nobody = (f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
    # A change of user clears the wish to die with the parent (see bound.py), so setpriv states it again.
    end = ("--pdeathsig", "QUIT", "--")
    reach = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    return (
        Launcher(as_nobody, 0),
        Launcher(("setpriv", *nobody, *reach, *end), _NOBODY),
        Launcher(("setpriv", *nobody, *end), _NOBODY),
    )


def _has_name(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def choose_launcher(
    program: Sequence[str], env: Mapping[str, str], among: Sequence[Launcher] | None = None
) -> Launcher:
    """The first launcher under which ``program`` (some quick call such as ``postgres --version``) runs.

    Raises LocalStackError with the program's own words where none does.
    """
    words = "there is no unshare and no setpriv (package util-linux)"
    for launcher in among or launchers():
        command = [*launcher.prefix, *program]
        if shutil.which(command[0], path=env.get("PATH")) is None:
            words = f"{command[0]} is missing" if not launcher.prefix else words
            continue
        tried = subprocess.run(command, env=dict(env), capture_output=True, text=True, timeout=60, check=False)
        if tried.returncode == 0:
            return launcher
        words = (tried.stderr.strip().splitlines() or [f"it ended with status {tried.returncode}"])[-1]
    raise LocalStackError(f"{program[0]} cannot be run here: {words}.")
