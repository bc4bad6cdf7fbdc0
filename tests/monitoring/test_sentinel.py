"""The sentinel: its report, its exit status, what it records, and how it does without what it watches."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from app.local.postgres import Postgres
from app.local.valkey import free_port
from app.settings import Settings
from app.store import sentinel as store
from app.store.database import open_single
from monitoring import bounded, checks, outage, sentinel
from monitoring.report import Finding, Level, Status
from monitoring.sentinel import Sentinel
from tests.conftest import Look
from tests.monitoring.conftest import Left
from tests.monitoring.discord_stub import DiscordStub

REPOSITORY = Path(__file__).parents[2]
METRICS = {"total_checks", "alerts_triggered", "critical_alerts", "warning_alerts"}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def watching(settings: Settings, left: Left) -> Sentinel:
    left.all_well()
    return Sentinel(settings=settings, interval_seconds=60)


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Run:
    """The command as a shell runs it, with nothing in its environment but what is given."""

    def command(*arguments: str, program: str = "monitoring.sentinel", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", program, *arguments, "--home", str(settings.home)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(REPOSITORY),
                "DATABASE_URL": settings.database_url,
                **env,
            },
        )

    return command


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """The name of a socket may be 107 bytes long, and pytest's own folders come near."""
    folder = Path(tempfile.mkdtemp(prefix="dfly-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def suspended(data: Path) -> Iterator[None]:
    """The server on this folder, or on one below it, stands still with all its processes, and keeps its connections."""
    (found,) = [
        child
        for child in psutil.Process().children(recursive=True)
        if child.name() == "postgres" and str(data) in " ".join(child.cmdline())
    ]
    stopped = [found, *found.children(recursive=True)]
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            process.resume()


def flips(look: Look) -> list[tuple[Any, ...]]:
    return look.rows("SELECT check_name, level_before, level_after FROM ops.sentinel_flips ORDER BY id")


def alerts(look: Look) -> list[tuple[Any, ...]]:
    return look.rows("SELECT kind, check_name, level, message FROM ops.alerts ORDER BY id")


class TestTheReport:
    def test_healthy_is_exit_status_0(self, watching: Sentinel, run: Run) -> None:
        done = run("--json")
        report = json.loads(done.stdout)
        assert (done.returncode, report["overall_status"], report["alerts"]) == (0, "healthy", []), done.stderr
        assert report["environment"] == "dev"
        assert report["metrics"] == {
            "total_checks": len(checks.CHECKS),
            "alerts_triggered": 0,
            "critical_alerts": 0,
            "warning_alerts": 0,
        }
        assert report.keys() == {"timestamp", "environment", "overall_status", "alerts", "metrics"}

    def test_dates_in_another_style_are_no_finding(self, watching: Sentinel, left: Left, run: Run) -> None:
        left.counted(inserted=3)
        done = run("--json", PGDATESTYLE="German")
        assert (done.returncode, json.loads(done.stdout)["alerts"]) == (0, []), done.stderr

    def test_a_warning_is_degraded_and_exit_status_1(self, watching: Sentinel, left: Left, run: Run) -> None:
        left.batch("uploaded", since_minutes=25)
        done = run("--json", "--env", "prod")
        report = json.loads(done.stdout)
        assert (done.returncode, report["overall_status"], report["environment"]) == (1, "degraded", "prod")
        (alert,) = report["alerts"]
        assert alert.keys() == {"check", "level", "message", "details"}
        assert (alert["check"], alert["level"]) == ("backlog", "WARNING")
        assert report["metrics"] == {
            "total_checks": len(checks.CHECKS),
            "alerts_triggered": 1,
            "critical_alerts": 0,
            "warning_alerts": 1,
        }

    def test_critical_is_exit_status_2_whatever_warns(self, watching: Sentinel, left: Left, run: Run) -> None:
        left.batch("uploaded", since_minutes=25)
        left.batch("staging", since_minutes=25)
        done = run("--json", program="monitoring.sentinel")
        report = json.loads(done.stdout)
        assert (done.returncode, report["overall_status"]) == (2, "critical")
        assert [alert["check"] for alert in report["alerts"]] == ["stuck_batches", "backlog"]

    def test_people_get_a_line_for_each_check(self, watching: Sentinel, left: Left, run: Run) -> None:
        left.batch("staging", since_minutes=25)
        done = run("sentinel", program="app.cli")
        lines = done.stdout.splitlines()
        assert [line.split()[1] for line in lines[:-1]] == list(checks.CHECKS)
        assert "CRITICAL  stuck_batches   1 batch stuck > 10m: staging(1)" in done.stdout
        assert lines[-1].startswith("critical at ")
        assert lines[-1].endswith("12 checks, 1 critical, 0 warning")
        assert done.returncode == 2

    def test_one_check_alone_records_nothing(self, watching: Sentinel, left: Left, run: Run, look: Look) -> None:
        left.batch("staging", since_minutes=25)
        before = look.count("ops.sentinel_runs")
        done = run("--json", "--check", "backlog", "--check", "beat")
        report = json.loads(done.stdout)
        assert (done.returncode, report["metrics"]["total_checks"]) == (0, 2)
        assert run("--check", "stuck_batches").returncode == 2
        assert look.count("ops.sentinel_runs") == before
        assert flips(look) == []

    @pytest.mark.parametrize("program", ["monitoring.sentinel", "app.cli"])
    @pytest.mark.parametrize("interval", ["nan", "inf", "-inf", "1e11", "0.5", "86401", "soon"])
    def test_an_interval_is_from_a_second_to_a_day(self, run: Run, program: str, interval: str) -> None:
        command = ["sentinel"] if program == "app.cli" else []
        done = run(*command, "--loop", "--interval", interval, program=program)
        assert done.returncode == 2
        assert "Error: Invalid value for '--interval': " in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_wrong_name_is_answered_with_the_right_ones(self, run: Run) -> None:
        done = run("--check", "stuck")
        assert done.returncode == 2
        assert "There is no check 'stuck'. The checks are: database, stuck_batches" in done.stderr

    def test_a_loop_reports_again_and_ends_with_the_last_status(
        self, watching: Sentinel, settings: Settings, tmp_path: Path
    ) -> None:
        command = [sys.executable, "-m", "monitoring.sentinel", "--json", "--loop", "--interval", "1"]
        env = {**os.environ, "DATABASE_URL": settings.database_url or "", "PYTHONPATH": str(REPOSITORY)}
        with subprocess.Popen(
            [*command, "--home", str(settings.home)], stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
        first, second = (json.loads(line) for line in lines)
        assert first["timestamp"] < second["timestamp"], rest
        assert process.returncode == 0


class TestWhatIsRecorded:
    def test_a_run_with_every_finding(self, watching: Sentinel, look: Look) -> None:
        watching.watch()
        ((status, environment, findings),) = look.rows(
            "SELECT overall_status, environment, findings FROM ops.sentinel_runs ORDER BY id DESC LIMIT 1"
        )
        assert (status, environment) == ("healthy", "dev")
        assert [finding["check"] for finding in findings] == list(checks.CHECKS)
        assert (flips(look), alerts(look)) == ([], [])

    def test_raised_worsened_eased_and_recovered_once_each(self, watching: Sentinel, left: Left, look: Look) -> None:
        for free in (8, 8, 2, 2, 7, 60, 60):
            left.do("UPDATE ops.workers SET disk_free_percent = :free", free=free)
            watching.watch()
        assert flips(look) == [
            ("disk_space", "HEALTHY", "WARNING"),
            ("disk_space", "WARNING", "CRITICAL"),
            ("disk_space", "CRITICAL", "WARNING"),
            ("disk_space", "WARNING", "HEALTHY"),
        ]
        assert [(kind, level) for kind, _, level, _ in alerts(look)] == [
            ("raised", "WARNING"),
            ("worsened", "CRITICAL"),
            ("eased", "WARNING"),
            ("recovered", "HEALTHY"),
        ]
        ((begun, ended),) = look.rows("SELECT unhealthy_since, happened_at FROM ops.alerts WHERE kind = 'recovered'")
        ((raised,),) = look.rows("SELECT happened_at FROM ops.alerts WHERE kind = 'raised'")
        assert begun == raised < ended

    def test_a_reminder_every_hour_while_critical(self, watching: Sentinel, left: Left, look: Look) -> None:
        left.batch("staging", since_minutes=25)
        watching.watch()
        for minutes, reminders in ((59, 0), (61, 1), (61, 1), (119, 1), (121, 2), (300, 3)):
            left.do(
                "UPDATE ops.sentinel_flips SET at = clock_timestamp() - make_interval(mins => :minutes)",
                minutes=minutes,
            )
            watching.watch()
            assert [kind for kind, *_ in alerts(look)] == ["raised", *["reminder"] * reminders]

    def test_a_warning_is_not_repeated(self, watching: Sentinel, left: Left, look: Look) -> None:
        left.batch("uploaded", since_minutes=25)
        watching.watch()
        left.do("UPDATE ops.sentinel_flips SET at = clock_timestamp() - interval '5 hours'")
        watching.watch()
        assert [kind for kind, *_ in alerts(look)] == ["raised"]

    def test_twenty_sentinels_at_once_tell_of_a_change_once(self, watching: Sentinel, left: Left, look: Look) -> None:
        left.batch("staging", since_minutes=25)
        threads = [threading.Thread(target=watching.watch) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert alerts(look) == [("raised", "stuck_batches", "CRITICAL", "1 batch stuck > 10m: staging(1)")]
        assert len(flips(look)) == 1

    def test_wrong_books_stay_critical_until_they_are_righted(self, watching: Sentinel, left: Left, look: Look) -> None:
        batch_id = left.counted(inserted=3, since_minutes=60 * 24)
        watching.watch()
        left.do("UPDATE public.judgments SET batch_id = gen_random_uuid() WHERE row_index = 1")
        assert [watching.watch().status for _ in range(4)] == [Status.CRITICAL] * 4
        left.do("UPDATE public.judgments SET batch_id = :id", id=batch_id)
        assert watching.watch().status is Status.HEALTHY
        assert [after for _, _, after in flips(look)] == ["CRITICAL", "HEALTHY"]

    def test_books_of_which_each_run_counts_a_few_are_all_counted_in_turn(
        self, watching: Sentinel, left: Left, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also those that ended in the same moment, and behind many that have no books."""
        monkeypatch.setattr(checks.watch, "MOST_BOOKS", 3)
        ids = [left.counted(inserted=1, since_minutes=60 * 24) for _ in range(8)]
        for _ in range(5):
            left.batch("cancelled", since_minutes=60 * 24)
        left.do("UPDATE intake.batches SET completed_at = date_trunc('day', now() - interval '2 days')")
        watching.watch()
        left.do("UPDATE public.judgments SET batch_id = gen_random_uuid() WHERE batch_id = :id", id=ids[5])
        statuses = [watching.watch().status for _ in range(4)]
        first = statuses.index(Status.CRITICAL)
        # Eight of them, three behind the place and three more from the oldest on: found by the third run at the latest.
        assert first <= 2
        assert set(statuses[first:]) == {Status.CRITICAL}

    def test_what_was_wrong_is_not_forgotten_by_a_run_that_could_not_count(
        self, watching: Sentinel, left: Left, look: Look, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch_id = left.counted(inserted=3, since_minutes=60 * 24)
        left.do("UPDATE public.judgments SET batch_id = gen_random_uuid() WHERE row_index = 1")
        watching.watch()

        def fails(_: checks.Scene) -> Any:
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr(sentinel, "CHECKS", {**checks.CHECKS, "ledger": fails})
            watching.watch()
        with monkeypatch.context() as patched:
            patched.setattr(checks.watch, "books_after", lambda *_, **__: [])
            (found,) = [finding for finding in watching.watch().findings if finding.check == "ledger"]
        assert found.details["batch_ids"] == [str(batch_id)]
        assert flips(look) == [("ledger", "HEALTHY", "CRITICAL")]

    def test_old_runs_are_dropped(self, watching: Sentinel, left: Left, look: Look) -> None:
        left.first_run(minutes_ago=60 * 24 * 31)
        watching.watch()
        assert look.rows("SELECT count(*) FROM ops.sentinel_runs WHERE started_at < now() - interval '30 days'") == [
            (0,)
        ]


class TestChecksThatCannotRun:
    def test_one_that_fails_is_critical_with_its_reason_and_the_others_go_on(
        self, watching: Sentinel, left: Left, owner_engine: Engine
    ) -> None:
        left.do("ALTER TABLE ops.canaries RENAME TO canaries_away")
        try:
            report = watching.run()
        finally:
            left.do("ALTER TABLE ops.canaries_away RENAME TO canaries")
        (alert,) = report.alerts
        assert (alert.check, alert.level) == ("workers", Level.CRITICAL)
        assert alert.message == "Cannot run: ProgrammingError, SQLSTATE 42P01"

    def test_a_locked_table_stops_those_alone_that_need_it(
        self, watching: Sentinel, owner_engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sentinel, "_STATEMENT_SECONDS", 0.3)
        monkeypatch.setattr(sentinel, "_GLANCE_SECONDS", 0.3)
        with owner_engine.begin() as connection:
            connection.execute(text("LOCK TABLE intake.batches IN ACCESS EXCLUSIVE MODE"))
            report = watching.run()
        assert [alert.check for alert in report.alerts] == [
            "stuck_batches",
            "error_spike",
            "ledger",
            "backlog",
            "workers",
            "duplicate_rate",
        ]
        assert {alert.message for alert in report.alerts} == {"Cannot run: OperationalError, SQLSTATE 57014"}

    @pytest.mark.parametrize("table", ["ops.sentinel_runs", "ops.api_keys"])
    def test_a_lock_on_what_is_on_record_hides_no_finding(
        self, watching: Sentinel, left: Left, owner_engine: Engine, monkeypatch: pytest.MonkeyPatch, table: str
    ) -> None:
        monkeypatch.setattr(sentinel, "_GLANCE_SECONDS", 0.3)
        left.do("DELETE FROM ops.heartbeats")
        with owner_engine.begin() as connection:
            connection.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            report = watching.run()
        assert [alert.message for alert in report.alerts] == ["Beat has never been seen, a sign within 60s expected"]

    def test_one_that_hangs_is_given_up(self, watching: Sentinel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bounded, "LONGEST_SECONDS", 0.5)
        released = threading.Event()

        def hangs(_: checks.Scene) -> Any:
            released.wait(30)

        monkeypatch.setattr(sentinel, "CHECKS", {**checks.CHECKS, "backlog": hangs})
        report = watching.run()
        released.set()
        (alert,) = report.alerts
        assert (alert.check, alert.message) == ("backlog", "Cannot run: no answer within 0.5s")

    def test_an_exceptions_text_is_never_told(self, watching: Sentinel, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(_: checks.Scene) -> Any:
            raise ValueError("Ada Marlow owes 1234.50")

        monkeypatch.setattr(sentinel, "CHECKS", {**checks.CHECKS, "backlog": fails})
        report = watching.run()
        assert report.alerts[0].message == "Cannot run: ValueError"
        assert "Ada" not in json.dumps(report.as_json())


class TestWithoutWhatItNeeds:
    @pytest.mark.parametrize("address", ["localhost:6379", "amqp://guest:secret@host/"])
    def test_an_address_that_is_none_of_redis_is_a_sentence_of_one_check(
        self, watching: Sentinel, run: Run, address: str
    ) -> None:
        done = run("--json", REDIS_URL=address)
        (alert,) = json.loads(done.stdout)["alerts"]
        assert (done.returncode, alert["check"]) == (2, "broker")
        assert alert["message"] == (
            "Cannot run: REDIS_URL is no address of Redis: it begins with redis://, rediss:// or unix://"
        )
        assert "secret" not in done.stdout + done.stderr

    def test_a_database_without_the_tables_is_told_what_it_lacks(
        self, run: Run, settings: Settings, owner_engine: Engine, postgres_server: Postgres
    ) -> None:
        with owner_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("CREATE DATABASE bare"))
            try:
                done = run("--json", DATABASE_URL=postgres_server.url(database="bare"))
            finally:
                connection.execute(text("DROP DATABASE bare WITH (FORCE)"))
        messages = {alert["message"] for alert in json.loads(done.stdout)["alerts"]}
        assert done.returncode == 2
        assert messages == {"Cannot run: the database lacks Dragonfly's tables: run 'dragonfly migrate'"}

    def test_alone_it_waits_no_longer_than_beat_does(self, settings: Settings, left: Left, run: Run) -> None:
        """Else it would tell that what beat has raised is over."""
        started = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=200)
        settings.home.mkdir(parents=True, exist_ok=True)
        settings.run_file.write_text(json.dumps({"started_at": started.isoformat()}))
        left.heartbeat("beat", silent_seconds=1)
        done = run("--json", "--check", "workers")
        assert [alert["message"] for alert in json.loads(done.stdout)["alerts"]] == [
            "0 workers alive, at least 1 expected"
        ]

    def test_on_a_stack_whose_start_it_does_not_know_the_silent_are_no_news_to_wait_for(
        self, settings: Settings, left: Left, run: Run
    ) -> None:
        left.worker(silent_seconds=300)
        left.heartbeat("beat", silent_seconds=600)
        done = run("--json", "--check", "workers", "--check", "beat")
        workers, beat = (alert["message"] for alert in json.loads(done.stdout)["alerts"])
        # The command takes a moment to start.
        assert re.fullmatch(r"1 of 1 workers dead: silent for 30\ds > 30s", workers)
        assert re.fullmatch(r"Beat silent for 60\ds > 60s", beat)


class TestWithoutPostgres:
    def test_it_says_so_and_is_critical(self, run: Run) -> None:
        done = run("--json", DATABASE_URL=f"postgresql://service_role:secret@127.0.0.1:{free_port()}/dragonfly")
        report = json.loads(done.stdout)
        assert (done.returncode, report["overall_status"]) == (2, "critical")
        first, *others = report["alerts"]
        assert first["check"] == "database"
        assert first["message"].startswith("Cannot run: PostgreSQL does not answer (OperationalError")
        assert {alert["message"] for alert in others} == {"Cannot run: PostgreSQL does not answer"}
        assert report["metrics"]["total_checks"] == len(checks.CHECKS)
        assert "secret" not in done.stdout + done.stderr

    def test_without_an_address_it_says_what_to_set(self, run: Run, settings: Settings) -> None:
        done = run("--json", DATABASE_URL="")
        report = json.loads(done.stdout)
        assert done.returncode == 2
        assert report["alerts"][0]["message"] == (
            f"Cannot run: DATABASE_URL is not set and no local stack runs on {settings.home}"
        )

    def test_one_that_hangs_is_told_within_bounds(self, settings: Settings, short_folder: Path) -> None:
        with Postgres(data=short_folder / "data", sockets=short_folder, password="owner") as server:
            began = time.monotonic()
            with suspended(short_folder):
                chosen = dataclasses.replace(settings, database_url=server.url())
                report = Sentinel(settings=chosen, interval_seconds=60).run()
        assert report.status is Status.CRITICAL
        assert report.alerts[0].message.startswith("Cannot run: PostgreSQL does not answer")
        assert time.monotonic() - began < 30

    def test_one_that_hangs_amid_a_run_is_told_once_and_not_by_every_check(
        self, watching: Sentinel, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounded, "LONGEST_SECONDS", 1.0)
        with ExitStack() as stopped:

            def hangs(scene: checks.Scene) -> Any:
                stopped.enter_context(suspended(postgres_server.data))
                return checks.backlog(scene)

            monkeypatch.setattr(sentinel, "CHECKS", {**checks.CHECKS, "backlog": hangs})
            report = watching.run()
        first, *others = report.alerts
        assert first.message == "Cannot run: PostgreSQL does not answer (no answer within 1s)"
        assert {alert.message for alert in others} == {"Cannot run: PostgreSQL does not answer"}

    def test_one_that_hangs_while_a_run_is_recorded_is_told(
        self, watching: Sentinel, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bounded, "LONGEST_SECONDS", 1.0)
        with DiscordStub() as discord, ExitStack() as stopped:
            chosen = dataclasses.replace(watching.settings, discord_webhook_url=discord.url)
            take_lock = store.lock

            def hangs(connection: Connection) -> None:
                stopped.enter_context(suspended(postgres_server.data))
                take_lock(connection)

            monkeypatch.setattr(store, "lock", hangs)
            dataclasses.replace(watching, settings=chosen).watch()
            assert discord.shown == ["Cannot run: the run could not be recorded: no answer within 1s"]


class TestTheOutageOfPostgres:
    """Told without an outbox, and remembered until it is over."""

    @pytest.fixture
    def discord(self) -> Iterator[DiscordStub]:
        with DiscordStub() as running:
            yield running

    @pytest.fixture
    def away(self, watching: Sentinel, discord: DiscordStub) -> Sentinel:
        """A sentinel whose database is not there."""
        watching.settings = dataclasses.replace(
            watching.settings,
            discord_webhook_url=discord.url,
            database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere",
        )
        return watching

    @staticmethod
    def titles(discord: DiscordStub) -> list[str]:
        return [request.embed["title"] for request in discord.taken]

    @staticmethod
    def comes_back(away: Sentinel, settings: Settings) -> None:
        away.settings = dataclasses.replace(away.settings, database_url=settings.database_url)
        assert away.watch().status is Status.HEALTHY

    def assert_told_once(self, away: Sentinel, discord: DiscordStub, settings: Settings, look: Look) -> None:
        for _ in range(3):
            away.watch()
        assert self.titles(discord) == ["database raised"]
        self.comes_back(away, settings)
        assert flips(look) == [("database", "HEALTHY", "CRITICAL"), ("database", "CRITICAL", "HEALTHY")]
        assert [kind for kind, *_ in alerts(look)] == ["recovered"]

    def test_it_is_told_once_and_put_on_record_when_it_is_over(
        self, away: Sentinel, discord: DiscordStub, settings: Settings, look: Look
    ) -> None:
        self.assert_told_once(away, discord, settings, look)
        assert not (settings.home / "sentinel.json").exists()

    def test_it_is_told_once_on_a_home_that_cannot_be_written(
        self, away: Sentinel, discord: DiscordStub, settings: Settings, look: Look
    ) -> None:
        settings.home.write_text("no folder")
        self.assert_told_once(away, discord, settings, look)

    def test_one_that_was_sent_before_the_disk_was_full_is_not_sent_again(
        self, away: Sentinel, discord: DiscordStub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        write = outage._write
        monkeypatch.setattr(outage, "_write", lambda file, known: full() if known.told_at else write(file, known))
        for _ in range(2):
            away.watch()
        assert self.titles(discord) == ["database raised"]

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "{}",
            "[]",
            "null",
            '{"since": "x", "told_at": null, "finding": {}}',
            '{"since": "2025-01-07T12:00:00", "told_at": null,'
            ' "finding": {"check": "database", "level": "CRITICAL", "message": "m", "details": {}}}',
            '{"since": "2025-01-07T12:00:00+00:00", "told_at": 5,'
            ' "finding": {"check": "database", "level": "CRITICAL", "message": "m", "details": {}}}',
            '{"since": "2025-01-07T12:00:00+00:00", "told_at": null,'
            ' "finding": {"check": "database", "level": "BAD", "message": "m", "details": []}}',
        ],
    )
    def test_a_file_of_another_shape_is_none(
        self, away: Sentinel, discord: DiscordStub, settings: Settings, look: Look, content: str
    ) -> None:
        settings.home.mkdir(parents=True)
        (settings.home / "sentinel.json").write_text(content)
        away.watch()
        assert self.titles(discord) == ["database raised"]
        (settings.home / "sentinel.json").write_text(content)
        self.comes_back(away, settings)
        assert flips(look) == []


class TestASentinelThatStandsStill:
    def test_the_server_takes_its_locks_away(self, watching: Sentinel, settings: Settings, look: Look) -> None:
        url = settings.require_database_url()
        stopped = open_single(url, idle_seconds=1).connect()
        before, began = look.count("ops.sentinel_runs"), time.monotonic()
        store.lock(stopped)
        watching.watch()
        assert 0.5 < time.monotonic() - began < 20
        assert look.count("ops.sentinel_runs") == before + 1
        with pytest.raises(SQLAlchemyError):
            stopped.execute(text("SELECT 1"))
        stopped.close()

    def test_every_transaction_of_the_watch_is_bounded(
        self, watching: Sentinel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = []

        def look_up(scene: checks.Scene) -> Finding:
            found.append(scene.connection.scalar(text("SHOW idle_in_transaction_session_timeout")))
            return checks.backlog(scene)

        take_lock = store.lock

        def look_up_again(connection: Connection) -> None:
            found.append(connection.scalar(text("SHOW idle_in_transaction_session_timeout")))
            take_lock(connection)

        monkeypatch.setattr(sentinel, "CHECKS", {**checks.CHECKS, "backlog": look_up})
        monkeypatch.setattr(store, "lock", look_up_again)
        watching.watch()
        assert found == ["30s", "30s"]
