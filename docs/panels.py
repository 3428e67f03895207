"""Draws panels of Grafana's dashboard as HTML and SVG, from query results: the panel types that the dashboard uses."""

import itertools
import math
import time
from dataclasses import dataclass
from html import escape
from typing import Any

COLOURS = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#37872d", "#fade2a", "#5794f2", "#c4162a")
NAMED = {
    "green": "#73bf69",
    "yellow": "#f2cc0c",
    "red": "#f2495c",
    "blue": "#5794f2",
    "orange": "#ff780a",
    "text": "#ccccdc",
}
COLUMN, UNIT, GAP = 62, 32, 8  # pixels of the grid
MAX_LEGENDS = 8

STYLE = f"""
body {{ margin: 0; background: #111217; color: #ccccdc; font: 12px "DejaVu Sans", sans-serif; position: relative;
  width: {24 * COLUMN + GAP}px }}
h1 {{ font-size: 18px; margin: 0; padding: 14px 12px 6px }}
h1 small {{ font-weight: normal; color: #8e8e99; font-size: 12px; margin-left: 14px }}
.panel {{ position: absolute; background: #181b1f; border: 1px solid #25272e; border-radius: 3px; overflow: hidden;
  box-sizing: border-box }}
.panel h2 {{ font-size: 12px; font-weight: 600; margin: 0; padding: 5px 8px; white-space: nowrap }}
.row {{ position: absolute; font-size: 14px; font-weight: 600; line-height: {UNIT}px; padding-left: 6px }}
.stat {{ text-align: center; font-size: 30px; font-weight: 600; padding-top: 8px }}
.stat small {{ display: block; font-size: 11px; color: #8e8e99; font-weight: normal }}
.legend {{ position: absolute; left: 8px; bottom: 3px; right: 4px; line-height: 15px; font-size: 10.5px;
  overflow: hidden }}
.legend span {{ margin-right: 10px; white-space: nowrap }}
.legend i {{ display: inline-block; width: 11px; height: 3px; margin-right: 4px; vertical-align: middle }}
.bar {{ display: grid; grid-template-columns: 46% 38% 16%; font-size: 11px; padding: 0 8px; line-height: 19px }}
.bar b {{ font-weight: normal; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; padding-right: 8px }}
.bar div {{ background: #22252b; margin: 3px 0; position: relative }}
.bar div i {{ position: absolute; top: 0; bottom: 0 }}
.bar em {{ font-style: normal; text-align: right }}
text {{ fill: #8e8e99; font-size: 10px }}
.none {{ text-align: center; color: #6e6e79; padding-top: 50px }}
"""


@dataclass
class Series:
    """One line: its name, and its points as (seconds since 1970, value)."""

    name: str
    points: list[tuple[float, float]]
    unit: str
    right: bool = False
    colour: str = ""  # one of NAMED; by default chosen by its position

    @property
    def last(self) -> float:
        return self.points[-1][1]


def page(title: str, subtitle: str, drawn: list[str], units: int) -> str:
    """The whole dashboard, `units` rows of its grid high."""
    head = f"<h1>{escape(title)}<small>{escape(subtitle)}</small></h1>"
    height = units * UNIT + GAP
    return (
        f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><body>{head}"
        f'<div style="position:relative;height:{height}px">{"".join(drawn)}</div>'
    )


def row(title: str, y: int) -> str:
    return f'<div class=row style="left:{GAP}px;top:{y * UNIT}px">⌄ {escape(title)}</div>'


def draw(panel: dict[str, Any], series: list[Series], y: int, start: float, end: float) -> str:
    """A panel at the position of its `gridPos`, but `y` units from the top."""
    place = panel["gridPos"]
    width, height = place["w"] * COLUMN - GAP, place["h"] * UNIT - GAP
    series = [one for one in series if one.points]
    if not series:
        inside = "<div class=none>No data</div>"
    elif panel["type"] == "stat":
        inside = _stat(panel, series, width, height)
    elif panel["type"] == "bargauge":
        inside = _bars(panel, series)
    else:
        inside = _lines(panel, series, width, height - 25, start, end)
    style = f"left:{place['x'] * COLUMN + GAP}px;top:{y * UNIT}px;width:{width}px;height:{height}px"
    return f'<div class=panel style="{style}"><h2>{escape(panel["title"])}</h2>{inside}</div>'


