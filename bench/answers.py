"""How far the answers of a service can be trusted: silence, level, sounds of no class, and events in long recordings.

    .venv/bin/python -m bench.answers [--model esc50] [--outside DIR] [--debian DIR] [--part NAME ...]

Everything goes over HTTP through a service that is started for it, as a user's sounds would. Prints Markdown tables.
Known sounds are the clips of a fold of ESC-50 that the model was not trained on. Sounds of no class are synthesised,
the speech and the drones in `--data`, each sub-folder of `--outside`, and, with `--debian DIR`, the sounds in packages
of Debian, which are downloaded to DIR once. What is random is drawn from a fixed seed.
"""

import argparse
import asyncio
import csv
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

from bench.lib.debian import unpacked
from bench.lib.machine import describe
from bench.lib.rig import ROOT, Rig
from otoscope import AsyncClient
from otoscope.errors import OtoscopeError
from otoscope.types import Detection, Job
from shared.audio.decode import decode

RATE = 16_000
WINDOW = 5 * RATE
MINUTE = 60 * RATE
AT_A_TIME = 8  # requests
CONFIDENT = 0.5
"""A sound of no class whose first prediction is above that was named with confidence before there were verdicts."""
TOLERANCE = 1.5  # seconds
EXTENSIONS = {".wav", ".ogg", ".oga", ".flac", ".mp3", ".opus"}
PER_KIND = 100  # sounds of each kind of outside sound
PACKAGES = {  # of Debian, and what their sounds are
    "klettres-data": "speech (letters and syllables)",
    "ktuberling-data": "speech (single words)",
    "fillets-ng-data": "game speech, effects and music",
    "pingus-data": "music and effects",
    "frozen-bubble-data": "music and effects",
    "lincity-ng-data": "music and effects",
    "freedroid-data": "effects",
    "foobillardplus-data": "effects",
    "sound-theme-freedesktop": "signals of a desktop",
}

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """A known sound and its class."""

    samples: Samples
    label: str


class Service:
    """A client of the running service that classifies many sounds and keeps their order."""

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = url, model

    def classify(self, sounds: Sequence[Samples | bytes], what: str, **options: Any) -> list[Job | None]:
        """The finished job of each sound; None for one that was refused."""
        return asyncio.run(self._classify(sounds, what, options))

    async def _classify(
        self, sounds: Sequence[Samples | bytes], what: str, options: dict[str, Any]
    ) -> list[Job | None]:
        limit = asyncio.Semaphore(AT_A_TIME)
        jobs: list[Job | None] = [None] * len(sounds)
        with tqdm(total=len(sounds), desc=what, file=sys.stderr, leave=False) as progress:
            async with AsyncClient(self._url) as client:

                async def one(index: int) -> None:
                    sound = sounds[index]
                    async with limit:
                        try:
                            body = sound if isinstance(sound, bytes) else wav(sound)
                            jobs[index] = await client.classify(body, model=self._model, **options)
                        except OtoscopeError as error:
                            print(f"{what} {index}: {error.code}", file=sys.stderr)
                    progress.update()

                await asyncio.gather(*(one(index) for index in range(len(sounds))))
        return jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="esc50", help="one of models/")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of model directories")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--fold", type=int, default=5, help="of ESC-50, not trained on")
    parser.add_argument("--outside", type=Path, help="folder with a sub-folder for each kind of sound of no class")
    parser.add_argument("--debian", type=Path, help="folder for the sounds of Debian's packages")
    parser.add_argument("--part", nargs="*", choices=PARTS, default=list(PARTS), help="only these")
    options = parser.parse_args()
    machine = describe()
    print(f"Model `{options.model}`, ESC-50 fold {options.fold}; {machine['processor']}, {machine['date']}\n")
    clips = esc50(options.data / "esc50-16k", options.fold)
    with tempfile.TemporaryDirectory() as folder, Rig(Path(folder), options.models, queue_limit="10000") as rig:
        rig.start()
        service = Service(rig.url, options.model)
        for part in options.part:
            PARTS[part](service, clips, options)


def levels(service: Service, clips: Sequence[Clip], options: argparse.Namespace) -> None:
    """The same sounds at several levels, with channels that cancel, and as integers in floats."""
    some = spread(clips, 100)
    mono = [clip.samples for clip in some]
    cases: dict[str, list[Samples | bytes]] = {
        "as they are": list(mono),
        "20 dB quieter": [samples * 0.1 for samples in mono],
        "40 dB quieter": [samples * 0.01 for samples in mono],
        "60 dB quieter": [samples * 0.001 for samples in mono],
        "channels that cancel": [np.stack([samples, -samples], axis=1) for samples in mono],
        "offset of 0.3": [samples * 0.5 + np.float32(0.3) for samples in mono],
        "floats up to 32,768": [wav(samples * 32_768, "FLOAT") for samples in mono],
    }
    rows = []
    for name, sounds in cases.items():
        jobs = service.classify(sounds, name)
        warned = Counter(warning.code for job in jobs if job and job.result for warning in job.result.warnings)
        rows.append(
            [
                name,
                f"{right(jobs, some)} of {len(some)}",
                verdicts(jobs),
                ", ".join(f"{c} {n}" for c, n in warned.items()),
            ]
        )
    table("Level", ["sound", "first prediction right", "verdicts", "warnings"], rows)


