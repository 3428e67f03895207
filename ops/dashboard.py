"""Reads Grafana's dashboard for tests and docs/dashboard.py: its panels and their queries."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parent / "grafana" / "dashboards" / "otoscope.json"

NEED_A_GPU = frozenset({"GPU: busy", "GPU: memory"})
"""Titles of the panels that stay empty if no worker has a GPU."""


def dashboard() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(PATH.read_text())
    return tree


def panels(*, rows: bool = False) -> Iterator[dict[str, Any]]:
    """Every panel from top to bottom; with `rows` also the titles of the rows."""
    for panel in dashboard()["panels"]:
        if rows or panel["type"] != "row":
            yield panel


def filled(text: str, rate: str, **variables: str) -> str:
    """An expression or title with its variables filled in, as by Grafana; `rate` is the range of rates, as in `10s`."""
    text = text.replace("$__rate_interval", rate)
    for name, value in variables.items():
        text = text.replace(f"${name}", value)
    return text
