"""Settings: what can be configured, read once at a composition root; the only reader of the environment.

``python -m app.settings`` prints them as docs/reference/settings.md.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dotenv import dotenv_values

DEFAULT_HOME = "~/.local/share/dragonfly"
RUN_FILE = "run.json"
"""In the home while a local stack runs: the addresses of its servers, for every other command."""

_BY_FILE = "_FILE"

_KIB = 1024
_MIB = 1024 * _KIB
_GIB = 1024 * _MIB
LONGEST_INTERVAL_SECONDS = 86_400
"""Of the sentinel: a day."""
MIN_KEY_CHARACTERS = 20
"""Of a key that somebody chose; those that are made here have 43."""

MIN_SECRET_CHARACTERS = 32
SHORTEST_COLLECT_HOURS = 24

SOURCES = ("simplicity", "jbi", "foil", "manual")
"""Those of app.batch, which this leaf may not import; a test holds them together."""


class SettingsError(Exception):
    """A setting is missing or breaks its rule; the message names the variable and what it takes."""


def _setting(variable: str, doc: str, default: Any, read: Callable[[str], Any] = str, *, secret: bool = False) -> Any:
    return field(default=default, metadata={"variable": variable, "doc": doc, "read": read, "secret": secret})


def _whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"must be a whole number, found {text!r}") from None
        if number < minimum or (maximum is not None and number > maximum):
            limits = f"from {minimum} to {maximum}" if maximum is not None else f"of at least {minimum}"
            raise ValueError(f"must be a whole number {limits}, found {text}")
        return number

    return read


def _number_above_0(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise ValueError(f"must be a number above 0, found {text!r}")
    return number


def _within_a_day(text: str) -> float:
    if (seconds := _number_above_0(text)) > LONGEST_INTERVAL_SECONDS:
        raise ValueError(f"must be at most a day, {LONGEST_INTERVAL_SECONDS}, found {text!r}")
    return seconds


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    try:
        return host.strip("[]") or "127.0.0.1", _whole_number(1, 65535)(port)
    except ValueError:
        raise ValueError(f"must be a port, or ADDRESS:PORT, with a port from 1 to 65535, found {text!r}") from None


def _env_name(text: str) -> str:
    if text not in ("dev", "prod"):
        raise ValueError(f"must be dev or prod, found {text!r}")
    return text


def _admin_key(text: str) -> str:
    if len(text) < MIN_KEY_CHARACTERS:
        raise ValueError(f"must have at least {MIN_KEY_CHARACTERS} characters, found {len(text)}")
    return text


def _web_address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return text


def _secret_key(text: str) -> str:
    if len(text) < MIN_SECRET_CHARACTERS:
        raise ValueError(f"must have at least {MIN_SECRET_CHARACTERS} characters, found {len(text)}")
    return text


def _user_and_password(text: str) -> str:
    user, _, password = text.partition(":")
    if not user or not password:
        raise ValueError("must be a user and a password with a colon between them")
    return text


@dataclass(frozen=True, slots=True)
class Limit:
    """A threshold: ``default``, and another one for each source that has its own."""

    default: float
    by_source: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        return ",".join([f"{self.default:g}", *(f"{source}={limit:g}" for source, limit in self.by_source)])


def _percent(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 100:  # noqa: PLR2004
        raise ValueError(f"must be a percentage from 0 to 100, found {text!r}")
    return number


def _percent_by_source(text: str) -> Limit:
    default: float | None = None
    by_source: dict[str, float] = {}
    for part in text.split(","):
        source, equals, number = (word.strip() for word in part.rpartition("="))
        if equals and source in SOURCES and source not in by_source:
            by_source[source] = _percent(number)
        elif not equals and default is None:
            default = _percent(number)
        else:
            raise ValueError(
                f"must be a percentage, then any of {', '.join(f'{name}=N' for name in SOURCES)}; found {text!r}"
            )
    if default is None:
        raise ValueError(f"must begin with a percentage that holds for every other source, found {text!r}")
    return Limit(default, tuple(by_source.items()))


def _host_names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting with its variable, its default and what it is for.

    Variables come from the environment, else from ``.env.<env>``, else from ``.env`` in the working directory. An
    address that is set nowhere is taken from the local stack that runs on the home, if one does.
    """

    env: str = _setting("DRAGONFLY_ENV", "dev or prod", "dev", _env_name)
    home: Path = _setting("DRAGONFLY_HOME", "Folder of the local stack's data, 0700", Path(DEFAULT_HOME), Path)
    port: int = _setting("PORT", "The web port; 0 takes a free one", 8000, _whole_number(0, 65535))
    database_url: str | None = _setting(
        "DATABASE_URL", "The application's database, as service_role; may be PgBouncer", None, secret=True
    )
    database_direct_url: str | None = _setting(
        "DATABASE_DIRECT_URL", "The same database without a pooler, as the owner: migrations, locks", None, secret=True
    )
    redis_url: str | None = _setting("REDIS_URL", "The broker", None, secret=True)
    flower_basic_auth: str | None = _setting(
        "FLOWER_BASIC_AUTH",
        "Flower's user and password, as `user:password`; `dragonfly up` makes them",
        None,
        _user_and_password,
        secret=True,
    )
    flower_url: str | None = _setting(
        "FLOWER_URL", "Flower's address as a browser reaches it; the ops page links to it", None, _web_address
    )
    storage_url: str | None = _setting(
        "STORAGE_URL", "Where uploaded files are kept: a folder (default HOME/blobs), s3://, gs:// or az://", None
    )
    dragonfly_url: str | None = _setting("DRAGONFLY_URL", "The web address that the command speaks to", None)
    dragonfly_key: str | None = _setting("DRAGONFLY_KEY", "The API key that the command uses", None, secret=True)
    admin_key: str | None = _setting(
        "DRAGONFLY_ADMIN_KEY",
        "The first API key, any 20 or more characters; made and shown once if unset",
        None,
        _admin_key,
        secret=True,
    )
    secret_key: str | None = _setting(
        "DRAGONFLY_SECRET_KEY",
        f"Signs the sessions of browsers, {MIN_SECRET_CHARACTERS} or more characters, the same for every web process;"
        " `dragonfly up` makes one and keeps it in the home, elsewhere it must be set in prod",
        None,
        _secret_key,
        secret=True,
    )
    pg_bin: Path | None = _setting(
        "DRAGONFLY_PG_BIN", "Folder of PostgreSQL's programs for the local stack", None, Path
    )
    max_upload_bytes: int = _setting("MAX_UPLOAD_BYTES", "Largest file taken, in bytes", 2 * _GIB, _whole_number(1))
    lease_seconds: int = _setting(
        "LEASE_SECONDS", "How long a silent worker keeps its batch, in seconds", 15, _whole_number(1, 3600)
    )
    discord_webhook_url: str | None = _setting("DISCORD_WEBHOOK_URL", "Where alerts go", None, secret=True)
    discord_allowed_hosts: tuple[str, ...] = _setting(
        "DISCORD_ALLOWED_HOSTS", "Hosts an alert may go to", ("discord.com", "discordapp.com"), _host_names
    )
    postgrest_url: str | None = _setting("POSTGREST_URL", "PostgREST, whose schema cache the sentinel watches", None)
    otel_endpoint: str | None = _setting("OTEL_EXPORTER_OTLP_ENDPOINT", "Where traces go", None)
    runbook_url: str | None = _setting(
        "RUNBOOK_URL", "Where docs/RUNBOOK_OPS.md is published; alerts link to its sections", None
    )
    sentinel_interval_seconds: float = _setting(
        "SENTINEL_INTERVAL_SECONDS", "How often beat runs the sentinel, in seconds", 60.0, _within_a_day
    )
    sentinel_stuck_minutes: float = _setting(
        "SENTINEL_STUCK_MINUTES",
        "A batch that is staging, validating or inserting for longer, in minutes, is stuck",
        10.0,
        _number_above_0,
    )
    sentinel_error_percent: Limit = _setting(
        "SENTINEL_ERROR_PERCENT",
        "Error rate of the last 60 minutes above which the sentinel warns, in percent;"
        " sources may have their own: `15,foil=30`",
        Limit(15),
        _percent_by_source,
    )
    sentinel_backlog_minutes: float = _setting(
        "SENTINEL_BACKLOG_MINUTES", "A batch that waits for longer, in minutes, is a backlog", 10.0, _number_above_0
    )
    sentinel_worker_seconds: float = _setting(
        "SENTINEL_WORKER_SECONDS", "A worker that is silent for longer, in seconds, is dead", 30.0, _number_above_0
    )
    sentinel_canary_seconds: float = _setting(
        "SENTINEL_CANARY_SECONDS",
        "A queue from which a canary has not come back for longer, in seconds, has no worker",
        180.0,
        _number_above_0,
    )
    sentinel_beat_seconds: float = _setting(
        "SENTINEL_BEAT_SECONDS", "Beat, when it is silent for longer, in seconds, is dead", 60.0, _number_above_0
    )
    sentinel_webhook_minutes: float = _setting(
        "SENTINEL_WEBHOOK_MINUTES",
        "An alert that cannot be sent for longer, in minutes, is a fault",
        10.0,
        _number_above_0,
    )
    sentinel_disk_percent: float = _setting(
        "SENTINEL_DISK_PERCENT",
        "Free disk space, in percent, below which the sentinel warns; below half of it the disk is critical",
        10.0,
        _percent,
    )
    sentinel_duplicate_percent: Limit = _setting(
        "SENTINEL_DUPLICATE_PERCENT",
        "Duplicates per hundred valid rows of the last 60 minutes above which the sentinel warns; sources as above",
        Limit(50),
        _percent_by_source,
    )
    collect_after_hours: int = _setting(
        "COLLECT_AFTER_HOURS",
        "A stored file of which there is no batch is removed when it is older, in hours; at least a day",
        SHORTEST_COLLECT_HOURS,
        _whole_number(SHORTEST_COLLECT_HOURS),
    )
    worker_metrics: tuple[str, int] | None = _setting(
        "WORKER_METRICS_PORT",
        "Where a worker shows its metrics: a port of the loopback address, or `ADDRESS:PORT`; nowhere if unset",
        None,
        _address,
    )
    max_record_bytes: int = _setting(
        "MAX_RECORD_BYTES", "Largest record of a file, in bytes", 1 * _MIB, _whole_number(1024, 64 * _MIB)
    )
    max_columns: int = _setting("MAX_COLUMNS", "Most columns of a file", 1000, _whole_number(3, 100_000))
    worker_memory_kib: int = _setting(
        "WORKER_MEMORY_KIB",
        "A pool child that has grown beyond this, in KiB, is replaced after its batch",
        400 * _KIB,
        _whole_number(50 * _KIB),
    )

    pause_folder: Path | None = _setting(
        "DRAGONFLY_PAUSE_FOLDER",
        "For fault tests alone, refused in prod: the folder whose files hold processes at the points of `app/pause.py`",
        None,
        Path,
    )
    ready_file: Path | None = _setting(
        "DRAGONFLY_READY_FILE", "Created by a worker or beat once it works, for whoever waits for that", None, Path
    )

    @classmethod
    def load(cls, *, home: str | Path | None = None, env: str | None = None, **overrides: Any) -> Self:
        """Read the settings; ``home`` and ``env`` are a command's own options and win over every variable.

        Raises SettingsError where a value breaks its rule.
        """
        environment = dict(os.environ)
        chosen_env = env or environment.get("DRAGONFLY_ENV") or dotenv_values(".env").get("DRAGONFLY_ENV") or "dev"
        layered: dict[str, str] = {}
        for source in (dotenv_values(".env"), dotenv_values(f".env.{chosen_env}"), environment):
            # An empty value means "not set", as compose and shells write it.
            layered.update(_with_secret_files({name: value for name, value in source.items() if value}))
        layered["DRAGONFLY_ENV"] = chosen_env
        if home is not None:
            layered["DRAGONFLY_HOME"] = str(home)
        values = {**_values_from(layered), **overrides}
        settings = cls(**values)
        if settings.env == "prod" and settings.pause_folder is not None:
            raise SettingsError("DRAGONFLY_PAUSE_FOLDER is for fault tests and refused in prod: unset it.")
        settings = dataclasses.replace(settings, home=settings.home.expanduser().absolute())
        if settings.storage_url is not None and "://" not in settings.storage_url:
            folder = Path(settings.storage_url).expanduser().absolute()
            settings = dataclasses.replace(settings, storage_url=str(folder))
        return settings._with_running_stack()

    @property
    def run_file(self) -> Path:
        """Written by the running local stack, removed when it stops."""
        return self.home / RUN_FILE

    @property
    def storage(self) -> str:
        """The blob store's address, a folder in the home unless STORAGE_URL says otherwise."""
        return self.storage_url or str(self.home / "blobs")

    @property
    def spool(self) -> Path:
        """Local disk for the rows of a batch between their check and their load; emptied after each attempt."""
        return self.home / "spool"

    def require_database_url(self) -> str:
        """The application's database, or SettingsError with what to do."""
        return self._require(self.database_url, "DATABASE_URL")

    def require_database_direct_url(self) -> str:
        """The owner's direct connection, or SettingsError with what to do."""
        return self._require(self.database_direct_url, "DATABASE_DIRECT_URL")

    def require_redis_url(self) -> str:
        """The broker, or SettingsError with what to do."""
        return self._require(self.redis_url, "REDIS_URL")

    def require_secret_key(self) -> str:
        """What sessions are signed with; in dev, where none is set, one that this process alone knows.

        Raises SettingsError in prod, where sessions have to outlive a process and to hold at every other one.
        """
        if self.secret_key is not None:
            return self.secret_key
        if self.env == "prod":
            raise SettingsError(
                f"DRAGONFLY_SECRET_KEY is not set, and in prod it must be: {MIN_SECRET_CHARACTERS} or more random characters,"
                " the same for every web process, as from 'openssl rand -base64 32'."
            )
        return secrets.token_urlsafe(MIN_SECRET_CHARACTERS)

    def _require(self, value: str | None, variable: str) -> str:
        if value is None:
            raise SettingsError(
                f"{variable} is not set and no local stack runs on {self.home}: "
                "start one with 'dragonfly up', name its home with --home, or set the variable."
            )
        return value

    def _with_running_stack(self) -> Self:
        run = read_run_file(self.run_file)
        if not _lives(run.get("pid")):
            return self
        found = {
            name: run[name]
            for name in ("database_url", "database_direct_url", "redis_url", "storage_url", "dragonfly_url")
            if getattr(self, name) is None and run.get(name)
        }
        return dataclasses.replace(self, **found)


