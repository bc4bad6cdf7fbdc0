"""The web server's own connections."""

from __future__ import annotations

from sqlalchemy import text

from app.api.application import open_connections
from app.settings import Settings


def test_the_server_ends_a_transaction_whose_web_server_stands_still(service_url: str) -> None:
    engine = open_connections(Settings(database_url=service_url))
    with engine.begin() as connection:
        assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "10min"
    engine.dispose()
