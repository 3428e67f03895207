"""One batch on the device: what each window gets, alone and among others."""

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from otoscope.errors import InferenceFailed
from otoscope.types import Part
from tests.conftest import write_tiny_model
from worker.inference.backend import TorchBackend
from worker.inference.batcher import Batcher
from worker.inference.engine import Engine, LoadedModel, Window, WindowOutput, read_model
from worker.model.precision import native_bf16

# Batches of other sizes take other paths through the matrix multiplications, which round differently: in float32 by
# some millionths, where the network runs in bfloat16 (8 bits of mantissa) by up to a hundredth.
TOLERANCE = 2e-2 if native_bf16(torch.device("cpu")) else 1e-4
LEVEL = 0.1  # dB, for float16 spectrograms

ALL = frozenset(Part)


@pytest.fixture(scope="module")
def served(engine: Engine, tiny_models: Path) -> LoadedModel:
    """The tiny model, ready to run."""
    return engine.load(read_model(tiny_models / "tiny"), warm_up=(1, 4))


def sounds(count: int, samples: int = 16_000) -> list[NDArray[np.float32]]:
    """Different sounds: tones under noise."""
    rng = np.random.default_rng(count)
    time = np.arange(samples) / 16_000
    return [
        (0.3 * np.sin(2 * np.pi * 200 * (n + 1) * time) + 0.1 * rng.standard_normal(samples)).astype(np.float32)
        for n in range(count)
    ]


def see(engine: Engine, served: LoadedModel, windows: list[Window]) -> list[WindowOutput]:
    """Run them; all must succeed."""
    answers = engine.run(served, windows)
    assert all(isinstance(answer, WindowOutput) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, WindowOutput)]


def close(a: object, b: object, tolerance: float = TOLERANCE) -> None:
    """Equal within the tolerance, of the larger of the values."""
    there, here = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert there.shape == here.shape
    np.testing.assert_allclose(there, here, atol=tolerance * max(1.0, float(np.abs(here).max())))


def test_probabilities_are_of_all_classes(engine: Engine, served: LoadedModel) -> None:
    """One a class, positive, adding up to one."""
    for seen in see(engine, served, [Window(sound) for sound in sounds(3)]):
        assert seen.probabilities.shape == (5,)
        assert seen.probabilities.dtype == np.float32
        assert (seen.probabilities > 0).all()
        assert seen.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_confidence_is_calibrated_by_the_models_temperature(engine: Engine, tiny_models: Path) -> None:
    """A hotter model is less sure of the same answer."""
    model = read_model(tiny_models / "tiny")
    hot = replace(model, config=model.config.model_copy(update={"temperature": 4.0}))
    window = Window(sounds(1)[0])
    (cool,), (warm,) = (see(engine, engine.load(one), [window]) for one in (model, hot))
    expected = cool.probabilities ** (1 / 4)
    close(warm.probabilities, expected / expected.sum())
    assert warm.probabilities.argmax() == cool.probabilities.argmax()
    assert warm.probabilities.max() < cool.probabilities.max()


def test_a_batch_gives_each_window_what_it_gets_alone(engine: Engine, served: LoadedModel) -> None:
    """Every part, within the rounding of the arithmetic: what stands beside a clip never changes its answer."""
    loud = np.full(16_000, 1.0, np.float32)
    windows = [Window(sound, ALL) for sound in [*sounds(5), loud, np.zeros(16_000, np.float32)]]
    for together, window in zip(see(engine, served, windows), windows, strict=True):
        (alone,) = see(engine, served, [window])
        close(together.probabilities, alone.probabilities)
        close(together.spectrogram, alone.spectrogram)
        close(together.embedding, alone.embedding)
        close(together.cam, alone.cam, 5 * TOLERANCE)  # a quotient of small numbers
        assert together.maps.keys() == alone.maps.keys()
        for layer in alone.maps:
            close(together.maps[layer], alone.maps[layer])


