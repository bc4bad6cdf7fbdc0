"""What compose.yaml runs is what ``dragonfly up`` runs: same options, same queues, same servers' settings, ports that fit."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import click
import flower.options
import pytest
import yaml
from celery.bin.base import CLIContext
from celery.bin.celery import celery as celery_command
from gunicorn.config import Config

from app.local import stack
from app.local.home import Home
from app.local.postgres import SERVER_SETTINGS
from app.local.supervisor import Child
from app.local.valkey import Valkey
from app.settings import Settings
from tasks.app import QUEUES, app, configure
from tests.compose_file import APPLICATION, REPOSITORY, SERVICES, SOURCE, environment, instructions

LOCAL = {"web", "worker", "beat", "flower"}
ITS_OWN = {
    "web": {"--bind"},
    "worker": {"--concurrency"},
    "beat": {"--schedule"},
    "flower": {"--conf", "--address", "--port"},
}
"""Options whose value is the container's own."""


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Mapping[str, Child]]:
    """What ``dragonfly up`` would run."""
    with Home(tmp_path / "home") as home:
        wanted = stack.Wanted(
            env={},
            port=8000,
            workers=2,
            storage_url=str(tmp_path / "blobs"),
            database_url="postgresql://database",
            database_direct_url="postgresql://direct",
            redis_url="redis://broker",
        )
        addresses = stack._addresses(home, wanted, wanted.port, None, None)
        made = stack._application(home, wanted, addresses, home.run_folder(), broker=("valkey",))
        yield {child.name: child for child in made}


def without_own(name: str, command: list[str]) -> list[str]:
    """The command without its program's path and without the options that are the container's own."""
    words: list[str] = []
    rest = iter(command[1:])
    for word in rest:
        option, equals, _ = word.partition("=")
        if option not in ITS_OWN[name]:
            words.append(word)
        elif not equals:
            next(rest)
    return words


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_a_program_is_run_as_dragonfly_up_runs_it(name: str, children: Mapping[str, Child]) -> None:
    command = SERVICES[name]["command"]
    assert command[0] == "python"
    assert without_own(name, command) == without_own(name, list(children[name].command))
    for option in ITS_OWN[name]:
        assert any(word.partition("=")[0] == option for word in command), option


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_a_program_has_as_long_to_stop_as_dragonfly_up_gives_it(name: str, children: Mapping[str, Child]) -> None:
    assert seconds(SERVICES[name]["stop_grace_period"]) >= children[name].stop_seconds


def seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([sm])", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def option_of(name: str, option: str) -> str:
    words = SERVICES[name]["command"]
    for number, word in enumerate(words):
        found, equals, value = word.partition("=")
        if found == option:
            return str(value if equals else words[number + 1])
    raise AssertionError(f"{name} has no {option}")


class TestCommands:
    def test_gunicorn_takes_the_webs_options(self) -> None:
        words = SERVICES["web"]["command"]
        assert words[1:3] == ["-m", "gunicorn"]
        found = Config().parser().parse_args(words[3:])
        assert found.args == ["app.wsgi:app"]
        assert (found.threads, found.worker_class, found.bind) == (32, "gthread", ["0.0.0.0:8000"])

    @pytest.mark.parametrize("name", ["worker", "beat", "flower"])
    def test_celery_takes_its_commands_options(self, name: str) -> None:
        words = SERVICES[name]["command"]
        assert words[1:3] == ["-m", "celery"]
        context = celery_command.make_context("celery", words[3:])
        assert context.params["app"] == "tasks.worker"
        context.obj = CLIContext(app=app, no_color=True, workdir=None)
        (called, command, rest) = celery_command.resolve_command(context, [*context._protected_args, *context.args])
        assert called == name
        assert command is not None
        below = command.make_context(called, rest, parent=context)
        if name != "flower":
            assert below.args == [], "options that nobody takes"
        if name == "worker":
            assert below.params["concurrency"] == 2
            # Neither named nor excluded: it serves them all.
            assert not below.params["queues"]
            assert not below.params["exclude_queues"]

    def test_flower_has_every_option_and_the_repositorys_configuration(self) -> None:
        words = SERVICES["flower"]["command"]
        options = [word[2:].partition("=")[0] for word in words[words.index("flower") + 1 :]]
        assert [name for name in options if name not in flower.options.default_options] == []
        conf = option_of("flower", "--conf")
        assert conf == f"{SOURCE}/monitoring/flower.py"
        assert (REPOSITORY / Path(conf).relative_to(SOURCE)).is_file()

    def test_a_worker_of_the_file_serves_every_queue_of_the_code(self) -> None:
        celery = configure(Settings(redis_url="redis://nowhere"))
        assert {queue.name for queue in celery.conf.task_queues} == set(QUEUES)

    @pytest.mark.parametrize("name", sorted(APPLICATION))
    def test_dragonflys_own_commands_are_there_and_take_their_options(self, name: str) -> None:
        from app.cli import dragonfly

        service = APPLICATION[name]
        lines = [shlex.split(line) for line in service["command"][-1].splitlines()]
        health = service.get("healthcheck", {}).get("test", [])
        for line in [*lines, health[1:]]:
            if line and line[0] == "dragonfly":
                assert_command_takes(dragonfly, line[1:])

    def test_who_uses_the_database_waits_for_the_schema(self) -> None:
        users = [name for name in APPLICATION if "DATABASE_URL_FILE" in environment(name) and name != "migrate"]
        assert sorted(users) == ["beat", "web", "worker"]
        for name in users:
            assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
            assert SERVICES[name]["depends_on"]["pgbouncer"] == {"condition": "service_healthy"}

    def test_the_owners_address_is_the_migrations_alone(self) -> None:
        owners = {name for name, service in SERVICES.items() if "database_owner_url" in service.get("secrets", [])}
        superusers = {name for name, service in SERVICES.items() if "postgres_password" in service.get("secrets", [])}
        assert (owners, superusers) == ({"migrate"}, {"postgres", "roles"})


