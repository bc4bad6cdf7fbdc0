"""Which address may be used, what an answer means, and that the address is never shown."""

from __future__ import annotations

import datetime as dt
import email.utils
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings import Settings
from app.store.alerts import Alert
from monitoring import discord
from monitoring.report import Finding, Level
from monitoring.webhook import Answer, Outcome, Webhook, WebhookError, judge, opened, send, webhook_of
from tests.monitoring.discord_stub import TOKEN, Break, DiscordStub, Reply

HOSTS = ("discord.com", "discordapp.com")
GOOD = f"https://discord.com/api/webhooks/1234/{TOKEN}"


@pytest.mark.parametrize(
    ("url", "env"),
    [
        (GOOD, "prod"),
        (GOOD.replace("discord.com", "DISCORDAPP.com"), "dev"),
        (GOOD.replace("discord.com", "discord.com:443"), "prod"),
        (f"http://127.0.0.1:8999/{TOKEN}", "dev"),
        (f"http://127.8.9.1/{TOKEN}", "dev"),
        (f"http://[::1]:8999/{TOKEN}", "dev"),
        (f"http://localhost:8999/{TOKEN}", "dev"),
    ],
)
def test_alerts_may_go_there(url: str, env: str) -> None:
    assert Webhook.from_url(url, HOSTS, env).fingerprint


@pytest.mark.parametrize(
    ("url", "env", "fault"),
    [
        (GOOD.replace("https", "http"), "dev", "not https"),
        (GOOD.replace("https", "ftp"), "dev", "not https"),
        (GOOD.removeprefix("https:"), "dev", "not https"),
        (GOOD.replace("discord.com", "discord.com.evil.example"), "dev", "DISCORD_ALLOWED_HOSTS"),
        (GOOD.replace("discord.com", "evil.discord.com"), "dev", "DISCORD_ALLOWED_HOSTS"),
        (GOOD.replace("discord.com", "discord.com."), "dev", "DISCORD_ALLOWED_HOSTS"),
        (GOOD.replace("discord.com", "discord.com@evil.example"), "dev", "user name"),
        (GOOD.replace("discord.com", "discord.com\\@evil.example"), "dev", "user name"),
        (GOOD.replace("discord.com", "evil.example#@discord.com"), "dev", "DISCORD_ALLOWED_HOSTS"),
        (GOOD.replace("discord.com", "discord.com:8443"), "dev", "port"),
        (f"https://127.0.0.1/{TOKEN}", "dev", "DISCORD_ALLOWED_HOSTS"),
        (f"http://127.0.0.1:8999/{TOKEN}", "prod", "not https"),
        (f"http://localhost:8999/{TOKEN}", "prod", "not https"),
        (f"http://127.1/{TOKEN}", "dev", "not https"),
        (f"http://10.0.0.1/{TOKEN}", "dev", "not https"),
        (f"http://localhost.evil.example/{TOKEN}", "dev", "not https"),
        (f"https://discord.com:port/{TOKEN}", "dev", "no address"),
        (f"https://discord.com/{TOKEN}\n", "dev", "no address"),
        (TOKEN, "dev", "not https"),
    ],
)
def test_no_alert_may_go_there(url: str, env: str, fault: str) -> None:
    with pytest.raises(WebhookError, match=fault) as refused:
        Webhook.from_url(url, HOSTS, env)
    assert "DISCORD_WEBHOOK_URL" in str(refused.value)
    assert TOKEN not in str(refused.value)
    assert "evil" not in str(refused.value)


@given(st.text() | st.builds("{}{}{}".format, st.sampled_from(["https://", "http://", "//"]), st.text(), st.text()))
def test_whatever_is_set_leads_to_an_allowed_host_or_nowhere(url: str) -> None:
    try:
        webhook = Webhook.from_url(url, HOSTS, "prod")
    except WebhookError:
        return
    assert webhook.url.scheme == "https"
    assert webhook.url.raw_host.decode() in HOSTS


def test_without_an_address_there_is_no_webhook() -> None:
    assert webhook_of(Settings()) is None
    found = webhook_of(Settings(discord_webhook_url=GOOD))
    assert found is not None
    assert found.fingerprint == Webhook.from_url(GOOD, HOSTS, "prod").fingerprint


def test_two_addresses_have_two_fingerprints() -> None:
    one, other = (Webhook.from_url(url, HOSTS, "prod").fingerprint for url in (GOOD, GOOD + "x"))
    assert one != other
    assert TOKEN not in one


def test_discord_is_asked_for_a_version_that_tells_its_waits_in_seconds() -> None:
    assert Webhook.from_url(GOOD, HOSTS, "prod").url.path == f"/api/v10/webhooks/1234/{TOKEN}"
    chosen = GOOD.replace("/api/", "/api/v9/")
    assert Webhook.from_url(chosen, HOSTS, "prod").url.path == f"/api/v9/webhooks/1234/{TOKEN}"
    proxied = f"https://alerts.example.org/api/webhooks/1234/{TOKEN}"
    assert Webhook.from_url(proxied, ["alerts.example.org"], "prod").url.path == f"/api/webhooks/1234/{TOKEN}"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.TAKEN),
        (204, Outcome.TAKEN),
        (301, Outcome.DEAD),
        (302, Outcome.DEAD),
        (400, Outcome.REFUSED),
        (401, Outcome.DEAD),
        (403, Outcome.DEAD),
        (404, Outcome.DEAD),
        (408, Outcome.LATER),
        (410, Outcome.DEAD),
        (413, Outcome.REFUSED),
        (418, Outcome.LATER),
        (429, Outcome.LATER),
        (500, Outcome.LATER),
        (503, Outcome.LATER),
    ],
)
def test_a_status_decides_what_becomes_of_an_alert(status: int, outcome: Outcome) -> None:
    answer = judge(status, {}, b"")
    assert answer.outcome is outcome
    assert answer.answered
    assert outcome is Outcome.TAKEN or answer.problem == f"answered {status}"


