"""Delivery from the outbox: nothing is lost, nothing is sent twice, and order is kept."""

from __future__ import annotations

import datetime as dt
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from app.store import alerts
from monitoring import discord
from monitoring.discord import Delivered, Webhook
from monitoring.report import Finding, Level
from tests.conftest import Look
from tests.monitoring.discord_stub import Behaviour, Break, DiscordStub, Received, Reply, Silence

HOSTS = ("discord.com",)
NOW = dt.datetime(2025, 1, 7, 12, 0, tzinfo=dt.UTC)


@pytest.fixture
def stub() -> Iterator[DiscordStub]:
    with DiscordStub() as running:
        yield running


@pytest.fixture
def first_webhook(stub: DiscordStub) -> Webhook:
    """Nobody has had one before."""
    return Webhook.from_url(stub.url, HOSTS, "dev")


@pytest.fixture
def webhook(database: Engine, first_webhook: Webhook) -> Webhook:
    """One that was there before any alert."""
    with database.begin() as connection:
        alerts.meet_webhook(connection)
    return first_webhook


@dataclass
class Time:
    """Passes when it is told to, for the outbox too: what is put off comes nearer. A clock and a sleep for ``deliver``."""

    look: Look
    now: float = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.look.change("UPDATE ops.alerts SET not_before = not_before - make_interval(secs => :secs)", secs=seconds)


@pytest.fixture
def passing(look: Look) -> Time:
    return Time(look)


def add(engine: Engine, message: str, check: str = "ledger", **overrides: Any) -> bool:
    values: dict[str, Any] = {
        "dedupe_key": f"{check}:{message}",
        "kind": "raised",
        "check_name": check,
        "level": "CRITICAL",
        "environment": "dev",
        "message": message,
        "details": {"unbalanced": 1},
        "happened_at": NOW,
        **overrides,
    }
    with engine.begin() as connection:
        return alerts.add(connection, **values)


def state_of(engine: Engine, webhook: Webhook) -> alerts.WebhookState:
    with engine.begin() as connection:
        return alerts.webhook_state(connection, webhook.fingerprint)


def impatient() -> httpx.Client:
    """Waits 0.3 s for an answer."""
    return httpx.Client(timeout=0.3, trust_env=False)


def footers(requests: list[Received]) -> list[str]:
    return [request.embed["footer"]["text"].partition(", ")[2] for request in requests]


def test_what_waits_is_sent_once_and_in_order(
    database: Engine, stub: DiscordStub, webhook: Webhook, look: Look
) -> None:
    for number in range(5):
        assert add(database, f"alert {number}", check=f"check_{number % 2}")
    assert discord.deliver(database, webhook) == Delivered(sent=5)
    assert discord.deliver(database, webhook) == Delivered()
    assert stub.shown == [f"alert {number}" for number in range(5)]
    assert look.rows("SELECT DISTINCT attempts, problem, webhook, sent_at IS NULL FROM ops.alerts") == [
        (1, None, webhook.fingerprint, False)
    ]


def test_a_message_asks_for_a_real_answer_and_pings_nobody(
    database: Engine, stub: DiscordStub, webhook: Webhook
) -> None:
    add(database, "1 batch does not balance")
    discord.deliver(database, webhook)
    (request,) = stub.received
    assert request.method == "POST"
    assert request.path.endswith("?wait=true")
    assert request.body["allowed_mentions"] == {"parse": []}
    assert request.embed["title"] == "ledger raised"


def test_an_alert_that_was_written_already_is_not_written_again(
    database: Engine, stub: DiscordStub, webhook: Webhook
) -> None:
    assert add(database, "once")
    assert not add(database, "once")
    discord.deliver(database, webhook)
    assert not add(database, "once")
    discord.deliver(database, webhook)
    assert stub.shown == ["once"]


