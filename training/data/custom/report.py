"""What is in a collection, before anything is trained on it: as figures for programs (report.json), as a page
(report.md) and as a picture (overview.png)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from otoscope.errors import AudioError
from shared.audio.decode import decode, probe
from training.data.custom.manifest import LIMITS, Item, read_items
from training.data.custom.parallel import in_order
from training.data.custom.segments import SILENT_DB, loudness
from training.data.custom.spectrograms import save_spectrograms
from training.data.custom.split import PARTS, Part, SplitRecord, read_record
from training.data.custom.tables import whole
from training.errors import DatasetError

CLIPPED = 0.999  # of full scale; samples from here up count as clipped

_SHOWN = 10  # sentences of a kind on the page


class ClassReport(BaseModel):
    """Durations in seconds, shares from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sounds: int
    share: float  # of all sounds
    sources: int
    minutes: float
    shortest: float
    median: float
    longest: float
    rates: dict[int, int]  # Hz -> sounds
    clipped: float  # share of samples at full scale
    silent: float  # share of the time
    parts: dict[Part, int]  # sounds in each part of the split; empty without one


class CollectionReport(BaseModel):
    """report.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sounds: int
    minutes: float
    imbalance: float  # the largest class over the smallest, in sounds
    classes: dict[str, ClassReport]
    split_seed: int | None
    split_note: str  # why there is none; empty if there is one
    duplicates: list[str]  # the same sound again
    unusable: list[str]  # files that cannot be decoded


@dataclass(frozen=True)
class _Heard:
    item: Item
    seconds: float = 0.0
    rate: int = 0
    clipped: float = 0.0
    silent: float = 0.0
    error: str = ""


def report(root: Path, out: Path) -> Path:
    """Write the three files into `out`; returns the page. Raises DatasetError."""
    items = read_items(root)
    heard = list(tqdm(in_order(lambda item: _hear(root, item), items), total=len(items), desc="listen", unit="file",
                      leave=False))  # fmt: skip
    good = [one for one in heard if not one.error]
    if not good:
        first = heard[0]
        raise DatasetError(f"none of the {len(items)} sounds can be used; first: {first.item.file}: {first.error}")
    described = _describe(root, items, heard, good)
    page = out / "report.md"
    try:
        out.mkdir(parents=True, exist_ok=True)
        with whole(out / "report.json") as file:
            file.write(described.model_dump_json(indent=2) + "\n")
        with whole(page) as file:
            file.write(_page(root, described))
        usable: dict[str, list[Path]] = {label: [] for label in described.classes}
        for one in good:
            usable[one.item.label].append(root / one.item.file)
        save_spectrograms(out / "overview.png", usable)
    except OSError as error:
        raise DatasetError(f"{out} cannot be written: {error}") from error
    return page


def _hear(root: Path, item: Item) -> _Heard:
    """At the file's own rate; what several channels have at full scale together counts as clipped."""
    try:
        data = (root / item.file).read_bytes()
        sound = decode(data, probe(data, LIMITS).rate or 44_100, LIMITS)  # some M4A tell their rate only when decoded
    except (AudioError, OSError) as error:
        return _Heard(item, error=str(error))
    return _Heard(
        item,
        sound.seconds,
        sound.source_rate,
        float(np.mean(np.abs(sound.waveform) >= CLIPPED)),
        float(np.mean(loudness(sound.waveform, sound.rate) < SILENT_DB)),
    )


