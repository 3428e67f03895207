"""One job from its id to its stored result: real store, real decode process, real network."""

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from otoscope.results import Result
from otoscope.types import Combine, JobOptions, Part
from shared.audio.decode import decode
from shared.config.settings import Settings
from shared.results import largest_result, pack_result
from tests.conftest import write_tiny_model
from tests.support.sounds import chirp, encode, noise
from tests.support.worker_harness import ALL, LONG, OF_ONE_PASS, RATE, SHORT, WorkerHarness, outputs_alone
from worker.decode.pool import DecoderPool
from worker.inference.engine import Engine, LoadedModel, WindowOutput, read_model
from worker.inference.registry import Registry
from worker.pipeline.windows import split_windows


def test_a_sound_is_classified(harness: WorkerHarness) -> None:
    """The most confident classes first, as many as requested, with the properties of the file."""
    result = harness.result(encode(chirp(0.7, 44_100, 2), 44_100, "FLAC", "PCM_16"), top_k=3)
    assert result.model == "tiny"
    assert len(result.predictions) == 3
    assert [p for _, p in result.predictions] == sorted((p for _, p in result.predictions), reverse=True)
    assert {name for name, _ in result.predictions} <= {"dog", "rain", "bell", "engine", "speech"}
    assert result.duration == pytest.approx(0.7, abs=0.001)
    assert result.sample_rate == 44_100
    assert (result.combined, result.window) == ("single window", 0)
    assert [(w.start, w.end) for w in result.windows] == [(0.0, result.duration)]
    assert len(harness.result(top_k=1_000).predictions) == 5


def test_stages_are_timed_and_counted(harness: WorkerHarness) -> None:
    """In the timings of the job and in the metrics."""
    job_id = harness.submit()
    harness.runner.run([job_id])
    timings = harness.job(job_id).timings
    for stage in (timings.queue, timings.decode, timings.batch, timings.forward, timings.total):
        assert stage is not None
        assert stage >= 0
    assert harness.count("succeeded") == 1
    for name in ("queue", "decode", "batch_wait", "forward", "store"):
        labels = {"stage": name}
        assert harness.metrics.registry.get_sample_value("otoscope_worker_stage_seconds_count", labels) == 1, name
    assert harness.metrics.registry.get_sample_value("otoscope_worker_audio_seconds_total") == pytest.approx(1)
    assert harness.runner.in_flight == []


def test_the_first_job_of_a_model_loads_it(
    settings: Settings, engine: Engine, decoder: DecoderPool, tmp_path: Path
) -> None:
    """Which its timings say; they do not count it as time in the queue or in the network."""
    for name in ("tiny", "other"):
        write_tiny_model(tmp_path / name)

    def load(directory: Path) -> LoadedModel:
        if directory.name == "other":
            time.sleep(0.3)
        return engine.load(read_model(directory))

    registry = Registry(
        tmp_path, (), load, describe=lambda directory: engine.describe(read_model(directory)), at_start={"tiny"}
    )
    registry.refresh()
    with ExitStack() as stack:
        harness = WorkerHarness(settings, engine, registry, decoder, stack)
        jobs = [harness.submit(model=model) for model in ("tiny", "other", "other")]
        for job_id in jobs:
            harness.runner.run([job_id])
        usual, first, second = (harness.job(job_id).timings for job_id in jobs)
    assert usual.load is second.load is None
    assert first.load is not None
    assert first.total is not None
    assert 0.3 <= first.load <= first.total


@pytest.mark.parametrize("parts", [(), *((part,) for part in Part), ALL], ids=lambda parts: "+".join(parts) or "none")
def test_a_result_has_the_requested_parts(harness: WorkerHarness, parts: tuple[Part, ...]) -> None:
    """And no others: a part that was not requested would use memory in Redis for an hour."""
    result = harness.result(LONG, include=parts)
    for part in ("spectrogram", "embedding", "cam", "waveform", "full_spectrogram", "ltsa", "occlusion"):
        assert (getattr(result, part) is not None) == (Part(part) in parts), part
    assert bool(result.maps) == (Part.MAPS in parts)
    assert result.channels == {}
    assert result.parts == sorted(parts)


