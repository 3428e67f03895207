"""Proposes how to train on a data set: what is in it, a recipe with reasons, and the time that it takes here.

The time is measured: three steps of the recipe on noise, and the decoding of a few files.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Generator, Tensor

from otoscope.errors import AudioError
from shared.audio.decode import SoundStream
from shared.audio.probe import probe
from training.data.background import background
from training.data.base import Clip, Dataset, DatasetInfo, Fold
from training.data.custom.manifest import IMPORT_LIMITS, MANIFEST, present_entries, read_manifest
from training.data.custom.parallel import map_ordered
from training.data.custom.split import has_split, read_split
from training.data.esc50 import load_esc50
from training.errors import DatasetError
from training.eval.answer_report import BACKGROUND_SOUNDS
from training.eval.answers import spread_evenly
from training.fit.loss import TrainingLoss
from training.fit.open_set import KNOWN_WINDOWS
from training.fit.optim import make_optimizer, unfreeze
from training.fit.pretrained import MODELS
from training.fit.setup import TrainingSetup, set_up_training
from training.recipe import Recipe, for_fine_tuning
from worker.model.checkpoint import CONFIG, Model
from worker.model.frontend import FrontendConfig
from worker.model.precision import autocast, pick_device

FEW_SOUNDS = 40
"""Of the smallest class: from so many on, the whole network is fine-tuned, below only its head. A rule of thumb."""
FEW_SOURCES = 8  # of a class: with fewer, the whole network would learn the single recorder or machine
UNEVEN = 3.0  # largest over smallest class, from which on clips are weighted

_PREFERRED = ("yamnet", "esc50")  # 521 classes before 50: docs/training.md has the figures of both
_SHORT_SECONDS = 2.5
_PROBED, _DECODED = 200, 4  # files whose header is read, and that are decoded
_DECODED_SECONDS = 60  # of each of them
_STEPS = 3
_MEASURED_PARTS = 2  # val and test set


@dataclass(frozen=True)
class Survey:
    """What is in a data set. Lengths are those of a sample of at most 200 files."""

    total: int  # sounds
    sounds: dict[str, int]  # by class
    sources: dict[str, int]  # by class
    seconds: float  # of all sounds, estimated
    median_seconds: float
    train_share: float  # of the sounds
    needs_split: bool
    paths: tuple[Path, ...]  # of the sample

    def __str__(self) -> str:
        few, many = min(self.sounds, key=self.sounds.__getitem__), max(self.sounds, key=self.sounds.__getitem__)
        each = f"{few} {self.sounds[few]:,} to {many} {self.sounds[many]:,}"
        if self.sounds[few] == self.sounds[many]:
            each = f"{self.sounds[few]:,} each"
        sources = sum(self.sources.values())
        return (
            f"{self.total:,} sounds of {len(self.sounds)} classes ({each}), from {sources:,} sources,"
            f" {describe_time(self.seconds)} (median {self.median_seconds:.1f} s)"
        )


@dataclass(frozen=True)
class Proposal:
    """A recipe for a data set."""

    recipe: str
    start: Path | None  # the model to go on from
    changes: tuple[str, ...]  # for --set
    reasons: tuple[str, ...]


def survey(root: Path, fold: Fold | None = None) -> Survey:
    """Look at a custom data set or a folder in the layout of ESC-50. Raises DatasetError."""
    rows: list[tuple[Path, tuple[str, ...], str]]  # file, classes, source
    if (root / MANIFEST).is_file():
        entries = present_entries(root, read_manifest(root, missing_ok=True))
        if not entries:
            read_manifest(root)  # raises: there are none
        rows = [(root / entry.file, entry.labels, entry.source) for entry in entries]
        split = has_split(root)
        subsets = read_split(root) if split else {}
        train = sum(subsets.get(entry.source) == "train" for entry in entries) if split else 0.7 * len(rows)
    else:
        dataset = load_esc50(root)
        rows = [(clip.path, (dataset.classes[clip.label],), clip.source) for clip in dataset.clips]
        split = True
        train = len(dataset.split(dataset.default_fold if fold is None else fold)[0])
    sources: dict[str, set[str]] = defaultdict(set)
    for _, labels, source in rows:
        for label in labels:
            sources[label].add(source)
    if len(sources) < 2:
        raise DatasetError(f"{root} has sounds of {len(sources)} class; training needs two")
    sample = spread_evenly([path for path, _, _ in rows], _PROBED)
    seconds = [length for length in map_ordered(_seconds, sample) if length]
    if not seconds:
        raise DatasetError(f"none of {len(sample)} sounds of {root} can be read; first: {sample[0]}")
    return Survey(
        len(rows),
        dict(sorted(Counter(label for _, labels, _ in rows for label in labels).items())),
        {label: len(own) for label, own in sorted(sources.items())},
        sum(seconds) / len(seconds) * len(rows),
        median(seconds),
        train / len(rows),
        not split,
        tuple(sample),
    )


def propose(found: Survey, start: Path | None = None) -> Proposal:
    """The recipe for what a survey has found, and the model of `models/` to go on from, unless `start` names one."""
    smallest, fewest = min(found.sounds.values()), min(found.sources.values())
    few, short = smallest < FEW_SOUNDS or fewest < FEW_SOURCES, found.median_seconds < _SHORT_SECONDS
    known = start or next((MODELS / name for name in _PREFERRED if (MODELS / name / CONFIG).is_file()), None)
    size = f"every class has {FEW_SOUNDS} sounds or more"
    if few:
        lacking = [f"{smallest} sounds"] if smallest < FEW_SOUNDS else []
        lacking += [f"{fewest} source{'s' * (fewest != 1)}"] if fewest < FEW_SOURCES else []
        size = f"a class has {' and a class '.join(lacking)} only"
    if known is None:
        name = "small-cnn" if few else "esc50-best"
        lacking_network = f"{MODELS} has no network to go on from: otoscope models add {_PREFERRED[0]}"
        return Proposal(name, None, (), (lacking_network, f"{size}: {name} is of that size"))
    if few or short:
        because = [size] if few else []
        because += [f"the sounds are short (median {found.median_seconds:.1f} s): windows of 2 s"] if short else []
        because.append("a new head on a trained network needs few sounds")
        return Proposal("own-sounds", known, (), tuple(because))
    changes: list[str] = []
    reasons = [f"{size}: the whole network is fine-tuned"]
    ratio = max(found.sounds.values()) / smallest
    if ratio >= UNEVEN:
        changes.append("optim.balance=true")
        reasons.append(f"the largest class has {ratio:.1f} times the sounds of the smallest: they are weighted")
    return Proposal("audioset-finetune", known, tuple(changes), tuple(reasons))


def estimate_seconds(recipe: Recipe, found: Survey, pretrained: Model | None = None) -> float:
    """How long `train` takes here, evaluation included, from a few measured steps. Raises RunError."""
    if pretrained:
        recipe = for_fine_tuning(recipe, pretrained.config)
    rate, length = recipe.frontend.sample_rate, recipe.frontend.window_seconds
    per_sound = max(found.seconds / found.total / length, 1.0)  # windows
    train = max(round(found.total * found.train_share * per_sound), 2)
    others = round(found.total * (1 - found.train_share) * (2 * per_sound - 1))  # half-overlapping, as in the service
    batch = min(recipe.optim.batch, train)
    setup = set_up_training(recipe, _Noise.of(batch, len(found.sounds)), list(_clips(batch)), pretrained)
    step, forward = _time_steps(recipe, setup, batch)
    steps = max(train // (batch * recipe.optim.accumulate), 1) * recipe.optim.accumulate * recipe.optim.epochs
    decoding = _decoding_rate(found.paths, rate)
    started = time.monotonic()
    background(2, recipe.frontend.window_samples, rate, 0)
    one_background = (time.monotonic() - started) / 2
    rounds = 1 + bool(recipe.start.probe)  # statistics or probe, then what is measured at the end
    return (
        found.seconds / decoding
        + steps * step
        + (rounds * train + min(train, KNOWN_WINDOWS) + 3 * others) * forward
        + (recipe.open_set.background + _MEASURED_PARTS * BACKGROUND_SOUNDS) * (one_background + forward)
    )


def _time_steps(recipe: Recipe, setup: TrainingSetup, batch: int) -> tuple[float, float]:
    """Seconds of a training step of one batch, and of the forward pass of one window."""
    loss_of, generator = TrainingLoss(recipe, setup, None), Generator().manual_seed(0)
    unfreeze(setup.network, 0, recipe.start)
    optimizer = make_optimizer(setup.network, recipe.optim, recipe.start.lr_decay)
    taken: list[float] = []
    for _ in range(_STEPS):
        started = time.monotonic()
        waves, features, targets = setup.augmented_batch(
            torch.arange(batch), recipe, generator, crop=recipe.augment.crop_until > 0.5
        )
        with autocast(setup.device, recipe.optim.precision):
            logits = setup.network(features).float()
        loss_of(logits, targets, waves).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        logits.sum().item()  # waits for the device
        taken.append(time.monotonic() - started)
    started = time.monotonic()
    with torch.inference_mode(), autocast(setup.device):
        for features in setup.plain_batches(batch):
            setup.network(features).float().sum().item()
    return min(taken), (time.monotonic() - started) / batch


def _decoding_rate(paths: Sequence[Path], rate: int) -> float:
    """Seconds of sound that are decoded in a second, by the thread pool that decodes a data set; the start of each file
    is decoded."""

    def decoded(path: Path) -> float:
        samples = 0
        with suppress(AudioError, OSError):
            for block in SoundStream(path.read_bytes(), rate, IMPORT_LIMITS):
                samples += len(block)
                if samples > _DECODED_SECONDS * rate:
                    break
        return samples / rate

    started = time.monotonic()
    seconds = sum(map_ordered(decoded, spread_evenly(paths, _DECODED)))
    return max(seconds, 1e-3) / max(time.monotonic() - started, 1e-3)


def _seconds(path: Path) -> float:
    """The length of a sound by its header, or decoded where the header has none; 0 for a file that cannot be read."""
    try:
        data = path.read_bytes()
        header = probe(data, IMPORT_LIMITS)
        if header.seconds is not None:
            return header.seconds
        return sum(map(len, SoundStream(data, 8_000, IMPORT_LIMITS))) / 8_000
    except (AudioError, OSError):
        return 0.0


@dataclass(frozen=True)
class _Noise(Dataset):
    """Windows of noise, to time a recipe without decoding."""

    @classmethod
    def of(cls, clips: int, classes: int) -> "_Noise":
        names = tuple(map(str, range(classes)))
        return cls(Path(), tuple(_clips(clips)), names, DatasetInfo("noise"))

    def open(self, clips: Sequence[Clip], front: FrontendConfig) -> tuple[Tensor, Tensor]:
        noise = torch.randn(len(clips), front.window_samples, generator=Generator().manual_seed(0))
        return 0.1 * noise, torch.arange(len(clips))


def _clips(count: int) -> list[Clip]:
    return [Clip(Path(str(number)), 1, number % 2, str(number)) for number in range(count)]


def describe_time(seconds: float) -> str:
    """`about 40 s`, `about 12 minutes`, `about 3.5 hours`."""
    if seconds < 90:
        return f"about {max(round(seconds, -1), 10):.0f} s"
    if seconds < 5_400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3_600:.1f} hours"


def device_name() -> str:
    """`this CPU (2 threads)`, or the name of the GPU."""
    device = pick_device()
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        return str(properties.name)
    threads = torch.get_num_threads()
    return f"this CPU ({threads} thread{'s' * (threads != 1)})"
