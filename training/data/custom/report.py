"""Statistics of a custom data set before training: report.json for programs, report.md and overview.png for people."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np
from pydantic import BaseModel, ConfigDict

from otoscope.errors import AudioError
from shared.audio.decode import SoundStream, Waveform
from shared.audio.probe import probe
from training.data.custom.copied import describe_copy, find_copies
from training.data.custom.manifest import IMPORT_LIMITS, MANIFEST, ManifestEntry, read_manifest
from training.data.custom.parallel import map_ordered
from training.data.custom.segments import SILENCE_DBFS, rms_dbfs
from training.data.custom.spectrograms import save_spectrograms
from training.data.custom.split import SUBSETS, SplitInfo, Subset, read_split_info
from training.data.custom.tables import atomic_text_file
from training.errors import DatasetError, cause
from training.progress import progress_bar

CLIPPING_LEVEL = 0.999  # of full scale; samples at or above this level count as clipped

_MAX_LISTED = 10  # messages of one kind on the page


class ClassReport(BaseModel):
    """Statistics of one class. Durations are in seconds, shares from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sounds: int
    share: float  # of all sounds
    sources: int
    minutes: float
    shortest: float
    median: float
    longest: float
    rates: dict[int, int]  # sample rate in Hz -> number of sounds
    clipped: float  # share of the samples at full scale
    silent: float  # share of the duration
    parts: dict[Subset, int]  # sounds in each subset of the split; empty if there is no split


