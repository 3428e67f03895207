"""How far a model's accuracy depends on the way a sound was recorded and sent: the clips of a fold, changed.

    .venv/bin/python -m bench.robustness models/esc50 [MODEL ...] --data ../shared/data/esc50-16k [--fold 5]

Each clip is changed as a telephone, a codec, a distance, noise or a room changes it, or only its loudest part is left.
It is answered as by the service.
Traffic and babble are clips of --noise, a folder with `car` and `speech`. If a model has other classes than the data
set, the clips are those of the classes that have counterparts in every model (training/base_models/counterparts.py).
Prints a table, and one line of JSON at the end.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))
from shared.audio.decode import decode
from shared.audio.level import frame_levels
from training.data.custom.dataset import load_dataset
from training.eval.answers import Sound, answer, clip_sounds, listen, spread_evenly
from training.eval.evaluate import in_classes_of
from training.eval.predict import service_precision
from worker.model.checkpoint import load_model

Wave = NDArray[np.float32]
Change = Callable[[Wave, int, np.random.Generator], Wave]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--noise", type=Path, default=Path("../shared/data/drone-car-speech"))
    parser.add_argument("--fold", default=5)
    parser.add_argument("--clips", type=int, default=1_000_000, help="so many at most, evenly spread")
    parser.add_argument("--rows", type=int, nargs="*", help="only these rows of the table, counted from 0")
    options = parser.parse_args()
    models = [load_model(path) for path in options.models]
    dataset = load_dataset(options.data, models[0].config.frontend)
    dataset, models = in_classes_of(dataset, models)
    if any(model.config.classes != dataset.classes for model in models):
        parser.error("a model has other classes than the data set")
    rates = {model.config.frontend.sample_rate for model in models}
    if len(rates) > 1:
        parser.error(f"models of one sample rate are compared, not of {sorted(rates)} Hz")
    (rate,) = rates
    fold = type(dataset.clips[0].fold)(options.fold)
    clips = spread_evenly(clip_sounds(dataset.split(fold)[1], dataset.classes, rate), options.clips)
    waves = [clip.load() for clip in clips]
    found: dict[str, list[float]] = {}
    for row, (name, change) in enumerate(conditions(options.noise).items()):
        if options.rows is not None and row not in options.rows:
            continue
        rng = np.random.default_rng(0)
        sounds = [sound_of(clip, change(wave, rate, rng)) for clip, wave in zip(clips, waves, strict=True)]
        found[name] = []
        for model in models:
            answers = answer(model, model.open_set, listen(model, sounds, name, precision=service_precision()))
            found[name].append(float(np.mean([one.correct for one in answers])))
        print(f"{name}: {', '.join(f'{share:.1%}' for share in found[name])}", file=sys.stderr)
    names = [model.config.name for model in models]
    print(
        f"| {dataset.info.name}, fold {fold}, {len(clips)} clips | {' | '.join(names)} |\n|---|{'---:|' * len(names)}"
    )
    for name, shares in found.items():
        print(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    print(json.dumps({"fold": fold, "models": names, "accuracy": found}))


def sound_of(clip: Sound, wave: Wave) -> Sound:
    """The clip with another waveform."""
    return replace(clip, blocks=lambda: [wave])


def conditions(noise: Path) -> dict[str, Change]:
    """By the name of the row."""
    traffic, babble = noise_of(noise / "car", 1), noise_of(noise / "speech", 6)
    whole: dict[str, Change] = {
        "as recorded": lambda wave, rate, rng: wave,
        "MP3, 64 kbit/s": coded("mp3", "libmp3lame", 64_000),
        "Opus, 16 kbit/s": coded("ogg", "libopus", 16_000),
        "telephone: 300 to 3,400 Hz, 8 kHz, 8 bits": telephone,
        "20 dB quieter": lambda wave, rate, rng: wave * np.float32(0.1),
        "traffic, 10 dB below": lambda wave, rate, rng: mixed(wave, traffic(len(wave), rate, rng), rate, 10),
        "babble, 10 dB below": lambda wave, rate, rng: mixed(wave, babble(len(wave), rate, rng), rate, 10),
        "pink noise, 20 dB below": lambda wave, rate, rng: mixed(wave, coloured(len(wave), rng), rate, 20),
        "pink noise, 10 dB below": lambda wave, rate, rng: mixed(wave, coloured(len(wave), rng), rate, 10),
        "white noise, 10 dB below": lambda wave, rate, rng: mixed(wave, coloured(len(wave), rng, 0), rate, 10),
        "clipped by 20 dB": lambda wave, rate, rng: (wave / max(abs(wave).max(), 1e-6) * 10).clip(-1, 1),
        "a long room: 1.2 s of reverberation": room,
    }
    return {name: fitted(change) for name, change in whole.items()} | {
        "the loudest 2 s alone": loudest(2.0),
        "the loudest second alone": loudest(1.0),
        "the loudest half second alone": loudest(0.5),
        "the loudest 0.25 s alone": loudest(0.25),
    }


def fitted(change: Change) -> Change:
    """As long as before: a codec adds a few samples, or drops some."""

    def whole(wave: Wave, rate: int, rng: np.random.Generator) -> Wave:
        cut = change(wave, rate, rng)[: len(wave)].astype(np.float32)
        return np.pad(cut, (0, len(wave) - len(cut)))

    return whole


def loudest(seconds: float) -> Change:
    """Nothing but the part of that length with the most energy, as of a recording that was cut to its event."""

    def cut(wave: Wave, rate: int, rng: np.random.Generator) -> Wave:
        size = round(seconds * rate)
        energy = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
        start = int((energy[size:] - energy[:-size]).argmax())
        return wave[start : start + size]

    return cut


def coded(container: str, codec: str, bits: int) -> Change:
    """Encoded and decoded again."""

    def change(wave: Wave, rate: int, rng: np.random.Generator) -> Wave:
        import av

        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container) as file:
            stream = file.add_stream(codec, rate=48_000 if codec == "libopus" else rate, layout="mono")
            stream.bit_rate = bits
            samples = soxr.resample(wave, rate, stream.rate) if stream.rate != rate else wave
            frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate = stream.rate
            for packet in (*stream.encode(frame), *stream.encode(None)):
                file.mux(packet)
        return decode(buffer.getvalue(), rate).waveform

    return change


def telephone(wave: Wave, rate: int, rng: np.random.Generator) -> Wave:
    """G.711: 8 kHz, mu-law."""
    narrow = soxr.resample(wave, rate, 8_000)
    spectrum, frequency = np.fft.rfft(narrow), np.fft.rfftfreq(len(narrow), 1 / 8_000)
    spectrum[(frequency < 300) | (frequency > 3_400)] = 0
    narrow = np.fft.irfft(spectrum, len(narrow))
    compressed = np.sign(narrow) * np.log1p(255 * np.abs(narrow).clip(0, 1)) / np.log(256)
    steps = np.round(compressed * 127) / 127
    expanded = np.sign(steps) * np.expm1(np.abs(steps) * np.log(256)) / 255
    return soxr.resample(expanded.astype(np.float32), 8_000, rate)


def room(wave: Wave, rate: int, rng: np.random.Generator) -> Wave:
    """The direct sound, and noise that decays by 60 dB in 1.2 s, with as much energy."""
    time = np.arange(round(1.2 * rate)) / rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / 1.2)
    tail[: round(0.01 * rate)] = 0
    tail /= np.sqrt((tail**2).sum())
    tail[0] = 1.0
    size = len(wave) + len(tail)
    return np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(tail, size), size).astype(np.float32)


def coloured(samples: int, rng: np.random.Generator, slope: float = 1.0) -> Wave:
    """Noise whose power falls as 1/f^slope; pink by default."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum *= np.maximum(np.arange(len(spectrum)), 5) ** (-slope / 2)
    return np.fft.irfft(spectrum, samples).astype(np.float32)


def noise_of(folder: Path, voices: int) -> Callable[[int, int, np.random.Generator], Wave]:
    """Random clips of a folder, so many at a time, each repeated to the length."""
    files = sorted(path for path in folder.iterdir() if path.is_file())

    def mix(samples: int, rate: int, rng: np.random.Generator) -> Wave:
        total = np.zeros(samples, np.float32)
        for choice in rng.integers(len(files), size=voices):
            wave = decode(files[choice].read_bytes(), rate).waveform
            total += np.resize(wave, samples) / max(float(np.sqrt(np.mean(wave**2))), 1e-6)
        return total

    return mix


def mixed(wave: Wave, noise: Wave, rate: int, ratio_db: float) -> Wave:
    """The noise so far below the loudest 0.1 s of the sound."""
    level = frame_levels(wave, rate).max() - ratio_db
    return wave + noise * np.float32(10 ** (level / 20) / max(float(np.sqrt(np.mean(noise**2))), 1e-9))


if __name__ == "__main__":
    main()