def test_an_alert_never_overtakes_an_earlier_one_of_its_check(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time
) -> None:
    add(database, "raised", check="ledger")
    stub.behaviours.append(Reply(500))
    discord.deliver(database, webhook, seconds=1, clock=passing.clock, sleep=passing.sleep)
    add(database, "recovered", check="ledger")
    add(database, "another check", check="beat")
    discord.deliver(database, webhook, seconds=1, clock=passing.clock, sleep=passing.sleep)
    # The first success makes what was put off due.
    assert stub.shown == ["another check", "raised", "recovered"]


def test_a_rate_limit_holds_everything_for_as_long_as_it_says(
    database: Engine, stub: DiscordStub, webhook: Webhook
) -> None:
    add(database, "first", check="ledger")
    add(database, "second", check="beat")
    stub.behaviours.append(Reply(429, headers={"Retry-After": "1"}, body=b'{"retry_after": 1.3}'))
    assert discord.deliver(database, webhook) == Delivered(sent=2, put_off=1)
    assert stub.shown == ["first", "second"]
    assert stub.posts[1].at - stub.posts[0].at >= 1.3


def test_a_rate_limit_holds_for_every_process_and_for_alerts_that_come_later(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time
) -> None:
    add(database, "first", check="ledger")
    stub.behaviours.append(Reply(429, headers={"Retry-After": "100", "X-RateLimit-Global": "true"}))
    assert discord.deliver(database, webhook) == Delivered(put_off=1)
    add(database, "second", check="beat")
    assert discord.deliver(database, webhook) == Delivered()
    assert state_of(database, webhook).last_problem == "rate limited: answered 429 (global)"
    passing.sleep(99)
    assert discord.deliver(database, webhook, seconds=0.1) == Delivered()
    passing.sleep(1)
    assert discord.deliver(database, webhook) == Delivered(sent=2)
    assert stub.shown == ["first", "second"]


def test_a_used_up_allowance_is_waited_for(database: Engine, stub: DiscordStub, webhook: Webhook) -> None:
    stub.behaviours.append(Reply(204, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "0.5"}))
    add(database, "first")
    add(database, "second")
    assert discord.deliver(database, webhook) == Delivered(sent=2)
    assert stub.posts[1].at - stub.posts[0].at >= 0.5


def test_failures_are_put_off_for_longer_and_longer(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time, look: Look
) -> None:
    add(database, "alert")
    stub.otherwise = Reply(500)
    pauses = []
    for _ in range(9):
        discord.deliver(database, webhook, seconds=1, clock=passing.clock, sleep=passing.sleep)
        ((pause,),) = look.rows("SELECT extract(epoch FROM not_before - clock_timestamp()) FROM ops.alerts")
        pauses.append(float(pause))
        passing.sleep(float(pause))
    for pause, expected in zip(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300], strict=True):
        assert expected * 0.79 <= pause <= expected * 1.2
    assert look.rows("SELECT attempts, problem, sent_at FROM ops.alerts") == [(9, "answered 500", None)]


def test_a_call_ends_after_three_failures_with_nothing_sent(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time
) -> None:
    for number in range(5):
        add(database, f"alert {number}", check=f"check_{number}")
    stub.otherwise = Reply(503)
    assert discord.deliver(database, webhook, clock=passing.clock, sleep=passing.sleep) == Delivered(put_off=3)
    assert len(stub.posts) == 3


def test_a_failure_is_tried_again_in_the_same_call(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time
) -> None:
    add(database, "alert")
    stub.behaviours.append(Reply(500))
    delivered = discord.deliver(database, webhook, clock=passing.clock, sleep=passing.sleep)
    assert delivered == Delivered(sent=1, put_off=1)
    assert 4 <= passing.now <= 6.1
    assert footers(stub.taken) == ["attempt 2"]


def test_a_caller_that_is_told_to_stop_stops(database: Engine, stub: DiscordStub, webhook: Webhook) -> None:
    add(database, "alert")
    stub.otherwise = Reply(500)
    stopping = threading.Event()
    stopping.set()
    assert discord.deliver(database, webhook, sleep=stopping.wait) == Delivered(put_off=1)
    assert len(stub.posts) == 1


