"""`otoscope bench`: throughput and latency of a running service."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otoscope.cli.options import AsJson, Url

if TYPE_CHECKING:
    from otoscope.loadgen import Target

DISTINCT = 16  # sounds, so that no cache can answer


def bench(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="Sounds to send; synthesised ones by default.")
    ] = None,
    callers: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N", help="Concurrent callers (closed loop); 1, 16, 64 by default."),
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(min=0.1, metavar="N", help="Requests a second at a fixed rate (open loop).")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Duration of each load.")] = 10.0,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="One of `otoscope models`.")] = None,
    include: Annotated[str | None, typer.Option(metavar="PART,...", help="As for classify.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Measure throughput and latency of a running service. The load shares its queue with the jobs of other callers."""
    from rich.progress import track
    from rich.table import Table

    from otoscope.cli.console import SafeConsole
    from otoscope.client import Client
    from otoscope.loadgen import Target, measure

    with Client(url) as client:  # fails with a message where the load would only count errors
        client.classify(files[0] if files else _sound(0), model=model, include=include or ())
        target = Target.of(str(client.url))
    requests = _requests(target, files or (), model, include)
    loads: list[dict[str, Any]] = [{"callers": number} for number in callers or ([] if rate else [1, 16, 64])]
    loads += [{"rate": number} for number in rate or []]
    console = SafeConsole(highlight=False)
    reports: list[dict[str, Any]] = []
    table = Table("load", "answers a second", "p50 ms", "p95 ms", "p99 ms", "errors", box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for load in track(loads, "Measuring", console=SafeConsole(stderr=True), transient=True):
        found = measure(target, requests, **load, seconds=seconds).summary()
        reports.append({**load, **{name: _json(value) for name, value in found.items()}})
        quantiles = (f"{found[f'p{share}_ms']:g}" for share in (50, 95, 99))
        table.add_row(_title(**load), f"{found['per_second']:g}", *quantiles, _errors(found))
    if as_json:
        print(json.dumps(reports))
    else:
        console.print(table)


def _json(value: Any) -> Any:
    """JSON has no NaN, which the latencies are without an answer."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _title(callers: int = 0, rate: float = 0.0) -> str:
    return f"{rate:g} a second" if rate else f"{callers} caller{'s' * (callers > 1)}"


def _requests(target: "Target", files: Sequence[Path], model: str | None, include: str | None) -> list[bytes]:
    """One request for each sound; each waits for the result."""
    from urllib.parse import urlencode

    from otoscope.audio import wav
    from otoscope.connection import auth_header

    options = urlencode({name: value for name, value in (("model", model), ("include", include)) if value})
    path = "/v1/jobs" + (f"?{options}" if options else "")
    headers = {"Content-Type": "application/octet-stream", "Prefer": "wait=60", **auth_header()}
    sounds = [file.read_bytes() for file in files] or [wav(*_sound(seed)) for seed in range(DISTINCT)]
    return [target.request("POST", path, headers, sound) for sound in sounds]


def _sound(seed: int) -> tuple[Any, int]:
    """Five seconds of samples and their rate in Hz, different for each seed."""
    import numpy as np

    from otoscope import demo_sound

    noise = np.random.default_rng(seed).normal(scale=0.01, size=5 * demo_sound.RATE)
    return (demo_sound.alarm_clock() + noise).clip(-1, 1).astype(np.float32), demo_sound.RATE


def _errors(found: dict[str, Any]) -> str:
    if not found["errors"]:
        return "0"
    return ", ".join(f"{count} × {outcome}" for outcome, count in found["outcomes"].items() if outcome != "200")
