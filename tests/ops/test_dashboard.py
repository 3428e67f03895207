"""The dashboard: a valid document, and data for each of its panels from a Prometheus that scrapes a real service."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ops.dashboard import NEED_A_GPU, dashboard, panels
from ops.local import OPS
from tests.conftest import ROOT
from tests.ops.conftest import Watched, panel_query
from tests.support.process_tree import until

PANELS = list(panels())
RULES: list[dict[str, Any]] = yaml.safe_load((OPS / "rules.yml").read_text())["groups"]
ELSEWHERE = re.compile(r"otoscope_worker_gpu_\w+|otoscope_redis_certificate_\w+")  # with a GPU, with a Redis over TLS
NAME = re.compile(r"\b(?:otoscope|process)_\w+|\botoscope:[\w:]+")


def title(panel: dict[str, Any]) -> str:
    return f"{panel['id']} {panel['title']}"


def expressions() -> Iterator[str]:
    """All queries of the dashboard and of the rules."""
    for panel in PANELS:
        yield from (target["expr"] for target in panel["targets"])
    for group in RULES:
        yield from (rule["expr"] for rule in group["rules"])


@pytest.mark.parametrize("panel", PANELS, ids=title)
def test_a_panel_is_described(panel: dict[str, Any]) -> None:
    """A title, a unit, a description that helps to find a cause, and queries of the one data source."""
    assert panel["title"]
    assert len(panel["description"]) > 40
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    source = {"type": "prometheus", "uid": "otoscope-prometheus"}
    for target in panel["targets"]:
        assert target["expr"]
        assert target["legendFormat"]
        assert target["datasource"] == source
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    first, *others = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert first["value"] is None
    assert [step["value"] for step in others] == sorted(step["value"] for step in others)


def test_the_data_source_is_provisioned_under_the_name_in_the_panels() -> None:
    file = OPS / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    assert (source["uid"], source["type"]) == ("otoscope-prometheus", "prometheus")
    interval = yaml.safe_load((OPS / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval


def test_ids_differ_and_nothing_overlaps() -> None:
    """On a grid of 24 columns; repeated rows come last, so that their copies move no other panel."""
    all_of_them = list(panels(rows=True))
    assert len({panel["id"] for panel in all_of_them}) == len(all_of_them)
    for panel in all_of_them:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
    for one, other in itertools.combinations(all_of_them, 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, f"{title(one)} and {title(other)}"
    places = [panel["gridPos"]["y"] for panel in all_of_them]
    assert places == sorted(places)
    (repeated,) = (panel for panel in all_of_them if panel.get("repeat"))
    rows = [panel for panel in all_of_them if panel["type"] == "row"]
    assert repeated is rows[-1]
    assert repeated["repeat"] == "instance"


def test_all_variables_are_used() -> None:
    defined = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = set(re.findall(r"\$([a-z_]\w*)", " ".join(expressions()))) - {"__rate_interval"}
    assert used == defined


@pytest.mark.parametrize("panel", PANELS, ids=title)
def test_a_panel_has_data(watched: Watched, panel: dict[str, Any]) -> None:
    """Each query returns a number for a service under load."""
    for target in panel["targets"]:
        query = panel_query(target)
        assert "$" not in query.replace('"$1"', "")  # of label_replace
        found = watched.prometheus.query(query, watched.busy)
        if panel["title"] in NEED_A_GPU:
            continue  # but the query is valid
        assert found, query
        assert any(series["value"][1] != "NaN" for series in found), query


def test_every_metric_in_a_query_exists(watched: Watched) -> None:
    """A renamed metric would leave an empty panel, or an alert that never fires."""
    known = set(watched.prometheus.get("label/__name__/values"))
    known |= {rule["record"] for group in RULES for rule in group["rules"] if "record" in rule}
    named = {name for text in expressions() for name in NAME.findall(text)}
    assert len(named) > 20
    assert {name for name in named - known if not ELSEWHERE.fullmatch(name)} == set()


def test_the_documentation_names_every_metric_and_no_other(watched: Watched) -> None:
    """Under `## Metrics` of docs/operations.md."""
    families = {
        name.removesuffix("_total") for name in watched.prometheus.get("metadata") if name.startswith("otoscope_")
    }
    assert len(families) > 20
    text = (ROOT / "docs" / "operations.md").read_text()
    (section,) = re.findall(r"^## Metrics\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    documented = {name.removesuffix("_total") for name in re.findall(r"`(otoscope_\w+)", section)}
    assert families - documented == set()
    assert {name for name in documented - families if not ELSEWHERE.fullmatch(name)} == set()


def test_the_rules_evaluate_on_the_metrics_of_the_service(watched: Watched) -> None:
    """No rule fails, all targets are up, and for a healthy service no alert is pending but the watchdog, except for a
    slow machine."""
    groups = watched.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] == "err"} == {}

    def well() -> bool:
        targets = {target["health"] for target in watched.prometheus.get("targets")["activeTargets"]}
        alerts = {alert["labels"]["alertname"] for alert in watched.prometheus.get("alerts")["alerts"]}
        return targets == {"up"} and alerts <= {"OtoscopeWatchdog", "OtoscopeEventLoopLate", "OtoscopeQueueOld"}

    until(well, 30)  # after a scrape that took longer than its second the target is down until the next one


def test_the_gateway_requires_a_key_of_prometheus(watched: Watched) -> None:
    """Without the key that the fixture's Prometheus sends, /metrics is denied."""
    with watched.stack.client() as http:
        assert http.get("/metrics").status_code == 401


def test_gateway_and_worker_count_the_same_jobs(watched: Watched) -> None:
    """The rules divide one count by the other."""

    def total(expression: str) -> float:
        (series,) = watched.prometheus.query(expression)
        return float(series["value"][1])

    by_gateway = 'otoscope_jobs_total{outcome="succeeded"}'
    by_worker = 'otoscope_worker_jobs_total{outcome="succeeded"}'
    until(lambda: total(by_gateway) == total(by_worker), 30)  # they are scraped at different moments
    succeeded = total(by_gateway)
    assert succeeded > 20
    assert total("sum(otoscope_worker_predictions_total)") == succeeded
    assert total("otoscope_worker_job_seconds_count") == succeeded
    failed = total('otoscope_jobs_total{outcome="failed"}')
    assert failed > 1
    assert total('otoscope_worker_failures_total{code="invalid_request",fault="caller"}') == failed
    assert total("otoscope_queue_ready_workers") == 1
