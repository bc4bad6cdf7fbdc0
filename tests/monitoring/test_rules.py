"""Prometheus' rules: valid, tested by its own tool, and as strict as the sentinel."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from app.settings import Settings
from monitoring.checks import CHECKS
from tests.monitoring.promql import PROMETHEUS, expressions, names_in, rules

ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: str, folder: Path = PROMETHEUS) -> str:
    """What promtool says, after it has found nothing wrong."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: it is in Debian's package prometheus")
    ran = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_rules_are_valid() -> None:
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", "rules.yml")


def test_the_configuration_is_valid_with_its_rules_and_its_key(tmp_path: Path) -> None:
    text = (PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "key").write_text("a key")
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets/metrics_key", str(tmp_path / "key")))
    shutil.copy(PROMETHEUS / "rules.yml", tmp_path)
    said = promtool("check", "config", "prometheus.yml", folder=tmp_path)
    assert "prometheus.yml is valid" in said
    assert f"SUCCESS: {len(rules())} rules found" in said


def test_every_rule_does_what_its_test_says() -> None:
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yml")


def test_every_alert_is_raised_by_a_test() -> None:
    written = (PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8")
    raised = {
        alert["alertname"]
        for test in yaml.safe_load(written)["tests"]
        for alert in test.get("alert_rule_test", ())
        if alert["exp_alerts"]
    }
    raised |= set(re.findall(r'alertname="(\w+)"', written))
    assert set(ALERTS) - raised == set()


def test_every_check_of_the_sentinel_has_an_alert_that_leads_to_its_section_of_the_runbook() -> None:
    found = {}
    for rule in ALERTS.values():
        check = rule["labels"].get("check")
        if check is not None:
            found[check] = rule["annotations"]["runbook"]
    assert found == {name: f"docs/RUNBOOK_OPS.md#{name.replace('_', '-')}" for name in CHECKS}


@pytest.mark.parametrize(
    ("alert", "threshold"),
    [
        ("DragonflyStuckBatches", Settings.sentinel_stuck_minutes * 60),
        ("DragonflyErrorSpike", Settings.sentinel_error_percent.default / 100),
        ("DragonflyBacklog", Settings.sentinel_backlog_minutes * 60),
        ("DragonflyCanaryLost", Settings.sentinel_canary_seconds),
        ("DragonflyBeatSilent", Settings.sentinel_beat_seconds),
        ("DragonflyWebhookDead", Settings.sentinel_webhook_minutes * 60),
        ("DragonflyDiskLow", Settings.sentinel_disk_percent / 100),
        ("DragonflyDiskFull", Settings.sentinel_disk_percent / 200),
        ("DragonflyManyDuplicates", Settings.sentinel_duplicate_percent.default / 100),
        ("DragonflyBatchesSlow", 5 * 60),
        ("DragonflyErrorRateAboveObjective", 0.05),
        ("DragonflySchemaCacheBelowObjective", 0.999),
    ],
)
def test_a_threshold_is_the_sentinels_or_the_objective(alert: str, threshold: float) -> None:
    assert float(re.findall(r"[<>] ([\d.]+)", ALERTS[alert]["expr"])[0]) == pytest.approx(threshold)


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("a", {"a"}),
        ("a:b:c > bool 0 and on (job) d_total offset 5m", {"a:b:c", "d_total"}),
        ('sum by (le, x) (rate(h_bucket{job=~"a|b", x!="y}z"}[5m]))', {"h_bucket"}),
        ("max by (x)(g) / ignoring(y) group_left(z) count(k) * 1e3", {"g", "k"}),
        (
            'histogram_quantile(0.95, sum(rate(h[1h:1m])) without (le)) or label_replace(m, "a", "b", "c", "d")',
            {"h", "m"},
        ),
    ],
)
def test_names_are_read_out_of_expressions(expression: str, names: set[str]) -> None:
    assert names_in(expression) == names


def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    """Those of the dashboard too, as rules of a file of its own."""
    written = [{"record": f"r:{number}", "expr": text} for number, text in enumerate(expressions().values())]
    (tmp_path / "all.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": written}]}))
    assert f"SUCCESS: {len(written)} rules found" in promtool("check", "rules", "all.yml", folder=tmp_path)