def test_an_alert_that_always_fails_does_not_hold_back_other_checks(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time
) -> None:
    for number in range(3):
        add(database, "fails", check=f"poison_{number}")
    for number in range(6):
        add(database, f"alert {number}", check=f"check_{number}")

    def by_its_text(request: Received) -> Behaviour:
        return Reply(500 if request.embed["description"] == "fails" else 204)

    stub.otherwise = by_its_text
    for _ in range(6):
        discord.deliver(database, webhook, clock=passing.clock, sleep=passing.sleep)
        passing.sleep(30)
    assert stub.shown == [f"alert {number}" for number in range(6)]


def test_a_bad_message_is_refused_alone_and_kept_for_another_webhook(
    database: Engine, stub: DiscordStub, webhook: Webhook, look: Look
) -> None:
    add(database, "bad")
    add(database, "good")
    stub.behaviours.append(Reply(400))
    assert discord.deliver(database, webhook) == Delivered(sent=1, refused=1)
    state = state_of(database, webhook)
    assert (state.waiting, state.refused, state.dead, state.last_problem) == (0, 1, False, "answered 400")
    assert discord.deliver(database, webhook) == Delivered()
    another = Webhook.from_url(f"{stub.url}?thread_id=5", HOSTS, "dev")
    assert state_of(database, another).waiting == 1
    assert discord.deliver(database, another) == Delivered(sent=1)
    assert stub.shown == ["good", "bad"]
    assert stub.posts[-1].path.endswith("?thread_id=5&wait=true")


def test_a_refusal_is_told_for_a_day(database: Engine, stub: DiscordStub, webhook: Webhook, look: Look) -> None:
    add(database, "bad")
    stub.behaviours.append(Reply(400))
    discord.deliver(database, webhook)
    look.change("UPDATE ops.alerts SET failed_at = failed_at - interval '25 hours'")
    state = state_of(database, webhook)
    assert (state.refused, state.last_problem) == (0, None)


@pytest.mark.parametrize("status", [302, 401, 403, 404, 410])
def test_a_dead_webhook_is_sent_nothing_more(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time, status: int
) -> None:
    stub.otherwise = Reply(status, headers={"Location": stub.url})
    stub.probe = Reply(status, headers={"Location": stub.url})
    for number in range(3):
        add(database, f"alert {number}", check=f"check_{number}")
    assert discord.deliver(database, webhook) == Delivered(refused=1)
    add(database, "later")
    for _ in range(59):
        passing.sleep(60)
        assert discord.deliver(database, webhook) == Delivered()
    assert [request.method for request in stub.received] == ["POST"]
    state = state_of(database, webhook)
    assert (state.waiting, state.refused, state.dead) == (3, 1, True)
    assert state.last_problem == f"dead webhook: answered {status}"


def test_a_dead_webhook_is_asked_once_an_hour_whether_it_lives(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time
) -> None:
    stub.behaviours.append(Reply(404))
    stub.probe = Reply(404)
    add(database, "first", check="ledger")
    add(database, "second", check="beat")
    discord.deliver(database, webhook)
    for _ in range(3 * 60 + 1):
        passing.sleep(60)
        discord.deliver(database, webhook)
    assert [request.method for request in stub.received] == ["POST", "GET", "GET", "GET"]
    assert stub.shown == []
    stub.probe = Reply(200)
    passing.sleep(3600)
    assert discord.deliver(database, webhook) == Delivered(sent=2)
    assert stub.shown == ["first", "second"]
    state = state_of(database, webhook)
    assert (state.waiting, state.refused, state.dead, state.last_problem) == (0, 0, False, None)


def test_another_address_takes_over_from_a_dead_one_at_once(
    database: Engine, stub: DiscordStub, webhook: Webhook
) -> None:
    stub.behaviours.append(Reply(404))
    for number in range(3):
        add(database, f"alert {number}", check=f"check_{number}")
    discord.deliver(database, webhook)
    another = Webhook.from_url(f"{stub.url}-new", HOSTS, "dev")
    assert discord.deliver(database, another) == Delivered(sent=3)
    assert stub.shown == [f"alert {number}" for number in range(3)]
    assert not state_of(database, webhook).dead


