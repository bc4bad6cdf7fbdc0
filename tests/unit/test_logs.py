"""Logs: one JSON object a line whoever speaks, and of an exception never the text."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
BEGIN = "import logging, sys, threading, warnings, structlog; from app import logs; logs.configure('{env}')\n"


def run(code: str, env: str = "prod") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BEGIN.format(env=env) + code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def lines_of(code: str, env: str = "prod") -> list[dict[str, Any]]:
    """What the code logs; every line of it is one JSON object with time, level and event, and stdout stays empty."""
    done = run(code, env)
    assert done.stdout == ""
    said = [json.loads(line) for line in done.stderr.splitlines()]
    for line in said:
        assert line.keys() >= {"timestamp", "level", "event"}
        assert line["timestamp"].endswith("Z")
    return said


@pytest.mark.parametrize("env", ["prod", "dev"])
def test_our_own_lines_are_json_where_nobody_looks_on(env: str) -> None:
    (line,) = lines_of("structlog.get_logger().warning('batch changed', batch_id='7f', rows=3)", env)
    assert (line["level"], line["event"], line["batch_id"], line["rows"]) == ("warning", "batch changed", "7f", 3)


def test_a_logger_that_keeps_to_itself_is_heard_all_the_same() -> None:
    code = "alone = logging.getLogger('multiprocessing'); alone.propagate = False; alone.error('pid %d is gone', 7)"
    (line,) = lines_of(code)
    assert line["event"] == "pid 7 is gone"


def test_a_librarys_lines_and_warnings_are_json_as_well() -> None:
    code = (
        "logging.getLogger('kombu').error('no %s for %d s', 'answer', 2)\nwarnings.warn('an old\\nway', stacklevel=1)"
    )
    told, warned = lines_of(code)
    assert (told["event"], told["logger"], told["level"]) == ("no answer for 2 s", "kombu", "error")
    assert (warned["logger"], warned["level"]) == ("py.warnings", "warning")


ROW = "Key (case_number)=(ZANZIBAR-1) already exists"


@pytest.mark.parametrize(
    "code",
    [
        "log.error('it failed', exc_info=True)",
        "log.exception('it failed')",
        "logging.getLogger('celery').exception('it failed')",
        "logging.getLogger('celery').error('it failed: %s, %r', problem, problem)",
        "logging.getLogger('celery').error('it failed: %(exc)s', {'exc': problem})",
        "logging.getLogger('celery').error(problem)",
        "raise",
        "threading.Thread(target=fail).start()",
    ],
)
def test_of_an_exception_the_kind_is_told_and_never_the_text(code: str) -> None:
    done = run(
        f"""
log = structlog.get_logger()
def fail():
    raise ValueError({ROW!r})
try:
    fail()
except ValueError as problem:
    {code}
"""
    )
    assert "ValueError" in done.stderr
    assert "ZANZIBAR" not in done.stderr
    (line,) = (json.loads(text) for text in done.stderr.splitlines())
    assert ("__main__:" in line.get("place", "")) == ("problem" in line)


def test_a_wrong_setting_is_told_in_words() -> None:
    (line,) = lines_of("from app.settings import SettingsError\nraise SettingsError('PORT must be a whole number')")
    assert line["reason"] == "PORT must be a whole number"


def test_a_thing_that_is_no_plain_value_is_not_shown() -> None:
    code = "class Row:\n    def __repr__(self): return 'ZANZIBAR'\nstructlog.get_logger().info('row', row=Row(), of=[Row()])"
    (line,) = lines_of(code)
    assert (line["row"], line["of"]) == ("<Row>", ["<Row>"])


@pytest.mark.parametrize(("env", "is_json"), [("dev", False), ("prod", True)])
def test_on_a_developers_terminal_lines_are_readable(env: str, is_json: bool) -> None:
    ours, theirs = pty.openpty()
    code = BEGIN.format(env=env) + "structlog.get_logger().info('batch changed', rows=3)"
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm"},
        stderr=theirs,
        timeout=60,
        check=True,
    )
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "batch changed" in said
    assert said.startswith("{") is is_json


class TestWebLogger:
    CONFIGURE = (
        "from gunicorn.config import Config; from app.web_log import WebLogger\nlog = WebLogger(Config())\n"
        "address = '/api/v1/judgments?case_number=ZANZIBAR-1'\n"
    )

    @pytest.mark.parametrize(
        ("code", "event"),
        [
            ("log.info('Listening at: %s', 'http://127.0.0.1:8000')", "Listening at: http://127.0.0.1:8000"),
            ("log.exception('Error handling request %s %s', 'GET', address)", "Error handling request"),
            ("log.warning(f'Invalid request from ip=10.0.0.1: {address}')", "Invalid request from ip=10.0.0.1"),
            ("log.warning('Exception during worker exit:\\n%s', address)", "Exception during worker exit"),
        ],
    )
    def test_gunicorns_lines_are_json_and_tell_nothing_of_what_a_client_sent(self, code: str, event: str) -> None:
        (line,) = lines_of(self.CONFIGURE + code)
        assert line["event"] == event
        assert "ZANZIBAR" not in json.dumps(line)
