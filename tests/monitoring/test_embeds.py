"""The embed of an alert: what it shows, and that it always fits."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.store.alerts import Alert
from monitoring.embeds import message

NOON = dt.datetime(2025, 1, 7, 12, 0, tzinfo=dt.UTC)


def an_alert(**overrides: Any) -> Alert:
    values: dict[str, Any] = {
        "id": 123,
        "kind": "raised",
        "check_name": "stuck_batches",
        "level": "CRITICAL",
        "environment": "prod",
        "message": "3 batches stuck > 10m: validating(2), inserting(1)",
        "details": {"threshold_minutes": 10, "states": {"validating": 2, "inserting": 1}},
        "happened_at": NOON,
        "unhealthy_since": NOON,
        **overrides,
    }
    return Alert(**values)


def embed_of(alert: Alert, runbook_url: str | None = None) -> dict[str, Any]:
    (embed,) = message(alert, runbook_url)["embeds"]
    assert isinstance(embed, dict)
    return embed


def fields_of(embed: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in embed["fields"]}


def test_an_alert_shows_its_check_its_figure_and_what_to_do() -> None:
    embed = embed_of(an_alert())
    assert embed["title"] == "stuck_batches raised"
    assert embed["description"] == "3 batches stuck > 10m: validating(2), inserting(1)"
    assert embed["timestamp"] == "2025-01-07T12:00:00+00:00"
    assert embed["footer"] == {"text": "alert 123"}
    assert fields_of(embed) == {
        "Environment": "prod",
        "Level": "CRITICAL",
        "When": "2025-01-07 12:00:00 UTC",
        "Runbook": "docs/RUNBOOK_OPS.md#stuck-batches",
        "threshold_minutes": "10",
        "states": "validating: 2, inserting: 1",
    }


def test_every_level_has_a_colour_of_its_own() -> None:
    colours = {embed_of(an_alert(level=level))["color"] for level in ("HEALTHY", "WARNING", "CRITICAL")}
    assert len(colours) == 3


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (dt.timedelta(seconds=-1), "0 s"),
        (dt.timedelta(seconds=59), "59 s"),
        (dt.timedelta(minutes=12, seconds=40), "12 min"),
        (dt.timedelta(hours=3, minutes=5), "3 h 5 min"),
        (dt.timedelta(days=2, hours=3, minutes=9), "2 d 3 h"),
    ],
)
def test_a_recovery_says_how_long_it_took(span: dt.timedelta, words: str) -> None:
    embed = embed_of(an_alert(kind="recovered", level="HEALTHY", unhealthy_since=NOON - span))
    assert embed["title"] == f"stuck_batches recovered after {words}"


def test_a_reminder_says_since_when() -> None:
    embed = embed_of(an_alert(kind="reminder", unhealthy_since=NOON - dt.timedelta(hours=1)))
    assert fields_of(embed)["Unhealthy since"] == "2025-01-07 11:00:00 UTC"


def test_a_published_runbook_is_linked_at_its_section() -> None:
    embed = embed_of(an_alert(), "https://wiki.example.org/RUNBOOK_OPS.html#top")
    assert embed["url"] == "https://wiki.example.org/RUNBOOK_OPS.html#stuck-batches"
    assert fields_of(embed)["Runbook"] == (
        "[docs/RUNBOOK_OPS.md#stuck-batches](https://wiki.example.org/RUNBOOK_OPS.html#stuck-batches)"
    )


@pytest.mark.parametrize(
    "runbook_url",
    [
        "",
        "docs/RUNBOOK_OPS.md",
        "https://",
        "https://wiki",
        "http://[",
        "https://a b.example",
        "ftp://wiki.example.org",
        "https://wiki.example.org/" + "a" * 3000,
    ],
)
def test_an_address_that_discord_would_refuse_costs_no_alert(runbook_url: str) -> None:
    embed = embed_of(an_alert(), runbook_url)
    assert "url" not in embed
    assert fields_of(embed)["Runbook"] == "docs/RUNBOOK_OPS.md#stuck-batches"


def test_nobody_is_pinged() -> None:
    assert message(an_alert(message="@everyone"))["allowed_mentions"] == {"parse": []}


@pytest.mark.parametrize(
    ("overrides", "footer"),
    [
        ({}, "alert 123"),
        ({"attempt": 2}, "alert 123, attempt 2"),
        ({"attempt": 2, "may_repeat": True}, "alert 123, attempt 2, may repeat"),
        ({"id": None}, "sent without the database"),
    ],
)
def test_the_footer_numbers_the_alert_and_owns_up_to_a_repeat(overrides: dict[str, Any], footer: str) -> None:
    assert embed_of(an_alert(**overrides))["footer"]["text"] == footer


def test_figures_that_find_no_place_are_counted() -> None:
    embed = embed_of(an_alert(details={f"figure_{number}": number for number in range(40)}))
    assert len(embed["fields"]) == 25
    # Four fields are the alert's own.
    assert embed["fields"][-2:] == [
        {"name": "figure_19", "value": "19", "inline": True},
        {"name": "Not shown", "value": "20 more", "inline": True},
    ]


def test_a_figure_that_is_not_there_has_no_field() -> None:
    assert "problem" not in fields_of(embed_of(an_alert(details={"problem": None})))


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


ANYTHING = st.text(st.characters(exclude_categories=()), max_size=30)
LONG = st.builds(lambda text, times: text * times, ANYTHING, st.integers(1, 400))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | LONG,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(ANYTHING, inner, max_size=5),
    max_leaves=20,
)


ALERTS = st.builds(
    an_alert,
    check_name=LONG,
    kind=st.sampled_from(["raised", "worsened", "eased", "recovered", "reminder"]),
    level=st.sampled_from(["HEALTHY", "WARNING", "CRITICAL"]) | ANYTHING,
    environment=LONG,
    message=LONG,
    details=st.dictionaries(LONG, VALUES, max_size=40),
    unhealthy_since=st.just(NOON - dt.timedelta(days=1)),
    may_repeat=st.booleans(),
)
LARGEST = an_alert(
    check_name="c" * 300,
    kind="recovered",
    environment="e" * 300,
    message="\N{GRINNING FACE}" * 5000,
    details={f"{number}" * 300: "v" * 2000 for number in range(40)},
)


@given(alert=ALERTS, runbook_url=st.none() | LONG | LONG.map(lambda path: f"https://wiki.example.org/{path}"))
@example(alert=LARGEST, runbook_url="https://wiki.example.org/" + "a" * 900)
def test_whatever_an_alert_holds_it_fits(alert: Alert, runbook_url: str | None) -> None:
    body = message(alert, runbook_url)
    json.dumps(body, allow_nan=False, ensure_ascii=False).encode("utf-8")
    embed = body["embeds"][0]
    texts = [embed["title"], embed["description"], embed["footer"]["text"]]
    for entry in embed["fields"]:
        assert units(entry["name"]) <= 256
        assert units(entry["value"]) <= 1024
        texts += [entry["name"], entry["value"]]
    assert units(embed["title"]) <= 256
    assert units(embed["description"]) <= 4096
    assert len(embed.get("url", "")) <= 2048
    assert len(embed["fields"]) <= 25
    assert sum(map(units, texts)) <= 6000
    assert all(text.strip() for text in texts)
