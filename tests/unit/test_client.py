"""The HTTP client of the command line: what it asks again, and how it says that nobody could be asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import follow
from app.client import Client, NoAnswerError, RefusedError, origin_of
from app.follow import HandedIn, Silence

BUSY = httpx.Response(503, json={"code": "BUSY", "detail": "3 uploads are under way."}, headers={"Retry-After": "5"})
RECEIPT = {"batch_id": "b", "filename": "a.csv", "file_hash": "0", "status": "uploaded", "is_duplicate": False}


def client(answers: Callable[[httpx.Request], httpx.Response], pauses: list[float] | None = None) -> Client:
    paused = [] if pauses is None else pauses
    return Client("http://server", "key", transport=httpx.MockTransport(answers), pause=paused.append)


def always(response: httpx.Response) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(response.status_code, content=response.content, headers=response.headers)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * 200_000)
    return path


def test_a_busy_server_is_asked_again_when_it_says(file: Path) -> None:
    answers = iter([BUSY, BUSY, httpx.Response(202, json=RECEIPT)])
    pauses: list[float] = []
    seen: list[int] = []
    with client(lambda request: request.read() and next(answers), pauses) as asked:
        assert asked.upload(file, {}, seen.append) == RECEIPT
    assert pauses == [5, 5]
    assert sum(seen) == 200_000


def test_a_server_that_stays_busy_is_given_up(file: Path) -> None:
    pauses: list[float] = []
    with client(always(BUSY), pauses) as asked, pytest.raises(NoAnswerError, match="uploads are under way"):
        asked.upload(file, {}, lambda _: None)
    assert 10 < len(pauses) < 100


def test_the_file_is_sent_whole_under_its_name(file: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = request.read()
        assert b'name="file"; filename="a.csv"' in body
        assert b"x" * 200_000 in body
        assert b'name="source"' in body
        assert request.headers["Authorization"] == "Bearer key"
        return httpx.Response(202, json=RECEIPT)

    with client(answer) as asked:
        asked.upload(file, {"source": "jbi"}, lambda _: None)


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (httpx.Response(401, json={"code": "UNAUTHENTICATED", "detail": "d"}), "refuses the key"),
        (httpx.Response(429, json={"code": "TOO_MANY_ATTEMPTS", "detail": "d"}), "refuses the key"),
        (httpx.Response(503, json={"code": "DATABASE_UNAVAILABLE", "detail": "d"}), "cannot do it now"),
        (httpx.Response(200, text="<html>"), "is not Dragonfly"),
        (httpx.Response(200, json=[]), "is not Dragonfly"),
    ],
)
def test_an_answer_that_is_none_could_not_be_asked(response: httpx.Response, words: str) -> None:
    with client(always(response)) as asked, pytest.raises(NoAnswerError, match=words):
        asked.batch("b")


def test_a_no_is_an_answer() -> None:
    conflict = httpx.Response(409, json={"code": "CONFLICT", "detail": "The batch is completed."})
    with client(always(conflict)) as asked, pytest.raises(RefusedError, match=r"CONFLICT: The batch is completed\."):
        asked.retry("b", None)


class Clock:
    """Time that passes by a pause alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def waiting_for(answers: Callable[[httpx.Request], httpx.Response], clock: Clock) -> HandedIn:
    item = HandedIn(Path("a.csv"), batch={"batch_id": "b", "status": "uploaded"})
    with client(answers) as asked:
        follow.follow(asked, [item], Silence(), pause=clock.pause, clock=lambda: clock.now)
    return item


def test_a_server_that_restarts_meanwhile_is_waited_for(clock: Clock) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if clock.now < 30:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"batch_id": "b", "status": "completed"})

    assert waiting_for(answer, clock).is_good


def test_a_server_that_stays_away_is_given_up_after_a_minute(clock: Clock) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(NoAnswerError, match="No server answers at http://server"):
        waiting_for(answer, clock)
    assert 60 <= clock.now < 70


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://user:geheim@127.0.0.1:1/geheim?key=geheim#geheim", "http://127.0.0.1:1"),
        ("https://user:geheim@server", "https://server"),
        ("http://user:geheim@[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_of_an_address_the_origin_alone_is_shown(url: str, origin: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with Client(url, "key", transport=httpx.MockTransport(answer)) as asked:
        assert asked.origin == origin
        with pytest.raises(NoAnswerError) as caught:
            asked.state()
    assert f"No server answers at {origin}:" in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["nonsense", "user:geheim@x", "bogus://u:geheim@x", "http://", "http://u:geheim@x:y", "http://u:geheim@[x"]
)
def test_what_is_no_web_address_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError, match=r"^no web address$"):
        origin_of(url)


@pytest.mark.parametrize(
    ("status", "is_good"), [("completed", True), ("failed", False), ("cancelled", False), ("awaiting_approval", True)]
)
def test_waiting_ends_where_nothing_more_happens_by_itself(clock: Clock, status: str, is_good: bool) -> None:
    statuses: Iterator[Any] = iter(["staging", "validating", status])
    item = waiting_for(lambda _: httpx.Response(200, json={"batch_id": "b", "status": next(statuses)}), clock)
    assert item.is_good is is_good
