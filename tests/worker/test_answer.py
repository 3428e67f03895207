"""From the windows of a sound to its answer: what is heard at all, which class, how sure, and when."""

import numpy as np
import pytest
from numpy.typing import NDArray

from otoscope.results import Detection
from worker.model.answers import AnswerConfig
from worker.pipeline.activity import Activity, measure_activity
from worker.pipeline.answer import Answer, class_thresholds, combine_windows, decide, detect, most_specific

RATE = 16_000
CONFIG = AnswerConfig(unknown_threshold=0.3, min_confidence=0.5)


def noise(seconds: float, dbfs: float, seed: int = 0) -> NDArray[np.float32]:
    """White noise with that RMS, rounded as in a file of 16 bits."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * 10 ** (dbfs / 20)
    return (np.round(samples * 32_768) / 32_768).astype(np.float32)


def heard(waveform: NDArray[np.float32]) -> bool:
    return measure_activity(waveform, RATE, AnswerConfig()).active


def test_silence_and_noise_floors_are_not_heard() -> None:
    """Zeros, one bit of dither, and the noise of a microphone, also with gaps of zeros in it."""
    assert not heard(np.zeros(RATE, np.float32))
    assert not heard(noise(5, -96))
    assert not heard(noise(5, -60))
    gaps = noise(5, -60)
    gaps[: 2 * RATE] = 0
    assert not heard(gaps)


def test_what_is_above_the_noise_floor_is_heard() -> None:
    """However quiet: a bird at -70 dBFS in a quiet recording; and everything above -50 dBFS, steady or not."""
    quiet = noise(5, -95)
    quiet[2 * RATE : 3 * RATE] = noise(1, -70)
    assert heard(quiet)
    assert heard(noise(5, -45))


def test_windows_are_active_where_something_is_heard() -> None:
    """The noise floor is that of the whole sound."""
    waveform = noise(20, -65)
    waveform[11 * RATE : 12 * RATE] = noise(1, -30)
    activity = measure_activity(waveform, RATE, AnswerConfig())
    spans = [(0.0, 5.0), (5.0, 10.0), (7.5, 12.5), (10.0, 15.0), (15.0, 20.0)]
    assert activity.windows(spans).tolist() == [False, False, True, True, False]


def combined(probabilities: list[list[float]], known: list[float] | None, active: list[bool], how: str) -> Answer:
    scores = None if known is None else np.array(known, np.float32)
    return combine_windows(np.array(probabilities, np.float32), scores, np.array(active), how)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["evidence", "mean", "max"])
@pytest.mark.parametrize("known", [None, [0.01]])
def test_a_single_window_is_its_probabilities(how: str, known: list[float] | None) -> None:
    """Whatever its known score, and although nothing is heard in it."""
    for active in (True, False):
        answer = combined([[0.7, 0.2, 0.1]], known, [active], how)
        assert answer.confidences == pytest.approx([0.7, 0.2, 0.1])


def test_a_short_event_outvotes_the_noise_around_it() -> None:
    """By its known score; the mean would be the noise."""
    windows, known = [[0.0, 0.9, 0.1]] * 10 + [[0.8, 0.1, 0.1]], [0.02] * 10 + [0.9]
    answer = combined(windows, known, [True] * 11, "evidence")
    assert (answer.first, answer.window) == (0, 10)
    assert answer.confidences[0] == pytest.approx(0.8)
    assert combined(windows, known, [True] * 11, "mean").first == 1


@pytest.mark.parametrize(("how", "known", "window"), [("evidence", [0.5, 0.8], 1), ("max", [0.1, 0.9], 0)])
def test_the_deciding_window_is_the_one_with_the_confidence(how: str, known: list[float], window: int) -> None:
    """Not one with more evidence, in which the confidence is lower."""
    answer = combined([[0.9, 0.1], [0.5, 0.3]], known, [True, True], how)
    assert (answer.first, answer.window) == (0, window)
    assert answer.known == pytest.approx(known[window])
    assert answer.confidences[0] == pytest.approx(0.9 if how == "max" else 0.5)


@pytest.mark.parametrize("how", ["evidence", "mean", "max"])
def test_silent_windows_have_no_say(how: str) -> None:
    """In no way of combining them."""
    answer = combined([[0.0, 1.0], [0.9, 0.1], [0.0, 1.0]], None, [False, True, False], how)
    assert (answer.first, answer.window) == (0, 1)
    assert answer.evidence[0].max() == 0


@pytest.mark.parametrize(
    ("probabilities", "known", "active", "verdict"),
    [
        ([0.9, 0.1], 0.9, True, "named"),
        ([0.4, 0.3], 0.9, True, "unsure"),
        ([0.9, 0.1], 0.1, True, "unknown"),
        ([0.9, 0.1], 0.9, False, "silent"),
        ([0.9, 0.1], None, True, "named"),
    ],
)
def test_verdicts(probabilities: list[float], known: float | None, active: bool, verdict: str) -> None:
    """In this order: nothing to hear, none of the classes, not sure, named."""
    answer = combined([probabilities], None if known is None else [known], [active], "evidence")
    assert decide(answer, active, CONFIG, seconds=5) == verdict


def test_a_sound_of_a_blink_is_never_unknown() -> None:
    """A known score needs 0.3 s of sound: with less, a dog was none of the classes."""
    answer = combined([[0.9, 0.1]], [0.1], [True], "evidence")
    assert [decide(answer, True, CONFIG, seconds=seconds) for seconds in (0.05, 0.2, 0.3)] == [
        "unsure", "unsure", "unknown",
    ]  # fmt: skip
    assert decide(answer, False, CONFIG, seconds=0.05) == "silent"


def test_a_request_overrides_the_thresholds() -> None:
    """Each for itself; a model without thresholds names everything."""
    answer = combined([[0.4, 0.3]], [0.2], [True], "evidence")
    assert decide(answer, True, CONFIG, seconds=5) == "unknown"
    assert decide(answer, True, CONFIG, unknown_threshold=0.1, seconds=5) == "unsure"
    assert decide(answer, True, CONFIG, unknown_threshold=0.1, min_confidence=0.3, seconds=5) == "named"
    assert decide(answer, True, AnswerConfig(), seconds=5) == "named"


def test_a_multi_label_model_names_what_reaches_its_threshold() -> None:
    """Any class for itself, also several; a request's minimum is one for all."""
    answer, names = combined([[0.3, 0.6]], None, [True], "evidence"), ("dog", "rain")
    for thresholds, verdict in (({"rain": 0.5}, "named"), ({"rain": 0.7, "dog": 0.4}, "unsure")):
        config = AnswerConfig(class_thresholds=thresholds, detection_threshold=0.35)
        assert decide(answer, True, config, named_from=class_thresholds(names, config), seconds=5) == verdict
        assert (
            decide(answer, True, config, min_confidence=0.9, named_from=class_thresholds(names, config), seconds=5)
            == "unsure"
        )


