"""Grafana's dashboard as this repository's own programs read it: which panels it has and what each asks Prometheus."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parent / "grafana" / "dashboards" / "otoscope.json"

NEED_A_GPU = frozenset({"GPU: busy", "GPU: memory"})
"""Titles of the panels that stay empty where no worker has one."""


def dashboard() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(PATH.read_text())
    return tree


def panels(*, rows: bool = False) -> Iterator[dict[str, Any]]:
    """Every panel from top to bottom; with `rows` the titles between them, too."""
    for panel in dashboard()["panels"]:
        if rows or panel["type"] != "row":
            yield panel


def filled(text: str, rate: str, **variables: str) -> str:
    """An expression or title as Grafana asks it. `rate` is the range that a rate is taken over, `10s` for one."""
    text = text.replace("$__rate_interval", rate)
    for name, value in variables.items():
        text = text.replace(f"${name}", value)
    return text
