import json
import re
from pathlib import Path
from typing import Any

import yaml

from orchestrator.tracking.gauges import EXPORTED, prometheus_name

FOLDER = Path(__file__).resolve().parents[3] / "cluster" / "monitoring"
KNOWN = {f"ray_{prometheus_name(key)}" for key in EXPORTED} | {
    "ray_dimr_evaluation_images_done",
    "ray_dimr_evaluation_images_total",
}


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"ray_dimr_\w+", expression))


def test_the_dashboard_shows_every_number_that_is_exported_and_no_other() -> None:
    dashboard: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in metrics_in(target["expr"])
    }
    assert shown == KNOWN
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in dashboard["panels"])


def test_alerts_ask_for_numbers_that_are_exported() -> None:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert metrics_in(rule["expr"]) and metrics_in(rule["expr"]) <= KNOWN, rule["alert"]
        assert rule["annotations"]["summary"]
