"""How a sound is split into windows, and reduced to an envelope."""

import numpy as np
import pytest

from worker.pipeline.windows import (
    WAVEFORM_BUCKETS,
    EnvelopeMeter,
    WindowCutter,
    count_windows,
    envelope,
    repetition_period,
    split_windows,
)

SIZE = 100
OVERHANG = 2  # a fiftieth


def ramp(length: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Samples whose values are their positions."""
    return np.arange(1, length + 1, dtype=np.float32)


def test_a_short_sound_is_padded_with_silence() -> None:
    """One window, the sound at its beginning."""
    ((start, window),) = split_windows(ramp(30), SIZE)
    assert start == 0
    np.testing.assert_array_equal(window, np.concatenate([ramp(30), np.zeros(70)]))
    assert window.dtype == np.float32


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (30, [*ramp(30), *[0] * 10, *ramp(30), *[0] * 10, *ramp(20)]),
        (1, [1.0, *[0] * 10] * 9 + [1.0]),
        (95, [*ramp(95), *[0] * 5]),
    ],
)
def test_a_short_sound_is_repeated(length: int, expected: list[float]) -> None:
    """With a pause in between, until the window is full; also where the sound comes in blocks."""
    ((start, window),) = split_windows(ramp(length), SIZE, pause=10)
    assert start == 0
    np.testing.assert_array_equal(window, expected)
    assert window.dtype == np.float32
    cutter = WindowCutter(SIZE, pause=10)
    assert list(cutter.add(ramp(length))) == []
    np.testing.assert_array_equal(cutter.finish()[1], expected)


def test_where_a_repeated_sound_begins_again() -> None:
    """After its samples and the pause, if the window has room for more than the pause."""
    assert repetition_period(30, SIZE, 10) == 40
    assert repetition_period(30, SIZE, None) is None
    assert repetition_period(90, SIZE, 10) is None
    assert repetition_period(SIZE, SIZE, 10) is None


@pytest.mark.parametrize("length", [SIZE, SIZE + 1, SIZE + OVERHANG])
def test_a_sound_of_one_window_is_one_window(length: int) -> None:
    """The few samples that a codec adds do not make a second window."""
    ((start, window),) = split_windows(ramp(length), SIZE)
    assert start == 0
    np.testing.assert_array_equal(window, ramp(SIZE))


@pytest.mark.parametrize(
    ("length", "starts"),
    [
        (103, [0, 3]),
        (150, [0, 50]),
        (152, [0, 52]),
        (153, [0, 50, 53]),
        (200, [0, 50, 100]),
        (202, [0, 50, 102]),
        (300, [0, 50, 100, 150, 200]),
    ],
)
def test_a_long_sound_is_split_into_half_overlapping_windows(length: int, starts: list[int]) -> None:
    """The last one ends with the sound; none begins within an overhang of it."""
    assert [start for start, _ in split_windows(ramp(length), SIZE)] == starts


def test_every_sample_of_a_long_sound_is_in_a_window() -> None:
    """For any length: full windows, no gap, nothing left out, no two windows nearly the same."""
    for length in range(SIZE + OVERHANG + 1, 6 * SIZE):
        sound = ramp(length)
        clips = split_windows(sound, SIZE)
        starts = [start for start, _ in clips]
        for start, window in clips:
            assert len(window) == SIZE
            assert window[0] == start + 1
        assert starts[0] == 0
        assert starts[-1] == length - SIZE
        steps = np.diff(starts)
        assert steps.min() > OVERHANG
        assert steps.max() <= SIZE // 2 + OVERHANG


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("block", [1, 7, 99, 100, 350, 5_000])
def test_windows_of_a_stream_are_those_of_the_whole(overlap: float, block: int) -> None:
    """For any length, and blocks of any size; their number is known from the length."""
    for length in [1, 30, 99, 100, 102, 103, 150, 152, 153, 200, 201, 202, 203, 555, 1_000, 1_001]:
        cutter, sound = WindowCutter(SIZE, overlap), ramp(length)
        windows = [clip for at in range(0, length, block) for clip in cutter.add(sound[at : at + block])]
        windows.append(cutter.finish())
        whole = split_windows(sound, SIZE, overlap)
        assert [start for start, _ in windows] == [start for start, _ in whole], length
        for (_, streamed), (_, expected) in zip(windows, whole, strict=True):
            np.testing.assert_array_equal(streamed, expected)
        assert count_windows(length, SIZE, overlap) == len(whole)
        assert cutter.samples == length


def test_a_stream_keeps_less_than_two_windows_and_a_block() -> None:
    """However long it is."""
    cutter = WindowCutter(SIZE)
    for _ in range(1_000):
        for _ in cutter.add(np.zeros(30, np.float32)):
            pass
        assert len(cutter._kept) <= 2 * SIZE + 30


@pytest.mark.parametrize("block", [100, 256, 10_000])
def test_an_envelope_of_a_stream_keeps_every_peak(block: int) -> None:
    """In the bucket of the whole, or beside it where a step of 256 samples is in two of them."""
    sound = np.zeros(2_560_123, np.float32)
    peaks = {1_234_567: 0.75, 2_560_122: 0.5, 0: 0.25}
    for at, value in peaks.items():
        sound[at] = value
    meter = EnvelopeMeter()
    for at in range(0, len(sound), block):
        meter.add(sound[at : at + block])
    low, high = meter.envelope()
    assert low.shape == high.shape == (WAVEFORM_BUCKETS,)
    assert sorted(high[high > 0].tolist()) == sorted(peaks.values())
    assert not low.any()
    expected = np.flatnonzero(envelope(sound)[1])
    assert np.abs(np.flatnonzero(high) - expected).max() <= 1


def test_an_envelope_keeps_every_peak() -> None:
    """A single sample in ten minutes is visible, positive or negative, and nothing else is."""
    sound = np.zeros(600 * 16_000, np.float32)
    sound[1_234_567], sound[7_654_321] = 0.75, -0.5
    low, high = envelope(sound)
    assert low.shape == high.shape == (WAVEFORM_BUCKETS,)
    assert (high.max(), low.min()) == (0.75, -0.5)
    assert np.count_nonzero(high) == np.count_nonzero(low) == 1
    assert int(high.argmax()) == 1_234_567 * WAVEFORM_BUCKETS // len(sound)


@pytest.mark.parametrize("length", [1, 7, 999, 1_000, 1_001, 1_999, 12_345])
def test_an_envelope_covers_the_whole_sound(length: int) -> None:
    """It has every sample of a sound shorter than the envelope, and the first and the last of any sound."""
    low, high = envelope(ramp(length))
    assert len(low) == min(length, WAVEFORM_BUCKETS)
    assert low[0] == 1
    assert high[-1] == np.float16(length)
    assert (low <= high).all()


def test_an_envelope_is_finite_however_loud_the_sound() -> None:
    """Samples of a float file may be far outside -1..1; the envelope stays finite in float16."""
    low, high = envelope(np.array([-1e9, 1e9], np.float32))
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