def formatted(value: float, unit: str, decimals: int | None = None) -> str:
    """A number with its unit, as short as Grafana shows it."""
    if math.isnan(value):
        return "–"
    if unit == "percentunit":
        return f"{_short(100 * value, decimals)} %"
    if unit == "bytes":
        for name, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if abs(value) >= size:
                return f"{_short(value / size, decimals)} {name}"
        return f"{value:.0f} B"
    if unit in ("s", "dtdurations"):
        if 0 < abs(value) < 1:
            return f"{_short(1000 * value, decimals)} ms"
        return f"{value / 60:.1f} min" if abs(value) >= 60 else f"{_short(value, decimals)} s"
    symbol = "" if unit in ("none", "short") else unit.removeprefix("suffix:").rstrip()
    return _short(value, decimals) + symbol


def _short(value: float, decimals: int | None = None) -> str:
    if decimals is None:
        decimals = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:.{decimals}f}"


def _colour(panel: dict[str, Any], value: float) -> str:
    """The colour of the highest threshold that the value has reached."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return NAMED[reached[-1]]


def _stat(panel: dict[str, Any], series: list[Series], width: int, height: int) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    named = panel["options"]["textMode"] == "value_and_name"
    html = ""
    for one in series:
        name = f"<small>{escape(one.name)}</small>" if named else ""
        text = formatted(one.last, one.unit, defaults.get("decimals"))
        html += f'<div class=stat style="color:{_colour(panel, one.last)}">{text}{name}</div>'
    if panel["options"]["graphMode"] == "none" or len(series[0].points) < 2:
        return html
    (first, _), (last, _) = series[0].points[0], series[0].points[-1]
    high = max(value for _, value in series[0].points) or 1.0
    deep = height - 78
    line = " ".join(
        f"{(at - first) / (last - first) * width:.0f},{deep - value / high * (deep - 2):.1f}"
        for at, value in series[0].points
    )
    colour = _colour(panel, series[0].last)
    return (
        f'{html}<svg width={width} height={deep} style="position:absolute;left:0;bottom:0">'
        f'<polygon points="0,{deep} {line} {width},{deep}" fill="{colour}" opacity=".18" />'
        f'<polyline points="{line}" fill=none stroke="{colour}" /></svg>'
    )


def _bars(panel: dict[str, Any], series: list[Series]) -> str:
    series = sorted(series, key=lambda one: -one.last)
    low, high = min(0.0, *(one.last for one in series)), max(0.0, *(one.last for one in series))
    span = high - low or 1.0
    drawn = ""
    for one in series:
        left, right = sorted((one.last, 0.0))
        style = (
            f"left:{(left - low) / span:.1%};width:{(right - left) / span:.1%};background:{_colour(panel, one.last)}"
        )
        value = formatted(one.last, one.unit, panel["fieldConfig"]["defaults"].get("decimals"))
        drawn += f'<div class=bar><b>{escape(one.name)}</b><div><i style="{style}"></i></div><em>{value}</em></div>'
    return drawn


def _line_colour(series: list[Series], number: int) -> str:
    return NAMED.get(series[number].colour, COLOURS[number % len(COLOURS)])


def _lines(panel: dict[str, Any], series: list[Series], width: int, height: int, start: float, end: float) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    lines = [step for step in defaults["thresholds"]["steps"] if step["value"] is not None]
    if defaults["custom"]["thresholdsStyle"]["mode"] == "off":
        lines = []
    several = len(series) > 3
    left, right, top, bottom = 58, 50 if any(one.right for one in series) else 10, 6, 52 if several else 36
    across, down = width - left - right, height - top - bottom
    heights = _stack(series) if stacked else [one.points for one in series]
    tops = {}
    for side in (False, True):
        values = [v for one, points in zip(series, heights, strict=True) if one.right == side for _, v in points]
        whole = 2**20 if defaults["unit"] == "bytes" else 1
        tops[side] = whole * _round_up(max((v for v in values if not math.isnan(v)), default=0.0) / whole)
    if defaults.get("max") is not None and tops[False] > 0.3 * defaults["max"]:
        tops[False] = defaults["max"]

    def at(moment: float, value: float, side: bool = False) -> str:
        return f"{left + (moment - start) / (end - start) * across:.1f},{top + down * (1 - value / tops[side]):.1f}"

    drawn = ""
    for part in range(5):
        y = top + down * (1 - part / 4)
        drawn += f'<line x1={left} x2={left + across} y1={y:.1f} y2={y:.1f} stroke="#25272e" />'
        label = formatted(tops[False] * part / 4, panel["fieldConfig"]["defaults"]["unit"])
        drawn += f"<text x={left - 5} y={y + 3:.1f} text-anchor=end>{label}</text>"
        if right > 10:
            unit = next(one.unit for one in series if one.right)
            drawn += f"<text x={left + across + 5} y={y + 3:.1f}>{formatted(tops[True] * part / 4, unit)}</text>"
    minutes = max(round((end - start) / 60 / (across / 60)), 1) * 60
    moment = math.ceil(start / minutes) * minutes
    while moment < end:
        x = left + (moment - start) / (end - start) * across
        drawn += f'<line x1={x:.1f} x2={x:.1f} y1={top} y2={top + down} stroke="#1f2127" />'
        clock = time.strftime("%H:%M", time.localtime(moment))
        drawn += f"<text x={x:.1f} y={top + down + 14} text-anchor=middle>{clock}</text>"
        moment += minutes
    for step in lines:
        if step["value"] <= tops[False]:
            (x0, y0), (x1, _) = (at(moment, step["value"]).split(",") for moment in (start, end))
            colour = NAMED[step["color"]]
            drawn += f'<line x1={x0} x2={x1} y1={y0} y2={y0} stroke="{colour}" stroke-dasharray="6 5" opacity=".7" />'
    legend = ""
    for number in reversed(range(len(series))):
        one, colour = series[number], _line_colour(series, number)
        for piece in _pieces(heights[number]):
            line = " ".join(at(moment, value, one.right) for moment, value in piece)
            if stacked:
                floor = f"{at(piece[-1][0], 0)} {at(piece[0][0], 0)}"
                drawn += f'<polygon points="{line} {floor}" fill="{colour}" opacity=".45" />'
            drawn += f'<polyline points="{line}" fill=none stroke="{colour}" stroke-width=1.4 />'
    for number, one in enumerate(series[:MAX_LEGENDS]):
        legend += f'<span><i style="background:{_line_colour(series, number)}"></i>{escape(one.name)}</span> '
    if len(series) > MAX_LEGENDS:
        legend += f"<span>and {len(series) - MAX_LEGENDS} more</span>"
    deep = 30 if several else 15
    return (
        f'<svg width={width} height={height}>{drawn}</svg><div class=legend style="max-height:{deep}px">{legend}</div>'
    )


def _stack(series: list[Series]) -> list[list[tuple[float, float]]]:
    """The points of each on top of those before it."""
    below: dict[float, float] = {}
    stacked: list[list[tuple[float, float]]] = []
    for one in series:
        for moment, value in one.points:
            below[moment] = below.get(moment, 0.0) + (0.0 if math.isnan(value) else value)
        stacked.append([(moment, below[moment]) for moment, _ in one.points])
    return stacked


def _pieces(points: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Continuous segments: there is a gap where nothing was measured."""
    pieces: list[list[tuple[float, float]]] = [[]]
    usual = min((b[0] - a[0] for a, b in itertools.pairwise(points)), default=1.0)
    for moment, value in points:
        if math.isnan(value) or (pieces[-1] and moment - pieces[-1][-1][0] > 1.5 * usual):
            pieces.append([])
        if not math.isnan(value):
            pieces[-1].append((moment, value))
    return [piece for piece in pieces if piece]


def _round_up(value: float) -> float:
    """The next number whose quarters have few digits."""
    if value <= 0 or math.isnan(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if value <= power * step * 1.0001)