def test_parts_are_made_for_the_windows_that_asked(engine: Engine, served: LoadedModel) -> None:
    """And each gets its own, in whatever mixture."""
    wanted = [
        frozenset[Part](), frozenset({Part.MAPS}), frozenset({Part.CAM, Part.SPECTROGRAM}), frozenset({Part.EMBEDDING}),
        frozenset({Part.MAPS, Part.CAM}), frozenset({Part.WINDOWS, Part.WAVEFORM}),
    ]  # fmt: skip
    clips = sounds(len(wanted))
    mixed = see(engine, served, [Window(clip, parts) for clip, parts in zip(clips, wanted, strict=True)])
    for seen, clip, parts in zip(mixed, clips, wanted, strict=True):
        assert (seen.spectrogram is not None) == (Part.SPECTROGRAM in parts)
        assert (seen.embedding is not None) == (Part.EMBEDDING in parts)
        assert (seen.cam is not None) == (Part.CAM in parts)
        assert bool(seen.maps) == (Part.MAPS in parts)
        (alone,) = see(engine, served, [Window(clip, ALL)])
        if seen.embedding is not None:
            close(seen.embedding, alone.embedding)
        if seen.spectrogram is not None:
            close(seen.spectrogram, alone.spectrogram)
        if seen.cam is not None:
            close(seen.cam, alone.cam, 5 * TOLERANCE)
        for layer, values in seen.maps.items():
            close(values, alone.maps[layer])


def test_the_spectrogram_is_the_front_ends(engine: Engine, served: LoadedModel) -> None:
    """In dB, not normalised, lowest frequency first."""
    (clip,) = sounds(1)
    (seen,) = see(engine, served, [Window(clip, frozenset({Part.SPECTROGRAM}))])
    expected = served.model.frontend.decibels(torch.from_numpy(clip)[None])[0, 0].numpy()
    assert seen.spectrogram is not None
    assert seen.spectrogram.dtype == np.float16
    np.testing.assert_allclose(seen.spectrogram.astype(np.float32), expected, atol=LEVEL)
    assert seen.spectrogram.mean(axis=1).argmax() < 8, "a low tone is at the bottom"


def test_maps_are_the_channel_means_of_every_layer(engine: Engine, served: LoadedModel) -> None:
    """What a plain forward pass shows to a tap, averaged over the channels; shapes as the card says."""
    (clip,) = sounds(1)
    (seen,) = see(engine, served, [Window(clip, frozenset({Part.MAPS, Part.EMBEDDING}))])
    expected: dict[str, Tensor] = {}
    with torch.no_grad():
        served.model.network(
            served.model.frontend(torch.from_numpy(clip)[None]),
            lambda name, activation: expected.__setitem__(name, activation.float().clone()),
        )
    close(seen.embedding, expected.pop("embedding")[0])
    assert list(seen.maps) == list(expected) == list(served.model.network.structure())
    for layer, activation in expected.items():
        assert seen.maps[layer].dtype == np.float16
        close(seen.maps[layer], activation[0].mean(dim=0))
    assert {layer.name: tuple(layer.shape[1:]) for layer in served.card.layers} == {
        layer: values.shape for layer, values in seen.maps.items()
    }


def test_the_class_activation_is_a_picture_of_the_last_stage(engine: Engine, served: LoadedModel) -> None:
    """0 to 1, of its height and width, with a peak of one where anything spoke for the class."""
    answers = see(engine, served, [Window(clip, ALL) for clip in sounds(6)])
    for seen in answers:
        assert seen.cam is not None
        assert seen.cam.shape == seen.maps["layer2"].shape
        assert np.isfinite(seen.cam).all()
        assert seen.cam.min() >= 0
        assert seen.cam.max() in (0, 1)
    assert any(seen.cam is not None and seen.cam.max() == 1 for seen in answers)


def test_the_class_activation_is_of_the_class_that_is_asked_for(engine: Engine, served: LoadedModel) -> None:
    """Beside one that asks for none and gets that of its own first; all classes together tell more than one story."""
    own, *asked = see(engine, served, [Window(sounds(1)[0], ALL, cam_class=of) for of in (None, *range(5))])
    close(own.cam, asked[int(own.probabilities.argmax())].cam)
    pictures = [seen.cam for seen in asked if seen.cam is not None]
    assert len(pictures) == 5
    assert not all(np.allclose(pictures[0], other, atol=0.1) for other in pictures)


def test_numbers_that_are_not_finite_fail_one_window(engine: Engine, served: LoadedModel) -> None:
    """With an error that names the model; the neighbours get what they would have got alone."""
    good = sounds(2)
    bad = np.full(16_000, np.nan, np.float32)
    answers = engine.run(served, [Window(good[0], ALL), Window(bad, ALL), Window(good[1], ALL)])
    assert isinstance(answers[1], InferenceFailed)
    assert "tiny" in answers[1].detail
    for answer, clip in ((answers[0], good[0]), (answers[2], good[1])):
        (alone,) = see(engine, served, [Window(clip, ALL)])
        assert isinstance(answer, WindowOutput)
        close(answer.probabilities, alone.probabilities)
        close(answer.cam, alone.cam, 5 * TOLERANCE)