def _lives(pid: object) -> bool:
    """Whether the process is there: a stack that was killed leaves its run file behind."""
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def inherited_environment() -> dict[str, str]:
    """This process's environment, to hand on to programs that it starts."""
    return dict(os.environ)


def secret_variables() -> tuple[str, ...]:
    """The variables that hold a secret; each may be given as ``VARIABLE_FILE`` instead, the path of a file that holds it."""
    return tuple(entry.metadata["variable"] for entry in dataclasses.fields(Settings) if entry.metadata["secret"])


def _with_secret_files(source: Mapping[str, str]) -> dict[str, str]:
    """The variables of one source, with the content of each secret's file as its value.

    Raises SettingsError where a secret is given twice, or its file cannot be read.
    """
    found = dict(source)
    for variable in secret_variables():
        path = found.pop(variable + _BY_FILE, None)
        if path is None:
            continue
        if variable in found:
            raise SettingsError(f"{variable} and {variable}{_BY_FILE} are both set: set one of them.")
        try:
            value = Path(path).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
            # What is no path may be the secret itself.
            named = path if path.startswith(("/", "~")) else "something else than the absolute path of a file"
            raise SettingsError(f"{variable}{_BY_FILE} names {named}, which cannot be read: {reason}.") from None
        if value:
            found[variable] = value
    return found


