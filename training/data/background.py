"""Synthetic background sounds: what a model has to recognise as none of its classes.

The open-set detector of a model (`worker.model.open_set`) is trained on its own sounds against these. They are
computed, so that a model of one's own needs no second data set, and so that the recordings with which a detector is
measured (speech, music, machines) were never used to train it. Six families, each with random parameters: coloured
noise, tones, music, harmonic hum, and two kinds of speech. Half of them are short, with silence or faint noise around
them, as recordings are.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Wave = NDArray[np.float64]
Maker = Callable[[np.random.Generator, int, int], Wave]


def background(count: int, samples: int, rate: int, seed: int = 0, first: int = 0) -> NDArray[np.float32]:
    """(count, samples): background sounds at `rate` Hz, their families in the order of TURNS, peaks at -6 dBFS.

    Sound number i of a seed is always the same: `first` is the number of the first sound, so that many sounds can be
    computed in parts. About 20 ms per sound of 5 s at 16 kHz on one core.
    """
    sounds = np.zeros((count, samples), np.float32)
    for row, number in enumerate(range(first, first + count)):
        rng = np.random.default_rng((seed, number))
        sound = FAMILIES[TURNS[number % len(TURNS)]](rng, samples, rate)
        if rng.random() < 0.55:
            sound = _shortened(rng, sound, rate)
        if not sound.any():  # a melody of nothing but rests
            sound = noise(rng, samples, rate)
        sounds[row] = sound * (0.5 / np.abs(sound).max())
    return sounds


def noise(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """Noise with a random slope of its spectrum and a random smooth equaliser; sometimes its level pulsates."""
    wave = _coloured(rng, samples, rate)
    if rng.random() < 0.3:
        wave *= 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(0.3, 12) * _time(samples, rate))
    return wave


def tones(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """A sine, a sweep, a frequency-modulated sine or a square wave, steady or as a row of beeps."""
    time = _time(samples, rate)
    frequency, end = np.exp(rng.uniform(np.log(60), np.log(rate * 0.4), 2))
    kind = int(rng.integers(0, 4))
    wave: Wave
    if kind == 0:
        wave = np.sin(2 * np.pi * frequency * time)
    elif kind == 1:
        wave = np.sin(2 * np.pi * np.cumsum(np.geomspace(frequency, end, samples)) / rate)
    elif kind == 2:
        modulation = rng.uniform(0.5, 8) * np.sin(2 * np.pi * rng.uniform(1, 200) * time)
        wave = np.sin(2 * np.pi * frequency * time + modulation)
    else:
        wave = np.sign(np.sin(2 * np.pi * frequency / 4 * time))
    if rng.random() < 0.5:
        wave = wave * (_envelope(rng, samples, rate, int(rng.integers(1, 8))) + 0.01)
    wave += _coloured(rng, samples, rate) * 10 ** rng.uniform(-5, -2.5)
    return wave


def music(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """One to three voices of plucked or blown notes of a scale, sometimes with drums."""
    wave = np.zeros(samples)
    step = int(rate * rng.choice([0.12, 0.2, 0.25, 0.35, 0.5]))
    base = rng.uniform(55, 220)
    scale = np.array([0, 2, 4, 5, 7, 9, 11] if rng.random() < 0.5 else [0, 2, 3, 5, 7, 8, 10])
    for _ in range(rng.integers(1, 4)):
        octave = 12 * rng.integers(0, 3)
        for start in range(0, samples, step * int(rng.choice([1, 2, 4]))):
            if rng.random() < 0.25:
                continue
            for _ in range(rng.integers(1, 4)):
                frequency = base * 2 ** ((scale[rng.integers(7)] + octave) / 12)
                length = min(samples - start, int(step * rng.uniform(1, 5)))
                wave[start : start + length] += _note(rng, frequency, length, rate) * rng.uniform(0.3, 1)
    if rng.random() < 0.5:
        for start in range(0, samples, step * 2):
            length = min(samples - start, int(rate * 0.15))
            hit = _unit(_coloured(rng, length, rate)) * np.exp(-_time(length, rate) * 30)
            wave[start : start + length] += hit * rng.uniform(0.1, 1) * wave.std()
    return wave


def speech(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """A voice that never stays: a glottal pulse train through moving formants, with pauses and bursts of noise."""
    time = _time(samples, rate)
    seconds = samples / rate
    syllables = np.arange(0, seconds + 0.5, 1 / rng.uniform(2.5, 6))

    def contour(low: float, high: float) -> Wave:
        return np.interp(time, syllables, rng.uniform(low, high, len(syllables)))

    ticks = np.arange(0, seconds + 0.1, 0.02)
    jitter = 0.02 * np.interp(time, ticks, rng.standard_normal(len(ticks)))
    pitch = rng.uniform(80, 300) * 2 ** (contour(-0.25, 0.25) + jitter)
    pulses = np.diff(np.floor(np.cumsum(pitch) / rate), prepend=0)
    source = np.cumsum(pulses - pulses.mean())
    source = _unit(source - _moving_mean(source, rate // 40)) + 0.05 * rng.standard_normal(samples)
    formants = (contour(250, 850), contour(800, 2_500), contour(2_200, 3_200), np.full(samples, 3_700.0))
    voice = _unit(_resonances(source, formants, (80, 110, 160, 250), rate))
    loudness = np.interp(time, syllables, rng.uniform(0.2, 1, len(syllables)))
    voice *= np.sqrt(np.abs(np.sin(np.pi * np.interp(time, syllables, np.arange(len(syllables)))))) * loudness
    if rng.random() < 0.7:
        voice *= np.interp(time, np.sort(rng.uniform(0, seconds, 6)), [1, 1, 0, 0, 1, 1])
    fricatives = _unit(np.diff(_coloured(rng, samples, rate), prepend=0))
    voice += fricatives * _envelope(rng, samples, rate, int(rng.integers(0, 10))) * rng.uniform(0.05, 0.4)
    if rng.random() < 0.3:  # the band of a telephone
        spectrum, frequencies = np.fft.rfft(voice), np.fft.rfftfreq(samples, 1 / rate)
        spectrum[(frequencies < 300) | (frequencies > 3_400)] = 0
        voice = np.fft.irfft(spectrum, samples)
    faint: Wave = _coloured(rng, samples, rate) * 10 ** rng.uniform(-5, -2.5) * voice.std()
    return voice + faint


def hum(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """Up to four harmonic voices whose pitch wanders, in noise: motors, rotors, mains."""
    time = _time(samples, rate)
    ticks = np.arange(0, samples / rate + 0.3, 0.25)
    base = rng.uniform(40, 400)
    wave = np.zeros(samples)
    for _ in range(rng.integers(1, 5)):
        frequency = base * (1 + rng.uniform(-0.1, 0.1))
        drift = 1 + 0.02 * np.interp(time, ticks, rng.standard_normal(len(ticks)))
        first = np.exp(2j * np.pi * np.cumsum(frequency * drift) / rate)  # powers of it are faster than more sines
        slope = rng.uniform(0.3, 1.5)
        voice = np.ones(samples, complex)
        for harmonic in range(1, int(min(40, rate * 0.47 / frequency))):
            voice *= first
            strength = harmonic**-slope * rng.uniform(0.2, 1)
            turn = 2 * np.pi * rng.random()
            wave += voice.real * (strength * np.sin(turn)) + voice.imag * (strength * np.cos(turn))
    return _unit(wave) + _unit(_coloured(rng, samples, rate)) * 10 ** rng.uniform(-2, 0.3)


_VOWELS = np.array(  # first three formants in Hz, of men (Peterson and Barney, 1952), and one between them
    [
        *((270, 2290, 3010), (390, 1990, 2550), (530, 1840, 2480), (660, 1720, 2410), (730, 1090, 2440)),
        *((570, 840, 2410), (440, 1020, 2240), (300, 870, 2240), (640, 1190, 2390), (490, 1350, 1690)),
    ],
    float,
)


@dataclass(frozen=True)
class _Segment:
    """A part of a syllable."""

    seconds: float
    voiced: float  # amplitude of the voice
    hiss: float  # amplitude of the noise of a fricative or a burst
    formants: NDArray[np.float64]  # (3,) Hz


def syllables(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """Words of consonants and steady vowels, as people and formant synthesizers speak: fricatives, stops with their
    closure and burst, nasals; a pitch that may be monotonous, sometimes a whisper; a room, a telephone, or neither."""
    time, seconds = _time(samples, rate), samples / rate
    tract = np.exp(rng.uniform(np.log(0.9), np.log(1.35)))  # formants of women and children are higher
    segments = _words(rng, seconds)
    knots, centres = [0.0], list[float]()
    now = 0.0 if rng.random() < 0.5 else rng.uniform(0, 0.4)
    for segment in segments:  # each has its values from shortly after its beginning until shortly before its end
        edge = min(0.02, segment.seconds / 3)
        knots += [now + edge, now + segment.seconds - edge]
        centres.append(min(rng.uniform(2_000, 7_500), rate * 0.45))
        now += segment.seconds

    def course(start: float, values: Iterable[float]) -> Wave:
        """(samples,): `start`, then one value for each segment."""
        return np.interp(time, knots, [start, *(value for value in values for _ in range(2))])

    pulses = np.diff(np.floor(np.cumsum(_pitch(rng, time)) / rate), prepend=0)
    source = pulses - pulses.mean()
    if rng.random() < 0.5:  # a sawtooth, which is duller than pulses
        source = np.cumsum(source)
        source = source - _moving_mean(source, rate // 40)
    source = _unit(source) + rng.choice([0.003, 0.02, 0.1]) * rng.standard_normal(samples)
    if rng.random() < 0.08:  # whispered
        source = rng.standard_normal(samples)
    width = rng.uniform(0.6, 1.6)
    first = _VOWELS[rng.integers(len(_VOWELS))]
    moving = tuple(
        tract * course(start, [segment.formants[index] for segment in segments]) for index, start in enumerate(first)
    )
    formants = (*moving, np.full(samples, 3_500 * tract), np.full(samples, 4_500 * tract))
    widths = tuple(round(width * hertz) for hertz in (70, 100, 150, 220, 300))
    voice = _unit(_resonances(source, formants, widths, rate))
    if rng.random() < 0.5:  # the radiation of the lips
        voice = _unit(np.diff(voice, prepend=0))
    voice *= course(0, [segment.voiced for segment in segments])
    hiss = _resonances(rng.standard_normal(samples), (course(3_000, centres),), (round(rng.uniform(600, 2_500)),), rate)
    hiss = _unit(np.diff(hiss, prepend=0)) * course(0, [segment.hiss for segment in segments])
    return _transmitted(rng, voice + hiss * rng.uniform(0.1, 0.6), rate)


def _words(rng: np.random.Generator, seconds: float) -> list[_Segment]:
    """Segments of at least that many seconds: syllables, and a pause after each two to eight of them."""
    segments: list[_Segment] = []
    pace, left = rng.uniform(0.11, 0.3), int(rng.integers(2, 9))
    while sum(segment.seconds for segment in segments) < seconds:
        vowel = _VOWELS[rng.integers(len(_VOWELS))] * rng.uniform(0.9, 1.1, 3)
        locus = np.array([rng.uniform(200, 400), rng.uniform(900, 2_200), rng.uniform(2_000, 3_000)])
        consonant, kind = rng.uniform(0.03, 0.11), int(rng.integers(0, 5))
        if kind == 0:  # a fricative
            segments.append(_Segment(consonant, 0, rng.uniform(0.3, 1), locus))
        elif kind == 1:  # a stop
            segments.append(_Segment(0.8 * consonant, 0, 0, locus))
            segments.append(_Segment(0.012, 0, rng.uniform(0.5, 1.5), locus))
        elif kind == 2:  # a nasal
            segments.append(_Segment(consonant, rng.uniform(0.2, 0.5), 0, locus * [0.9, 0.8, 1]))
        elif kind == 3:  # a voiced fricative
            segments.append(_Segment(consonant, rng.uniform(0.2, 0.6), rng.uniform(0.1, 0.5), locus))
        segments.append(_Segment(pace * rng.uniform(0.6, 1.5), rng.uniform(0.5, 1), 0, vowel))
        left -= 1
        if left == 0:
            segments.append(_Segment(rng.uniform(0.08, 0.6), 0, 0, vowel))
            left = int(rng.integers(2, 9))
    return segments


def _pitch(rng: np.random.Generator, time: Wave) -> Wave:
    """(samples,) Hz: accents, a fall over each phrase, and jitter, each of them from none to much."""
    seconds = float(time[-1])
    accents, jitters = np.arange(0, seconds + 0.25, 0.2), np.arange(0, seconds + 0.1, 0.01)
    octaves = rng.uniform(0, 0.3) * np.interp(time, accents, np.clip(rng.standard_normal(len(accents)), -1.5, 1.5))
    octaves -= rng.uniform(0, 0.1) * (time % 2.5)
    octaves += rng.uniform(0, 0.01) * np.interp(time, jitters, rng.standard_normal(len(jitters)))
    pitch: Wave = np.exp(rng.uniform(np.log(75), np.log(320))) * 2**octaves
    return pitch


def _transmitted(rng: np.random.Generator, wave: Wave, rate: int) -> Wave:
    """A sound through a telephone or a narrow band, in a room, in faint noise; or as it is."""
    samples = len(wave)
    if rng.random() < 0.3:
        low, high = (300.0, 3_400.0) if rng.random() < 0.5 else (60.0, rng.uniform(3_400, 7_000))
        spectrum, frequencies = np.fft.rfft(wave), np.fft.rfftfreq(samples, 1 / rate)
        spectrum[(frequencies < low) | (frequencies > high)] = 0
        wave = np.fft.irfft(spectrum, samples)
    if rng.random() < 0.25:
        tail = int(rate * rng.uniform(0.05, 0.4))
        response = rng.standard_normal(tail) * np.exp(-6 * np.arange(tail) / tail)
        size = _fast_length(samples + tail)
        echoes = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[:samples]
        wave = _unit(wave) + _unit(echoes) * rng.uniform(0.1, 0.6)
    if rng.random() < 0.6:
        wave = wave + _coloured(rng, samples, rate) * 10 ** rng.uniform(-5, -2) * wave.std()
    return wave


FAMILIES: dict[str, Maker] = {
    "noise": noise, "tones": tones, "music": music, "speech": speech, "hum": hum, "syllables": syllables,
}  # fmt: skip
TURNS = (*FAMILIES, "syllables")
"""The families of consecutive sounds. Speech is the most varied, and has the most."""


def _time(samples: int, rate: int) -> Wave:
    return np.arange(samples) / rate


def _unit(wave: Wave) -> Wave:
    unit: Wave = wave / (wave.std() + 1e-9)
    return unit


def _shortened(rng: np.random.Generator, sound: Wave, rate: int) -> Wave:
    """0.15 to 4 s of a sound, somewhere in silence or in noise 20 to 60 dB below it."""
    samples = len(sound)
    length = min(int(rate * np.exp(rng.uniform(np.log(0.15), np.log(4.0)))), samples - 1)
    begin = int(rng.integers(0, samples - length))
    part = sound[begin : begin + length].copy()
    fade = max(1, min(length // 4, rate // 50))
    part[-fade:] *= np.linspace(1, 0, fade)
    at = 0 if rng.random() < 0.6 else int(rng.integers(0, samples - length))
    placed = np.zeros(samples)
    placed[at : at + length] = part
    if rng.random() < 0.4:
        placed += _unit(_coloured(rng, samples, rate)) * placed.std() * 10 ** rng.uniform(-3, -1)
    return placed


def _coloured(rng: np.random.Generator, samples: int, rate: int) -> Wave:
    """White noise with a random slope and a random equaliser of two to seven bands."""
    requested, samples = samples, _fast_length(samples)
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequencies = np.fft.rfftfreq(samples, 1 / rate)
    frequencies[0] = frequencies[1]
    bands = rng.integers(2, 8)
    equaliser = np.interp(np.log(frequencies), np.log(np.geomspace(40, rate / 2, bands)), rng.normal(0, 8, bands))
    shaped = spectrum * frequencies ** -rng.uniform(-0.5, 1.2) * 10 ** (equaliser / 20)
    return np.fft.irfft(shaped, samples)[:requested]


def _fast_length(samples: int) -> int:
    """A length of at least 64 samples for which an FFT is fast whatever `samples` is: a multiple of a power of two."""
    step = max(64, 1 << max(0, samples.bit_length() - 4))
    return -(-samples // step) * step


def _moving_mean(wave: Wave, size: int) -> Wave:
    """The mean of the samples around each one, (samples,) -> (samples,)."""
    reach = np.arange(len(wave))
    low, high = np.maximum(reach - size // 2, 0), np.minimum(reach + size // 2 + 1, len(wave))
    sums = np.concatenate([[0.0], np.cumsum(wave)])
    mean: Wave = (sums[high] - sums[low]) / (high - low)
    return mean


def _envelope(rng: np.random.Generator, samples: int, rate: int, events: int) -> Wave:
    """Up to that many events that rise quickly and decay."""
    envelope = np.zeros(samples)
    for _ in range(events):
        start = int(rng.integers(0, samples))
        end = min(samples, start + int(rate * rng.uniform(0.05, 1.2)))
        if end - start < 10:
            continue
        phase = np.linspace(0, 1, end - start)
        envelope[start:end] += np.minimum(phase / rng.uniform(0.01, 0.3), 1) * np.exp(-phase * rng.uniform(0.5, 6))
    return envelope


def _sine(cycles: Wave) -> NDArray[np.float32]:
    """sin(2 pi cycles) in single precision, which is twice as fast."""
    phase: NDArray[np.float32] = (2 * np.pi * (cycles - np.floor(cycles))).astype(np.float32)
    return np.sin(phase)


def _note(rng: np.random.Generator, frequency: float, samples: int, rate: int) -> Wave:
    """A decaying harmonic sound."""
    time = _time(samples, rate)
    wave = np.zeros(samples)
    slope, stretch = rng.uniform(0.5, 2.5), rng.uniform(0, 0.0005)
    for harmonic in range(1, 12):
        partial = frequency * harmonic * np.sqrt(1 + stretch * harmonic**2)
        if partial > rate * 0.47:
            break
        wave += _sine(partial * time + rng.random()) * harmonic**-slope
    return wave * np.minimum(time / rng.uniform(0.003, 0.08), 1) * np.exp(-time * rng.uniform(0.3, 6))


def _resonances(source: Wave, formants: tuple[Wave, ...], widths: tuple[int, ...], rate: int) -> Wave:
    """A source through second-order resonances whose frequencies move, by overlap-add of 512 samples."""
    size, hop = 512, 128
    window, frequencies = np.hanning(size + 1)[:-1], np.fft.rfftfreq(size, 1 / rate)
    count = -(-len(source) // hop) + size // hop  # frames that cover the source
    padded = np.zeros((count - 1) * hop + size)
    padded[size - hop :][: len(source)] = source
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]  # (frames, size)
    at = np.clip(np.arange(count) * hop + hop - size // 2, 0, len(source) - 1)  # sample in the middle of each frame
    response = np.ones((count, len(frequencies)), np.complex64)  # its inverse, at first
    for formant, width in zip(formants, widths, strict=True):
        centre = np.minimum(formant[at], rate * 0.45)[:, None]
        ratio = (frequencies / centre).astype(np.float32)  # (frames, bins)
        response *= 1 - ratio**2 + 1j * (width / centre).astype(np.float32) * ratio
    spectra = np.fft.rfft((frames * window).astype(np.float32)) / (response + np.float32(1e-9))
    parts = (np.fft.irfft(spectra, size) * window).reshape(count, size // hop, hop)
    out = np.zeros((count + size // hop - 1, hop))
    for part in range(size // hop):
        out[part : part + count] += parts[:, part]
    return out.reshape(-1)[size - hop :][: len(source)]
