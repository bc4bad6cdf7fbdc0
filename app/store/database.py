"""How PostgreSQL is reached, with or without a pooler in between."""

from __future__ import annotations

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, pool, text

from app import forks

# A dead peer is noticed within about a minute, even when no packet says so.
_KEEPALIVES = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_CONNECT_TIMEOUT_SECONDS = 10


def connect(url: str) -> psycopg.Connection:
    """One connection of psycopg's own, without prepared statements (PgBouncer in transaction mode keeps none)."""
    with forks.apart():
        return psycopg.connect(
            url,
            prepare_threshold=None,
            **{"connect_timeout": _CONNECT_TIMEOUT_SECONDS, **_KEEPALIVES},  # type: ignore[arg-type]
        )


def prepare_to_fork() -> None:
    """From now on this process may fork beside threads that connect; to be called in the thread that forks.

    libpq's OpenSSL has locks that no child gets back which is forked while a thread holds one: it would wait for ever in its
    own first connection. They are taken while a connection is opened, so a fork waits until none is; and where a thread
    uses OpenSSL for the first time or ends, which a child needs not, once the thread that forks has used it.
    """
    nowhere = psycopg.pq.PGconn.connect_start(b"host=/nowhere")
    nowhere.encrypt_password(b"secret", b"user", b"scram-sha-256")
    nowhere.finish()
    forks.guard()


def open_engine(
    url: str,
    *,
    pool_size: int = 5,
    max_overflow: int = 0,
    pool_timeout: float = 5.0,
    idle_seconds: float | None = None,
) -> Engine:
    """A pool of at most ``pool_size + max_overflow`` connections to a libpq URL.

    A caller waits ``pool_timeout`` seconds for a free one, then gets sqlalchemy.exc.TimeoutError. Connections are
    checked when taken out, so a restarted server costs no failed request. Not to be carried over a fork. ``idle_seconds``
    is for every transaction what ``end_when_idle`` is for one.
    """
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(url),
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=pool_timeout,
        pool_pre_ping=True,
        hide_parameters=True,
    )
    return _ready(engine, idle_seconds)


def open_single(url: str, *, idle_seconds: float | None = None) -> Engine:
    """An engine that opens a connection for each use and closes it after: for rare use, and for migrations."""
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: connect(url), poolclass=pool.NullPool, hide_parameters=True
    )
    return _ready(engine, idle_seconds)


def end_when_idle(connection: Connection, seconds: float) -> None:
    """The server ends this transaction where nothing is asked in it for so long: its process stands still.

    A frozen process, unlike a dead one, keeps its connection open, and with it every lock; whoever needs one of them would
    wait for it for ever. It holds for this transaction alone, so a pooler in transaction mode may stand in between.
    """
    connection.execute(
        text("SELECT set_config('idle_in_transaction_session_timeout', :most, true)"), {"most": f"{seconds:g}s"}
    )


def _ready(engine: Engine, idle_seconds: float | None) -> Engine:
    @event.listens_for(engine, "begin")
    def _prepare(connection: Connection) -> None:
        _write_moments_readably(connection)
        if idle_seconds is not None:
            end_when_idle(connection, idle_seconds)

    return engine


def _write_moments_readably(connection: Connection) -> None:
    """Have this transaction write moments in ISO's style, the only one in which psycopg reads them.

    Another one may come from the server, the database, the role or PGDATESTYLE. The server tells it with the connection,
    so it costs nothing where it is ISO; and it is set for the transaction alone, so a pooler may stand in between.
    """
    style = connection.connection.driver_connection.pgconn.parameter_status(b"DateStyle")  # type: ignore[union-attr]
    if style is not None and not style.startswith(b"ISO"):
        connection.execute(text("SET LOCAL datestyle = 'ISO'"))
