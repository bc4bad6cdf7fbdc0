"""The workers' heartbeat rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, text

from app.store import workers
from tests.conftest import Look


def seen(engine: Engine, **overrides: Any) -> None:
    values: dict[str, Any] = {
        "name": "host/1/",
        "host": "host",
        "pid": 1,
        "queues": ["high", "low"],
        "concurrency": 2,
        "version": "0.1.0",
        "broker": True,
        "disk_free_percent": 50.0,
        **overrides,
    }
    with engine.begin() as connection:
        workers.seen(connection, **values)


def test_a_worker_has_one_row_that_is_kept_fresh(database: Engine, look: Look) -> None:
    seen(database)
    ((started, first),) = look.rows("SELECT started_at, last_seen_at FROM ops.workers")
    seen(database)
    assert look.rows("SELECT name, host, pid, queues, concurrency, version FROM ops.workers") == [
        ("host/1/", "host", 1, ["high", "low"], 2, "0.1.0")
    ]
    ((started_still, later),) = look.rows("SELECT started_at, last_seen_at FROM ops.workers")
    assert started_still == started
    assert later > first


def test_the_broker_was_seen_when_it_last_answered(database: Engine, look: Look) -> None:
    seen(database, broker=False)
    assert look.rows("SELECT broker_seen_at FROM ops.workers") == [(None,)]
    seen(database, broker=True)
    ((then,),) = look.rows("SELECT broker_seen_at FROM ops.workers")
    assert then is not None
    seen(database, broker=False)
    assert look.rows("SELECT broker_seen_at FROM ops.workers") == [(then,)]


def test_a_worker_that_stops_in_good_order_leaves_no_row(database: Engine, look: Look) -> None:
    seen(database)
    seen(database, name="host/10/")
    with database.begin() as connection:
        workers.gone(connection, "host/1/")
    assert look.rows("SELECT name FROM ops.workers") == [("host/10/",)]


def test_one_not_seen_for_a_day_is_forgotten(database: Engine, look: Look) -> None:
    seen(database)
    seen(database, name="host/10/")
    look.change("UPDATE ops.workers SET last_seen_at = clock_timestamp() - interval '25 hours' WHERE name = 'host/1/'")
    look.change("UPDATE ops.workers SET last_seen_at = clock_timestamp() - interval '23 hours' WHERE name = 'host/10/'")
    with database.begin() as connection:
        assert workers.forget_gone(connection) == 1
    assert look.rows("SELECT name FROM ops.workers") == [("host/10/",)]


def test_the_free_disk_is_the_last_one_told(database: Engine, look: Look) -> None:
    seen(database, disk_free_percent=81.256)
    seen(database, disk_free_percent=12.3)
    seen(database, name="other/2/", disk_free_percent=None)
    found = dict(look.rows("SELECT name, disk_free_percent FROM ops.workers"))
    assert {name: free and float(free) for name, free in found.items()} == {"host/1/": 12.3, "other/2/": None}


class TestAPlaceIsTaken:
    def died(self, engine: Engine, name: str, host: str, seconds: int) -> None:
        seen(engine, name=name, host=host)
        with engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE ops.workers SET last_seen_at = now() - make_interval(secs => :age),"
                    " started_at = now() - interval '1 hour' WHERE name = :name"
                ),
                {"name": name, "age": seconds},
            )

    def take(self, engine: Engine, name: str) -> str | None:
        with engine.begin() as connection:
            return workers.take_place(connection, name)

    def test_of_the_one_that_died_first_and_once_only(self, database: Engine, look: Look) -> None:
        for name, seconds in (("host/2/", 90), ("host/3/", 900), ("host/4/", 300)):
            self.died(database, name, "host", seconds)
        seen(database)
        assert self.take(database, "host/1/") == "host/3/"
        assert self.take(database, "host/1/") is None
        assert look.rows("SELECT name, replaces FROM ops.workers ORDER BY name") == [
            ("host/1/", "host/3/"),
            ("host/2/", None),
            ("host/4/", None),
        ]

    def test_not_of_one_on_another_host_nor_of_one_that_fell_silent_lately(self, database: Engine) -> None:
        self.died(database, "other/2/", "other", 900)
        self.died(database, "host/3/", "host", 50)
        seen(database)
        assert self.take(database, "host/1/") is None

    def test_not_of_one_that_died_after_the_heir_had_begun(self, database: Engine) -> None:
        seen(database)
        self.died(database, "host/2/", "host", 90)
        with database.begin() as connection:
            connection.execute(text("UPDATE ops.workers SET started_at = now() - interval '2 hours' WHERE pid = 1"))
        assert self.take(database, "host/1/") is None
