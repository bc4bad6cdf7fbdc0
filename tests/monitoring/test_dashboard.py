"""Grafana's dashboard: it asks for metrics that are there, and every metric can be seen."""

from __future__ import annotations

import pytest
import yaml

from monitoring.metrics import CATALOGUE, Kind
from tests.monitoring.promql import DASHBOARD, REPOSITORY, asked_for, dashboard, expressions, names_in, panels, recorded

OF_PROCESSES = {"process_resident_memory_bytes"}
SAMPLES = {
    name
    for metric in CATALOGUE.values()
    for name in (
        [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")]
        if metric.kind is Kind.HISTOGRAM
        else [metric.name]
    )
}


def test_every_name_that_a_rule_or_panel_asks_for_is_in_the_catalogue() -> None:
    assert asked_for().keys() - SAMPLES - OF_PROCESSES == set()


def test_every_recorded_name_that_a_panel_asks_for_is_recorded() -> None:
    asked = {name for text in expressions().values() for name in names_in(text) if ":" in name}
    assert asked <= recorded()


def test_every_metric_is_asked_for_somewhere() -> None:
    asked = {name.removesuffix("_bucket") for name in asked_for()}
    assert CATALOGUE.keys() - asked == set()


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: str(panel["title"]))
def test_a_panel_says_what_it_shows_and_asks_the_datasource_that_is_provisioned(panel: dict) -> None:  # type: ignore[type-arg]
    provisioned = yaml.safe_load(
        (REPOSITORY / "monitoring/grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8")
    )
    (source,) = provisioned["datasources"]
    wanted = {"type": source["type"], "uid": source["uid"]}
    assert panel["description"].endswith(".")
    assert panel["datasource"] == wanted
    assert panel["targets"]
    assert all(target["datasource"] == wanted and target["expr"] for target in panel["targets"])


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_lies_where_the_provider_looks() -> None:
    provider = yaml.safe_load(
        (REPOSITORY / "monitoring/grafana/provisioning/dashboards/dragonfly.yml").read_text(encoding="utf-8")
    )
    assert [entry["options"]["path"] for entry in provider["providers"]] == ["/var/lib/grafana/dashboards"]
    assert DASHBOARD.parent.name == "dashboards"
    assert dashboard()["uid"] == "dragonfly"
