"""The Discord webhook: which address may be used, one request to it, and what its answer means."""

from __future__ import annotations

import datetime as dt
import email.utils
import hashlib
import ipaddress
import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

import httpx

from app.settings import Settings
from app.store.alerts import Alert
from monitoring import embeds

LONGEST_REQUEST_SECONDS = 60.0
"""How long a request takes at most: the timeouts below, a second address of the host, a slow name server.

So long everybody waits for a process that has died, or stands still, amid a request. One that takes longer, as an answer may
that trickles in byte by byte, is sent again as one that may repeat.
"""
# Only reading takes long: an answer that is not waited for leaves open whether the alert has arrived.
_TIMEOUT = httpx.Timeout(connect=5, write=10, read=30, pool=5)
_BODY_BYTES = 16 * 1024

_HTTPS_PORT = 443
_DISCORD = ("discord.com", "discordapp.com")
_UNVERSIONED, _VERSIONED = "/api/webhooks/", "/api/v10/webhooks/"

_RATE_LIMITED = 429
_UNSENDABLE = (400, 413, 422)
_GONE = (401, 403, 404, 405, 410)
# Answers of a gateway: what stands behind it may have taken the alert.
_OF_A_GATEWAY = (502, 504)
_LONGEST_LIMIT_SECONDS = 86_400.0

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


class WebhookError(Exception):
    """An address to which no alert may go; one sentence, in which no part of the address stands."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where alerts go. The address is a secret; ``fingerprint`` stands for it in the outbox and in logs."""

    fingerprint: str
    url: httpx.URL = field(repr=False)

    @classmethod
    def from_url(cls, url: str, allowed_hosts: Collection[str], env: str) -> Self:
        """Raises WebhookError for anything but https to an allowed host (in dev: or plain http to a loopback address)."""
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            raise WebhookError(
                "DISCORD_WEBHOOK_URL is no address: copy it from the channel's settings, Integrations, Webhooks."
            ) from None
        host = parsed.raw_host.decode("ascii").lower()
        fault = None
        if parsed.userinfo:
            fault = "has a user name in it, which no webhook has"
        elif parsed.scheme == "http" and env == "dev" and _is_loopback(host):
            pass
        elif parsed.scheme != "https":
            fault = "is not https; plain http goes to a loopback address only, and only with DRAGONFLY_ENV=dev"
        elif host not in {allowed.lower() for allowed in allowed_hosts}:
            fault = f"leads to a host that DISCORD_ALLOWED_HOSTS ({', '.join(allowed_hosts)}) does not name"
        elif parsed.port not in (None, _HTTPS_PORT):
            fault = "names a port other than 443"
        if fault is not None:
            raise WebhookError(f"DISCORD_WEBHOOK_URL {fault}.")
        return cls(hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:12], _with_version(parsed, host))


def webhook_of(settings: Settings) -> Webhook | None:
    """The webhook of these settings, None where none is set. Raises WebhookError."""
    if settings.discord_webhook_url is None:
        return None
    return Webhook.from_url(settings.discord_webhook_url, settings.discord_allowed_hosts, settings.env)