def assert_command_takes(group: click.Group, words: list[str]) -> None:
    context: click.Context = click.Context(group, info_name=group.name)
    command: click.Command | None = group
    while isinstance(command, click.Group):
        command = command.get_command(context, words[0])
        assert command is not None, words
        words = words[1:]
    command.make_context(command.name, list(words), parent=context)


class TestServers:
    def test_postgresql_has_the_settings_of_the_local_one(self) -> None:
        words = SERVICES["postgres"]["command"]
        assert words[0] == "postgres"
        assert words[1::2] == ["-c"] * (len(words) // 2)
        settings = dict(word.split("=", 1) for word in words[2::2])
        assert settings == {name: value for name, value in SERVER_SETTINGS.items() if name in settings}
        # These keep rows out of its log.
        assert {"log_error_verbosity", "log_min_error_statement"} <= set(settings)

    def test_its_data_folder_is_made_like_the_local_one(self) -> None:
        source = (REPOSITORY / "app" / "local" / "postgres.py").read_text(encoding="utf-8")
        options = environment("postgres")["POSTGRES_INITDB_ARGS"].split()
        for option in ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"):
            assert option in options
            assert f'"{option}"' in source
        assert {"--encoding=UTF8", "--auth-local=scram-sha-256", "--auth-host=scram-sha-256"} <= set(options)

    def test_the_broker_has_the_settings_of_the_local_one(self, tmp_path: Path) -> None:
        script = SERVICES["redis"]["command"][-1].replace("\\\n", " ")
        words = shlex.split(script.splitlines()[0].partition("<<")[0])
        assert words[:3] == ["exec", "valkey-server", "-"]
        given = {option.removeprefix("--"): value for option, value in zip(words[3::2], words[4::2], strict=True)}
        local = dict(shlex.split(line) for line in Valkey(data=tmp_path, password="x").configuration.splitlines())
        shared = {"appendonly", "save", "maxmemory-policy", "loglevel"}
        assert {name: given[name] for name in shared} == {name: local[name] for name in shared}
        assert given["dir"] == SERVICES["redis"]["volumes"][0].partition(":")[2]

    def test_pgbouncer_keeps_no_session_and_asks_for_passwords(self) -> None:
        ini = pgbouncer_ini()
        assert ini["pgbouncer"]["pool_mode"] == "transaction"
        assert ini["pgbouncer"]["auth_type"] == "scram-sha-256"
        assert ini["databases"]["dragonfly"] == "host=postgres port=5432 dbname=dragonfly"
        assert int(ini["pgbouncer"]["default_pool_size"]) < int(SERVER_SETTINGS["max_connections"])
        assert SERVICES["pgbouncer"]["command"] == ["pgbouncer", "/etc/dragonfly-pgbouncer.ini"]

    def test_postgrest_shows_the_ops_views_to_nobody_in_particular(self) -> None:
        given = environment("postgrest")
        assert (given["PGRST_DB_SCHEMAS"], given["PGRST_DB_ANON_ROLE"]) == ("ops", "anon")
        source = (REPOSITORY / "monitoring" / "schema_cache.py").read_text(encoding="utf-8")
        assert f"NOTIFY {given['PGRST_DB_CHANNEL']}," in source
        assert '"Accept-Profile": "ops"' in source


def pgbouncer_ini() -> configparser.ConfigParser:
    (text,) = [text for instruction, text in instructions("pgbouncer") if instruction == "COPY"]
    place, _, content = text.partition("\n")
    assert place.endswith(" /etc/dragonfly-pgbouncer.ini")
    ini = configparser.ConfigParser()
    ini.read_string(content)
    return ini


class TestPorts:
    @pytest.mark.parametrize("name", ["web", "flower", "prometheus", "grafana"])
    def test_the_published_port_is_the_one_that_is_asked_for_health(self, name: str) -> None:
        inner = int(SERVICES[name]["ports"][0].rpartition(":")[2])
        (address,) = re.findall(r"http://127\.0\.0\.1:(\d+)", str(SERVICES[name]["healthcheck"]["test"]))
        assert int(address) == inner
        assert listening_ports(name) == {inner}

    def test_an_address_in_the_file_leads_to_a_service_that_listens_there(self) -> None:
        addresses = {value for name in APPLICATION for value in environment(name).values() if value.startswith("http:")}
        assert addresses == {"http://postgrest:3000"}
        for address in addresses:
            url = urlsplit(address)
            assert url.port in listening_ports(str(url.hostname))

    def test_prometheus_asks_where_somebody_listens_and_has_its_key_and_its_rules(self) -> None:
        text = (REPOSITORY / "monitoring" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
        configuration = yaml.safe_load(text)
        asked = {}
        for job in configuration["scrape_configs"]:
            for target in [target for group in job.get("static_configs", []) for target in group["targets"]]:
                host, _, port = target.rpartition(":")
                asked["prometheus" if host in ("localhost", "127.0.0.1") else host] = int(port)
            for names in job.get("dns_sd_configs", []):
                asked.update(dict.fromkeys(names["names"], names["port"]))
        assert {"web", "worker"} <= set(asked)
        assert {name: {port} for name, port in asked.items()} == {name: listening_ports(name) for name in asked}
        mounted = {mount.split(":")[1] for mount in SERVICES["prometheus"]["volumes"]}
        rules = {str(Path("/etc/prometheus") / file) for file in configuration["rule_files"]}
        assert rules <= mounted

    def test_grafana_finds_prometheus_and_the_dashboards(self) -> None:
        provisioning = REPOSITORY / "monitoring" / "grafana" / "provisioning"
        (datasources,) = [yaml.safe_load(file.read_text()) for file in (provisioning / "datasources").glob("*.y*ml")]
        addresses = [urlsplit(source["url"]) for source in datasources["datasources"]]
        assert [address.hostname for address in addresses] == ["prometheus"]
        assert {address.port for address in addresses} == listening_ports("prometheus")
        (providers,) = [yaml.safe_load(file.read_text()) for file in (provisioning / "dashboards").glob("*.y*ml")]
        mounted = {mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]}
        assert {provider["options"]["path"] for provider in providers["providers"]} <= mounted
        assert "/etc/grafana/provisioning" in mounted

    def test_a_workers_health_is_asked_where_it_shows_its_metrics(self) -> None:
        _, _, port = environment("worker")["WORKER_METRICS_PORT"].rpartition(":")
        assert f"http://127.0.0.1:{port}/metrics" in str(SERVICES["worker"]["healthcheck"]["test"])


def listening_ports(name: str) -> set[int]:
    """Where the service listens, as its command, its configuration or its image says."""
    given = environment(name)
    return {
        "web": lambda: {int(option_of("web", "--bind").rpartition(":")[2])},
        "worker": lambda: {int(given["WORKER_METRICS_PORT"].rpartition(":")[2])},
        "flower": lambda: {int(option_of("flower", "--port"))},
        "prometheus": lambda: {int(option_of("prometheus", "--web.listen-address").rpartition(":")[2])},
        "grafana": lambda: {3000},
        "postgrest": lambda: {int(given["PGRST_SERVER_PORT"])},
    }[name]()
