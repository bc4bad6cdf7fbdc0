"""The tallies of row errors: whatever is done to the row errors, they are what counting them would give."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from app.batch import State
from app.local.postgres import Postgres
from app.rows import pack_error
from app.store import batches, row_errors
from app.store.schema import migrate
from tests.conftest import Look
from tests.reference_figures import AGAINST_A_DATABASE
from tests.store.conftest import Batches

EPOCH = dt.datetime(2025, 3, 1, tzinfo=dt.UTC)
CODES, STAGES = ("INVALID_AMOUNT", "PARSE_ERROR"), ("parse", "validate")


def counted(look: Look) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The tallies and totals as they should be, counted in Python."""
    tallies: dict[Any, list[Any]] = {}
    totals: dict[Any, list[int]] = {}
    for batch_id, code, stage, created_at, resolved_at in look.rows(
        "SELECT batch_id, error_code, error_stage, created_at, resolved_at FROM intake.row_errors"
    ):
        tally = tallies.setdefault((batch_id, code, stage), [0, 0, created_at, created_at])
        total = totals.setdefault(batch_id, [0, 0])
        for each in (tally, total):
            each[0] += 1
            each[1] += resolved_at is None
        tally[2:] = min(tally[2], created_at), max(tally[3], created_at)
    return tallies, totals


