"""PostgREST's schema cache: what is asked, when it is told to reload, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from app.local.postgres import Postgres
from app.local.valkey import free_port
from app.store.database import connect
from monitoring import schema_cache
from monitoring.report import Finding, Level
from tests.monitoring.conftest import Find, Left
from tests.monitoring.postgrest_stub import PostgrestStub


@pytest.fixture
def postgrest(postgres_server: Postgres) -> Iterator[PostgrestStub]:
    stub = PostgrestStub()
    with stub.answering(), stub.listening(postgres_server.url()):
        yield stub


@pytest.fixture
def ask(find: Find, postgrest: PostgrestStub, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Find:
    monkeypatch.setattr(schema_cache, "_VERIFY_SECONDS", 2.0)
    monkeypatch.setattr(schema_cache, "_AGAIN_SECONDS", 0.05)

    def run(**overrides: object) -> Finding:
        chosen = {"postgrest_url": postgrest.url, "database_direct_url": postgres_server.url(), **overrides}
        return find("schema_cache", **chosen)

    return run


def test_without_an_address_it_is_skipped_and_says_so(find: Find) -> None:
    found = find("schema_cache")
    assert (found.level, found.message) == (Level.HEALTHY, "Skipped: POSTGREST_URL is not set")


def test_one_request_is_enough_while_all_is_well(ask: Find, postgrest: PostgrestStub) -> None:
    assert ask().level is Level.HEALTHY
    assert postgrest.requests == [("/v_pipeline_health?select=status&limit=1", "ops")]
    assert postgrest.reloads == 0


def test_a_lost_cache_is_reloaded_verified_and_still_critical_in_this_run(ask: Find, postgrest: PostgrestStub) -> None:
    postgrest.code = "PGRST002"
    found = ask()
    assert (found.level, found.message) == (
        Level.CRITICAL,
        "PostgREST's schema cache is gone (PGRST002); the reload helped",
    )
    assert found.details == {"code": "PGRST002", "reload": "sent", "reload_verified": True}
    assert postgrest.reloads == 1
    assert ask().level is Level.HEALTHY


def test_a_reload_that_does_not_help_is_told(ask: Find, postgrest: PostgrestStub) -> None:
    postgrest.code, postgrest.heals = "PGRST002", False
    found = ask()
    assert found.level is Level.CRITICAL
    assert found.details["reload_verified"] is False
    assert found.message.endswith("the reload did not help within 2s")


@pytest.mark.parametrize("code", ["PGRST205", "PGRST202"])
def test_what_is_missing_once_only_is_no_alert(ask: Find, postgrest: PostgrestStub, code: str) -> None:
    postgrest.code, postgrest.answers_left = code, 1
    assert ask().level is Level.HEALTHY
    assert (len(postgrest.requests), postgrest.reloads) == (2, 0)


@pytest.mark.parametrize("code", ["PGRST205", "PGRST202"])
def test_what_is_missing_twice_in_a_row_is_reloaded(ask: Find, postgrest: PostgrestStub, code: str) -> None:
    postgrest.code = code
    found = ask()
    assert found.level is Level.CRITICAL
    assert (found.details["code"], found.details["reload_verified"], postgrest.reloads) == (code, True, 1)


def test_a_reload_is_sent_at_most_once_a_minute(ask: Find, postgrest: PostgrestStub, left: Left) -> None:
    postgrest.code, postgrest.heals = "PGRST002", False
    ask()
    found = ask()
    assert found.level is Level.CRITICAL
    assert found.details["reload"] == "one was sent within the last 60s"
    assert postgrest.reloads == 1
    left.heartbeat("schema cache reload", silent_seconds=61)
    assert ask().details["reload"] == "sent"
    assert postgrest.reloads == 2


def test_without_a_direct_connection_it_says_why_nothing_was_sent(ask: Find, postgrest: PostgrestStub) -> None:
    postgrest.code = "PGRST002"
    found = ask(database_direct_url=None)
    assert found.message == "PostgREST's schema cache is gone (PGRST002); no reload: DATABASE_DIRECT_URL is not set"


def test_a_reload_that_could_not_be_sent_takes_nobodys_turn(
    ask: Find, postgrest: PostgrestStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgrest.code = "PGRST002"
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/nowhere"
    for _ in range(2):
        reload = ask(database_direct_url=nowhere).details["reload"]
        assert reload == "DATABASE_DIRECT_URL does not answer (OperationalError)"

    @contextmanager
    def takes_no_notice(url: str) -> Iterator[psycopg.Connection]:
        """It answers and fails, as a standby does."""
        with connect(url) as direct:
            direct.execute("SET LOCAL statement_timeout = 1")
            monkeypatch.setattr(direct, "execute", lambda _: direct.cursor().execute("SELECT pg_sleep(1)"))
            yield direct

    with monkeypatch.context() as patched:
        patched.setattr(schema_cache, "connect", takes_no_notice)
        assert ask().details["reload"] == "DATABASE_DIRECT_URL does not answer (QueryCanceled)"
    assert ask().details["reload"] == "sent"
    assert postgrest.reloads == 1


def test_any_other_answer_is_critical_and_its_text_is_not_repeated(ask: Find, postgrest: PostgrestStub) -> None:
    postgrest.status = 500
    found = ask()
    assert (found.level, found.message) == (Level.CRITICAL, "PostgREST answers 500, 200 expected")
    assert "Ada" not in str(found)


def test_nobody_at_the_address_is_a_check_that_cannot_run(ask: Find) -> None:
    found = ask(postgrest_url=f"http://127.0.0.1:{free_port()}")
    assert (found.level, found.message) == (Level.CRITICAL, "Cannot run: ConnectError")
