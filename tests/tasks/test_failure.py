"""What a failed task tells: its kind and place; what only directs Celery passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry
from sqlalchemy import Engine, text

from tasks.app import app
from tasks.failure import ReticentTask, TaskFailedError

MARK = "Zyxwvut Qponmlk"
NAME = "tests.made"


TaskOf = Callable[[Callable[[], Any]], ReticentTask]


@pytest.fixture
def task_of() -> Iterator[TaskOf]:
    """Makes a task of the application's own kind, for the length of a test."""

    def make(body: Callable[[], Any]) -> ReticentTask:
        made: ReticentTask = app.register_task(type("Made", (app.Task,), {"name": NAME, "run": lambda _: body()})())
        return made

    yield make
    app.tasks.pop(NAME, None)


def test_every_task_is_reticent() -> None:
    app.loader.import_default_modules()
    own = {name: task for name, task in app.tasks.items() if name.startswith("dragonfly.")}
    assert "dragonfly.ingest" in own
    assert [name for name, task in own.items() if not isinstance(task, ReticentTask)] == []


def test_an_error_of_the_database_is_told_without_its_text(service_engine: Engine, task_of: TaskOf) -> None:
    def body() -> None:
        with service_engine.begin() as connection:
            connection.execute(text(f"SELECT '{MARK}'::numeric"))

    with pytest.raises(Exception, match=MARK):
        body()
    ended = task_of(body).apply()
    assert ended.state == "FAILURE"
    assert isinstance(ended.result, TaskFailedError)
    # The innermost line of the application's own: nothing of it was at work in the body.
    assert str(ended.result).startswith("DataError at tasks.failure:")
    assert MARK not in repr(ended.result) + str(ended.traceback)
    assert "TaskFailedError" in str(ended.traceback)


def test_the_place_is_the_innermost_line_of_our_own(task_of: TaskOf) -> None:
    from app.store.blobs import key_of

    ended = task_of(lambda: key_of(None)).apply()  # type: ignore[arg-type]
    assert str(ended.result).startswith("TypeError at app.store.blobs:")


@pytest.mark.parametrize(
    "direction", [Ignore(), Reject(requeue=False), Retry("later")], ids=lambda one: type(one).__name__
)
def test_what_directs_celery_passes(direction: Exception, task_of: TaskOf) -> None:
    def body() -> None:
        raise direction

    with pytest.raises(type(direction)):
        task_of(body)()


def test_a_result_is_handed_on(task_of: TaskOf) -> None:
    assert task_of(lambda: 7)() == 7