def silences(service: Service, clips: Sequence[Clip], options: argparse.Namespace) -> None:
    """Fifty silences and noise floors: none may be named."""
    rng = np.random.default_rng(1)
    sounds: list[Samples | bytes] = []
    for index in range(50):
        seconds = float(rng.choice([1, 5, 12]))
        dbfs = float(rng.uniform(-90, -52))
        floor = coloured(rng, round(seconds * RATE), float(rng.choice([0, 1, 2]))) * 10 ** (dbfs / 20)
        sounds.append(np.zeros(round(seconds * RATE), np.float32) if index % 5 == 0 else rounded(floor))
    jobs = service.classify(sounds, "silences")
    named = sum(verdict(job) in ("named", "unsure") for job in jobs)
    table(
        "Silence",
        ["sounds", "verdicts", "given a name"],
        [["50 silences and noise floors", verdicts(jobs), str(named)]],
    )


def unknown(service: Service, clips: Sequence[Clip], options: argparse.Namespace) -> None:
    """Sounds of no class against known ones, by kind."""
    kinds = {f"synthesised {name}": list(sounds) for name, sounds in synthesised().items()}
    kinds |= {name: files(options.data / "drone-car-speech" / name) for name in ("speech", "drone")}
    if options.debian:
        kinds |= {
            f"{name}: {PACKAGES[name]}": files(folder) for name, folder in unpacked(PACKAGES, options.debian).items()
        }
    if options.outside:
        kinds |= {folder.name: files(folder) for folder in sorted(options.outside.iterdir()) if folder.is_dir()}
    jobs = service.classify([clip.samples for clip in clips], "known sounds")
    known = scores(jobs)
    refused = sum(verdict(job) in ("unknown", "silent") for job in jobs)
    rows = [["known: ESC-50", str(len(jobs)), "", f"{refused / len(jobs):.1%}", "", verdicts(jobs)]]
    everything: list[float] = []
    shares, areas = [], []
    for name, sounds in kinds.items():
        outside = service.classify(sounds, name)
        outside = [job for job in outside if job]
        if not outside:
            continue
        own = scores(outside)
        everything += own
        turned_away = sum(verdict(job) in ("unknown", "silent") for job in outside) / len(outside)
        before = sum(first(job)[1] > CONFIDENT for job in outside) / len(outside)
        named = sum(verdict(job) == "named" for job in outside) / len(outside)
        shares.append(turned_away)
        areas.append(auroc(known, own))
        rows.append(
            [
                name,
                str(len(outside)),
                f"{areas[-1]:.3f}",
                f"{turned_away:.0%}",
                f"{named:.0%} (was {before:.0%})",
                verdicts(outside),
            ]
        )
    rows.append(
        [
            "mean over kinds",
            str(len(everything)),
            f"{np.mean(areas):.3f}",
            f"{np.mean(shares):.0%}",
            "",
            f"pooled AUROC {auroc(known, everything):.3f}",
        ]
    )
    table("Sounds of no class", ["kind", "sounds", "AUROC", "`unknown` or `silent`", "`named`", "verdicts"], rows)


def reliability(service: Service, clips: Sequence[Clip], options: argparse.Namespace) -> None:
    """How often the first prediction is right, by verdict."""
    jobs = service.classify([clip.samples for clip in clips], "known sounds")
    rows = []
    for wanted in ("named", "unsure", "unknown", "silent"):
        chosen = [(job, clip) for job, clip in zip(jobs, clips, strict=True) if verdict(job) == wanted]
        good = right([job for job, _ in chosen], [clip for _, clip in chosen])
        rows.append([f"`{wanted}`", str(len(chosen)), f"{good / len(chosen):.1%}" if chosen else ""])
    rows.append(["all", str(len(jobs)), f"{right(jobs, clips) / len(jobs):.1%}"])
    table("Known sounds by verdict", ["verdict", "clips", "first prediction right"], rows)