@pytest.mark.parametrize("parts", [(), *((part,) for part in Part), ALL], ids=lambda parts: "+".join(parts) or "none")
@pytest.mark.parametrize("sound", [SHORT, LONG], ids=["short", "long"])
def test_no_result_is_larger_than_what_is_reserved_for_it(
    harness: WorkerHarness, sound: bytes, parts: tuple[Part, ...]
) -> None:
    """Computed from the model card, the options and the duration; and no more than four times as large."""
    card = harness.registry.get("tiny").card
    options = JobOptions(include=parts, layer="layer1", top_k=1_000)
    result = harness.result(sound, include=parts, layer="layer1", top_k=1_000)
    size = len(pack_result(result))
    assert size * 1.2 <= largest_result(card, options, result.duration) <= 12_000 + 4 * size


@pytest.mark.parametrize(("combine", "combined"), [("mean", np.mean), ("max", np.max), (None, np.max)])
def test_windows_are_combined_as_requested(
    harness: WorkerHarness, combine: Combine | None, combined: Callable[..., NDArray[np.float32]]
) -> None:
    """Each window has its own predictions. Without known scores the strongest evidence, the default, is the maximum."""
    result = harness.result(LONG, combine=combine)
    alone = np.stack([output.probabilities for output in outputs_alone(harness, LONG)])
    assert [(w.start, w.end) for w in result.windows] == [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0), (1.2, 2.2)]
    classes = harness.registry.get("tiny").card.classes
    for window, row in zip(result.windows, alone, strict=True):
        assert dict(window.predictions) == pytest.approx(dict(zip(classes, map(float, row), strict=True)), abs=0.01)
    expected = dict(zip(classes, map(float, combined(alone, axis=0)), strict=True))
    assert dict(result.predictions) == pytest.approx(expected, abs=0.01)
    assert result.combined == f"{combine or 'evidence'} of 4 windows"


def test_a_result_has_level_verdict_and_warnings(harness: WorkerHarness) -> None:
    """A quiet sound is a warning, silence a verdict; levels of windows come with the windows."""
    noisy = chirp(2.2, RATE) + noise(2.2, RATE)
    loud = harness.result(encode(noisy, RATE, "WAV", "PCM_16"), include=["windows"])
    quiet = harness.result(encode(noisy * 0.018, RATE, "WAV", "PCM_16"))
    assert (loud.verdict, loud.warnings) == ("named", [])
    assert loud.level is not None
    assert loud.level.peak_dbfs is not None
    assert all(window.level is not None and window.active for window in loud.windows)
    assert [warning.code for warning in quiet.warnings] == ["quiet"]
    silence = harness.result(encode(np.zeros((RATE, 1), np.float32), RATE, "WAV", "PCM_16"), include=["detections"])
    assert (silence.verdict, [warning.code for warning in silence.warnings]) == ("silent", ["silent"])
    assert silence.detections == []


def test_a_cam_can_be_of_any_class(harness: WorkerHarness) -> None:
    """In the first pass if its window is known; a class that the model lacks is refused."""
    classes = harness.registry.get("tiny").card.classes
    result = harness.result(LONG, include=OF_ONE_PASS, window=1, cam_class=classes[-1])
    assert sum(map(len, harness.batches)) == len(result.windows)
    assert_parts_of(result, outputs_alone(harness, LONG, cam_class=classes[-1])[1])
    job_id = harness.submit(LONG, include=[Part.CAM], cam_class="unicorn")
    harness.runner.run([job_id])
    assert "no class 'unicorn'" in harness.failure(job_id).detail


