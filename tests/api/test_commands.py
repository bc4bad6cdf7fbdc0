"""The commands as a user types them, against a real server; the worker's part is played by the test."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, text

KEY = "the-key-of-these-tests-0123456789"
CSV = "Case Number,Defendant,Amount\r\nC-1,Ada Marlow,10.00\r\n"

COMPLETED = """
UPDATE intake.batches SET status = 'completed', completed_at = now(), row_count_total = 5000, row_count_valid = 4950,
    row_count_inserted = 4950, row_count_invalid = 50, rows_processed = 5000, bytes_processed = file_size_bytes
WHERE id = :id
"""
FAILED = """
UPDATE intake.batches SET status = 'failed', completed_at = now(), rejection_code = 'ERROR_BUDGET_EXCEEDED',
    rejection_reason = 'Error rate 15.0% exceeded the 10% budget (150 of 1,000 rows)'
WHERE id = :id
"""


@dataclass
class Worker:
    """Takes every uploaded batch through its states, to completed or, by its file's name, to failed."""

    engine: Engine
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stopped.wait(0.05):
            with self.engine.begin() as connection:
                for batch in connection.execute(text("SELECT * FROM intake.batches WHERE status = 'uploaded'")).all():
                    for state in ("staging", "validating", "inserting"):
                        connection.execute(
                            text("UPDATE intake.batches SET status = :state WHERE id = :id"),
                            {"state": state, "id": batch.id},
                        )
                    end = FAILED if "bad" in batch.filename else COMPLETED
                    connection.execute(text(end), {"id": batch.id})


@pytest.fixture
def worker(engine: Engine) -> Iterator[None]:
    playing = Worker(engine)
    thread = threading.Thread(target=playing.run)
    thread.start()
    yield
    playing.stopped.set()
    thread.join()


@pytest.fixture(scope="module")
def server_url(service_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("commands")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "-k", "gthread", "--threads", "8", "--no-control-socket"),
            *("-b", f"127.0.0.1:{port}", "--log-level", "warning", "--pythonpath", str(Path(__file__).parent)),
            "served:app",
        ],
        env={
            **os.environ,
            "SERVED_HOME": str(home),
            "SERVED_DATABASE": service_url,
            "SERVED_MAX_BYTES": "1000000",
            "SERVED_WINDOW": "30",
        },
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                if httpx.get(f"{url}/healthz").status_code == 200:
                    break
            except httpx.HTTPError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


