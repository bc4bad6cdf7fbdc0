"""What rules and dashboard ask Prometheus for, and the names of metrics in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
PROMETHEUS = REPOSITORY / "monitoring" / "prometheus"
DASHBOARD = REPOSITORY / "monitoring" / "grafana" / "dashboards" / "dragonfly.json"
_WORDS = frozenset(
    "and or unless by without on ignoring group_left group_right offset bool inf nan start end atan2".split()  # noqa: SIM905
)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`')
_LABEL_LIST = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*")
OF_PROMETHEUS = frozenset({"up", "ALERTS"})
"""What Prometheus makes itself."""


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for: every word that is no function, keyword, label, string or duration."""
    bare = _STRING.sub(" ", expression)
    bare = re.sub(r"\{[^}]*\}", " ", bare)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    bare = _LABEL_LIST.sub(" ", bare)
    return {
        found[0]
        for found in _NAME.finditer(bare)
        if found[0].lower() not in _WORDS and not bare[found.end() :].lstrip().startswith("(")
    }


def rules() -> list[dict[str, Any]]:
    """Every rule of rules.yml."""
    document = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return document


def panels() -> list[dict[str, Any]]:
    """Its panels, without the headings between them."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Every expression of rules and dashboard, by the place where it stands; Grafana's variables filled in."""
    found = {f"rules.yml: {rule.get('alert') or rule['record']}": rule["expr"] for rule in rules()}
    for panel in panels():
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "1m").replace("$source", ".*")
            found[f"dragonfly.json: {panel['title']}, {target['refId']}"] = text
    for variable in dashboard()["templating"]["list"]:
        query = variable["query"]["query"]
        found[f"dragonfly.json: ${variable['name']}"] = query.removeprefix("label_values(").rpartition(",")[0]
    return found


def recorded() -> set[str]:
    """The names that rules record."""
    return {rule["record"] for rule in rules() if "record" in rule}


def asked_for() -> dict[str, set[str]]:
    """The names that have to come from a scrape, each with the places that ask for it."""
    places: dict[str, set[str]] = {}
    for place, expression in expressions().items():
        for name in names_in(expression) - recorded() - OF_PROMETHEUS:
            places.setdefault(name, set()).add(place)
    return places
