"""`otoscope classify`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otoscope.cli.options import AsJson, Url

if TYPE_CHECKING:
    from otoscope.cli.report import Report


class ExportFormat(StrEnum):
    """`otoscope.exports.Format` as an option."""

    audacity = "audacity"
    raven = "raven"
    csv = "csv"
    webvtt = "webvtt"
    jams = "jams"
    json = "json"


class CombineName(StrEnum):
    """`otoscope.types.Combine` as an option."""

    evidence = "evidence"
    mean = "mean"
    max = "max"


def classify(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Sound files, globs such as 'sounds/*.ogg', directories (--recursive), - for stdin."
        ),
    ],
    model: Annotated[str | None, typer.Option(metavar="NAME", help="One of `otoscope models`.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, metavar="N", help="Number of classes for each sound.")] = None,
    include: Annotated[
        str | None,
        typer.Option(
            metavar="PART,...",
            help="With --json: parts of the result, such as maps,waveform; docs/api.md lists them.",
        ),
    ] = None,
    detections: Annotated[bool, typer.Option("--detections", help="What is heard when, not just what.")] = False,
    format: Annotated[
        ExportFormat | None, typer.Option(help="Write the detections as a file of another program.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="With --format: the file, or a directory such as labels/ with one file for each sound. Without it: a"
            " CSV file with a row for each sound and class.",
        ),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Classify the sounds below directories.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --out results.csv: skip sounds that are in it already.")
    ] = False,
    combine: Annotated[CombineName | None, typer.Option(help="How windows become one answer.")] = None,
    unknown_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Known score below which a sound is none of the classes.")
    ] = None,
    min_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Confidence below which the answer is unsure.")
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(metavar="N|left|loudest|mean", help="Which channel is classified; the mean by default."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse sounds that are cut or damaged.")] = False,
    overlap: Annotated[
        float | None, typer.Option(min=0, max=0.9, help="Share by which the windows of a long sound overlap.")
    ] = None,
    merge_gap: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Closer detections of one class are joined.")
    ] = None,
    min_duration: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Shorter detections are left out.")
    ] = None,
    url: Url = None,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="For each file, or each part of a long recording.")
    ] = 120.0,
    parallel: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of files in flight; many small ones are sent 32 at a time.")
    ] = 8,
    as_json: AsJson = False,
) -> None:
    """Classify sounds. Exits with 1 if any file failed.

    What is longer or larger than the service accepts is cut here and sent in parts; an interrupted run of it goes on
    where it was.
    """
    from otoscope.calls import Options
    from otoscope.cli.batch import classify_many, expand_directories, expand_globs
    from otoscope.cli.report import CsvReport

    if as_json and (format or out):
        raise typer.BadParameter("--json prints whole results to stdout; it goes with neither --format nor --out")
    if include and not as_json:
        raise typer.BadParameter("--include needs --json: the parts are not in tables")
    table = Path(out) if out and not format else None
    if table and table.suffix.lower() in (".json", ".txt", ".vtt", ".jams"):
        raise typer.BadParameter(f"--out without --format writes a CSV file; {out} has the name of another format")
    if resume and table is None:
        raise typer.BadParameter("--resume needs the file of the earlier run: --out results.csv, without --format")
    if out:
        _check_place(out, table is not None)
    detections = detections or format is not None
    names = expand_globs(files)
    if recursive:
        names = list(expand_directories(names))
        if not names:
            raise typer.BadParameter(f"there are no sound files below {', '.join(files)}")
    if table is not None:
        if table.exists() and not resume:
            raise typer.BadParameter(f"{table} exists; --resume continues it")
        if resume:
            names, model = CsvReport.unfinished(table, names, model)
        top_k = top_k or 1
    if not names:
        return
    parts = [*(include.split(",") if include else []), *(["detections"] if detections else [])]
    options = Options(
        model=model, top_k=top_k, include=list(dict.fromkeys(parts)), timeout=timeout,
        combine=combine.value if combine else None, unknown_threshold=unknown_threshold, min_confidence=min_confidence,
        channel=channel, strict=strict or None, overlap=overlap, merge_gap=merge_gap, min_duration=min_duration,
    )  # fmt: skip
    with _report(len(names), as_json, detections, format, out) as report:
        failed = classify_many(names, url, options, parallel, report)
    if failed:
        raise SystemExit(1)


def _check_place(out: str, is_table: bool) -> None:
    """Refuse what cannot be written, which would be an error at the end of a long recording, and what must not be."""
    from otoscope.cli.batch import SOUND_EXTENSIONS
    from otoscope.cli.report import names_directory

    path = Path(out)
    is_folder = names_directory(out)
    if out == "-" or (is_table and (is_folder or (path.exists() and not path.is_file()))):
        raise typer.BadParameter(f"{out} is no file such as results.csv; for stdout there are --json and --format")
    if not is_folder and path.suffix.lower() in SOUND_EXTENSIONS:  # as the shell expands `--out *.wav`
        raise typer.BadParameter(f"{out} has the name of a sound, which would be overwritten")
    if not is_folder and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no directory {path.parent}")


def _report(total: int, as_json: bool, detections: bool, format: ExportFormat | None, out: str | None) -> "Report":
    from otoscope.cli.report import CsvReport, ExportReport, JsonReport, TableReport

    if as_json:
        return JsonReport(total)
    if format is not None:
        try:
            return ExportReport(total, format.value, out)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return TableReport(total, detections) if out is None else CsvReport(total, Path(out), detections)
