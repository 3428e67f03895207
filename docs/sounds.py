"""Synthesises the example sounds of the page: api/static/sounds/*.flac.

    python docs/sounds.py

Nothing is recorded, and random numbers have fixed seeds, so that the files are the same everywhere. Each sound is a
physical model of its source: a bell is a few partials that decay, a clock is a click that excites a small box.
"""

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from otoscope import demo_sound

RATE = demo_sound.RATE
OUT = Path(__file__).parent.parent / "api" / "static" / "sounds"
Sound = NDArray[np.float64]


def seconds(length: float) -> Sound:
    return np.arange(int(length * RATE)) / RATE


def noise(length: float, seed: int) -> Sound:
    return np.random.default_rng(seed).normal(size=int(length * RATE))


def band(sound: Sound, low: float, high: float) -> Sound:
    """Between two frequencies, Hz, with soft edges."""
    spectrum = np.fft.rfft(sound)
    frequency = np.fft.rfftfreq(len(sound), 1 / RATE)
    gain = 1 / np.sqrt((1 + (low / np.maximum(frequency, 1e-3)) ** 4) * (1 + (frequency / high) ** 4))
    return np.fft.irfft(spectrum * gain, len(sound))


def resonator(sound: Sound, frequency: float, decay: float) -> Sound:
    """A resonance that a sound excites; `decay` is the time in seconds in which it falls to a thousandth (T60)."""
    time = np.arange(len(sound)) / RATE
    ringing = np.sin(2 * np.pi * frequency * time) * 0.001 ** (time / decay)
    size = 2 * len(sound)
    return np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(ringing, size), size)[: len(sound)]


def reverberated(sound: Sound, decay: float, share: float, seed: int) -> Sound:
    """In a place with that reverberation time (T60, seconds); `share` is the level of the reverberation."""
    response = band(noise(decay, seed) * 0.001 ** (seconds(decay) / decay), 100, 5_000)
    response *= share / np.sqrt(np.sum(response**2))
    size = len(sound) + len(response)
    return sound + np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size), size)[: len(sound)]


def with_ambience(sound: Sound, level: float, low: float, high: float, seed: int) -> Sound:
    """Peak at 1, and the noise of the place in a band (Hz) at that RMS before its filter."""
    return sound / np.abs(sound).max() + level * band(noise(len(sound) / RATE, seed), low, high)


def placed(length: float, at: list[tuple[float, Sound]]) -> Sound:
    """Sounds added at their times."""
    out = np.zeros(int(length * RATE))
    for time, sound in at:
        start = int(time * RATE)
        part = sound[: len(out) - start]
        out[start : start + len(part)] += part
    return out


def church_bell() -> Sound:
    """Hum, prime, tierce, quint, nominal and above, each as a pair that beats, struck every 1.7 s, across a square."""
    time, dice = seconds(5), np.random.default_rng(3)
    ratios = (0.5, 1, 1.19, 1.5, 2, 2.51, 3.01, 4.16, 5.3)
    weights = (0.5, 0.8, 0.9, 0.5, 1, 0.6, 0.5, 0.4, 0.3)
    decays = (5, 3.5, 2.6, 2, 2, 1.4, 1, 0.7, 0.5)  # seconds
    strike = np.zeros(len(time))
    for ratio, weight, decay in zip(ratios, weights, decays, strict=True):
        for side in (-1, 1):
            frequency = 660 * ratio * (1 + side * 0.003 * dice.uniform(0.3, 1))
            tone = np.sin(2 * np.pi * frequency * time + dice.uniform(0, 6))
            strike += weight / 2 * tone * np.exp(-3 * time / decay)
    clank = band(noise(0.06, 1), 1_500, 7_000) * np.exp(-seconds(0.06) / 0.01)
    strike[: len(clank)] += 0.8 * clank
    rung = placed(5, [(start, strike * dice.uniform(0.7, 1)) for start in (0.1, 1.8, 3.5)])
    return with_ambience(reverberated(rung, 1.2, 0.6, 5), 0.08, 60, 1_500, 9)


def clock_tick() -> Sound:
    """Tick and tock: short clicks in a small wooden box, five a second as in an alarm clock, in a quiet room."""
    beats, dice = [], np.random.default_rng(1)
    for number in range(25):
        click = np.pad(band(noise(0.02, 7 + number % 2), 1_000, 7_000) * np.exp(-seconds(0.02) / 0.0012), (0, 2_000))
        box = resonator(click, 3_600 if number % 2 else 4_140, 0.03) + 0.6 * resonator(click, 1_512, 0.045)
        case = 0.5 * resonator(click, 520, 0.05) + 0.5 * click
        beats.append((0.05 + number / 5, (box + case) * dice.uniform(0.85, 1)))
    return with_ambience(reverberated(placed(5, beats), 0.15, 0.4, 5), 0.002, 50, 2_000, 9)