def kept(look: Look) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The tallies and totals as they are."""
    tallies = look.rows(
        "SELECT batch_id, error_code, error_stage, occurrence_count, unresolved_count, first_seen, last_seen"
        " FROM intake.error_tallies"
    )
    totals = look.rows("SELECT batch_id, error_count, unresolved_count FROM intake.error_totals")
    return {tuple(row[:3]): list(row[3:]) for row in tallies}, {row[0]: list(row[1:]) for row in totals}


def packed(batch_id: UUID, numbers: range, code: str = "INVALID_AMOUNT") -> list[bytes]:
    """Row errors as an attempt stores them."""
    return [
        pack_error(
            batch_id.bytes, n, n + 2, n + 2, code=code, message="m", stage="validate", raw_data=b"{}", raw=b"r"
        ).octets
        for n in numbers
    ]


errors = st.tuples(
    st.integers(0, 2),
    st.integers(0, 9),
    st.sampled_from(CODES),
    st.sampled_from(STAGES),
    st.integers(0, 3),
    st.booleans(),
)
some_rows = st.lists(st.integers(0, 9), max_size=6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(errors, max_size=8)),
        st.tuples(st.sampled_from(["resolve", "reopen", "note", "remove"]), some_rows),
        st.tuples(st.sampled_from(["recode", "move", "age"]), some_rows),
        st.tuples(st.sampled_from(["forget batch", "truncate"]), st.integers(0, 2)),
    ),
    max_size=10,
)
STATEMENTS = {
    "resolve": "UPDATE intake.row_errors SET resolved_at = now() WHERE row_index = ANY (:rows)",
    "reopen": "UPDATE intake.row_errors SET resolved_at = NULL WHERE row_index = ANY (:rows)",
    "note": "UPDATE intake.row_errors SET resolution_notes = 'seen' WHERE row_index = ANY (:rows)",
    "remove": "DELETE FROM intake.row_errors WHERE row_index = ANY (:rows)",
    "recode": "UPDATE intake.row_errors SET error_code = 'PARSE_ERROR', error_stage = 'parse'"
    " WHERE row_index = ANY (:rows)",
    "age": "UPDATE intake.row_errors SET created_at = created_at - interval '9 days' WHERE row_index = ANY (:rows)",
    "move": "UPDATE intake.row_errors e SET batch_id = :target WHERE row_index = ANY (:rows) AND NOT EXISTS ("
    "SELECT FROM intake.row_errors o WHERE o.batch_id = :target AND o.row_index = e.row_index) AND batch_id = :origin",
}


@settings(AGAINST_A_DATABASE, max_examples=60)
@given(steps=steps)
def test_they_are_what_counting_gives_whatever_is_done(made: Batches, look: Look, steps: list[tuple[str, Any]]) -> None:
    look.change("DELETE FROM intake.row_errors")
    look.change("DELETE FROM intake.batches")
    ids = [made.put(State.COMPLETED) for _ in range(3)]
    for kind, what in steps:
        if kind == "add":
            for batch, row, code, stage, hours, resolved in what:
                if (ids[batch], row) not in look.rows("SELECT batch_id, row_index FROM intake.row_errors"):
                    at = EPOCH + dt.timedelta(hours=hours)
                    made.put_error(
                        ids[batch],
                        row,
                        error_code=code,
                        error_stage=stage,
                        created_at=at,
                        resolved_at=at if resolved else None,
                    )
        elif kind == "forget batch":
            look.change("DELETE FROM intake.batches WHERE id = :id", id=ids[what])
            ids[what] = made.put(State.COMPLETED)
        elif kind == "truncate":
            look.change("TRUNCATE intake.row_errors")
        else:
            values = {"target": ids[0], "origin": ids[1]} if kind == "move" else {}
            look.change(STATEMENTS[kind], rows=what, **values)
        assert kept(look) == counted(look), kind


def test_a_load_is_counted_over_all_its_pieces(made: Batches, database: Engine, look: Look) -> None:
    batch_id = made.put(State.COMPLETED)
    with database.begin() as connection:
        row_errors.store(connection, packed(batch_id, range(300)))
        row_errors.store(connection, packed(batch_id, range(300, 310), "FUTURE_DATE"))
        row_errors.store(connection, packed(batch_id, range(310, 400)))
        row_errors.store(connection, [])
    tallies, totals = kept(look)
    assert {key[1]: row[0] for key, row in tallies.items()} == {"INVALID_AMOUNT": 390, "FUTURE_DATE": 10}
    assert totals == {batch_id: [400, 400]}
    assert (tallies, totals) == counted(look)


def test_nobody_sees_a_tally_before_the_batch_is_committed(made: Batches, database: Engine, look: Look) -> None:
    batch_id = made.put(State.COMPLETED)
    with database.connect() as connection:
        row_errors.store(connection, packed(batch_id, range(3)))
        assert kept(look) == ({}, {})
        connection.rollback()
    assert kept(look) == ({}, {})


def test_a_batch_that_is_tried_again_begins_without(made: Batches, database: Engine, look: Look) -> None:
    batch = made.failed()
    made.put_error(batch.id, 1)
    other = made.put(State.COMPLETED)
    made.put_error(other, 1)
    with database.begin() as connection:
        assert batches.retry(connection, batch.id) is not None
    assert list(kept(look)[1]) == [other]


def test_two_people_who_resolve_errors_at_once_are_both_counted(made: Batches, database: Engine, look: Look) -> None:
    batch_id = made.put(State.COMPLETED)
    for row in range(4):
        made.put_error(batch_id, row)
    resolve = text("UPDATE intake.row_errors SET resolved_at = now() WHERE row_index = :row")

    def second() -> None:
        with database.begin() as connection:
            connection.execute(resolve, {"row": 2})

    other = threading.Thread(target=second)
    with database.begin() as connection:
        connection.execute(resolve, {"row": 1})
        other.start()
        # It waits for this transaction, which holds the batch's total.
        other.join(0.2)
        assert other.is_alive()
    other.join(10)
    assert kept(look)[1] == {batch_id: [4, 2]}
    assert kept(look) == counted(look)


@pytest.mark.parametrize("later", ["UPDATE intake.row_errors SET resolved_at = now()", "DELETE FROM intake.row_errors"])
def test_a_removal_under_way_is_not_counted_past(made: Batches, database: Engine, look: Look, later: str) -> None:
    batch_id = made.put(State.COMPLETED)
    for row in range(4):
        made.put_error(batch_id, row)

    def second() -> None:
        with database.begin() as connection:
            connection.execute(text(f"{later} WHERE row_index = 2"))

    other = threading.Thread(target=second)
    with database.begin() as connection:
        connection.execute(text("DELETE FROM intake.row_errors WHERE row_index = 1"))
        other.start()
        other.join(0.2)
        assert other.is_alive()
    other.join(10)
    assert kept(look) == counted(look)


def test_a_wrong_tally_is_set_right_by_counting_again(made: Batches, service_url: str, look: Look) -> None:
    batch_id = made.put(State.COMPLETED)
    made.put_error(batch_id, 1)
    look.change("UPDATE intake.error_tallies SET occurrence_count = 7")
    look.change("DELETE FROM intake.error_totals")
    with psycopg.connect(service_url) as connection:
        connection.execute("SELECT intake.recount_errors(ARRAY[%s]::uuid[])", (batch_id,))
    assert kept(look) == counted(look)


@pytest.fixture
def older_database(postgres_server: Postgres) -> Iterator[str]:
    """The name of a database that has not got the tallies yet."""
    name = "before_the_tallies"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        connection.execute("CREATE ROLE hosted LOGIN CREATEROLE PASSWORD 'hosted'")
        for role in ("service_role", "dragonfly_views", "anon", "authenticator"):
            connection.execute(f"GRANT {role} TO hosted WITH ADMIN OPTION")
        connection.execute(f"ALTER DATABASE {name} OWNER TO hosted")
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute("DROP OWNED BY hosted")
        connection.execute("DROP ROLE hosted")


def test_what_was_there_before_is_counted_by_an_owner_from_whom_it_is_hidden(
    older_database: str, postgres_server: Postgres
) -> None:
    """Hosted PostgreSQL gives nobody a superuser, and row level security holds for the owner too."""
    owner = postgres_server.url("hosted", "hosted", older_database)
    migrate(owner, "20250107_the_watch")
    batch_id = uuid4()
    with psycopg.connect(postgres_server.url(database=older_database)) as connection:
        connection.execute(
            "INSERT INTO intake.batches (id, filename, file_hash) VALUES (%s, 'f', %s)", (batch_id, batch_id.hex * 2)
        )
        connection.execute(
            "INSERT INTO intake.row_errors (batch_id, row_index, error_code, error_message, error_stage, resolved_at)"
            " SELECT %s, n, 'PARSE_ERROR', 'm', 'parse', CASE WHEN n > 2 THEN now() END FROM generate_series(1, 5) n",
            (batch_id,),
        )
    migrate(owner)
    with psycopg.connect(postgres_server.url(database=older_database)) as connection:
        assert connection.execute("SELECT * FROM intake.error_totals").fetchall() == [(batch_id, 5, 2)]
        assert connection.execute(
            "SELECT error_code, occurrence_count, unresolved_count FROM intake.v_error_summary"
        ).fetchall() == [("PARSE_ERROR", 5, 2)]
        assert connection.execute(
            "SELECT relforcerowsecurity FROM pg_class WHERE oid = 'intake.row_errors'::regclass"
        ).fetchone() == (True,)
    with (
        psycopg.connect(owner) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"),
    ):
        # Rather than leave tallies behind that this owner cannot see.
        connection.execute("TRUNCATE intake.row_errors")
