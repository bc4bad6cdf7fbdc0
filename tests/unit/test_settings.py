"""Settings: which source wins, what the running stack adds, what a broken value is answered, and who reads them."""

import ast
import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest

import app.batch
import app.settings
from app.settings import Settings, SettingsError, read_run_file, secret_variables

REPOSITORY = Path(__file__).parents[2]
VARIABLES = [entry.metadata["variable"] for entry in dataclasses.fields(Settings)]
DOCUMENTED_VARIABLES = {
    "DRAGONFLY_ENV",
    "DRAGONFLY_HOME",
    "PORT",
    "DATABASE_URL",
    "DATABASE_DIRECT_URL",
    "REDIS_URL",
    "STORAGE_URL",
    "DRAGONFLY_URL",
    "DRAGONFLY_KEY",
    "DRAGONFLY_ADMIN_KEY",
    "DRAGONFLY_SECRET_KEY",
    "FLOWER_URL",
    "DRAGONFLY_PG_BIN",
    "MAX_UPLOAD_BYTES",
    "LEASE_SECONDS",
    "DISCORD_WEBHOOK_URL",
    "DISCORD_ALLOWED_HOSTS",
    "FLOWER_BASIC_AUTH",
    "POSTGREST_URL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, a home of its own and none of the variables set."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(f"{variable}_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_run_file(home: Path, **content: object) -> None:
    home.mkdir(parents=True)
    (home / "run.json").write_text(json.dumps({"pid": os.getpid(), **content}))


class TestPrecedence:
    def test_defaults_hold_where_nothing_is_set(self, folder: Path) -> None:
        settings = Settings.load()
        assert settings.env == "dev"
        assert settings.port == 8000
        assert settings.max_upload_bytes == 2 * 1024**3
        assert settings.lease_seconds == 15
        assert settings.database_url is None
        assert settings.home == folder / "user" / ".local" / "share" / "dragonfly"
        assert settings.storage == str(settings.home / "blobs")

    def test_the_environment_wins_over_the_files_of_the_environment_and_of_all(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / ".env").write_text("PORT=1001\nLEASE_SECONDS=101\nREDIS_URL=redis://all\n")
        (folder / ".env.dev").write_text("PORT=1002\nLEASE_SECONDS=102\n")
        monkeypatch.setenv("PORT", "1003")
        settings = Settings.load()
        assert (settings.port, settings.lease_seconds, settings.redis_url) == (1003, 102, "redis://all")

    @pytest.mark.parametrize("source", ["option", "environment", "file"])
    def test_the_file_of_the_chosen_environment_is_read(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, source: str
    ) -> None:
        (folder / ".env.dev").write_text("PORT=1\n")
        (folder / ".env.prod").write_text("PORT=2\n")
        if source == "environment":
            monkeypatch.setenv("DRAGONFLY_ENV", "prod")
        if source == "file":
            (folder / ".env").write_text("DRAGONFLY_ENV=prod\n")
        settings = Settings.load(env="prod" if source == "option" else None)
        assert (settings.env, settings.port) == ("prod", 2)

    def test_a_commands_own_options_win_over_every_variable(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DRAGONFLY_HOME", str(folder / "from-environment"))
        monkeypatch.setenv("DRAGONFLY_ENV", "dev")
        monkeypatch.setenv("PORT", "1")
        settings = Settings.load(home=folder / "from-option", env="prod", port=2)
        assert (settings.home, settings.env, settings.port) == (folder / "from-option", "prod", 2)

    def test_an_empty_value_is_not_set(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / ".env").write_text("PORT=1001\nDATABASE_URL=\n")
        monkeypatch.setenv("PORT", "")
        settings = Settings.load()
        assert (settings.port, settings.database_url) == (1001, None)

    def test_a_home_is_absolute_and_may_begin_with_a_tilde(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert Settings.load(home="~/data").home == folder / "user" / "data"
        assert Settings.load(home="data").home == folder / "data"

    def test_settings_are_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            Settings.load().port = 1  # type: ignore[misc]


class TestRunningStack:
    ADDRESSES = ("database_url", "database_direct_url", "redis_url", "storage_url", "dragonfly_url")

    def test_an_address_that_is_set_nowhere_comes_from_the_running_stack(self, folder: Path) -> None:
        write_run_file(folder / "home", **{name: f"local://{name}" for name in self.ADDRESSES})
        settings = Settings.load(home=folder / "home")
        assert [getattr(settings, name) for name in self.ADDRESSES] == [f"local://{name}" for name in self.ADDRESSES]

    def test_an_address_that_is_set_stands(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_run_file(folder / "home", database_url="local://x", redis_url="local://y")
        monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/x")
        settings = Settings.load(home=folder / "home")
        assert (settings.database_url, settings.redis_url) == ("postgresql://elsewhere/x", "local://y")

    def test_a_stack_that_was_killed_is_no_running_stack(self, folder: Path) -> None:
        gone = subprocess.Popen(["true"])
        gone.wait()
        write_run_file(folder / "home", database_url="local://x", pid=gone.pid)
        assert Settings.load(home=folder / "home").database_url is None

    def test_the_stack_of_another_home_is_not_asked(self, folder: Path) -> None:
        write_run_file(folder / "home", database_url="local://x")
        assert Settings.load(home=folder / "other").database_url is None

    @pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "\x00"])
    def test_a_damaged_run_file_reads_as_no_stack(self, folder: Path, content: str) -> None:
        path = folder / "run.json"
        path.write_text(content)
        assert read_run_file(path) == {}

    def test_no_run_file_reads_as_no_stack(self, folder: Path) -> None:
        assert read_run_file(folder / "run.json") == {}


class TestRefusals:
    @pytest.mark.parametrize(
        ("variable", "value", "sentence"),
        [
            ("PORT", "http", "PORT must be a whole number, found 'http'."),
            ("PORT", "70000", "PORT must be a whole number from 0 to 65535, found 70000."),
            ("PORT", "-1", "PORT must be a whole number from 0 to 65535, found -1."),
            ("MAX_UPLOAD_BYTES", "0", "MAX_UPLOAD_BYTES must be a whole number of at least 1, found 0."),
            ("LEASE_SECONDS", "1.5", "LEASE_SECONDS must be a whole number, found '1.5'."),
            ("DRAGONFLY_ENV", "staging", "DRAGONFLY_ENV must be dev or prod, found 'staging'."),
            ("DRAGONFLY_ADMIN_KEY", "short", "DRAGONFLY_ADMIN_KEY must have at least 20 characters, found 5."),
            ("DRAGONFLY_SECRET_KEY", "short", "DRAGONFLY_SECRET_KEY must have at least 32 characters, found 5."),
            ("FLOWER_URL", "javascript:alert(1)", "FLOWER_URL must begin with http:// or https://."),
            (
                "WORKER_METRICS_PORT",
                "localhost",
                "WORKER_METRICS_PORT must be a port, or ADDRESS:PORT, with a port from 1 to 65535, found 'localhost'.",
            ),
            (
                "FLOWER_BASIC_AUTH",
                "hunter2",
                "FLOWER_BASIC_AUTH must be a user and a password with a colon between them.",
            ),
        ],
    )
    def test_a_value_that_breaks_its_rule_is_answered_with_a_sentence(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        with pytest.raises(SettingsError) as refused:
            Settings.load()
        assert str(refused.value) == sentence

    @pytest.mark.parametrize(
        ("value", "address"),
        [("9400", ("127.0.0.1", 9400)), ("10.0.0.5:9400", ("10.0.0.5", 9400)), ("[::1]:9400", ("::1", 9400))],
    )
    def test_a_port_alone_is_one_of_the_loopback_address(
        self, monkeypatch: pytest.MonkeyPatch, value: str, address: tuple[str, int]
    ) -> None:
        monkeypatch.setenv("WORKER_METRICS_PORT", value)
        assert Settings.load().worker_metrics == address

    @pytest.mark.parametrize(
        ("method", "variable"),
        [
            ("require_database_url", "DATABASE_URL"),
            ("require_database_direct_url", "DATABASE_DIRECT_URL"),
            ("require_redis_url", "REDIS_URL"),
        ],
    )
    def test_an_address_that_is_needed_and_missing_is_answered_with_what_to_do(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, method: str, variable: str
    ) -> None:
        with pytest.raises(SettingsError) as refused:
            getattr(Settings.load(home=folder / "home"), method)()
        assert str(refused.value) == (
            f"{variable} is not set and no local stack runs on {folder / 'home'}: "
            "start one with 'dragonfly up', name its home with --home, or set the variable."
        )
        monkeypatch.setenv(variable, "scheme://set")
        assert getattr(Settings.load(), method)() == "scheme://set"

    def test_prod_needs_a_secret_key_and_dev_makes_do_without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(SettingsError, match="DRAGONFLY_SECRET_KEY is not set, and in prod it must be: 32 or more"):
            Settings.load(env="prod").require_secret_key()
        assert len(Settings.load().require_secret_key()) >= 32
        assert Settings.load().require_secret_key() != Settings.load().require_secret_key()
        monkeypatch.setenv("DRAGONFLY_SECRET_KEY", "s" * 32)
        for env in ("dev", "prod"):
            assert Settings.load(env=env).require_secret_key() == "s" * 32

    @pytest.mark.parametrize("variable", ["DRAGONFLY_ADMIN_KEY", "DRAGONFLY_SECRET_KEY"])
    def test_a_wrong_key_is_not_repeated(self, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        monkeypatch.setenv(variable, "hunter2")
        with pytest.raises(SettingsError) as refused:
            Settings.load()
        assert "hunter2" not in str(refused.value)


class TestSecretsByFile:
    @pytest.mark.parametrize("variable", secret_variables())
    def test_a_secret_is_read_from_the_file_that_its_variable_names(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        (folder / "secret").write_text("user:a password of many characters \r\n\n")
        monkeypatch.setenv(f"{variable}_FILE", str(folder / "secret"))
        (name,) = [entry.name for entry in dataclasses.fields(Settings) if entry.metadata["variable"] == variable]
        assert getattr(Settings.load(), name) == "user:a password of many characters "

    def test_given_both_ways_it_is_refused(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "secret").write_text("redis://one")
        monkeypatch.setenv("REDIS_URL_FILE", str(folder / "secret"))
        monkeypatch.setenv("REDIS_URL", "redis://two")
        with pytest.raises(SettingsError) as refused:
            Settings.load()
        assert str(refused.value) == "REDIS_URL and REDIS_URL_FILE are both set: set one of them."

    def test_the_environments_file_wins_over_the_value_of_a_lesser_source(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / ".env").write_text("REDIS_URL=redis://lesser\nDATABASE_URL_FILE=database\n")
        (folder / "database").write_text("postgresql://lesser")
        (folder / "secret").write_text("redis://environment")
        monkeypatch.setenv("REDIS_URL_FILE", str(folder / "secret"))
        monkeypatch.setenv("DATABASE_URL", "postgresql://environment")
        settings = Settings.load()
        assert (settings.redis_url, settings.database_url) == ("redis://environment", "postgresql://environment")

    def test_an_empty_file_is_no_secret(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "secret").write_text("\n")
        monkeypatch.setenv("DISCORD_WEBHOOK_URL_FILE", str(folder / "secret"))
        assert Settings.load().discord_webhook_url is None

    def test_a_file_that_cannot_be_read_is_answered_with_the_variable_and_the_path(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_URL_FILE", str(folder / "gone"))
        with pytest.raises(SettingsError) as refused:
            Settings.load()
        assert str(refused.value) == (
            f"DATABASE_URL_FILE names {folder / 'gone'}, which cannot be read: No such file or directory."
        )
        (folder / "gone").write_bytes(b"\xff\xfe")
        with pytest.raises(SettingsError, match="cannot be read: it is not UTF-8"):
            Settings.load()

    def test_a_secret_in_a_files_place_is_not_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL_FILE", "postgresql://u:geheim@host/x")
        with pytest.raises(SettingsError, match="something else than the absolute path of a file") as caught:
            Settings.load()
        assert "geheim" not in str(caught.value)

    def test_only_a_secret_is_read_from_a_file(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT_FILE", str(folder / "gone"))
        assert Settings.load().port == 8000


class TestDocumentation:
    def test_every_documented_variable_is_a_setting(self) -> None:
        assert set(VARIABLES) >= DOCUMENTED_VARIABLES

    def test_every_setting_says_what_it_is_for_and_has_a_variable_of_its_own(self) -> None:
        assert [entry.name for entry in dataclasses.fields(Settings) if not entry.metadata["doc"]] == []
        assert len(VARIABLES) == len(set(VARIABLES))

    def test_keys_passwords_and_webhooks_are_secrets(self) -> None:
        secret = {entry.metadata["variable"] for entry in dataclasses.fields(Settings) if entry.metadata["secret"]}
        assert secret >= {
            "DATABASE_URL",
            "DATABASE_DIRECT_URL",
            "REDIS_URL",
            "DRAGONFLY_KEY",
            "DRAGONFLY_ADMIN_KEY",
            "DRAGONFLY_SECRET_KEY",
            "DISCORD_WEBHOOK_URL",
        }

    def test_hosts_are_separated_by_commas(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DISCORD_ALLOWED_HOSTS", "a.example, b.example,")
        assert Settings.load().discord_allowed_hosts == ("a.example", "b.example")


def environment_reads(source: str) -> list[int]:
    """The lines that read the environment: os.environ, os.getenv, or either imported by name.

    ``{**os.environ, ...}`` hands the environment on to a child process whole, and reads nothing out of it.
    """
    names = {"environ", "environb", "getenv", "getenvb"}
    tree = ast.parse(source)
    handed_on = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if key is None
    }
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os":
            lines += [] if id(node) in handed_on else [node.lineno]
        if isinstance(node, ast.ImportFrom) and node.module == "os" and names & {name.name for name in node.names}:
            lines.append(node.lineno)
        if isinstance(node, ast.ImportFrom | ast.Import) and "dotenv" in ast.unparse(node):
            lines.append(node.lineno)
    return lines


READERS = (
    REPOSITORY / "app" / "settings.py",
    # The build hook runs where nothing of the package is installed yet, and only completes npm's PATH.
    REPOSITORY / "app" / "dashboard" / "build_hook.py",
)


class TestOnlyReader:
    @pytest.mark.parametrize("read", ["os.environ['A']", "os.getenv('A')", "from os import environ", "import dotenv"])
    def test_a_read_of_the_environment_is_seen(self, read: str) -> None:
        assert environment_reads(f"import os\n{read}\n") == [2]

    def test_handing_the_environment_on_is_no_read(self) -> None:
        assert environment_reads("import os\nrun(env={**os.environ, 'A': 'b'})\n") == []

    def test_only_settings_reads_the_environment(self) -> None:
        readers = [
            f"{path.relative_to(REPOSITORY)}:{line}"
            for package in ("app", "tasks", "monitoring")
            for path in sorted((REPOSITORY / package).rglob("*.py"))
            for line in environment_reads(path.read_text(encoding="utf-8"))
            if path not in READERS
        ]
        assert readers == []

    def test_settings_does_read_it(self) -> None:
        assert environment_reads((REPOSITORY / "app" / "settings.py").read_text(encoding="utf-8")) != []
        assert os.environ["HOME"].endswith("user")


class TestLimitsBySource:
    def test_a_source_may_have_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENTINEL_ERROR_PERCENT", "12.5, foil=30,jbi=5")
        found = Settings.load().sentinel_error_percent
        assert (found.default, dict(found.by_source)) == (12.5, {"foil": 30, "jbi": 5})
        assert str(found) == "12.5,foil=30,jbi=5"

    @pytest.mark.parametrize("text", ["foil=30", "15,nobody=3", "15,20", "15,foil=1,foil=2", "101", "many", "15,foil="])
    def test_anything_else_is_refused(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("SENTINEL_ERROR_PERCENT", text)
        with pytest.raises(SettingsError, match="SENTINEL_ERROR_PERCENT"):
            Settings.load()

    @pytest.mark.parametrize("text", ["0", "nan", "inf", "1e11", "86401"])
    def test_an_interval_is_at_most_a_day(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("SENTINEL_INTERVAL_SECONDS", text)
        with pytest.raises(SettingsError, match="SENTINEL_INTERVAL_SECONDS must be"):
            Settings.load()

    def test_the_sources_are_those_of_the_batches(self) -> None:
        assert app.settings.SOURCES == app.batch.SOURCES