def _values_from(layered: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for entry in dataclasses.fields(Settings):
        variable = entry.metadata["variable"]
        text = layered.get(variable)
        if text is None:
            continue
        try:
            values[entry.name] = entry.metadata["read"](text)
        except ValueError as problem:
            raise SettingsError(f"{variable} {problem}.") from None
    return values


def read_run_file(path: Path) -> dict[str, Any]:
    """What a running local stack wrote about itself; empty where none runs or the file is not to be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def settings_as_markdown() -> str:
    """The settings as docs/reference/settings.md shows them: defaults as they stand in the code, nothing of this machine."""
    lines = [
        "# Settings",
        "",
        "Every variable that Dragonfly reads. Made from the fields in `app/settings.py` by",
        "`python -m app.settings > docs/reference/settings.md`; a test holds this page to it.",
        "",
        "A variable is taken from the environment, else from `.env.dev` or `.env.prod` in the working directory, else from `.env`",
        "there; an empty value counts as not set. `--home`, `--env` and `--port` win over their variables. An address that is",
        "set nowhere is that of the local stack that runs on the home, if one does. A secret is a value to keep to yourself: it",
        "is a key, or an address with a password in it; it may be given as `VARIABLE_FILE` instead, the path of a file that holds",
        "it (line ends at its end do not count, an empty file counts as not set), which keeps it out of the environment.",
        "",
        "| variable | default | what it is for |",
        "|---|---|---|",
    ]
    for entry in dataclasses.fields(Settings):
        about = entry.metadata
        secret = " Secret." if about["secret"] else ""
        lines.append(f"| `{about['variable']}` | {_shown(entry.default)} | {about['doc']}.{secret} |")
    return "\n".join(lines) + "\n"


def _shown(default: Any) -> str:
    if default is None:
        return "not set"
    if isinstance(default, float):
        default = f"{default:g}"
    return f"`{','.join(default) if isinstance(default, tuple) else default}`"


if __name__ == "__main__":
    print(settings_as_markdown(), end="")