Dragonfly = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def dragonfly(server_url: str, engine: Engine, service_url: str, tmp_path: Path) -> Dragonfly:
    """Runs the command with the server's address and key in its environment; keywords go over it."""

    def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("DRAGONFLY", "DATABASE"))}
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", *map(str, arguments), "--home", str(tmp_path / "home")],
            env={
                **clean,
                "DRAGONFLY_URL": server_url,
                "DRAGONFLY_KEY": KEY,
                "DATABASE_URL": service_url,
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done

    return run


def file(folder: Path, name: str, content: str | None = None) -> Path:
    path = folder / name
    path.write_text(CSV + f"{name},x,1\r\n" if content is None else content)
    return path


def test_ingest_hands_files_in_and_says_as_which_batch(dragonfly: Dragonfly, tmp_path: Path, engine: Engine) -> None:
    path = file(tmp_path, "one.csv")
    done = dragonfly("ingest", path, "--source", "jbi", "--error-threshold", "20", "--priority", "low")
    assert done.returncode == 0, done.stderr
    with engine.connect() as connection:
        batch = connection.execute(text("SELECT * FROM intake.batches")).one()
    assert done.stdout == f"{path}: accepted as batch {batch.id}\n"
    assert (batch.filename, batch.source, batch.error_threshold_percent, batch.priority) == (
        "one.csv",
        "jbi",
        20,
        "low",
    )


@pytest.mark.usefixtures("worker")
def test_ingest_waits_for_verdicts_and_fails_where_one_file_failed(dragonfly: Dragonfly, tmp_path: Path) -> None:
    good, bad = file(tmp_path, "good.csv"), file(tmp_path, "bad.csv")
    done = dragonfly("ingest", good, bad, "--wait")
    assert done.returncode == 1
    told = [re.sub(r" \(batch [0-9a-f-]{36}\)$", "", line) for line in done.stdout.splitlines()]
    assert told == [
        f"{good}: completed: 4,950 inserted, 0 duplicate, 50 errors",
        f"{bad}: failed ERROR_BUDGET_EXCEEDED: Error rate 15.0% exceeded the 10% budget (150 of 1,000 rows)",
    ]
    assert len(re.findall(r"\(batch [0-9a-f-]{36}\)$", done.stdout, re.MULTILINE)) == 2
    assert "good.csv: sending" in done.stderr
    assert "good.csv: completed, batch " in done.stderr


@pytest.mark.usefixtures("worker")
def test_ingest_prints_one_json_document_on_stdout(dragonfly: Dragonfly, tmp_path: Path) -> None:
    good, bad = file(tmp_path, "good.csv"), file(tmp_path, "bad.csv")
    done = dragonfly("ingest", good, "--wait", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (document,) = json.loads(done.stdout)
    assert (document["file"], document["status"], document["row_count_inserted"]) == (str(good), "completed", 4950)
    done = dragonfly("ingest", good, bad, "--wait", "--json")
    again, failed = json.loads(done.stdout)
    assert done.returncode == 1
    assert (again["is_duplicate"], again["batch_id"]) == (True, document["batch_id"])
    assert (failed["status"], failed["rejection_code"]) == ("failed", "ERROR_BUDGET_EXCEEDED")


@pytest.mark.usefixtures("worker")
def test_known_bytes_are_said_to_be_known_unless_forced(dragonfly: Dragonfly, tmp_path: Path) -> None:
    path = file(tmp_path, "one.csv")
    dragonfly("ingest", path, "--wait")
    again = dragonfly("ingest", path, "--wait")
    assert again.returncode == 0
    assert "already uploaded as batch" in again.stdout
    assert "completed: 4,950 inserted" in again.stdout
    assert "already" not in dragonfly("ingest", path, "--wait", "--force").stdout


def test_a_file_that_the_server_refuses_is_exit_1_with_its_words(dragonfly: Dragonfly, tmp_path: Path) -> None:
    done = dragonfly("ingest", file(tmp_path, "large.csv", "x" * 1_500_000))
    assert done.returncode == 1
    assert "refused UPLOAD_TOO_LARGE: The server takes files of at most 1,000,000 bytes." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["nothing.csv"], {}, "nothing.csv: there is no such file."),
        (["."], {}, ". is not a file."),
        (["one.csv"], {"DRAGONFLY_URL": "http://127.0.0.1:1"}, "No server answers at http://127.0.0.1:1"),
        (["one.csv"], {"DRAGONFLY_URL": "http://user:geheim@127.0.0.1:1"}, "No server answers at http://127.0.0.1:1"),
        (["one.csv"], {"DRAGONFLY_URL": "nonsense"}, "must begin with http"),
        (["one.csv"], {"DRAGONFLY_URL": "http://user:geheim@[x"}, "must begin with http"),
        (["one.csv"], {"DRAGONFLY_URL": ""}, "No local stack runs on"),
        (["one.csv"], {"DRAGONFLY_KEY": "wrong"}, "refuses the key"),
        (["one.csv"], {"DRAGONFLY_KEY": ""}, "No API key: set DRAGONFLY_KEY"),
        (["one.csv"], {"DRAGONFLY_KEY": "schlüssel"}, "characters that no key has"),
        (["one.csv", "--error-threshold", "101"], {}, "101"),
    ],
)
def test_what_could_not_be_asked_is_exit_2_with_one_sentence(
    dragonfly: Dragonfly,
    tmp_path: Path,
    arguments: list[str],
    variables: dict[str, str],
    words: str,
) -> None:
    path = file(tmp_path, "one.csv")
    done = dragonfly("ingest", *(path if argument == "one.csv" else argument for argument in arguments), **variables)
    assert done.returncode == 2
    assert words in done.stderr
    assert "geheim" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "url",
    [
        "bogus://u:geheim@x",
        "postgresql://u:geheim@[x/db",
        "postgresql://u:ge%zzgeheim@x/db",
        "postgresql://u:p@geheim@[x/db",
    ],
)
def test_an_address_of_a_database_that_is_none_is_not_shown(dragonfly: Dragonfly, url: str) -> None:
    done = dragonfly("migrate", DATABASE_URL=url, DATABASE_DIRECT_URL=url)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: The database could not be migrated: ")
    assert done.stderr.endswith("Error: is the server running, and are its address and password right?\n")
    assert "geheim" not in done.stderr


