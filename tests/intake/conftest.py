"""Stores of files that a test can halt, and a database that can be made to refuse or to lie."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from app.store.blobs import Blobs, Incoming
from tests.conftest import Look

HEADER = "case_number,defendant_name,judgment_amount,judgment_date\n"


def lines(*rows: str) -> bytes:
    """A small file with four of the contract's columns."""
    return (HEADER + "".join(f"{row}\n" for row in rows)).encode()


@dataclass
class Halting:
    """A store whose reader stops before one piece until it is let go on; counts the pieces it gave."""

    blobs: Blobs
    before_piece: int
    given: int = 0

    def __post_init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def incoming(self) -> Incoming:
        return self.blobs.incoming()

    def keep(self, incoming: Incoming) -> str:
        return self.blobs.keep(incoming)

    def read(self, key: str) -> Iterator[bytes]:
        for number, piece in enumerate(self.blobs.read(key)):
            if number == self.before_piece:
                self.reached.set()
                assert self.go_on.wait(60)
            self.given += 1
            yield piece

    def read_range(self, key: str, start: int, end: int) -> bytes:
        return self.blobs.read_range(key, start, end)

    def check(self) -> None:
        self.blobs.check()


@pytest.fixture
def blob_files(tmp_path: Path) -> Callable[[], list[Path]]:
    """The files in the store, those on their way in too."""
    return lambda: sorted(path for path in (tmp_path / "blobs").rglob("*") if path.is_file())


@pytest.fixture
def on_judgments(owner_engine: Engine, look: Look) -> Iterator[Callable[[str], None]]:
    """Puts a trigger on public.judgments: ``body`` runs for each row that is inserted. Taken away after the test."""

    def put(body: str) -> None:
        with owner_engine.begin() as connection:
            connection.execute(
                text(
                    f"CREATE FUNCTION public.test_rule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
                    " CREATE TRIGGER test_rule BEFORE INSERT ON public.judgments"
                    " FOR EACH ROW EXECUTE FUNCTION public.test_rule()"
                )
            )

    yield put
    with owner_engine.begin() as connection:
        connection.execute(text("DROP TRIGGER IF EXISTS test_rule ON public.judgments"))
        connection.execute(text("DROP FUNCTION IF EXISTS public.test_rule()"))


@pytest.fixture
def judgments(look: Look) -> Callable[[], dict[str, tuple[Any, ...]]]:
    """What stands, by case number: defendant, amount, row_index, line_number."""

    def read() -> dict[str, tuple[Any, ...]]:
        return {
            key: tuple(values)
            for key, *values in look.rows(
                "SELECT case_number, defendant_name, judgment_amount::text, row_index, line_number FROM public.judgments"
            )
        }

    return read


@pytest.fixture
def row_errors(look: Look) -> Callable[[], list[tuple[Any, ...]]]:
    """The row errors: row_index, line_number, row_number, code, stage, raw."""
    return lambda: look.rows(
        "SELECT row_index, line_number, row_number, error_code, error_stage, raw FROM intake.row_errors ORDER BY row_index"
    )