class Closed:
    """Connections are refused."""


@pytest.mark.parametrize(
    "outage",
    [
        Closed(),
        Reply(500),
        Reply(502),
        Reply(429, headers={"Retry-After": "300"}),
        Reply(429, body=b"not json"),
        Break(),
    ],
    ids=["closed", "500", "502", "429", "429 without a wait", "broken"],
)
def test_an_hour_without_the_webhook_loses_no_alert_and_sends_none_twice(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time, outage: Behaviour | Closed
) -> None:
    if isinstance(outage, Closed):
        stub.stop()
    else:
        stub.otherwise = outage
    written = [f"alert {number}" for number in range(12)]
    for minute in range(60):
        if minute % 5 == 0:
            number = minute // 5
            # Three checks, each told of four times.
            add(database, written[number], check=f"check_{number % 3}")
        discord.deliver(database, webhook, clock=passing.clock, sleep=passing.sleep)
        passing.sleep(60)
    assert stub.shown == []
    assert len(stub.posts) < 150
    assert state_of(database, webhook).waiting == 12
    if isinstance(outage, Closed):
        stub.start()
    stub.otherwise = Reply()
    # All of them within one longest pause, although none is retried more often than that.
    for _ in range(8):
        discord.deliver(database, webhook, clock=passing.clock, sleep=passing.sleep)
        passing.sleep(60)
    assert sorted(stub.shown) == sorted(written)
    for check in range(3):
        assert [text for text in stub.shown if text in written[check::3]] == written[check::3]
    assert state_of(database, webhook).waiting == 0


def test_after_an_outage_order_is_kept_across_checks_from_the_first_success_on(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time
) -> None:
    stub.otherwise = Reply(500)
    for number in range(3):
        add(database, f"alert {number}", check=f"check_{number}")
    for _ in range(10):
        discord.deliver(database, webhook, clock=passing.clock, sleep=passing.sleep)
        passing.sleep(60)
    for number in range(3, 6):
        add(database, f"alert {number}", check=f"check_{number}")
    stub.otherwise = Reply()
    discord.deliver(database, webhook, clock=passing.clock, sleep=passing.sleep)
    first, *others = stub.shown
    assert others == [f"alert {number}" for number in range(6) if f"alert {number}" != first]


def test_deliverers_that_work_at_once_send_nothing_twice_and_one_at_a_time(
    database: Engine, stub: DiscordStub, webhook: Webhook
) -> None:
    written = [f"alert {number}" for number in range(20)]
    for number, text in enumerate(written):
        add(database, text, check=f"check_{number % 7}")
    stub.otherwise = Reply(after=0.02)
    problems: list[BaseException] = []

    def work() -> None:
        try:
            while state_of(database, webhook).waiting:
                discord.deliver(database, webhook)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert stub.shown == written
    assert stub.most_at_once == 1


def test_an_alert_on_its_way_is_left_to_its_deliverer(
    database: Engine, stub: DiscordStub, webhook: Webhook, look: Look
) -> None:
    add(database, "first", check="ledger")
    add(database, "second", check="beat")
    with database.begin() as connection:
        claimed = alerts.claim(connection, webhook.fingerprint, lease_seconds=60)
    assert claimed is not None
    assert claimed.message == "first"
    assert discord.deliver(database, webhook) == Delivered()
    assert state_of(database, webhook).last_problem == "no answer yet"
    with database.begin() as connection:
        alerts.mark_sent(connection, claimed)
    assert discord.deliver(database, webhook) == Delivered(sent=1)
    assert stub.shown == ["second"]


DELIVERER = """
import sys
from app.store.database import open_engine
from monitoring import discord
discord.deliver(open_engine(sys.argv[1]), discord.Webhook.from_url(sys.argv[2], ["discord.com"], "dev"))
"""


