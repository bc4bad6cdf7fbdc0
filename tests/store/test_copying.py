"""A COPY that is broken off: the caller is told why, the server's log is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Engine

from app.local.postgres import Postgres
from app.store import row_errors
from app.store.copying import copy_in

CELL = "Marlow-Quillfeather"


def broken() -> Iterator[bytes]:
    raise ValueError(f"found {CELL}, expected an amount")
    yield b""


def said_since(server: Postgres, offset: int) -> str:
    return (server.sockets / "postgres.log").read_bytes()[offset:].decode()


def test_the_server_is_told_the_kind_of_an_exception_and_none_of_its_text(
    database: Engine, postgres_server: Postgres
) -> None:
    before = (postgres_server.sockets / "postgres.log").stat().st_size
    with pytest.raises(ValueError, match=CELL), database.begin() as connection:
        row_errors.store(connection, broken())
    said = said_since(postgres_server, before)
    assert "COPY from stdin failed" in said
    assert "ValueError" in said
    assert CELL not in said


def test_the_servers_own_refusal_reaches_the_caller_as_it_is(service_url: str, database: Engine) -> None:
    with psycopg.connect(service_url) as connection:
        connection.execute("CREATE TEMPORARY TABLE once (word text PRIMARY KEY) ON COMMIT DROP")
        with (
            pytest.raises(psycopg.errors.UniqueViolation),
            copy_in(connection.cursor(), "COPY once FROM STDIN") as copy,
        ):
            copy.write(b"a\na\n")


def test_what_went_wrong_first_is_told_where_the_server_refuses_too(service_url: str, database: Engine) -> None:
    def break_off(connection: psycopg.Connection) -> None:
        with copy_in(connection.cursor(), "COPY once FROM STDIN") as copy:
            # So many that the server has met the second one by now.
            copy.write(b"a\n" * 100_000)
            raise ZeroDivisionError

    with psycopg.connect(service_url) as connection:
        connection.execute("CREATE TEMPORARY TABLE once (word text PRIMARY KEY) ON COMMIT DROP")
        with pytest.raises(ZeroDivisionError):
            break_off(connection)


def test_what_is_copied_stands(service_url: str, database: Engine) -> None:
    word = uuid4().hex
    with psycopg.connect(service_url) as connection:
        connection.execute("CREATE TEMPORARY TABLE once (word text PRIMARY KEY) ON COMMIT DROP")
        with copy_in(connection.cursor(), "COPY once FROM STDIN") as copy:
            copy.write(f"{word}\n".encode())
        assert connection.execute("SELECT word FROM once").fetchall() == [(word,)]


def test_nothing_is_copied_in_any_other_way() -> None:
    sources = (Path(__file__).parents[2] / "app").rglob("*.py")
    elsewhere = [path.name for path in sources if re.search(r"cursor(\(\))?\.copy\(", path.read_text())]
    assert elsewhere == ["copying.py"]
