"""compose.yaml as compose reads it: merged, with its variables' defaults in place and ``$$`` as ``$``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
FILE = REPOSITORY / "compose.yaml"
GUIDE = REPOSITORY / "docs" / "how-to" / "run-with-compose.md"
SECRETS = "/run/secrets/"
SOURCE = "/srv/dragonfly"
"""Where the repository's own files are in the application's image."""

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+):-(?P<default>[^}]*)\})")

Service = dict[str, Any]


def interpolated(value: Any) -> Any:
    """The value as the engine gets it where no variable is set. Raises ValueError for a ``$`` that compose would take up."""
    if isinstance(value, dict):
        return {name: interpolated(part) for name, part in value.items()}
    if isinstance(value, list):
        return [interpolated(part) for part in value]
    if not isinstance(value, str):
        return value
    if "$" in _VARIABLE.sub("", value):
        raise ValueError(f"neither $$ nor ${{NAME:-default}}: {value}")
    return _VARIABLE.sub(lambda found: found["default"] if found["name"] else "$", value)


def variables(text: str) -> set[str]:
    """The names of the variables that the file takes from the shell or from .env."""
    return {found["name"] for found in _VARIABLE.finditer(text) if found["name"]}


class _Strict(yaml.SafeLoader):
    """As compose reads a file: a key that stands twice is refused, where YAML for Python keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"line {node.start_mark.line + 1}: {', '.join(sorted(twice))} stands twice")
        return super().construct_mapping(node, deep)


def read(text: str) -> Any:
    """The file's content. Raises ValueError for a key that stands twice in a mapping."""
    return yaml.load(text, _Strict)  # noqa: S506


PROJECT: dict[str, Any] = interpolated(read(FILE.read_text(encoding="utf-8")))
SERVICES: dict[str, Service] = PROJECT["services"]
APPLICATION = {name: service for name, service in SERVICES.items() if service["image"] == SERVICES["web"]["image"]}
ONE_SHOTS = {name for name, service in SERVICES.items() if service["restart"] == "no"}


def environment(name: str) -> dict[str, str]:
    """A service's variables that are set: an empty one counts as not set."""
    return {variable: value for variable, value in SERVICES[name].get("environment", {}).items() if value != ""}


def instructions(name: str) -> list[tuple[str, str]]:
    """The service's inline Dockerfile as (instruction, its text), continued lines joined; heredocs stay with their COPY."""
    lines = iter(SERVICES[name]["build"]["dockerfile_inline"].splitlines())
    found = []
    for line in lines:
        text = line
        while text.endswith("\\"):
            text = text[:-1].rstrip() + " " + next(lines).strip()
        if end := re.search(r"<<'(\w+)'", text):
            text += "\n" + "\n".join(iter(lambda: next(lines), end[1]))
        instruction, _, rest = text.partition(" ")
        found.append((instruction, rest))
    return found


def secrets_snippet() -> str:
    """The guide's shell that makes the secrets."""
    (snippet,) = re.findall(r"```sh\n(\(\n  umask.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return snippet