def events(service: Service, clips: Sequence[Clip], options: argparse.Namespace) -> None:
    """Rightly named clips at a random place in a minute of noise: named first, and detected where they are."""
    rng = np.random.default_rng(5)
    jobs = service.classify([clip.samples for clip in clips], "known sounds")
    good = [clip for job, clip in zip(jobs, clips, strict=True) if first(job)[0] == clip.label]
    chosen = [good[index] for index in rng.choice(len(good), min(100, len(good)), replace=False)]
    rows = []
    for name, make in {"room tone at -60 dBFS": room_tone, "traffic at -35 dBFS": traffic}.items():
        sounds, places = [], []
        for clip in chosen:
            minute = make(rng)
            at = int(rng.integers(0, MINUTE - len(clip.samples)))
            minute[at : at + len(clip.samples)] += clip.samples
            sounds.append(rounded(np.clip(minute, -1, 1)))
            places.append(extent(clip.samples, at))
        found = service.classify(sounds, name, include=["detections"])
        is_first = sum(first(job)[0] == clip.label for job, clip in zip(found, chosen, strict=True))
        detected = [
            near(detections(job), clip.label, place) for job, clip, place in zip(found, chosen, places, strict=True)
        ]
        others = sum(
            sum(each.class_ != clip.label for each in detections(job)) for job, clip in zip(found, chosen, strict=True)
        )
        rows.append(
            [name, f"{is_first} of {len(chosen)}", f"{sum(detected)} of {len(chosen)}", f"{others / len(chosen):.2f}"]
        )
    table(
        "An event in a minute",
        ["in", "class is first", f"detected within {TOLERANCE:g} s", "other detections a minute"],
        rows,
    )
    alone = service.classify([rounded(room_tone(rng)) for _ in range(100)], "room tone alone", include=["detections"])
    without = sum(not detections(job) for job in alone)
    table(
        "A minute of room tone alone",
        ["minutes", "without a detection", "verdicts"],
        [[str(len(alone)), str(without), verdicts(alone)]],
    )


def clip_and_silence(service: Service, clips: Sequence[Clip], options: argparse.Namespace) -> None:
    """Clips followed by 55 s of digital silence."""
    some = spread(clips, 100)
    jobs = service.classify([np.pad(clip.samples, (0, 55 * RATE)) for clip in some], "clip and silence")
    alone = service.classify([clip.samples for clip in some], "the same alone")
    rows = [
        ["alone", f"{right(alone, some)} of {len(some)}"],
        ["followed by 55 s of silence", f"{right(jobs, some)} of {len(some)}"],
    ]
    table("A clip and silence", ["sound", "first prediction right"], rows)


PARTS: dict[str, Callable[[Service, Sequence[Clip], argparse.Namespace], None]] = {
    "levels": levels,
    "silences": silences,
    "unknown": unknown,
    "reliability": reliability,
    "events": events,
    "clip-and-silence": clip_and_silence,
}


# --- sounds -----------------------------------------------------------------------------------------------------------


