"""Flower of the running stack: behind its password, on loopback, with ids to read and nothing to press.

Everything that it answers is read after files with marked cells were taken and refused, and after a task has failed with an
error of the database that quotes a cell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import flower.urls
import httpx
import psutil
import psycopg
import pytest
from celery import Celery
from tornado.web import RequestHandler

from tests.acceptance.pipeline import Pipeline

MARKS = ("MARKED-CASE-1", "MARKED-CASE-2", "Zyxwvut Qponmlk", "8675309", "secret-client-list")
"""Case numbers, a name and an amount of the files' rows, and the files' name."""
GOOD = b"case_number,defendant_name,judgment_amount\nMARKED-CASE-1,Zyxwvut Qponmlk,8675309.00\n"
BAD = b"case_number,defendant_name,judgment_amount\nMARKED-CASE-2,Zyxwvut Qponmlk,8675309.x\n"
DATATABLE = "/tasks/datatable?draw=1&start=0&length=1000&order[0][column]=0&order[0][dir]=asc&columns[0][data]=name"


@dataclass(frozen=True)
class Seen:
    """What has happened before Flower is asked."""

    batches: tuple[str, str]
    failed_task: str


def wait_for(what: Callable[[], Any], within: float = 30) -> Any:
    deadline = time.monotonic() + within
    while not (found := what()):
        assert time.monotonic() < deadline, f"nothing within {within} s"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def http(pipeline: Pipeline) -> Iterator[httpx.Client]:
    """A client that has the password."""
    access = pipeline.info["flower"]
    with httpx.Client(
        base_url=access["url"], auth=(access["user"], access["password"]), timeout=30, trust_env=False
    ) as client:
        yield client


@pytest.fixture(scope="module")
def seen(pipeline: Pipeline, http: httpx.Client) -> Seen:
    """A batch that completed, one that failed, and a task that failed with an error that quotes a cell."""
    good = pipeline.ingest(GOOD, "secret-client-list.csv")
    bad = pipeline.ingest(BAD, "secret-client-list-2.csv")
    assert (good["status"], bad["status"]) == ("completed", "failed")
    assert (good["row_count_inserted"], bad["rejection_code"]) == (1, "ERROR_BUDGET_EXCEEDED")
    with psycopg.connect(pipeline.info["database_direct_url"], autocommit=True) as owner:
        owner.execute(
            "CREATE FUNCTION public.quote_a_cell() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE unique_violation USING MESSAGE = 'Key (name)=(Zyxwvut Qponmlk) already exists'; END $$"
        )
        owner.execute(
            "CREATE TRIGGER quote_a_cell BEFORE DELETE ON ops.workers"
            " FOR EACH STATEMENT EXECUTE FUNCTION public.quote_a_cell()"
        )
        try:
            celery = Celery("tests", broker=pipeline.info["redis_url"], set_as_current=False)
            sent = celery.send_task("dragonfly.forget_gone_workers", queue="watch", ignore_result=True)
            failed = wait_for(lambda: failure_of(http, sent.id))
        finally:
            owner.execute("DROP TRIGGER quote_a_cell ON ops.workers")
            owner.execute("DROP FUNCTION public.quote_a_cell()")
    # The task did fail with that error, of which its kind is told.
    assert failed["exception"].startswith("TaskFailedError('IntegrityError at app.store.workers:")
    seen = Seen((good["batch_id"], bad["batch_id"]), sent.id)
    wait_for(lambda: all(batch_id in http.get("/api/tasks").text for batch_id in seen.batches))
    return seen


def failure_of(http: httpx.Client, task_id: str) -> dict[str, Any] | None:
    answer = http.get(f"/api/task/info/{task_id}")
    document: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return document if document.get("state") == "FAILURE" else None


def answers_of(http: httpx.Client, seen: Seen) -> dict[str, str]:
    """Every page and every answer that Flower gives, by its address."""
    tasks: dict[str, Any] = http.get("/api/tasks").raise_for_status().json()
    workers: dict[str, Any] = http.get("/api/workers?refresh=1").raise_for_status().json()
    paths = [
        "/",
        "/workers?json=1",
        *(f"/worker/{quote(name)}" for name in workers),
        "/tasks",
        DATATABLE,
        *(f"{DATATABLE}&search[value]={batch_id}" for batch_id in seen.batches),
        *(f"/task/{task_id}" for task_id in tasks),
        "/broker",
        "/api/workers?refresh=1",
        *(f"/api/workers?refresh=1&workername={quote(name)}" for name in workers),
        "/api/tasks",
        *(f"/api/task/info/{task_id}" for task_id in tasks),
        "/api/task/types",
        "/api/queues/length",
        "/metrics",
        "/healthcheck",
    ]
    assert workers
    return {path: http.get(path).raise_for_status().text for path in paths}


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", DATATABLE, "/broker", "/api/tasks", "/api/workers"])
@pytest.mark.parametrize("auth", [None, ("dragonfly", "wrong"), ("", "")], ids=["nobody", "wrong", "empty"])
def test_without_the_password_nothing_is_shown(pipeline: Pipeline, path: str, auth: tuple[str, str] | None) -> None:
    answer = httpx.get(pipeline.info["flower"]["url"] + path, auth=auth, trust_env=False)
    assert answer.status_code == 401
    assert answer.text in ("Access denied", "")


def test_it_listens_on_loopback_alone(pipeline: Pipeline) -> None:
    (flower_process, *_) = pipeline.processes("celery flower")
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for connection in flower_process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", urlsplit(pipeline.info["flower"]["url"]).port)}


def test_its_password_is_in_no_command_line(pipeline: Pipeline) -> None:
    lines = [" ".join(process.cmdline()) for process in pipeline.processes("celery flower")]
    assert lines
    assert not [line for line in lines if pipeline.info["flower"]["password"] in line]


def test_the_batches_are_shown_by_their_ids(http: httpx.Client, seen: Seen) -> None:
    answers = answers_of(http, seen)
    for batch_id in seen.batches:
        shown = [path for path, answer in answers.items() if batch_id in answer]
        assert "/api/tasks" in shown
        assert DATATABLE in shown
        assert any(path.startswith("/task/") for path in shown)
        assert any(path.startswith("/api/task/info/") for path in shown)


def test_no_cell_no_file_name_and_no_secret_is_shown(pipeline: Pipeline, http: httpx.Client, seen: Seen) -> None:
    answers = answers_of(http, seen)
    info = pipeline.info
    urls = (info["database_url"], info["database_direct_url"], info["redis_url"])
    passwords = [urlsplit(url).password for url in urls]
    assert all(passwords)
    secrets = [*passwords, info["flower"]["password"], pipeline.key]
    held = [(path, mark) for path, answer in answers.items() for mark in (*MARKS, *secrets) if mark in answer]
    assert held == []


def test_a_task_holds_ids_and_names_of_queues_alone(http: httpx.Client, seen: Seen) -> None:
    tasks: list[dict[str, Any]] = list(http.get("/api/tasks").raise_for_status().json().values())
    ingests = {task["args"] for task in tasks if task["name"] == "dragonfly.ingest"}
    assert {f"['{batch_id}']" for batch_id in seen.batches} <= ingests
    assert {len(argument) for argument in ingests} == {len("['']") + 36}
    assert {task["kwargs"] for task in tasks} == {"{}"}
    assert {task["result"] for task in tasks} <= {"None", None, ""}


def test_the_failed_task_shows_its_kind_and_its_place(http: httpx.Client, seen: Seen) -> None:
    page = http.get(f"/task/{seen.failed_task}").raise_for_status().text
    assert "IntegrityError at app.store.workers:" in page
    assert "already exists" not in page


def test_nothing_can_be_done_from_it(pipeline: Pipeline, http: httpx.Client, seen: Seen) -> None:
    (worker,) = http.get("/api/workers?status=1").raise_for_status().json()
    # The API's rules are plain pairs, the pages' are not; only the API has levers.
    pairs = [rule for rule in flower.urls.handlers if isinstance(rule, tuple) and rule[0].startswith("/api/")]
    levers = [rule[0] for rule in pairs if rule[1].post is not RequestHandler.post]
    assert len(levers) == 14
    assert "/api/worker/shutdown/(.+)" in levers
    answers = {}
    for lever in levers:
        # Those of a task are addressed by its name or its id, those of a worker by its own.
        target = worker if "/worker/" in lever else "dragonfly.ingest"
        answer = http.post(lever.replace("(.+)", quote(target)), params={"workername": worker, "terminate": "true"})
        answers[lever] = answer.status_code
    assert answers == dict.fromkeys(levers, 403)
    assert pipeline.processes("celery worker")


def test_another_sites_page_cannot_use_a_readers_password(http: httpx.Client) -> None:
    answer = http.post(DATATABLE, headers={"Origin": "http://elsewhere.example", "Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


def test_its_figures_are_open_and_hold_names_of_tasks_and_workers_alone(pipeline: Pipeline, seen: Seen) -> None:
    answer = httpx.get(pipeline.info["flower"]["url"] + "/metrics", trust_env=False)
    assert answer.status_code == 200
    assert "flower_events_total" in answer.text
    assert not [mark for mark in (*MARKS, *seen.batches) if mark in answer.text]
