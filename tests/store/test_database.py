"""Connections: what an engine gives back, however the server is set up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from app.local.postgres import Postgres
from app.store.database import open_engine, open_single
from tests.conftest import SERVICE_PASSWORD
from tests.faults.pooler import Pooler
from tests.faults.stack import NotThereError

MOMENT = dt.datetime(2025, 2, 1, 12, 30, 15, 250_000, tzinfo=dt.UTC)
STYLES = ["SQL, DMY", "SQL, MDY", "German, DMY", "Postgres, MDY", "ISO, DMY"]
ASKED = text(
    "SELECT CAST(:moment AS timestamptz), CAST(:day AS date), ARRAY[CAST(:moment AS timestamptz)], current_setting('DateStyle')"
)


def assert_read(engine: Engine, style: str) -> None:
    """Moments and days come back as they went, in one transaction after another; the session keeps its own style."""
    for _ in range(2):
        with engine.begin() as connection:
            moment, day, several, within = connection.execute(ASKED, {"moment": MOMENT, "day": MOMENT.date()}).one()
            assert (moment, day, several) == (MOMENT, MOMENT.date(), [MOMENT])
            assert within.startswith("ISO, ")
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            assert driver.execute("SHOW datestyle").fetchone() == (style,)


@pytest.fixture(params=STYLES)
def style(request: pytest.FixtureRequest, owner_engine: Engine) -> Iterator[str]:
    """The style of the test's database, for connections that begin now."""
    with owner_engine.begin() as connection:
        name = connection.scalar(text("SELECT current_database()"))
        connection.execute(text(f"ALTER DATABASE \"{name}\" SET datestyle = '{request.param}'"))
    yield request.param
    with owner_engine.begin() as connection:
        connection.execute(text(f'ALTER DATABASE "{name}" RESET datestyle'))


def test_moments_are_read_in_any_style_of_the_database(service_url: str, style: str) -> None:
    assert_read(open_single(service_url), style)


def test_moments_are_read_in_any_style_from_a_pool(service_url: str, style: str) -> None:
    engine = open_engine(service_url, pool_size=1, idle_seconds=30)
    assert_read(engine, style)
    engine.dispose()


def test_moments_are_read_in_any_style_through_a_pooler(postgres_server: Postgres, style: str, tmp_path: Path) -> None:
    users = {"service_role": SERVICE_PASSWORD}
    try:
        pooler = Pooler(tmp_path / "pooler", server_sockets=postgres_server.sockets, users=users)
    except NotThereError as missing:
        pytest.skip(f"this machine lacks {missing}")
    with pooler:
        engine = open_engine(pooler.url("service_role"), pool_size=1)
        assert_read(engine, style)
        engine.dispose()


def test_moments_are_read_in_the_style_of_the_environment(service_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATESTYLE", "German")
    assert_read(open_single(service_url), "German, DMY")
