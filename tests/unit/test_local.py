"""The small parts of the local stack: names of programs, secrets, addresses, and the wording of failures."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from app.local import LocalStackError
from app.local.console import Console
from app.local.home import Home, read_run, running_pid
from app.local.postgres import Postgres, find_programs
from app.local.process import last_error, spawn
from app.local.supervisor import RestartPolicy
from app.local.valkey import free_port


def test_the_wheels_programs_are_found_without_running_the_package() -> None:
    assert (find_programs(search_path="") / "initdb").is_file()


def test_a_chosen_folder_without_postgres_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match="DRAGONFLY_PG_BIN"):
        find_programs(tmp_path)


def test_a_url_quotes_what_would_end_the_password_early(tmp_path: Path) -> None:
    server = Postgres(data=tmp_path, sockets=Path("/a b/run"), password="p@/:'")
    assert server.url() == "postgresql://postgres:p%40%2F%3A%27@/dragonfly?host=/a%20b/run"


def test_a_secret_is_made_once_and_kept_for_its_owner(tmp_path: Path) -> None:
    with Home(tmp_path / "home") as home:
        made = home.secret("postgres_password")
        assert len(made) >= 40
        assert made != home.secret("valkey_password")
    with Home(tmp_path / "home") as home:
        assert home.secret("postgres_password") == made
    assert (tmp_path / "home" / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_a_home_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    assert running_pid(tmp_path) is None
    with Home(tmp_path):
        assert running_pid(tmp_path) == str(os.getpid())
        with pytest.raises(LocalStackError, match=f"pid {os.getpid()}.*already runs"), Home(tmp_path):
            pass
        assert running_pid(tmp_path) == str(os.getpid())
    assert running_pid(tmp_path) is None


def test_the_run_file_appears_whole_and_goes(tmp_path: Path) -> None:
    with Home(tmp_path) as home:
        home.write_run({"web": "http://127.0.0.1:1"})
        assert read_run(tmp_path) == {"home": str(tmp_path), "web": "http://127.0.0.1:1"}
        home.remove_run()
    assert read_run(tmp_path) == {}


def test_a_free_port_is_below_those_for_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert 1024 < free_port() < max(lowest, 32_000)


@pytest.mark.parametrize(("deaths", "seconds"), [(1, 0.5), (2, 1), (4, 4), (5, 8), (6, 15), (60, 15)])
def test_the_wait_doubles_up_to_its_limit(deaths: int, seconds: float) -> None:
    assert RestartPolicy().delay(deaths) == seconds


def test_the_line_that_names_the_error_is_preferred_to_the_last_line() -> None:
    assert last_error(["LOG:  starting", "FATAL:  no room", "LOG:  shut down"]) == "FATAL:  no room"
    assert last_error(["one", "two", ""]) == "two"
    assert last_error([]) == "it ended without a word"


def test_only_the_main_thread_starts_processes() -> None:
    seen: list[BaseException] = []

    def start() -> None:
        try:
            spawn(["true"], env={}, output=1)
        except RuntimeError as problem:
            seen.append(problem)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(seen) == 1


def test_a_line_stands_under_its_name_coloured_only_if_asked() -> None:
    for colour, expected in ((False, b"web      | hello\n"), (True, b"\x1b[36mweb      |\x1b[0m hello\n")):
        reading, writing = os.pipe()
        console = Console(writing, colour=colour)
        console.say("web", "hello")
        console.close()
        os.close(writing)
        with os.fdopen(reading, "rb") as output:
            assert output.read() == expected


JSON_LINE = (
    '{"batch_id": "7f", "from": null, "event": "batch changed", "level": "info", "timestamp": "2026-11-25T13:50:55.9Z"}'
)


@pytest.mark.parametrize(
    ("line", "for_a_person"),
    [
        (JSON_LINE, "13:50:55 [info] batch changed batch_id=7f from=None"),
        ('{"event": "no level"}', '{"event": "no level"}'),
        ("{not json", "{not json"),
        ("LOG:  ready", "LOG:  ready"),
    ],
)
def test_a_person_sees_a_json_line_without_its_braces_and_a_file_gets_it_whole(line: str, for_a_person: str) -> None:
    for colour, expected in ((False, f"worker   | {line}\n"), (True, f"\x1b[36mworker   |\x1b[0m {for_a_person}\n")):
        reading, writing = os.pipe()
        console = Console(writing, colour=colour)
        console.say("worker", line)
        console.close()
        os.close(writing)
        with os.fdopen(reading, "rb") as output:
            assert output.read().decode() == expected