@pytest.mark.parametrize("status", [502, 504])
def test_a_gateway_cannot_say_whether_the_alert_was_taken(status: int) -> None:
    assert judge(status, {}, b"") == Answer(Outcome.LATER, f"answered {status}", answered=False)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "65"}, b'{"message": "limited", "retry_after": 64.57, "global": false}', 65.0),
        ({"Retry-After": "1"}, b'{"retry_after": 1.5}', 1.5),
        ({"Retry-After": "3"}, b"error code: 1015", 3.0),
        ({}, b'{"retry_after": 0.25}', 0.25),
        ({"X-RateLimit-Reset-After": "5"}, b'{"retry_after": 0.25}', 0.25),
        ({"X-RateLimit-Reset-After": "5"}, b"", 5.0),
        ({"Retry-After": "soon"}, b"[1]", None),
        ({"Retry-After": "-5"}, b'{"retry_after": "nan"}', None),
        ({"Retry-After": "inf"}, b'{"retry_after": true}', None),
        ({"Retry-After": "1e12"}, b"", 86_400.0),
        ({}, b'{"retry_after": 1' + b"0" * 400 + b"}", None),
    ],
)
def test_a_rate_limit_lasts_as_long_as_the_webhook_says(
    headers: dict[str, str], body: bytes, seconds: float | None
) -> None:
    answer = judge(429, httpx.Headers(headers), body)
    assert (answer.outcome, answer.limited, answer.seconds) == (Outcome.LATER, True, seconds)


def test_a_rate_limit_may_be_told_as_a_date() -> None:
    then = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90)
    answer = judge(429, httpx.Headers({"retry-after": email.utils.format_datetime(then, usegmt=True)}), b"")
    assert answer.seconds == pytest.approx(89, abs=2)


def test_a_global_rate_limit_is_called_one() -> None:
    assert judge(429, httpx.Headers({"X-RateLimit-Global": "true"}), b"").problem == "answered 429 (global)"


def test_a_taken_alert_tells_when_the_next_may_come() -> None:
    used_up = httpx.Headers({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "1.2"})
    assert judge(204, used_up, b"").seconds == 1.2
    some_left = httpx.Headers({"X-RateLimit-Remaining": "3", "X-RateLimit-Reset-After": "1.2"})
    assert judge(204, some_left, b"").seconds is None


def test_an_alert_that_cannot_be_written_is_refused_alone() -> None:
    broken: Any = "not a date"
    alert = Alert(
        kind="raised", check_name="ledger", level="CRITICAL", environment="dev", message="m", happened_at=broken
    )
    with opened() as client:
        answer = send(client, Webhook.from_url(GOOD, HOSTS, "prod"), alert, None)
    assert answer == Answer(Outcome.REFUSED, "it cannot be written as a message (AttributeError)")


class Unclosable(httpx.SyncByteStream):
    """A body whose connection breaks when it is let go."""

    def __iter__(self) -> Iterator[bytes]:
        yield b""

    def close(self) -> None:
        raise httpx.ReadError("broken")


@pytest.mark.parametrize(("status", "outcome"), [(204, Outcome.TAKEN), (404, Outcome.DEAD)])
def test_what_breaks_after_the_status_changes_nothing(status: int, outcome: Outcome) -> None:
    alert = Alert(
        kind="raised",
        check_name="ledger",
        level="CRITICAL",
        environment="dev",
        message="m",
        happened_at=dt.datetime.now(dt.UTC),
    )
    transport = httpx.MockTransport(lambda _: httpx.Response(status, stream=Unclosable()))
    with httpx.Client(transport=transport) as client:
        assert send(client, Webhook.from_url(GOOD, HOSTS, "prod"), alert, None).outcome is outcome


def test_no_proxy_of_the_environment_learns_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with DiscordStub() as stub:
        assert discord.send_directly(
            Webhook.from_url(stub.url, HOSTS, "dev"),
            Finding("database", Level.CRITICAL, "PostgreSQL does not answer"),
            kind="raised",
            environment="dev",
            happened_at=dt.datetime.now(dt.UTC),
        )
        assert stub.shown == ["PostgreSQL does not answer"]


def test_the_address_reaches_no_log_and_no_repr(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    # As a program may have set them before.
    for name in ("httpx", "httpcore"):
        caplog.set_level(logging.DEBUG, name)
    with DiscordStub() as stub:
        webhook = Webhook.from_url(stub.url, HOSTS, "dev")
        redirect = Reply(302, headers={"Location": stub.url})
        for behaviour in (Reply(), Reply(429, body=b"{}"), Reply(500), Reply(404), redirect, Break(), Reply(cut=True)):
            stub.behaviours.append(behaviour)
            send_once(webhook)
        assert len(stub.received) == 7
        stub.stop()
        send_once(webhook)
    logging.getLogger().debug("the capture works")
    written = caplog.text + "".join(capfd.readouterr()) + repr(webhook) + str(webhook)
    assert "the capture works" in written
    assert "alert put off" in written
    assert TOKEN not in written


def send_once(webhook: Webhook) -> None:
    discord.send_directly(
        webhook,
        Finding("database", Level.CRITICAL, "PostgreSQL does not answer"),
        kind="raised",
        environment="dev",
        happened_at=dt.datetime.now(dt.UTC),
        seconds=0,
    )