def _describe(root: Path, items: Sequence[Item], heard: Sequence[_Heard], good: Sequence[_Heard]) -> CollectionReport:
    record, note = _split_of(root)
    classes: dict[str, ClassReport] = {}
    for label, count in sorted(Counter(item.label for item in items).items()):
        ours = [one for one in good if one.item.label == label]
        seconds = [one.seconds for one in ours] or [0.0]
        total = sum(seconds) or 1.0
        classes[label] = ClassReport(
            sounds=count,
            share=count / len(items),
            sources=len({item.source for item in items if item.label == label}),
            minutes=sum(seconds) / 60,
            shortest=min(seconds),
            median=median(seconds),
            longest=max(seconds),
            rates=dict(sorted(Counter(one.rate for one in ours).items())),
            clipped=sum(one.clipped * one.seconds for one in ours) / total,
            silent=sum(one.silent * one.seconds for one in ours) / total,
            parts=record.counts[label] if record else {},
        )
    first: dict[str, Item] = {}
    duplicates = [
        f"{item.file} is the same sound as {first[item.sha256].file}"
        for item in items
        if first.setdefault(item.sha256, item) is not item
    ]
    counts = [one.sounds for one in classes.values()]
    return CollectionReport(
        sounds=len(items),
        minutes=sum(one.minutes for one in classes.values()),
        imbalance=max(counts) / min(counts),
        classes=classes,
        split_seed=record.seed if record else None,
        split_note=note,
        duplicates=duplicates,
        unusable=[f"{one.item.file}: {one.error}" for one in heard if one.error],
    )


def _split_of(root: Path) -> tuple[SplitRecord | None, str]:
    try:
        return read_record(root), ""
    except DatasetError as error:
        return None, str(error)


def _page(root: Path, described: CollectionReport) -> str:
    classes = described.classes
    lines = [
        f"# {root.resolve().name}",
        "",
        f"{described.sounds:,} sounds, {described.minutes:,.1f} minutes, {len(classes)} classes; the largest class has"
        f" {described.imbalance:.3g} times as many sounds as the smallest.",
        "",
        "| class | sounds | share | sources | minutes | shortest, median, longest | rates | clipped | silent |"
        + "".join(f" {part} |" for part in PARTS if described.split_seed is not None),
        "|---|---:|---:|---:|---:|---:|---|---:|---:|" + "---:|" * (3 if described.split_seed is not None else 0),
    ]
    for label, one in classes.items():
        rates = ", ".join(f"{rate / 1_000:g} kHz" for rate in one.rates)
        parts = "".join(f" {one.parts[part]} |" for part in PARTS if one.parts)
        lines.append(
            f"| {label.replace('|', '&#124;')} | {one.sounds:,} | {one.share:.1%} | {one.sources:,} |"
            f" {one.minutes:,.1f} | {one.shortest:.1f} s, {one.median:.1f} s, {one.longest:.1f} s | {rates} |"
            f" {one.clipped:.2%} | {one.silent:.1%} |{parts}"
        )
    lines += [
        "",
        f"Clipped: samples from {CLIPPED:.1%} of full scale up. Silent: time in which 0.1 s stay below {SILENT_DB:g}"
        f" dBFS (RMS); {fmean(one.silent for one in classes.values()):.1%} in the mean over the classes.",
        "",
        f"Split with seed {described.split_seed}: no source stands in two parts."
        if described.split_seed is not None
        else f"No split: {described.split_note}.",
        *_rates(classes),
        *_list("The same sound again", described.duplicates),
        *_list("Files that cannot be used", described.unusable),
        "",
        "![Log-mel spectrograms of every class](overview.png)",
    ]
    return "\n".join(lines) + "\n"


def _rates(classes: Mapping[str, ClassReport]) -> list[str]:
    """A class recorded at a rate of its own is told by what is missing above it, and not by what it sounds like."""
    lowest = {label: min(one.rates) for label, one in classes.items() if one.rates}
    if len({*lowest.values()}) < 2:
        return []
    told = ", ".join(f"{label} {rate / 1_000:g} kHz" for label, rate in lowest.items())
    return ["", f"The lowest rates differ between the classes ({told}): a network may go by that instead of the sound."]


def _list(title: str, sentences: Sequence[str]) -> list[str]:
    if not sentences:
        return []
    more = [f"- and {len(sentences) - _SHOWN} more: report.json has all"] if len(sentences) > _SHOWN else []
    return ["", f"{title}: {len(sentences)}", "", *(f"- {sentence}" for sentence in sentences[:_SHOWN]), *more]