class DatasetReport(BaseModel):
    """Content of report.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sounds: int
    minutes: float
    imbalance: float  # number of sounds in the largest class over that in the smallest
    classes: dict[str, ClassReport]
    split_seed: int | None
    split_note: str  # why there is no split; empty if there is one
    duplicates: list[str]  # messages about duplicates
    unusable: list[str]  # files that cannot be decoded


@dataclass(frozen=True)
class _AudioStats:
    entry: ManifestEntry
    seconds: float = 0.0
    rate: int = 0
    clipped: float = 0.0
    silent: float = 0.0
    error: str = ""


def write_dataset_report(root: Path, out: Path) -> Path:
    """Write the three files into `out`; returns the path of report.md. Raises DatasetError."""
    entries = read_manifest(root, missing_ok=True)
    if not entries:
        raise DatasetError(f"{root / MANIFEST} lists no sounds")
    results = map_ordered(lambda entry: _measure(root, entry), entries)
    measured = list(progress_bar(results, total=len(entries), desc="measure", unit="file"))
    decodable = [stats for stats in measured if not stats.error]
    if not decodable:
        first = measured[0]
        raise DatasetError(f"none of the {len(entries)} sounds is usable; first: {first.entry.file}: {first.error}")
    summary = _summarise(root, entries, measured, decodable)
    page = out / "report.md"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with atomic_text_file(out / "report.json") as file:
            file.write(summary.model_dump_json(indent=2) + "\n")
        with atomic_text_file(page) as file:
            file.write(_markdown(root, summary))
        usable: dict[str, list[Path]] = {label: [] for label in summary.classes}
        for stats in decodable:
            for label in stats.entry.labels:
                usable[label].append(root / stats.entry.file)
        save_spectrograms(out / "overview.png", usable)
    except OSError as error:
        raise DatasetError(f"{out} cannot be written: {cause(error)}") from error
    return page


def _measure(root: Path, entry: ManifestEntry) -> _AudioStats:
    """Measure a file at its own sample rate, after downmixing to mono."""
    try:
        data = (root / entry.file).read_bytes()
        rate = probe(data, IMPORT_LIMITS).rate or 44_100  # the rate of some files is known only after decoding
        stream = SoundStream(data, rate, IMPORT_LIMITS, strict=True)
        samples = clipped = silent = levels = 0
        for part in _minutes(stream, rate):
            samples += len(part)
            clipped += int((np.abs(part) >= CLIPPING_LEVEL).sum())
            of_part = rms_dbfs(part, rate)
            levels += len(of_part)
            silent += int((of_part < SILENCE_DBFS).sum())
    except (AudioError, OSError) as error:
        return _AudioStats(entry, error=cause(error))
    return _AudioStats(entry, samples / rate, stream.info.source_rate, clipped / samples, silent / levels)


def _minutes(stream: SoundStream, rate: int) -> Iterator[Waveform]:
    """A sound in parts of one minute, the last one shorter: of a recording of hours no more is in memory."""
    kept: list[Waveform] = []
    size = 60 * rate
    for block in stream:
        kept.append(block)
        if sum(map(len, kept)) >= size:
            joined = np.concatenate(kept)
            whole = len(joined) // size * size
            yield from np.split(joined[:whole], whole // size)
            kept = [joined[whole:]]
    if kept and len(rest := np.concatenate(kept)):
        yield rest


def _summarise(
    root: Path, entries: Sequence[ManifestEntry], measured: Sequence[_AudioStats], decodable: Sequence[_AudioStats]
) -> DatasetReport:
    split, note = _read_split_or_note(root)
    classes: dict[str, ClassReport] = {}
    for label, count in sorted(Counter(label for entry in entries for label in entry.labels).items()):
        of_class = [stats for stats in decodable if label in stats.entry.labels]
        seconds = [stats.seconds for stats in of_class] or [0.0]
        total = sum(seconds) or 1.0
        classes[label] = ClassReport(
            sounds=count,
            share=count / len(entries),
            sources=len({entry.source for entry in entries if label in entry.labels}),
            minutes=sum(seconds) / 60,
            shortest=min(seconds),
            median=median(seconds),
            longest=max(seconds),
            rates=dict(sorted(Counter(stats.rate for stats in of_class).items())),
            clipped=sum(stats.clipped * stats.seconds for stats in of_class) / total,
            silent=sum(stats.silent * stats.seconds for stats in of_class) / total,
            parts=split.counts[label] if split else {},
        )
    first: dict[str, ManifestEntry] = {}
    duplicates = [
        f"{entry.file} is the same sound as {first[entry.sha256].file}"
        for entry in entries
        if first.setdefault(entry.sha256, entry) is not entry
    ]
    different = list(first.values())
    duplicates += [describe_copy(*pair) for pair in find_copies(root, different)]
    counts = [stats.sounds for stats in classes.values()]
    return DatasetReport(
        sounds=len(entries),
        minutes=sum(stats.minutes for stats in classes.values()),
        imbalance=max(counts) / min(counts),
        classes=classes,
        split_seed=split.seed if split else None,
        split_note=note,
        duplicates=duplicates,
        unusable=[f"{stats.entry.file}: {stats.error}" for stats in measured if stats.error],
    )


def _read_split_or_note(root: Path) -> tuple[SplitInfo | None, str]:
    try:
        return read_split_info(root), ""
    except DatasetError as error:
        return None, str(error)


def _markdown(root: Path, summary: DatasetReport) -> str:
    classes = summary.classes
    lines = [
        f"# {root.resolve().name}",
        "",
        f"{summary.sounds:,} sounds, {summary.minutes:,.1f} minutes, {len(classes)} classes; the largest class has"
        f" {summary.imbalance:.3g} times as many sounds as the smallest.",
        "",
        "| class | sounds | share | sources | minutes | shortest, median, longest | rates | clipped | silent |"
        + "".join(f" {subset} |" for subset in SUBSETS if summary.split_seed is not None),
        "|---|---:|---:|---:|---:|---:|---|---:|---:|" + "---:|" * (3 if summary.split_seed is not None else 0),
    ]
    for label, stats in classes.items():
        rates = ", ".join(f"{rate / 1_000:g} kHz" for rate in stats.rates)
        parts = "".join(f" {stats.parts[subset]} |" for subset in SUBSETS if stats.parts)
        lines.append(
            f"| {label.replace('|', '&#124;')} | {stats.sounds:,} | {stats.share:.1%} | {stats.sources:,} |"
            f" {stats.minutes:,.1f} | {stats.shortest:.1f} s, {stats.median:.1f} s, {stats.longest:.1f} s | {rates} |"
            f" {stats.clipped:.2%} | {stats.silent:.1%} |{parts}"
        )
    lines += [
        "",
        f"Clipped: samples at {CLIPPING_LEVEL:.1%} of full scale or above. Silent: blocks of 0.1 s with RMS below"
        f" {SILENCE_DBFS:g} dBFS; {fmean(stats.silent for stats in classes.values()):.1%} on average over the classes.",
        "",
        f"Split with seed {summary.split_seed}: no source is in two subsets."
        if summary.split_seed is not None
        else f"No split: {summary.split_note}.",
        *_rate_warning(classes),
        *_bullets("Duplicates", summary.duplicates),
        *_bullets("Unusable files", summary.unusable),
        "",
        "![Log-mel spectrograms of every class](overview.png)",
    ]
    return "\n".join(lines) + "\n"


def _rate_warning(classes: Mapping[str, ClassReport]) -> list[str]:
    """Warn if the sample rates differ between classes: the missing high frequencies then identify a class."""
    lowest = {label: min(stats.rates) for label, stats in classes.items() if stats.rates}
    if len({*lowest.values()}) < 2:
        return []
    listed = ", ".join(f"{label} {rate / 1_000:g} kHz" for label, rate in lowest.items())
    return [
        "",
        f"The lowest sample rates differ between the classes ({listed}): a network may learn the"
        " bandwidth instead of the sound.",
    ]


def _bullets(title: str, sentences: Sequence[str]) -> list[str]:
    if not sentences:
        return []
    more = [f"- and {len(sentences) - _MAX_LISTED} more, listed in report.json"] if len(sentences) > _MAX_LISTED else []
    return ["", f"{title}: {len(sentences)}", "", *(f"- {sentence}" for sentence in sentences[:_MAX_LISTED]), *more]