def siren() -> Sound:
    """A horn swept up and down between 600 and 1,400 Hz, in the open."""
    time = seconds(5)
    sweep = 1_000 + 400 * np.sin(2 * np.pi * 0.35 * time - 1.2)
    phase = 2 * np.pi * np.cumsum(sweep) / RATE
    horn = sum(np.sin(k * phase) / k**1.3 for k in (1, 2, 3, 4, 5))
    echo = np.convolve(horn, np.r_[1, np.zeros(int(0.11 * RATE)), 0.3, np.zeros(int(0.07 * RATE)), 0.2])[: len(time)]
    return np.asarray(echo + 0.05 * noise(5, 3))


def rain() -> Sound:
    """A wide hiss, drops that splash at random, and a rumble on the roof."""
    dice = np.random.default_rng(11)
    drops = []
    for start in dice.uniform(0, 4.95, 300):
        frequency = float(np.exp(dice.uniform(np.log(600), np.log(6_500))))
        drop = resonator(np.pad([1.0], (0, 600)), frequency, dice.uniform(0.004, 0.02))
        drops.append((float(start), drop * dice.exponential(0.5)))
    hiss = 0.5 * band(noise(5, 12), 300, 5_000) + 0.3 * band(noise(5, 13), 60, 500)
    return reverberated(placed(5, drops) + hiss, 0.3, 0.3, 7)


def sea() -> Sound:
    """Waves on a beach: a roar that swells, breaks and runs out, and its foam."""
    time = seconds(5)
    swell = 0.15 + sum(np.exp(-((time - at) ** 2) / width) for at, width in ((1.2, 0.5), (3.6, 0.7)))
    return band(noise(5, 21), 80, 1_500) * swell + 0.3 * band(noise(5, 22), 2_000, 7_000) * swell**2


def crickets() -> Sound:
    """Four crickets on a meadow at night: chirps of three pulses between 3.9 and 4.6 kHz."""
    time, dice = seconds(5), np.random.default_rng(4)
    out = np.zeros(len(time))
    for pitch, rate, start, weight in (
        (4_200, 2.6, 0.0, 1),
        (4_620, 2.2, 0.2, 0.6),
        (3_906, 2.9, 0.5, 0.3),
        (4_368, 2.4, 0.1, 0.2),
    ):
        beat = (time + start) * rate % 1.0
        pulses = (np.sin(2 * np.pi * 32 * (time + start)) > -0.2) & (beat < 0.3)
        soft = np.convolve(pulses.astype(float), np.hanning(80) / np.hanning(80).sum(), "same")
        jitter = 0.3 * np.cumsum(dice.normal(size=len(time))) / 50
        out += weight * soft * np.sin(2 * np.pi * pitch * time + jitter)
    return with_ambience(out, 0.03, 80, 5_000, 31)


def knocking() -> Sound:
    """Knuckles on a wooden door, five knocks, twice, with the echo of a stairwell."""
    knock = band(noise(0.01, 51), 100, 3_000) * np.exp(-seconds(0.01) / 0.002)
    struck = np.pad(knock, (0, 4_000))
    door = resonator(struck, 180, 0.12) + 0.7 * resonator(struck, 390, 0.08) + 0.5 * resonator(struck, 860, 0.04)
    knocks = [(base + 0.25 * n, door) for base in (0.2, 2.6) for n in range(5)]
    return reverberated(placed(5, knocks), 0.3, 0.3, 5)


def day() -> Sound:
    """Half a minute by the harbour: sea, bell, siren, clock, alarm clock and crickets, one after the other."""
    parts = [sea(), church_bell(), siren(), clock_tick(), np.asarray(demo_sound.alarm_clock(), np.float64), crickets()]
    fade = np.minimum(1, np.minimum(seconds(5), seconds(5)[::-1]) / 0.2)
    return np.concatenate([0.5 * fade * part / np.abs(part).max() for part in parts])


SOUNDS = {
    "alarm-clock": lambda: np.asarray(demo_sound.alarm_clock(), np.float64),
    "church-bell": church_bell,
    "clock-tick": clock_tick,
    "siren": siren,
    "rain": rain,
    "sea": sea,
    "crickets": crickets,
    "knocking": knocking,
    "six-sounds": day,
}


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name, make in SOUNDS.items():
        sound = make()
        soundfile.write(OUT / f"{name}.flac", (0.6 * sound / np.abs(sound).max()).astype(np.float32), RATE, "PCM_16")
        print(f"{name}.flac: {(OUT / f'{name}.flac').stat().st_size / 1_000:.0f} kB")


if __name__ == "__main__":
    main()