@pytest.mark.parametrize("options", [{}, {"window": 1}, {"cam_class": "bell"}, {"include": ALL}], ids=str)
def test_an_occlusion_map_is_what_muting_each_tile_changes(
    harness: WorkerHarness, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the window that is shown and the class that is requested: the confidence of the whole window, less that of the
    network without the tile."""
    # The differences are small, and bfloat16 has three digits.
    monkeypatch.setattr("worker.inference.backend.autocast", lambda device: nullcontext())
    result = harness.result(LONG, **{"include": [Part.OCCLUSION], **options})
    of = options.get("cam_class", result.predictions[0][0])
    loaded = harness.registry.get("tiny")
    index, model = loaded.card.classes.index(of), loaded.model
    _, samples = list(split_windows(decode(LONG, RATE).waveform, RATE))[result.window]
    with torch.no_grad():
        whole = model.frontend(torch.from_numpy(samples)[None])  # (1, 1, mels, frames)
        muted = torch.cat([whole.clone() for _ in range(60)])
        silence = model.frontend(torch.zeros(1, RATE)).amax()
        for row in range(6):
            for column in range(10):
                mels, frames = (np.arange(32) + 0.5) * 6 // 32 == row, np.arange(101) * 10 // 101 == column
                muted[10 * row + column, 0, np.outer(mels, frames)] = silence
        confidences = model.probabilities(model.network(torch.cat([whole, muted])))[:, index]
    assert result.occlusion is not None
    assert result.occlusion.shape == (6, 10)
    expected = (confidences[0] - confidences[1:]).reshape(6, 10)
    assert expected.abs().max() > 1e-3, "nothing matters to this network"
    np.testing.assert_allclose(result.occlusion.astype(np.float32), expected, atol=1e-5)


def test_a_short_sound_is_repeated_where_the_model_says_so(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network gets a window full of it; times in the result are those of the sound, and a muted moment is muted in
    every repetition."""
    loaded = harness.registry.get("tiny")
    front = loaded.model.config.frontend.model_copy(update={"repeat_pause": 0.05})
    config = loaded.model.config.model_copy(update={"frontend": front})
    repeating = replace(loaded, model=replace(loaded.model, config=config))
    monkeypatch.setattr(harness.registry, "get", lambda name: repeating)
    sound = chirp(0.3, RATE)
    result = harness.result(encode(sound, RATE, "WAV", "FLOAT"), include=["occlusion", "windows", "spectrogram"])
    assert result.duration == pytest.approx(0.3, abs=1e-3)
    assert [(window.start, window.end) for window in result.windows] == [(0, result.duration)]
    first, *rest = [window for batch in harness.batches for window in batch]
    once = np.concatenate([sound[:, 0], np.zeros(RATE // 20)])
    np.testing.assert_allclose(first.samples, np.resize(once, RATE), atol=1e-6)
    assert {window.period for window in rest} == {len(once)}
    assert result.spectrogram is not None
    assert result.spectrogram.shape == (32, 101)


def test_an_occlusion_map_lets_other_jobs_in_between(make_harness: Callable[..., WorkerHarness]) -> None:
    """Its 61 variants run batch by batch, and a job that comes meanwhile waits for one of them only."""
    harness = make_harness(batch_size=4)
    job = harness.run_blocked(harness.submit(include=[Part.OCCLUSION]))
    short = harness.submit()
    thread = harness.run_waiting(short)
    harness.free.set()
    job.join(20)
    thread.join(20)
    muted = [[window.muted for window in batch] for batch in harness.batches]
    assert [batch.count(None) for batch in muted[:3]] in ([1, 2, 0], [1, 1, 1]), "the map's own whole window is one"
    assert sorted(tile for batch in muted for tile in batch if tile is not None) == list(range(60))
    assert max(map(len, muted)) == 4
    assert harness.job(short).status == "succeeded"


def test_a_cell_is_explained_in_the_window_that_is_shown(harness: WorkerHarness) -> None:
    """The window with the arrays, which runs once more where it was not known before; and memory is reserved for it."""
    result = harness.result(LONG, cell="layer2.block1:3:1:4", layer="layer2.block1")
    assert result.arithmetic is not None
    value = result.arithmetic.operations[0].value
    assert float(result.channels["layer2.block1"][3, 1, 4]) == pytest.approx(value, rel=2e-2, abs=2e-2)
    card, options = harness.registry.get("tiny").card, JobOptions(cell="layer2.block1:3:1:4")
    assert len(pack_result(result)) <= largest_result(card, options, result.duration)
    logits = harness.result(LONG, cell="logits:rain", window=1).arithmetic
    assert logits is not None
    exponentials = np.exp(np.array(logits.logits) / logits.temperature)
    of_window = dict(harness.result(LONG, window=1).windows[1].predictions)["rain"]
    assert exponentials[1] / exponentials.sum() == pytest.approx(of_window, abs=1e-2)


def test_windows_overlap_as_requested(harness: WorkerHarness) -> None:
    """By a share of their length."""
    assert [window.start for window in harness.result(LONG, overlap=0.0).windows] == [0.0, 1.0, 1.2]


def test_parts_are_of_the_most_confident_window(harness: WorkerHarness) -> None:
    """The window with the highest confidence in the first class of the sound; the result has its index. The class
    activation map is of that class, too, and not of the window's own first class."""
    result = harness.result(LONG, include=OF_ONE_PASS)
    best = result.predictions[0][0]
    (again,) = harness.batches[-1]
    assert again.cam_class == harness.registry.get("tiny").card.classes.index(best)
    confidences = [dict(window.predictions)[best] for window in result.windows]
    assert confidences[result.window] == max(confidences)
    assert_parts_of(result, outputs_alone(harness, LONG, cam_class=best)[result.window])


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("second_pass", [False, True])
def test_parts_can_be_of_any_window(harness: WorkerHarness, window: int, second_pass: bool) -> None:
    """`window=N`: the predictions are still those of the whole sound. Only a class activation map needs a second pass,
    since its class is known after the first one."""
    result = harness.result(LONG, include=OF_ONE_PASS if second_pass else set(OF_ONE_PASS) - {Part.CAM}, window=window)
    assert result.window == window
    assert sum(map(len, harness.batches)) == 4 + second_pass
    assert_parts_of(result, outputs_alone(harness, LONG, cam_class=result.predictions[0][0])[window])
    assert dict(result.predictions) == pytest.approx(dict(harness.result(LONG).predictions), abs=0.01)


@pytest.mark.parametrize("seconds", [2.2, 30.0])
def test_the_spectrogram_of_a_whole_sound_has_no_seam(harness: WorkerHarness, seconds: float) -> None:
    """It equals that of the whole waveform at once, within float16; the network is not run for it."""
    sound = encode(chirp(seconds, RATE), RATE, "WAV", "FLOAT")
    result = harness.result(sound, include=[Part.FULL_SPECTROGRAM], window=0)
    frontend = harness.registry.get("tiny").model.frontend
    whole = frontend.decibels(torch.from_numpy(decode(sound, RATE).waveform)[None])[0, 0].numpy()
    assert result.full_spectrogram is not None
    assert result.full_spectrogram.shape == whole.shape
    np.testing.assert_allclose(result.full_spectrogram, whole, atol=0.05)
    assert result.spectrogram is None
    assert sum(map(len, harness.batches)) == len(result.windows)


def test_the_full_spectrogram_of_a_short_sound_is_that_of_its_window(harness: WorkerHarness) -> None:
    """Padding included, and without a second computation; each part is present only if requested."""
    sound = encode(chirp(0.7, RATE), RATE, "WAV", "FLOAT")
    assert harness.result(sound, include=["full_spectrogram"]).spectrogram is None
    result = harness.result(sound, include=["full_spectrogram", "spectrogram"])
    assert result.spectrogram is not None
    np.testing.assert_array_equal(result.full_spectrogram, result.spectrogram)
    assert result.spectrogram.shape == (32, 101)
    assert harness.spectrogram_batches == []


def test_the_full_spectrogram_of_a_long_sound_is_split_into_batches(
    make_harness: Callable[..., WorkerHarness],
) -> None:
    """It goes through the batcher like windows, at most one batch at a time, so that other jobs run in between."""
    harness = make_harness(batch_size=2)
    harness.result(encode(chirp(25.0, RATE), RATE, "WAV", "FLOAT"), include=[Part.FULL_SPECTROGRAM])
    assert [len(batch) for batch in harness.spectrogram_batches] == [2, 1]


@pytest.mark.parametrize("window", [None, 3])
def test_a_layer_can_be_requested_with_all_its_channels(harness: WorkerHarness, window: int | None) -> None:
    """In the most confident window or the requested one; without any other part."""
    result = harness.result(LONG, layer="layer1", window=window)
    assert window in (None, result.window)
    assert result.channels.keys() == {"layer1", "layer1.residual", "layer1.shortcut"}
    mean = result.channels["layer1"].astype(np.float32).mean(axis=0)
    np.testing.assert_allclose(mean, outputs_alone(harness, LONG)[result.window].maps["layer1"], atol=0.1)
    assert result.maps == {}
    assert result.parts == []


def assert_parts_of(result: Result, output: WindowOutput) -> None:
    """The arrays are those of that window, within the rounding of the arithmetic in a batch."""
    for name in {"spectrogram", "embedding", "cam"} & set(result.parts):
        np.testing.assert_allclose(
            getattr(result, name).astype(np.float32), getattr(output, name).astype(np.float32), atol=0.1, err_msg=name
        )
    assert result.maps.keys() == output.maps.keys()
    for layer, values in output.maps.items():
        np.testing.assert_allclose(result.maps[layer].astype(np.float32), values.astype(np.float32), atol=0.1)


def test_a_long_sound_lets_short_ones_in_between(make_harness: Callable[..., WorkerHarness]) -> None:
    """Its windows are submitted one batch at a time, and other jobs run after each."""
    harness = make_harness(batch_size=2)
    long = harness.run_blocked(harness.submit(LONG))
    short = harness.submit()
    thread = harness.run_waiting(short)
    harness.free.set()
    long.join(20)
    thread.join(20)
    assert [len(batch) for batch in harness.batches] == [2, 1, 2]
    assert harness.job(short).status == "succeeded"