def test_a_deliverer_that_is_killed_loses_nothing_and_owns_up_to_the_repeat(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time, service_url: str
) -> None:
    add(database, "first")
    add(database, "second")
    stub.behaviours.append(Silence())
    process = subprocess.Popen([sys.executable, "-c", DELIVERER, service_url, stub.url])
    try:
        assert stub.arrived.wait(30)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert discord.deliver(database, webhook) == Delivered()
    passing.sleep(120)
    assert discord.deliver(database, webhook) == Delivered(sent=2)
    assert stub.shown == ["first", "second"]
    assert footers(stub.taken) == ["attempt 2, may repeat", ""]


@pytest.mark.parametrize("behaviour", [Silence(), Break(), Reply(504)], ids=["silence", "break", "504"])
def test_an_attempt_whose_answer_was_never_read_makes_every_later_one_a_possible_repeat(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time, behaviour: Behaviour
) -> None:
    add(database, "alert")
    stub.behaviours.extend([behaviour, Reply(500)])
    with impatient() as client:
        discord.deliver(database, webhook, client=client, clock=passing.clock, sleep=passing.sleep)
    assert footers(stub.posts) == ["", "attempt 2, may repeat", "attempt 3, may repeat"]
    assert stub.shown == ["alert"]


def test_a_slow_answer_is_waited_for(database: Engine, stub: DiscordStub, webhook: Webhook) -> None:
    add(database, "alert")
    stub.otherwise = Reply(after=1.5)
    assert discord.deliver(database, webhook) == Delivered(sent=1)
    assert len(stub.posts) == 1


def test_an_answer_that_breaks_off_after_its_status_counts(
    database: Engine, stub: DiscordStub, webhook: Webhook
) -> None:
    add(database, "alert")
    stub.otherwise = Reply(200, cut=True)
    assert discord.deliver(database, webhook) == Delivered(sent=1)
    assert len(stub.posts) == 1


def test_a_rate_limit_whose_body_breaks_off_is_still_one(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time
) -> None:
    add(database, "alert")
    stub.behaviours.append(Reply(429, headers={"Retry-After": "7"}, cut=True))
    delivered = discord.deliver(database, webhook, clock=passing.clock, sleep=passing.sleep)
    assert delivered == Delivered(sent=1, put_off=1)
    assert 6.9 <= passing.now <= 7.1
    assert footers(stub.taken) == ["attempt 2"]