def test_the_most_specific_of_several_classes_is_detected() -> None:
    """A bark is an animal, which is heard only where nothing more specific explains it."""
    kinds = {"bark": ("dog",), "dog": ("animal",), "animal": ()}
    bark, dog, animal = (Detection(name, 1.0, 2.0, 0.9, 1.5) for name in ("bark", "dog", "animal"))
    rain, long_animal = Detection("rain", 0.0, 9.0, 0.9, 1.5), Detection("animal", 0.0, 9.0, 0.9, 1.5)
    assert most_specific([animal, dog, bark, rain], kinds) == [bark, rain]
    assert most_specific([long_animal, bark], kinds) == [long_animal, bark]
    assert most_specific([animal, dog], {}) == [animal, dog]


def timeline(seconds: int, *events: tuple[float, float]) -> Activity:
    """Noise at -60 dBFS with events at -20 dBFS."""
    levels = np.full(seconds * 50 - 4, -60.0)
    for start, end in events:
        levels[round(start * 50) : round(end * 50)] = -20.0
    return Activity(levels, -48.0)


def detections(
    evidence: list[float], activity: Activity, gap: float = 1.0, least: float = 0.0
) -> list[tuple[float, float]]:
    spans = [(2.5 * i, 2.5 * i + 5) for i in range(len(evidence))]
    answer = Answer(np.ones(1, np.float32), np.array(evidence, np.float32)[:, None], 0, None)
    found = detect(answer, spans, ["dog"], activity, CONFIG, gap, least)
    assert {each.class_ for each in found} <= {"dog"}
    return [(each.start, each.end) for each in found]


def test_an_event_is_detected_where_it_is_heard() -> None:
    """Within a tenth of a second, although windows last five seconds."""
    (event,) = detections([0, 0, 0.8, 0.9, 0, 0], timeline(20, (8.0, 9.0)))
    assert event == pytest.approx((8.0, 9.0), abs=0.11)


def test_a_steady_sound_is_detected_as_a_whole() -> None:
    """It is its own noise floor, so that nothing in it is above that."""
    (event,) = detections([0.9], timeline(5, (0.0, 5.0)))
    assert event == pytest.approx((0.0, 5.0), abs=0.11)


def test_hysteresis_keeps_an_event_whole() -> None:
    """A window between the two thresholds neither begins nor ends an event."""
    activity = timeline(20, (6.0, 14.0))
    assert len(detections([0, 0, 0.8, 0.15, 0.8, 0], activity)) == 1
    assert detections([0, 0, 0.15, 0.15, 0, 0], activity) == []


def test_close_events_are_merged_and_short_ones_left_out() -> None:
    """By the gap and the duration of the request."""
    activity = timeline(30, (2.0, 3.0), (20.0, 21.0))
    evidence = [0.9, 0, 0, 0, 0, 0, 0.9, 0.9, 0, 0, 0]
    assert len(detections(evidence, activity)) == 2
    assert len(detections(evidence, activity, gap=20)) == 1
    assert detections(evidence, activity, least=2.0) == []


def test_thresholds_of_single_classes_count() -> None:
    """As they were chosen for a precision."""
    config = AnswerConfig(class_thresholds={"dog": 0.95})
    answer = Answer(np.ones(1, np.float32), np.array([[0.9]], np.float32), 0, None)
    assert detect(answer, [(0.0, 5.0)], ["dog"], timeline(5, (1.0, 2.0)), config, 1.0, 0.0) == []