def test_the_key_of_a_local_stack_is_found_in_its_home(dragonfly: Dragonfly, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    file(home, "command.key", f"{KEY}\n")
    assert dragonfly("ingest", file(tmp_path, "one.csv"), DRAGONFLY_KEY="").returncode == 0


def test_the_address_of_a_local_stack_is_found_in_its_home(
    dragonfly: Dragonfly, tmp_path: Path, server_url: str
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    file(home, "run.json", json.dumps({"pid": os.getpid(), "dragonfly_url": server_url}))
    assert dragonfly("ingest", file(tmp_path, "one.csv"), DRAGONFLY_URL="").returncode == 0


def test_retry_and_cancel_move_a_batch_or_say_why_not(dragonfly: Dragonfly, stored: Any) -> None:
    batch = stored.failed()
    done = dragonfly("retry", str(batch), "--error-threshold", "40")
    assert (done.returncode, done.stdout) == (0, f"Batch {batch} is uploaded.\n")
    assert json.loads(dragonfly("cancel", str(batch), "--json").stdout)["status"] == "cancelled"
    for command in ("retry", "cancel"):
        refused = dragonfly(command, str(batch))
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "CONFLICT: The batch is cancelled" in refused.stderr
    assert dragonfly("cancel", "00000000-0000-0000-0000-000000000000").returncode == 1
    assert dragonfly("cancel", "nonsense").returncode == 2


def test_keys_are_made_listed_and_revoked_in_the_database_alone(dragonfly: Dragonfly, tmp_path: Path) -> None:
    made = dragonfly("keys", "create", "Vendor desk", DRAGONFLY_URL="", DRAGONFLY_KEY="")
    key = made.stdout.strip()
    path = file(tmp_path, "one.csv")
    assert (made.returncode, len(key)) == (0, 43)
    assert dragonfly("ingest", path, DRAGONFLY_KEY=key).returncode == 0
    (entry,) = [entry for entry in json.loads(dragonfly("keys", "list", "--json").stdout) if "desk" in entry["name"]]
    assert entry["last_used_at"] is not None
    assert dragonfly("keys", "revoke", entry["id"]).returncode == 0
    listed = dragonfly("keys", "list").stdout
    assert "Vendor desk" in listed
    assert "revoked" in listed
    assert key not in listed
    assert dragonfly("ingest", path, DRAGONFLY_KEY=key).returncode == 2
    assert dragonfly("keys", "revoke", "00000000-0000-0000-0000-000000000000").returncode == 2


def test_a_key_of_ones_own_is_taken_from_a_file_once(dragonfly: Dragonfly, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a-key-of-my-own-choosing\n")
    taken = [dragonfly("keys", "create", "Prometheus", "--from-file", str(secret)) for _ in range(2)]
    assert [(one.returncode, one.stdout) for one in taken] == [(0, ""), (0, "")]
    assert [one.stderr for one in taken] == [
        "The key for Prometheus is made.\n",
        "The key for Prometheus was there already.\n",
    ]
    upload = dragonfly("ingest", file(tmp_path, "one.csv"), DRAGONFLY_KEY="a-key-of-my-own-choosing")
    assert upload.returncode == 0
    assert json.loads(dragonfly("keys", "create", "x", "--json", "--from-file", str(secret)).stdout) == {
        "name": "x",
        "made": False,
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("too-short", "holds 9 characters: a key has at least 20."), (None, "cannot be read: No such file or directory.")],
)
def test_a_file_that_holds_no_key_is_refused(
    dragonfly: Dragonfly, tmp_path: Path, content: str | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "secret").write_text(content)
    refused = dragonfly("keys", "create", "x", "--from-file", str(tmp_path / "secret"))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"Error: {tmp_path / 'secret'} {sentence}\n"


def test_keys_without_a_database_are_one_sentence(dragonfly: Dragonfly) -> None:
    absent = dragonfly("keys", "list", DATABASE_URL="postgresql://x:secret@127.0.0.1:1/x")
    assert absent.returncode == 2
    assert "The database of DATABASE_URL cannot be used" in absent.stderr
    assert "secret" not in absent.stderr
    assert dragonfly("keys", "list", DATABASE_URL="").returncode == 2


@pytest.mark.usefixtures("worker")
def test_a_person_at_a_terminal_sees_a_bar_and_then_the_verdict(server_url: str, tmp_path: Path) -> None:
    path = file(tmp_path, "one.csv")
    controller, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "ingest", str(path), "--wait", "--home", str(tmp_path)],
        env={**os.environ, "DRAGONFLY_URL": server_url, "DRAGONFLY_KEY": KEY, "TERM": "xterm", "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(terminal)
    shown = os.read(controller, 1_000_000).decode()
    os.close(controller)
    assert done.stdout.startswith(f"{path}: completed: 4,950 inserted, 0 duplicate, 50 errors (batch ")
    assert "\u2501" in shown
    assert "completed 5,000 rows" in shown


def sign_in_at(link: str, server_url: str) -> httpx.Response:
    """What the page does with the link."""
    address, _, token = link.strip().partition("/sign-in#token=")
    assert address == server_url
    return httpx.post(f"{server_url}/api/v1/session", json={"token": token})


def test_a_sign_in_link_signs_in_with_the_commands_own_key_once(dragonfly: Dragonfly, server_url: str) -> None:
    made = dragonfly("sign-in")
    assert (made.returncode, made.stderr) == (0, "")
    assert sign_in_at(made.stdout, server_url).json()["name"] == "tests"
    assert sign_in_at(made.stdout, server_url).status_code == 401


def test_a_sign_in_link_may_be_made_for_somebody_else(dragonfly: Dragonfly, server_url: str) -> None:
    key = json.loads(dragonfly("keys", "create", "Jane, legal ops", "--json").stdout)
    made = dragonfly("sign-in", "--for", key["id"])
    assert sign_in_at(made.stdout, server_url).json()["name"] == "Jane, legal ops"
    dragonfly("keys", "revoke", key["id"])
    refused = dragonfly("sign-in", "--for", key["id"])
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("Error: There is no such key, or it is revoked")


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"DRAGONFLY_KEY": "a-key-that-nobody-made"}, "There is no such key, or it is revoked"),
        ({"DRAGONFLY_KEY": ""}, "No API key: set DRAGONFLY_KEY"),
        ({"DRAGONFLY_URL": ""}, "start one with 'dragonfly up', or set DRAGONFLY_URL."),
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "postgresql://x:secret@127.0.0.1:1/x"}, "The database of DATABASE_URL cannot be used"),
    ],
)
def test_without_what_it_takes_there_is_no_link(dragonfly: Dragonfly, variables: dict[str, str], sentence: str) -> None:
    refused = dragonfly("sign-in", **variables)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert sentence in refused.stderr
    assert "secret" not in refused.stderr
