"""promtool's checks of the configuration and of the rules; each alert is tested and documented."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.local import OPS, program
from otoscope.errors import BY_CODE
from tests.conftest import ROOT

TESTS = sorted(Path(__file__).parent.glob("*_test.yml"))
PROMTOOL = program("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, which `make prometheus` gets from Debian")


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((OPS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: str) -> None:
    done = subprocess.run([str(PROMTOOL), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_accepts_the_configuration() -> None:
    promtool("check", "config", "--syntax-only", str(OPS / "prometheus.yml"))
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(OPS / "rules.yml"))


@needs_promtool
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_alerts_fire_when_they_should(path: Path) -> None:
    promtool("test", "rules", str(path))


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_tested_both_ways(name: str) -> None:
    """One case in which it fires, and one in which it does not; the dead man's switch always fires."""
    tries = [
        bool(tried.get("exp_alerts"))
        for path in TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for tried in test.get("alert_rule_test", ())
        if tried["alertname"] == name
    ]
    assert set(tries) == ({True} if ALERTS[name]["expr"] == "vector(1)" else {True, False}), tries


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_a_severity_and_a_runbook(name: str) -> None:
    """The runbook has a section under the alert's name, with its meaning, what to check and what to do."""
    alert = ALERTS[name]
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert alert["annotations"]["summary"]
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor == name.lower()
    sections = re.split(r"^(?=##)", (ROOT / page).read_text(), flags=re.MULTILINE)
    (section,) = (text for text in sections if text.startswith(f"### {name}\n"))
    for word in ("Means:", "Look:", "Do:"):
        assert word in section, f"{name} lacks {word}"
    assert f"**{alert['labels']['severity']}**" in section


def test_the_runbook_has_no_removed_alert() -> None:
    documented = re.findall(r"^### (Otoscope\w+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert set(documented) == set(ALERTS)


def test_error_codes_in_the_rules_exist() -> None:
    """An alert with a renamed code would never fire."""
    text = (OPS / "rules.yml").read_text()
    named = {code for codes in re.findall(r'code=~?"([\w|]+)"', text) for code in codes.split("|")}
    assert named
    assert named <= set(BY_CODE)