def esc50(folder: Path, fold: int) -> list[Clip]:
    """The clips of a fold."""
    with (folder / "meta" / "esc50.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["fold"]) == fold]
    clips = []
    for row in rows:
        path = next((folder / "audio").glob(Path(row["filename"]).stem + ".*"))
        clips.append(Clip(decode(path.read_bytes(), RATE).waveform[:WINDOW], row["category"]))
    return clips


def synthesised() -> dict[str, list[Samples]]:
    """Tones, chords, sweeps and noises of 5 s between -35 and -12 dBFS."""
    rng = np.random.default_rng(0)
    time = np.arange(WINDOW) / RATE

    def at_level(samples: NDArray[np.float64]) -> Samples:
        rms = float(np.sqrt(np.mean(np.square(samples))))
        return rounded(np.clip(samples / rms * 10 ** (rng.uniform(-35, -12) / 20), -1, 1))

    def chord() -> NDArray[np.float64]:
        notes = 110 * 2 ** (rng.integers(0, 36, rng.integers(3, 6)) / 12)
        parts = [np.sin(2 * np.pi * note * h * time + rng.uniform(0, 6)) / h for note in notes for h in range(1, 7)]
        return np.sum(parts, axis=0) * np.exp(-time * rng.uniform(0, 2))

    def sweep() -> NDArray[np.float64]:
        low, high = rng.uniform(100, 1_000), rng.uniform(1_000, 7_000)
        return np.sin(2 * np.pi * (low * time + (high - low) * time**2 / 10))

    return {
        "tones": [at_level(np.sin(2 * np.pi * rng.uniform(80, 4_000) * time)) for _ in range(30)],
        "chords": [at_level(chord()) for _ in range(30)],
        "sweeps": [at_level(sweep()) for _ in range(20)],
        "noises": [at_level(coloured(rng, WINDOW, float(rng.choice([0, 1, 2])))) for _ in range(40)],
    }


def coloured(rng: np.random.Generator, samples: int, exponent: float) -> NDArray[np.float64]:
    """Noise whose power falls with that power of the frequency, above 20 Hz, with an RMS of 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequencies = np.maximum(np.fft.rfftfreq(samples, 1 / RATE), 20.0)
    noise = np.fft.irfft(spectrum * frequencies ** (-exponent / 2), samples)
    return noise / noise.std()


def room_tone(rng: np.random.Generator) -> NDArray[np.float64]:
    """A minute of pink noise at -60 dBFS."""
    return coloured(rng, MINUTE, 1.0) * 1e-3


def traffic(rng: np.random.Generator) -> NDArray[np.float64]:
    """A minute of a road at -35 dBFS: rumble that swells and the hum of engines that pass."""
    time = np.arange(MINUTE) / RATE
    road, swell = coloured(rng, MINUTE, 1.6), np.ones(MINUTE)
    for _ in range(rng.integers(4, 10)):
        centre, width = rng.uniform(0, 60), rng.uniform(1.5, 4)
        near_by = np.exp(-0.5 * ((time - centre) / width) ** 2)
        swell += near_by * rng.uniform(0.5, 2.5)
        cycles = np.cumsum(rng.uniform(60, 140) * (1 - 0.05 * np.tanh((time - centre) / 2))) / RATE
        road += near_by * np.sum([np.sin(2 * np.pi * h * cycles + h) * 0.5 / h for h in range(1, 9)], axis=0)
    road *= swell
    return road / road.std() * 10 ** (-35 / 20)


def files(folder: Path) -> list[bytes]:
    """Up to PER_KIND sound files below a folder, always the same ones."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    chosen = np.random.default_rng(2).permutation(len(found))[:PER_KIND]
    return [found[index].read_bytes() for index in sorted(chosen)]


def spread(clips: Sequence[Clip], count: int) -> list[Clip]:
    """That many clips, spread over all classes."""
    ordered = sorted(range(len(clips)), key=lambda index: (index % 8, index))
    return [clips[index] for index in ordered[:count]]


def wav(samples: Samples, subtype: str = "PCM_16") -> bytes:
    """A WAV file of (samples,) or (samples, channels)."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype=subtype)
    return file.getvalue()


def rounded(samples: NDArray[np.floating[Any]]) -> Samples:
    """As 16 bits hold it."""
    return (np.round(samples * 32_767) / 32_768).astype(np.float32)


# --- measures ---------------------------------------------------------------------------------------------------------


def extent(samples: Samples, at: int) -> tuple[float, float]:
    """From where to where something is to be heard of a clip that was placed at a sample, in seconds: from the first to
    the last 0.1 s that is at most 25 dB below its loudest."""
    step = RATE // 10
    whole = len(samples) // step
    powers = np.square(samples[: whole * step]).reshape(whole, step).mean(axis=1)
    heard = np.flatnonzero(powers >= powers.max() * 10**-2.5)
    return (at + heard[0] * step) / RATE, (at + (heard[-1] + 1) * step) / RATE


def near(found: Iterable[Detection], label: str, place: tuple[float, float]) -> bool:
    """Whether a detection of the class has its loudest moment in the extent, or within the tolerance of it."""
    return any(each.class_ == label and place[0] - TOLERANCE <= each.peak <= place[1] + TOLERANCE for each in found)


def detections(job: Job | None) -> list[Detection]:
    return (job.result.detections or []) if job and job.result else []


def first(job: Job | None) -> tuple[str, float]:
    """Class and confidence of the first prediction."""
    if job is None or job.result is None:
        return "", 0.0
    top = job.result.predictions[0]
    return top.class_, top.confidence


def verdict(job: Job | None) -> str:
    return job.result.verdict if job and job.result else "refused"


def verdicts(jobs: Iterable[Job | None]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(Counter(map(verdict, jobs)).items()))


def right(jobs: Sequence[Job | None], clips: Sequence[Clip]) -> int:
    return sum(first(job)[0] == clip.label for job, clip in zip(jobs, clips, strict=True))


def scores(jobs: Iterable[Job | None]) -> list[float]:
    """Known scores; 0 for what is silent, 1 where the model has none."""
    found = []
    for job in jobs:
        if job and job.result:
            score = job.result.known if job.result.known is not None else 1.0
            found.append(0.0 if job.result.verdict == "silent" else score)
    return found


def auroc(known: Sequence[float], outside: Sequence[float]) -> float:
    """The probability that a known sound has a higher score than one of no class; ties count half."""
    ordered = np.sort(known)
    below = np.searchsorted(ordered, outside, side="left") + np.searchsorted(ordered, outside, side="right")
    return float(1 - np.mean(below) / 2 / len(ordered))


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"## {title}\n")
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print(flush=True)


if __name__ == "__main__":
    main()