def test_a_database_that_fails_after_the_answer_has_the_alert_sent_once(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(database, "alert")
    left = [1, 2, 3]
    mark_sent = alerts.mark_sent

    def failing(*arguments: Any) -> None:
        if left:
            left.pop()
            raise OperationalError("UPDATE", {}, Exception("the server closed the connection"))
        mark_sent(*arguments)

    monkeypatch.setattr(alerts, "mark_sent", failing)
    delivered = discord.deliver(database, webhook, clock=passing.clock, sleep=passing.sleep)
    assert delivered == Delivered(sent=1)
    assert stub.shown == ["alert"]
    assert not left


def test_an_answer_that_comes_after_the_lease_is_kept_and_does_not_disturb_who_took_over(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time, look: Look
) -> None:
    add(database, "alert")
    with database.begin() as connection:
        slow = alerts.claim(connection, webhook.fingerprint, lease_seconds=60)
    passing.sleep(61)
    with database.begin() as connection:
        quick = alerts.claim(connection, webhook.fingerprint, lease_seconds=60)
    assert slow is not None
    assert quick is not None
    assert (slow.may_repeat, quick.may_repeat) == (False, True)
    with database.begin() as connection:
        alerts.put_off(connection, slow, problem="answered 500", seconds=5, answered=True)
    assert look.rows("SELECT problem, attempts FROM ops.alerts") == [("no answer yet", 2)]
    with database.begin() as connection:
        alerts.mark_sent(connection, slow)
        alerts.put_off(connection, quick, problem="answered 500", seconds=5, answered=True)
    assert discord.deliver(database, webhook) == Delivered()
    assert look.rows("SELECT sent_at IS NULL, problem FROM ops.alerts") == [(False, None)]


def test_the_state_of_the_webhook_counts_what_waits_and_since_when(
    database: Engine, stub: DiscordStub, webhook: Webhook, look: Look
) -> None:
    assert state_of(database, webhook) == alerts.WebhookState(
        waiting=0, oldest_waiting_seconds=None, refused=0, dead=False, last_problem=None, last_sent_at=None
    )
    add(database, "sent")
    discord.deliver(database, webhook)
    add(database, "waits")
    add(database, "waits too", check="beat")
    look.change("UPDATE ops.alerts SET created_at = created_at - interval '90 seconds' WHERE message = 'waits'")
    look.change("UPDATE ops.heartbeats SET started_at = started_at - interval '1 hour'")
    state = state_of(database, webhook)
    assert state.waiting == 2
    assert state.oldest_waiting_seconds == pytest.approx(90, abs=5)
    ((sent_at,),) = look.rows("SELECT sent_at FROM ops.alerts WHERE message = 'sent'")
    assert state.last_sent_at == sent_at


def test_alerts_are_kept_for_30_days_after_they_were_sent(
    database: Engine, stub: DiscordStub, webhook: Webhook, look: Look
) -> None:
    for text in ("old", "young"):
        add(database, text)
    discord.deliver(database, webhook)
    add(database, "waits")
    look.change(
        """
        UPDATE ops.alerts SET created_at = created_at - interval '31 days', sent_at = sent_at - interval '31 days'
        WHERE message <> 'young'
        """
    )
    with database.begin() as connection:
        assert alerts.prune(connection) == 1
    assert look.rows("SELECT message FROM ops.alerts ORDER BY id") == [("young",), ("waits",)]


class TestTheFirstWebhook:
    """What it is sent of the time before it."""

    def test_it_is_told_what_goes_on_and_nothing_that_is_over(
        self, database: Engine, stub: DiscordStub, first_webhook: Webhook
    ) -> None:
        add(database, "over", check="beat")
        add(database, "goes on, at first", check="ledger", level="WARNING")
        add(database, "beat is back", check="beat", level="HEALTHY", kind="recovered")
        add(database, "goes on", check="ledger", kind="worsened")
        assert discord.deliver(database, first_webhook) == Delivered(sent=1)
        add(database, "later", check="beat")
        add(database, "later, over", check="beat", level="HEALTHY", kind="recovered")
        assert discord.deliver(database, first_webhook) == Delivered(sent=2)
        assert stub.shown == ["goes on", "later", "later, over"]

    def test_what_has_waited_for_it_is_not_late(
        self, database: Engine, stub: DiscordStub, first_webhook: Webhook, look: Look
    ) -> None:
        add(database, "goes on")
        look.change("UPDATE ops.alerts SET created_at = created_at - interval '11 minutes'")
        assert state_of(database, first_webhook).oldest_waiting_seconds is None
        stub.otherwise = Reply(429, headers={"Retry-After": "100"})
        add(database, "another", check="beat")
        discord.deliver(database, first_webhook)
        look.change("UPDATE ops.alerts SET attempts = 0, problem = NULL, webhook = NULL")
        assert state_of(database, first_webhook).oldest_waiting_seconds == pytest.approx(0, abs=5)
        look.change("UPDATE ops.heartbeats SET started_at = started_at - interval '3 minutes'")
        assert state_of(database, first_webhook).oldest_waiting_seconds == pytest.approx(180, abs=5)

    def test_one_after_a_day_without_any_is_a_first_one(
        self, database: Engine, stub: DiscordStub, webhook: Webhook, look: Look
    ) -> None:
        for hours, sent in ((23, ["over", "beat is back"]), (25, [])):
            look.change("DELETE FROM ops.alerts")
            look.change(
                "UPDATE ops.heartbeats SET seen_at = seen_at - make_interval(hours => :hours) WHERE name = 'webhook'",
                hours=hours,
            )
            add(database, "over", check="beat")
            add(database, "beat is back", check="beat", level="HEALTHY", kind="recovered")
            before = len(stub.shown)
            discord.deliver(database, webhook)
            assert stub.shown[before:] == sent

    def test_what_was_tried_is_not_history_nor_is_what_stands_behind_it(
        self, database: Engine, stub: DiscordStub, webhook: Webhook, look: Look
    ) -> None:
        add(database, "beat is silent", check="beat")
        stub.behaviours.append(Reply(500))
        discord.deliver(database, webhook, seconds=0.1)
        add(database, "beat is back", check="beat", level="HEALTHY", kind="recovered")
        look.change("DELETE FROM ops.heartbeats")
        look.change("UPDATE ops.alerts SET not_before = clock_timestamp()")
        discord.deliver(database, webhook)
        assert stub.shown == ["beat is silent", "beat is back"]

    def test_none_is_kept_for_it_for_longer_than_a_day_unless_it_goes_on(self, database: Engine, look: Look) -> None:
        add(database, "over", check="beat")
        add(database, "beat is back", check="beat", level="HEALTHY", kind="recovered")
        add(database, "goes on", check="ledger", level="WARNING")
        look.change("UPDATE ops.alerts SET created_at = created_at - interval '25 hours'")
        add(database, "young", check="backlog", level="WARNING")
        add(database, "young, over", check="backlog", level="HEALTHY", kind="recovered")
        with database.begin() as connection:
            assert alerts.prune(connection) == 2
        assert look.rows("SELECT message FROM ops.alerts ORDER BY id") == [("goes on",), ("young",), ("young, over",)]


def send_directly(webhook: Webhook, passing: Time, **overrides: Any) -> bool:
    return discord.send_directly(
        webhook,
        Finding("database", Level.CRITICAL, "PostgreSQL does not answer", {"problem": "OperationalError"}),
        kind="raised",
        environment="prod",
        happened_at=NOW,
        clock=passing.clock,
        sleep=passing.sleep,
        **overrides,
    )


def test_without_the_database_an_alert_goes_straight_to_the_webhook(
    stub: DiscordStub, webhook: Webhook, passing: Time
) -> None:
    assert send_directly(webhook, passing)
    (request,) = stub.taken
    assert request.embed["title"] == "database raised"
    assert request.embed["footer"]["text"] == "sent without the database"
    assert {"name": "problem", "value": "OperationalError", "inline": True} in request.embed["fields"]


def test_without_the_database_an_alert_is_tried_again_within_bounds(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time
) -> None:
    stub.behaviours.extend([Break(), Reply(429, headers={"Retry-After": "3"})])
    assert send_directly(webhook, passing)
    assert footers(stub.posts) == ["", "attempt 2, may repeat", "attempt 3, may repeat"]
    assert 7 <= passing.now <= 9.1
    stub.otherwise = Reply(500)
    began = passing.now
    assert not send_directly(webhook, passing)
    assert passing.now - began < 30
    assert len(stub.posts) == 6


@pytest.mark.parametrize("status", [400, 404, 302])
def test_without_the_database_a_refusal_is_final(
    database: Engine, stub: DiscordStub, webhook: Webhook, passing: Time, status: int
) -> None:
    stub.otherwise = Reply(status)
    assert not send_directly(webhook, passing)
    assert len(stub.posts) == 1


def test_a_webhook_that_never_answers_costs_a_bounded_time(
    database: Engine, stub: DiscordStub, webhook: Webhook
) -> None:
    for number in range(5):
        add(database, f"alert {number}", check=f"check_{number}")
    stub.otherwise = Silence()
    began = time.monotonic()
    with impatient() as client:
        assert discord.deliver(database, webhook, client=client, seconds=0.5) == Delivered(put_off=2)
    assert time.monotonic() - began < 5
