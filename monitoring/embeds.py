"""An alert as Discord shows it: one embed, within Discord's limits, made of the alert's own fields and nothing else."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from app.store.alerts import Alert
from monitoring.report import NEXT

# https://discord.com/developers/docs/resources/message#embed-object-embed-limits
_TITLE, _DESCRIPTION, _FIELDS, _NAME, _VALUE, _TOTAL = 256, 4096, 25, 256, 1024, 6000
_URL = 2048
_SHORT = 64

_COLOURS = {"HEALTHY": 0x2E9E5B, "WARNING": 0xE69F00, "CRITICAL": 0xC0392B}
_COLOUR_OF_THE_UNKNOWN = 0x7F8C8D

_RUNBOOK = "docs/RUNBOOK_OPS.md"


def message(alert: Alert, runbook_url: str | None = None) -> dict[str, Any]:
    """The body of the request. ``runbook_url`` is where docs/RUNBOOK_OPS.md is published; its section is linked.

    What does not fit is cut and ends with "…"; figures that find no place are counted in the last field.
    """
    duration = ""
    if alert.kind == "recovered" and alert.unhealthy_since is not None:
        duration = f" after {_duration(alert.happened_at - alert.unhealthy_since)}"
    title = _clipped(f"{alert.check_name} {alert.kind}{duration}", _TITLE)
    description = _clipped(alert.message, _DESCRIPTION)
    footer = _clipped(_footer(alert), _NAME)
    anchor = alert.check_name.replace("_", "-")
    link = _link(runbook_url, anchor)
    place = f"{_RUNBOOK}#{anchor}"
    fields = [
        _field("Environment", alert.environment, _SHORT),
        _field("Level", alert.level, _SHORT),
        _field("When", _moment(alert.happened_at), _SHORT),
    ]
    if alert.unhealthy_since is not None and alert.kind != "raised":
        fields.append(_field("Unhealthy since", _moment(alert.unhealthy_since), _SHORT))
    shown = f"[{place}]({link})" if link else place
    fields.append(_field("Runbook", shown if _length(shown) <= _VALUE else place, inline=False))
    room = _TOTAL - sum(_length(text) for text in (title, description, footer)) - sum(map(_size, fields))
    embed: dict[str, Any] = {
        "title": title,
        "description": description,
        "color": _COLOURS.get(alert.level, _COLOUR_OF_THE_UNKNOWN),
        "timestamp": alert.happened_at.isoformat(),
        "fields": fields + _figures(alert.details, _FIELDS - len(fields), room),
        "footer": {"text": footer},
    }
    if link:
        embed["url"] = link
    return {"embeds": [embed], "allowed_mentions": {"parse": []}}


def _figures(details: Mapping[str, Any], most: int, room: int) -> list[dict[str, Any]]:
    """The details as fields, at most so many and so long together; None is no figure."""
    figures = [_field(name, _written(value)) for name, value in details.items() if value is not None and name != NEXT]
    shown: list[dict[str, Any]] = []
    for place, figure in enumerate(figures):
        left = len(figures) - place
        rest = _field("Not shown", f"{left} more")
        is_last = left == 1
        needed = _size(figure) + (0 if is_last else _size(rest))
        if needed > room or len(shown) + (1 if is_last else 2) > most:
            if _size(rest) <= room and len(shown) < most:
                shown.append(rest)
            break
        shown.append(figure)
        room -= _size(figure)
    return shown


def _footer(alert: Alert) -> str:
    name = "sent without the database" if alert.id is None else f"alert {alert.id}"
    if alert.may_repeat:
        return f"{name}, attempt {alert.attempt}, may repeat"
    return f"{name}, attempt {alert.attempt}" if alert.attempt > 1 else name


def _link(runbook_url: str | None, anchor: str) -> str | None:
    """None also for what Discord would refuse as an address, and the alert with it."""
    if not runbook_url or runbook_url != "".join(runbook_url.split()):
        return None
    try:
        parts = urlsplit(runbook_url)
        host = parts.hostname or ""
    except ValueError:
        return None
    link = f"{runbook_url.partition('#')[0]}#{anchor}"
    is_address = parts.scheme in ("http", "https") and "." in host and link.isascii() and link.isprintable()
    return link if is_address and len(link) <= _URL else None


def _field(name: str, value: str, limit: int = _VALUE, *, inline: bool = True) -> dict[str, Any]:
    return {"name": _clipped(name, _NAME), "value": _clipped(value, limit), "inline": inline}


def _size(field: Mapping[str, Any]) -> int:
    return _length(field["name"]) + _length(field["value"])


def _clipped(text: str, limit: int) -> str:
    """At most ``limit`` units, printable, not blank: Discord refuses a message with an empty part."""
    readable = "".join(c if c.isprintable() or c == "\n" else " " for c in text.encode("utf-8", "replace").decode())
    readable = readable.strip() or "-"
    if _length(readable) <= limit:
        return readable
    kept = readable.encode("utf-16-le")[: 2 * (limit - 1)].decode("utf-16-le", "ignore")
    return f"{kept.rstrip()}…"


def _length(text: str) -> int:
    """In UTF-16 units, which are never fewer than characters: what fits so fits however Discord counts."""
    return len(text.encode("utf-16-le")) // 2


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return _plain(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _moment(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _duration(span: dt.timedelta) -> str:
    seconds = max(int(span.total_seconds()), 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if not minutes:
        return f"{seconds} s"
    if not hours:
        return f"{minutes} min"
    if not days:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"