def test_an_answer_keeps_nothing_of_its_neighbours(engine: Engine, served: LoadedModel) -> None:
    """Arrays own their memory: a small answer does not hold the maps of the whole batch."""
    answers = see(engine, served, [Window(clip, ALL) for clip in sounds(4)])
    for seen in answers:
        for array in (seen.probabilities, seen.spectrogram, seen.embedding, seen.cam, *seen.maps.values()):
            assert array is not None
            assert array.base is None


def test_a_model_runs_under_the_name_of_its_directory(engine: Engine, tiny_models: Path, tmp_path: Path) -> None:
    """A copy can be served beside the original."""
    (tmp_path / "copy").symlink_to(tiny_models / "tiny")
    copied = engine.load(read_model(tmp_path / "copy"))
    assert (copied.name, copied.card.name) == ("copy", "copy")
    assert copied.card.classes == ["dog", "rain", "bell", "engine", "speech"]


def test_a_model_that_gives_nonsense_is_not_served(engine: Engine, tmp_path: Path) -> None:
    """The warm-up finds weights that no sound could be classified with."""
    write_tiny_model(tmp_path / "tiny")
    model = read_model(tmp_path / "tiny")
    for parameter in model.network.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(InferenceFailed):
        engine.load(model)


FULL = [
    torch.OutOfMemoryError("CUDA out of memory"),
    torch.AcceleratorError("CUDA error: out of memory\nand much more"),
]


@pytest.mark.parametrize("error", FULL, ids=["of PyTorch's", "of CUDA's"])
def test_a_model_is_served_whose_full_batch_does_not_fit(
    engine: Engine, tiny_models: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The warm-up shows it; a lack of memory is told as one whoever notices it, and takes no device away."""
    run = Engine._run

    def small(self: Engine, served: LoadedModel, windows: list[Window], alone: bool) -> list[WindowOutput | Exception]:
        if len(windows) > 2:
            raise error
        return run(self, served, windows, alone)

    monkeypatch.setattr(Engine, "_run", small)
    served = engine.load(read_model(tiny_models / "tiny"), warm_up=(1, 4))
    windows = [Window(clip) for clip in sounds(4)]
    with pytest.raises(torch.OutOfMemoryError):
        engine.run(served, windows)
    assert len(see(engine, served, windows[:2])) == 2


def test_what_a_failed_pass_held_is_let_go_of(
    engine: Engine, served: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its halves run, which need that memory: the error that is raised keeps none of it."""
    held: list[weakref.ref[Tensor]] = []

    def full(self: TorchBackend, features: Tensor, *_: object, **__: object) -> None:
        activation = features.clone()
        held.extend((weakref.ref(features), weakref.ref(activation)))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TorchBackend, "__call__", full)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        engine.run(served, [Window(clip) for clip in sounds(2)])
    assert [tensor() for tensor in held] == [None, None], raised.value


def test_two_versions_of_a_model_never_share_a_batch(engine: Engine, tiny_models: Path) -> None:
    """LoadedModel models are told apart by identity, however alike they are."""
    models = [engine.load(read_model(tiny_models / "tiny")) for _ in range(2)]
    assert models[0] != models[1]
    batches: list[tuple[LoadedModel, int]] = []

    def run(served: LoadedModel, windows: list[Window]) -> list[WindowOutput | Exception]:
        batches.append((served, len(windows)))
        return engine.run(served, windows)

    batcher: Batcher[Window, WindowOutput] = Batcher(run, size=4, window=1_000)
    futures = [batcher.submit(Window(clip), key=models[n % 2]) for n, clip in enumerate(sounds(4))]
    batcher.start()
    batcher.stop(timeout=20)
    assert all(isinstance(future.result(0), WindowOutput) for future in futures)
    assert sorted(size for _, size in batches) == [2, 2]
    assert {id(served) for served, _ in batches} == {id(model) for model in models}


@pytest.mark.usefixtures("cuda")
def test_the_gpu_agrees_with_the_cpu(engine: Engine, served: LoadedModel, tiny_models: Path) -> None:
    """Within what bfloat16 leaves: every part, in one batch."""
    device = Engine(torch.device("cuda"))
    there = device.load(read_model(tiny_models / "tiny"))
    windows = [Window(clip, ALL) for clip in sounds(5)]
    for gpu, cpu in zip(see(device, there, windows), see(engine, served, windows), strict=True):
        close(gpu.probabilities, cpu.probabilities, 0.03)
        close(gpu.spectrogram, cpu.spectrogram, 0.01)
        close(gpu.embedding, cpu.embedding, 0.03)
        for layer in cpu.maps:
            close(gpu.maps[layer], cpu.maps[layer], 0.03)
