"""The tables of the command line."""

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from otoscope.types import Job, ModelList, Prediction, ResultJSON


def percent(confidence: float) -> str:
    """Two digits, since more would suggest a precision that the network does not have."""
    return f"{confidence:.0%}" if confidence < 0.995 else "99+%"


def predictions_table(predictions: Sequence[Prediction]) -> Table:
    """The classes of one sound, each with a bar."""
    table = Table(show_header=False, box=None, padding=(0, 1))
    for prediction in predictions:
        bar = "█" * max(1, round(prediction.confidence * 24))
        table.add_row(escape(prediction.class_), percent(prediction.confidence), f"[green]{bar}[/green]")
    return table


def headline(result: ResultJSON) -> str:
    """The verdict in words, with the first class."""
    if result.verdict == "silent" or not result.predictions:
        return "nothing to hear"
    first = result.predictions[0]
    with_confidence = f"{first.class_} {percent(first.confidence)}"
    if result.verdict == "unknown":
        return f"none of the model's classes (closest: {with_confidence})"
    return f"perhaps {with_confidence}" if result.verdict == "unsure" else first.class_


def classified_table(rows: Iterable[tuple[str, ResultJSON | None]]) -> Table:
    """Several sounds, one a line; None for one that failed."""
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("sounds like", style="bold")
    table.add_column("", justify="right")
    table.add_column("or", style="dim")
    for name, result in rows:
        if result is None:
            table.add_row(escape(name), "[red]failed[/red]", "", "")
            continue
        first, *others = result.predictions
        others = [] if result.verdict in ("silent", "unknown") else others
        rest = "; ".join(f"{other.class_} {percent(other.confidence)}" for other in others[:4])
        confidence = percent(first.confidence) if result.verdict == "named" else ""
        table.add_row(escape(name), escape(headline(result)), confidence, escape(rest))
    return table


def detections_table(rows: Iterable[tuple[str, ResultJSON | None]]) -> Table:
    """What is heard when, in the sounds in turn; times in seconds."""
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("from", justify="right")
    table.add_column("to", justify="right")
    table.add_column("heard", style="bold")
    table.add_column("", justify="right")
    for name, result in rows:
        for found in (result.detections if result else None) or ():
            table.add_row(
                escape(name), f"{found.start:.2f}", f"{found.end:.2f}", escape(found.class_), percent(found.confidence)
            )
    return table


def job_table(job: Job) -> Table:
    """A job, one field a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    seconds = {name: value for name, value in job.timings.model_dump().items() if value is not None}
    audio = ", ".join(
        part
        for part in (
            job.audio.name or "",
            " ".join(dict.fromkeys(f"{job.audio.container} {job.audio.codec}".split())),
            f"{job.audio.sample_rate:,} Hz" if job.audio.sample_rate else "",
            f"{job.audio.duration:.2f} s" if job.audio.duration else "",
            f"{job.audio.bytes:,} bytes",
        )
        if part
    )
    facts = {
        "job": job.id,
        "status": job.status + (f", number {job.queue_position} in the queue" if job.queue_position else ""),
        "model": job.model,
        "sound": audio,
        "submitted": job.created_at.isoformat(timespec="seconds"),
        "took": ", ".join(f"{name} {value * 1_000:.0f} ms" for name, value in seconds.items()),
        "error": f"{job.error.detail} ({job.error.code})" if job.error else "",
    }
    if job.result is not None:
        found = (f"{prediction.class_} {percent(prediction.confidence)}" for prediction in job.result.predictions)
        facts["sounds like"] = "; ".join(found)  # class names of AudioSet have commas
        if job.result.verdict != "named":
            facts["verdict"] = headline(job.result)
        facts["warnings"] = " ".join(warning.detail for warning in job.result.warnings)
        facts["detections"] = "; ".join(
            f"{found.class_} {found.start:.1f} to {found.end:.1f} s" for found in job.result.detections or ()
        )
        facts["windows"] = f"{job.result.window_count}, {job.result.combined}"
    for name, value in facts.items():
        if value:
            table.add_row(f"[dim]{name}[/dim]", escape(value))
    return table


def models_table(models: ModelList) -> Table:
    """The served models."""
    table = Table(box=None, pad_edge=False)
    for column in ("model", "classes", "input", "window", "parameters", "accuracy", "licence"):
        table.add_column(column, overflow="fold", no_wrap=column == "model")
    for card in models.models:
        measured = [f"{found.correct / found.total:.1%} on {found.data}" for found in card.accuracy if found.total]
        table.add_row(
            f"{card.name} (default)" if card.name == models.default else card.name,
            str(len(card.classes)),
            f"{card.sample_rate:,} Hz",
            f"{card.window_seconds:g} s",
            f"{card.parameters:,}",
            "; ".join(measured) or "not measured",
            card.licence,
        )
    return table
