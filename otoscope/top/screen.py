"""The screen of `otoscope top`: figures as text that fits a terminal of 80 by 24 or larger. Does no I/O.

Colour repeats what the text beside it states: green is well, yellow is degraded, red is broken.
"""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from otoscope.top.stats import LONG_WAIT, Curves, Figures, Process, WorkerFigures

_COLOURS = {"well": "green", "strained": "yellow", "broken": "red"}
_BARS = "▁▂▃▄▅▆▇█"
_FIXED_LINES = 21  # everything except workers
MIN_WIDTH = 80  # columns


def screen(figures: Figures, curves: Curves, width: int, height: int, footer: str = "") -> Group:
    """The whole screen, no taller than the terminal; workers that do not fit are counted."""
    room = max(height - _FIXED_LINES, 1)
    return Group(
        _head(figures, width),
        _columns(width, _jobs(figures, curves, width // 2 - 2), _queue(figures, curves, width // 2 - 2)),
        _refusals(figures, width),
        Text(),
        _columns(width, _stages(figures), _classes(figures)),
        Text(),
        _workers(figures, room, width),
        *([Text(footer, style="dim")] if footer else []),
    )


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The newest values, one character each, the highest at full height; a space is an unknown value."""
    shown = list(values)[-width:] if width > 0 else []
    top = max((value for value in shown if value), default=0.0)
    return "".join(
        " " if value is None else _BARS[round(value / top * (len(_BARS) - 1))] if top else _BARS[0] for value in shown
    ).rjust(max(width, 0))


def amount(value: float | None, unit: str = "") -> str:
    """About three digits; a dash is an unknown value."""
    if value is None:
        return "–"
    text = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}" if value >= 1 else f"{value:.2g}"
    return f"{text} {unit}".rstrip()


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds >= 100:
        return f"{seconds:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1e3:.{1 if 0 < seconds < 0.01 else 0}f} ms"


def memory(count: float | None) -> str:
    if count is None:
        return "–"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _head(figures: Figures, width: int) -> RenderableType:
    colour = _COLOURS[figures.state]
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    line.add_column(no_wrap=True, justify="right")
    verdict = Text.assemble(("● ", colour), (figures.state, f"bold {colour}"), "  ", (figures.says, colour))
    line.add_row(verdict, Text(figures.url, style="dim"))
    facts = [
        {True: "Redis answers", False: "Redis does not answer", None: "Redis: –"}[figures.redis],
        f"workers ready: {amount(figures.ready_workers)}",
        f"gateway {figures.version or ''}".rstrip() + f": {_process(figures.gateway)}",
        f"event streams: {amount(figures.event_streams)}",
    ]
    return Group(line, _cut(" · ".join(facts), width))


def _cut(text: str, width: int, style: str = "") -> Text:
    line = Text(text, style, no_wrap=True)
    line.truncate(width, overflow="ellipsis")
    return line


def _process(process: Process) -> str:
    return f"{_cpu(process)} CPU, {memory(process.memory_bytes)}"


def _cpu(process: Process) -> str:
    """100 % is one core."""
    return "–" if process.cores is None else f"{process.cores:.0%}"


def _columns(width: int, left: RenderableType, right: RenderableType) -> Table:
    both = Table.grid(expand=True, padding=(0, 2))
    both.add_column(width=width // 2 - 2, no_wrap=True)
    both.add_column(ratio=1, no_wrap=True)
    both.add_row(left, right)
    return both


def _block(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold", show_header=True)
    table.add_column(title, no_wrap=True, min_width=10)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _jobs(figures: Figures, curves: Curves, width: int) -> Table:
    """Jobs by outcome."""
    table = _block("jobs", "a second", "total", "")
    moved = {"accepted": curves.accepted, "succeeded": curves.succeeded}
    for name in ("accepted", "succeeded", "failed", "cancelled", "expired"):
        counted = figures.jobs.get(name)
        rate = counted.per_second if counted else None
        bad = "red" if rate and name in ("failed", "expired") else ""
        line = sparkline(moved[name], width - 30) if name in moved else ""
        table.add_row(
            Text(name, bad), Text(amount(rate), bad), amount(counted.total if counted else None), Text(line, "cyan")
        )
    return table


def _queue(figures: Figures, curves: Curves, width: int) -> Table:
    table = _block("queue", "now", "")
    limit = figures.queue_limit
    full = bool(limit and figures.open_jobs and figures.open_jobs >= 0.9 * limit)
    unfinished = f"{amount(figures.open_jobs)} of {amount(limit)}"
    oldest = figures.oldest_seconds
    ratio = figures.redis_memory_ratio
    late = figures.loop_delay.p95
    table.add_row("waiting", amount(figures.waiting_jobs), Text(sparkline(curves.waiting, width - 26), "cyan"))
    style = "yellow" if oldest and oldest > LONG_WAIT else ""
    table.add_row("oldest", Text(duration(oldest), style), Text(sparkline(curves.oldest, width - 26), "cyan"))
    table.add_row("sound", duration(figures.sound_seconds), "")
    table.add_row("unfinished", Text(unfinished, "yellow" if full else ""), "")
    share = "–" if ratio is None else f"{ratio:.0%} full"
    table.add_row("Redis", Text(share, "red" if ratio and ratio > 0.85 else ""), "")
    table.add_row("loop delay p95", duration(late), "")
    return table


def _refusals(figures: Figures, width: int) -> Text:
    """Refused requests by error code, with rates; codes without a current rate are dim."""
    line = Text("refused/s ", no_wrap=True)
    line.stylize("bold")
    for code, counted in figures.refusals.items():
        text = f" {code} {amount(counted.per_second)} ({amount(counted.total)})"
        line.append(text, "yellow" if counted.per_second else "dim")
    if not figures.refusals:
        line.append(" –" if figures.lost else " none", "dim")
    line.truncate(width, overflow="ellipsis")
    return line


def _stages(figures: Figures) -> Table:
    table = _block("stage", "p50", "p95", "a second")
    for name, spread in [*figures.stages.items(), ("submission", figures.submissions)]:
        table.add_row(name.replace("_", " "), duration(spread.p50), duration(spread.p95), amount(spread.per_second))
    return table


def _classes(figures: Figures) -> Table:
    """Predicted classes, the most frequent first."""
    table = _block("class", "a second", "total")
    known = figures.confidence_p50 is not None
    for name, counted in list(figures.classes.items())[: 5 if known else 6]:
        table.add_row(Text(name), amount(counted.per_second), amount(counted.total))
    if not figures.classes:
        table.add_row(Text("–", "dim"))
    if known:
        table.add_row(Text("confidence p50", "dim"), f"{figures.confidence_p50:.0%}", "")
    return table


def _workers(figures: Figures, room: int, width: int) -> Table:
    gpu = any(worker.gpu_memory_bytes is not None for worker in figures.workers)
    table = _block("worker", "held", "jobs/s", "batch", "forward p95", "CPU", "memory", *(["GPU"] if gpu else []))
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    table.expand = True
    shown = figures.workers if len(figures.workers) <= room else figures.workers[: max(room - 1, 0)]
    for worker in shown:
        table.add_row(*_worker(worker, max(width // 4, 18), gpu=gpu))
    if len(shown) < len(figures.workers):
        table.add_row(Text(f"and {len(figures.workers) - len(shown)} more", style="dim"))
    return table


def _worker(worker: WorkerFigures, most: int, *, gpu: bool) -> Iterable[RenderableType]:
    name = worker.name if len(worker.name) <= most else f"…{worker.name[1 - most :]}"  # names differ at their end
    yield Text(name, "yellow" if worker.lost else "")
    yield amount(worker.held)
    yield amount(worker.jobs_per_second)
    yield amount(worker.batch_size)
    yield duration(worker.forward.p95 if worker.forward else None)
    yield _cpu(worker.process)
    yield memory(worker.process.memory_bytes)
    if gpu:
        busy = "" if worker.gpu_busy_ratio is None else f", {worker.gpu_busy_ratio:.0%}"
        yield memory(worker.gpu_memory_bytes) + busy
    if worker.lost:
        yield Text(worker.lost, "yellow")
    elif worker.decoder_crashes:
        yield Text(f"{amount(worker.decoder_crashes)} decoder crashes", "yellow")
    else:
        yield Text(", ".join(worker.models), "dim")