class Outcome(Enum):
    """What became of an attempt."""

    TAKEN = "taken"
    LATER = "put off"
    REFUSED = "refused"
    DEAD = "the webhook is dead"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an attempt met; ``problem`` is a sentence of ours: it goes to logs, and to the alert about the webhook.

    ``answered`` is False where the alert may have arrived. ``seconds`` is how long the webhook wants to be left alone,
    where it says so: with everything when ``limited``.
    """

    outcome: Outcome
    problem: str = ""
    seconds: float | None = None
    answered: bool = True
    limited: bool = False


@contextmanager
def opened(client: httpx.Client | None = None) -> Iterator[httpx.Client]:
    """The client for the requests below, closed afterwards unless it was given.

    It follows no redirect, asks no proxy and no .netrc, and keeps no connection: a request on one that the webhook has
    just closed would leave open whether it was received.
    """
    # httpx logs every request with its address, and httpcore what it sends.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if client is not None:
        yield client
        return
    with httpx.Client(
        timeout=_TIMEOUT,
        trust_env=False,
        follow_redirects=False,
        limits=httpx.Limits(max_keepalive_connections=0),
        headers={"User-Agent": "dragonfly"},
    ) as made:
        yield made


def send(client: httpx.Client, webhook: Webhook, alert: Alert, runbook_url: str | None) -> Answer:
    """One attempt. Never raises: an exception of httpx holds the address."""
    try:
        body = embeds.message(alert, runbook_url)
    except Exception as problem:
        # It would stop the queue for good, here or in whoever tries next.
        return Answer(Outcome.REFUSED, f"it cannot be written as a message ({type(problem).__name__})")
    # With wait the answer comes when the message is stored, not when it is received.
    return _ask(client, "POST", webhook.url.copy_merge_params({"wait": "true"}), body)


def lives(client: httpx.Client, webhook: Webhook) -> bool:
    """Whether the webhook is there: Discord describes a living one to whoever has its address. Never raises."""
    return _ask(client, "GET", webhook.url).outcome is Outcome.TAKEN


def _ask(client: httpx.Client, method: str, url: httpx.URL, body: Mapping[str, Any] | None = None) -> Answer:
    answer: Answer | None = None
    try:
        with client.stream(method, url, json=body) as response:
            # The status alone decides: what breaks after it changes nothing.
            said = _beginning(response) if response.status_code == _RATE_LIMITED else b""
            answer = judge(response.status_code, response.headers, said)
    except _NEVER_SENT as problem:
        return answer or Answer(Outcome.LATER, f"no connection ({type(problem).__name__})")
    except Exception as problem:
        return answer or Answer(Outcome.LATER, f"no answer ({type(problem).__name__})", answered=False)
    return answer


def judge(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What an answer means; ``headers`` are found in any letter case, ``body`` is read where the status is 429."""
    problem = f"answered {status}"
    if 200 <= status < 300:  # noqa: PLR2004
        is_used_up = headers.get("X-RateLimit-Remaining") == "0"
        return Answer(Outcome.TAKEN, seconds=_number(headers.get("X-RateLimit-Reset-After")) if is_used_up else None)
    if status == _RATE_LIMITED:
        scope = "global" if headers.get("X-RateLimit-Global", "").lower() == "true" else None
        scope = scope or headers.get("X-RateLimit-Scope", "")
        known = f" ({scope})" if scope in ("global", "shared", "user") else ""
        return Answer(Outcome.LATER, f"{problem}{known}", seconds=_limit(headers, body), limited=True)
    if status in _UNSENDABLE:
        return Answer(Outcome.REFUSED, problem)
    if status in _GONE or 300 <= status < 400:  # noqa: PLR2004
        return Answer(Outcome.DEAD, problem)
    return Answer(
        Outcome.LATER, problem, seconds=_retry_after(headers.get("Retry-After")), answered=status not in _OF_A_GATEWAY
    )


def _limit(headers: Mapping[str, str], body: bytes) -> float | None:
    """How long a rate limit lasts, in seconds.

    The header is rounded up, the body exact; where they differ the longer one is safe. X-RateLimit-Reset-After may be of
    another limit than the one that was met, so it counts only where there is nothing else.
    """
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    told = [
        _retry_after(headers.get("Retry-After")),
        _number(said.get("retry_after")) if isinstance(said, dict) else None,
    ]
    known = [seconds for seconds in told if seconds is not None]
    return max(known) if known else _number(headers.get("X-RateLimit-Reset-After"))


def _retry_after(value: str | None) -> float | None:
    """Seconds, or the HTTP date that a proxy may write."""
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return _number(max((moment - dt.datetime.now(dt.UTC)).total_seconds(), 0.0))


def _number(value: object) -> float | None:
    """A span of time as the webhook tells it; no more than a day is believed."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return min(seconds, _LONGEST_LIMIT_SECONDS) if math.isfinite(seconds) and seconds >= 0 else None


def _beginning(response: httpx.Response) -> bytes:
    body = b""
    try:
        for piece in response.iter_bytes():
            body += piece
            if len(body) >= _BODY_BYTES:
                break
    except httpx.HTTPError:
        pass
    return body


def _with_version(url: httpx.URL, host: str) -> httpx.URL:
    """The address that Discord shows names no version of its API and gets the oldest, whose waits are in milliseconds.

    https://github.com/discord/discord-api-docs/issues/4722
    """
    path = url.raw_path.decode("ascii")
    if host in _DISCORD and path.startswith(_UNVERSIONED):
        return url.copy_with(raw_path=(_VERSIONED + path.removeprefix(_UNVERSIONED)).encode("ascii"))
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
