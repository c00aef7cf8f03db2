import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

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


def left_out(written: Any, read: Any, place: str = "dashboard") -> Iterator[str]:
    """The places of what was written and not read."""
    if isinstance(written, dict) and isinstance(read, dict):
        yield from (f"{place}.{key}" for key in written.keys() - read.keys())
        for key in written.keys() & read.keys():
            yield from left_out(written[key], read[key], f"{place}.{key}")
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for number, (one, other) in enumerate(zip(written, read, strict=True)):
            yield from left_out(one, other, f"{place}[{number}]")
    elif written != read:
        yield place


def test_grafanas_own_model_of_a_dashboard_knows_all_of_it() -> None:
    def read(dashboard: dict[str, Any]) -> Any:
        return json.loads(JSONEncoder(sort_keys=True, indent=1).encode(Dashboard.from_json(dashboard)))

    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    assert list(left_out(dashboard, read(dashboard))) == []
    dashboard["panels"][0]["fieldConfig"]["defaults"]["unt"] = "short"
    assert list(left_out(dashboard, read(dashboard))) == ["dashboard.panels[0].fieldConfig.defaults.unt"]


def test_alerts_ask_for_numbers_that_are_exported() -> None:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert metrics_in(rule["expr"]) and metrics_in(rule["expr"]) <= KNOWN, rule["alert"]
        assert rule["annotations"]["summary"]
