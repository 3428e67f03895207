"""What a stream is made of: resampled sound, windows, and detections that begin and end."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from api.live.detections import DetectionTracker
from api.live.resample import Resampler
from api.live.windows import WindowCutter, wav_file
from api.routes.streams import RATES
from otoscope.errors import InvalidRequest
from otoscope.results import Detection
from shared.audio.probe import probe


def resampled(samples: NDArray[np.float32], source: int, target: int, sizes: list[int]) -> NDArray[np.float32]:
    """In blocks of those sizes, again and again."""
    resampler, blocks, at = Resampler(source, target), [], 0
    for size in itertools.cycle(sizes):
        if at >= len(samples):
            return np.concatenate(blocks)
        blocks.append(resampler.add(samples[at : at + size]))
        at += size
    raise AssertionError


def sine(rate: int, hertz: float, seconds: float = 0.5) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize("source", [8_000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_a_tone_stays_a_tone(source: int) -> None:
    """At its frequency, level and place in time: within 60 dB of the tone at the other rate."""
    found = resampled(sine(source, 1_000), source, 16_000, [997])
    expected = sine(16_000, 1_000)[: len(found)]
    assert len(found) > 7_900
    assert np.abs(found - expected)[100:-100].max() < 1e-3


def test_what_the_lower_rate_cannot_have_is_removed() -> None:
    """A tone above the band of the model would appear at another frequency: it is 60 dB down."""
    assert np.abs(resampled(sine(48_000, 11_000), 48_000, 16_000, [4_800])[200:]).max() < 1e-3


@pytest.mark.parametrize("source", RATES)
def test_blocks_do_not_matter(source: int) -> None:
    """The same samples, whether they arrive in one block or in blocks of a few samples."""
    noise = np.random.default_rng(1).standard_normal(source // 20).astype(np.float32)
    whole = resampled(noise, source, 16_000, [len(noise)])
    parts = resampled(noise, source, 16_000, [1, 7, 200, 3])
    assert abs(len(whole) - 800) <= 20 + 16_000 * 17 / source
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def cutter(rate: int = 16_000, hop: float = 0.5) -> WindowCutter:
    return WindowCutter(rate, 16_000, "s16le", 2.0, hop)


def ramp(first: int, count: int) -> bytes:
    """Samples whose values are their indexes, modulo 30,000."""
    return (np.arange(first, first + count) % 30_000).astype("<i2").tobytes()


def test_a_window_is_the_last_sound_at_its_hop() -> None:
    """Whatever the messages are: its samples end where it says, and there are as many as the model takes."""
    windows = []
    cut = cutter()
    for at in range(0, 64_000, 333):
        window, skipped = cut.add(ramp(at, 333), float(at))
        assert not skipped
        windows += [window] if window else []
    assert [(window.start, window.end) for window in windows][:6] == [
        (0, 0.5), (0, 1), (0, 1.5), (0, 2), (0.5, 2.5), (1, 3),
    ]  # fmt: skip
    for window in windows:
        first, last = round(window.start * 16_000), round(window.end * 16_000)
        assert window.samples == ramp(first, last - first)


def test_of_several_windows_in_a_message_the_last_one_counts() -> None:
    """The others are older already; how many there were is returned."""
    window, skipped = cutter().add(ramp(0, 16_000 * 4), 0.0)
    assert window is not None
    assert (window.start, window.end, skipped) == (2.0, 4.0, 7)
    assert window.samples == ramp(32_000, 32_000)


def test_the_rest_ends_where_the_sound_ends() -> None:
    """Too little sound is no window."""
    cut = cutter()
    cut.add(ramp(0, 300), 0.0)
    assert cut.rest(0.0) is None
    cut.add(ramp(300, 41_000), 0.0)
    rest = cut.rest(0.0)
    assert rest is not None
    assert rest.end == round(41_300 / 16_000, 6)
    assert rest.samples == ramp(9_300, 32_000)
    assert cut.seconds == 41_300 / 16_000


def test_half_a_sample_is_refused() -> None:
    """The rest of the stream would be noise."""
    with pytest.raises(InvalidRequest, match="whole number of samples"):
        cutter().add(b"\0\0\0", 0.0)


@pytest.mark.parametrize("format", ["s16le", "f32le"])
def test_the_file_of_a_window_is_what_a_probe_finds(format: str) -> None:
    """Its description, which the gateway writes without a probe."""
    cut = WindowCutter(16_000, 16_000, format, 2.0, 0.5)  # type: ignore[arg-type]
    window, _ = cut.add(bytes(40_000), 0.0)
    assert window is not None
    body, info = wav_file(window, 16_000, format)  # type: ignore[arg-type]
    header = probe(body)
    assert (info.container, info.codec, info.sample_rate, info.channels) == (
        header.container, header.codec, header.rate, header.channels,
    )  # fmt: skip
    assert (info.bytes, info.duration) == (len(body), round(header.seconds or 0, 6))


def dog(start: float, end: float, confidence: float = 0.9) -> Detection:
    return Detection("dog", start, end, confidence, (start + end) / 2)


def test_a_detection_begins_once_and_ends_once() -> None:
    """It is in every window until it has left it, and over when what follows could not be joined to it."""
    tracker = DetectionTracker(merge_gap=1.0, min_duration=0.0)
    assert tracker.add([], 1.0) == ([], [])
    began, _ = tracker.add([dog(1.2, 1.5)], 1.5)
    assert [(one.class_, one.start, one.end) for one in began] == [("dog", 1.2, 1.5)]
    assert tracker.add([dog(1.2, 1.8, 0.95)], 2.0) == ([], [])
    assert tracker.add([dog(1.2, 1.8)], 2.5) == ([], [])
    began, ended = tracker.add([dog(1.2, 1.8)], 3.0)
    assert not began
    assert [(one.start, one.end, one.confidence) for one in ended] == [(1.2, 1.8, 0.95)]
    for end in (3.5, 4.0, 5.0):
        assert tracker.add([dog(1.2, 1.8)], end) == ([], [])


def test_two_events_of_a_class_are_two_detections() -> None:
    """If they are further apart than the gap; closer ones are joined."""
    tracker = DetectionTracker(merge_gap=1.0, min_duration=0.0)
    tracker.add([dog(0.0, 0.5)], 0.5)
    assert tracker.add([dog(0.0, 0.5), dog(1.2, 1.5)], 1.6) == ([], [])
    _, ended = tracker.add([], 3.0)
    assert [(one.start, one.end) for one in ended] == [(0.0, 1.5)]
    began, _ = tracker.add([dog(3.2, 3.4)], 3.5)
    assert [(one.start, one.end) for one in began] == [(3.2, 3.4)]


def test_a_detection_that_goes_on_begins_where_the_last_one_ended() -> None:
    """A class that was lost for a while does not begin twice at one time."""
    tracker = DetectionTracker(merge_gap=0.5, min_duration=0.0)
    tracker.add([dog(0.0, 1.0)], 1.0)
    assert tracker.add([], 2.0)[1]
    began, _ = tracker.add([dog(0.0, 2.5)], 2.5)
    assert [(one.start, one.end) for one in began] == [(1.0, 2.5)]


def test_short_detections_are_left_out() -> None:
    """One that is long enough begins when it is."""
    tracker = DetectionTracker(merge_gap=0.5, min_duration=1.0)
    assert tracker.add([dog(0.0, 0.5)], 0.5) == ([], [])
    assert tracker.add([dog(0.0, 1.2)], 1.5)[0]
    assert tracker.finish()
    assert tracker.add([dog(3.0, 3.5)], 3.5) == ([], [])
    assert tracker.add([], 5.0) == ([], [])
    assert tracker.finish() == []
