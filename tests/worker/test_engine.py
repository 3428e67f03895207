"""One batch on the device: the output of each window, alone and among others."""

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
from worker.model.frontend import FrontendConfig, LogMel
from worker.model.occlusion import TILES, muted
from worker.model.precision import native_bf16

# Batches of other sizes take other paths through the matrix multiplications, which round differently: in float32 by
# some millionths, where the network runs in bfloat16 (8 bits of mantissa) by up to a hundredth.
TOLERANCE = 2e-2 if native_bf16(torch.device("cpu")) else 1e-4
LEVEL = 0.1  # dB, for float16 spectrograms

ALL = frozenset(Part)


@pytest.fixture(scope="module")
def loaded(engine: Engine, tiny_models: Path) -> LoadedModel:
    """The tiny model, loaded."""
    return engine.load(read_model(tiny_models / "tiny"), warm_up=(1, 4))


def sounds(count: int, samples: int = 16_000) -> list[NDArray[np.float32]]:
    """Different sounds: tones under noise."""
    rng = np.random.default_rng(count)
    time = np.arange(samples) / 16_000
    return [
        (0.3 * np.sin(2 * np.pi * 200 * (n + 1) * time) + 0.1 * rng.standard_normal(samples)).astype(np.float32)
        for n in range(count)
    ]


def run_all(engine: Engine, loaded: LoadedModel, windows: list[Window]) -> list[WindowOutput]:
    """Run windows that must all succeed."""
    outputs = engine.run(loaded, windows)
    assert all(isinstance(output, WindowOutput) for output in outputs), outputs
    return [output for output in outputs if isinstance(output, WindowOutput)]


def close(a: object, b: object, tolerance: float = TOLERANCE) -> None:
    """Equal within the tolerance, of the larger of the values, and of float16 within one step."""
    step = 2.0**-10 if np.float16 in (np.asarray(a).dtype, np.asarray(b).dtype) else 0.0
    there, here = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert there.shape == here.shape
    np.testing.assert_allclose(there, here, rtol=step, atol=tolerance * max(1.0, float(np.abs(here).max())))


def test_probabilities_are_of_all_classes(engine: Engine, loaded: LoadedModel) -> None:
    """One a class, positive, adding up to one."""
    for output in run_all(engine, loaded, [Window(sound) for sound in sounds(3)]):
        assert output.probabilities.shape == (5,)
        assert output.probabilities.dtype == np.float32
        assert (output.probabilities > 0).all()
        assert output.probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_confidence_is_calibrated_by_the_models_temperature(engine: Engine, tiny_models: Path) -> None:
    """A higher temperature lowers the confidence of the same first class."""
    model = read_model(tiny_models / "tiny")
    hot = replace(model, config=model.config.model_copy(update={"temperature": 4.0}))
    window = Window(sounds(1)[0])
    (cool,), (warm,) = (run_all(engine, engine.load(one), [window]) for one in (model, hot))
    expected = cool.probabilities ** (1 / 4)
    close(warm.probabilities, expected / expected.sum())
    assert warm.probabilities.argmax() == cool.probabilities.argmax()
    assert warm.probabilities.max() < cool.probabilities.max()


def test_the_output_of_a_window_is_the_same_alone_and_in_a_batch(engine: Engine, loaded: LoadedModel) -> None:
    """Every part, within the rounding of the arithmetic: its neighbours never change a clip's output."""
    loud = np.full(16_000, 1.0, np.float32)
    windows = [Window(sound, ALL) for sound in [*sounds(5), loud, np.zeros(16_000, np.float32)]]
    for together, window in zip(run_all(engine, loaded, windows), windows, strict=True):
        (alone,) = run_all(engine, loaded, [window])
        close(together.probabilities, alone.probabilities)
        close(together.spectrogram, alone.spectrogram)
        close(together.embedding, alone.embedding)
        close(together.cam, alone.cam, 5 * TOLERANCE)  # a quotient of small numbers
        assert together.maps.keys() == alone.maps.keys()
        for layer in alone.maps:
            close(together.maps[layer], alone.maps[layer])


def test_parts_are_computed_for_the_windows_that_request_them(engine: Engine, loaded: LoadedModel) -> None:
    """Each window gets its own, in any mixture."""
    requested = [
        frozenset[Part](), frozenset({Part.MAPS}), frozenset({Part.CAM, Part.SPECTROGRAM}), frozenset({Part.EMBEDDING}),
        frozenset({Part.MAPS, Part.CAM}), frozenset({Part.WINDOWS, Part.WAVEFORM}),
    ]  # fmt: skip
    clips = sounds(len(requested))
    mixed = run_all(engine, loaded, [Window(clip, parts) for clip, parts in zip(clips, requested, strict=True)])
    for output, clip, parts in zip(mixed, clips, requested, strict=True):
        assert (output.spectrogram is not None) == (Part.SPECTROGRAM in parts)
        assert (output.embedding is not None) == (Part.EMBEDDING in parts)
        assert (output.cam is not None) == (Part.CAM in parts)
        assert bool(output.maps) == (Part.MAPS in parts)
        (alone,) = run_all(engine, loaded, [Window(clip, ALL)])
        if output.embedding is not None:
            close(output.embedding, alone.embedding)
        if output.spectrogram is not None:
            close(output.spectrogram, alone.spectrogram)
        if output.cam is not None:
            close(output.cam, alone.cam, 5 * TOLERANCE)
        for layer, values in output.maps.items():
            close(values, alone.maps[layer])


def test_the_spectrogram_is_that_of_the_front_end(engine: Engine, loaded: LoadedModel) -> None:
    """In dB, not normalised, lowest frequency first."""
    (clip,) = sounds(1)
    (output,) = run_all(engine, loaded, [Window(clip, frozenset({Part.SPECTROGRAM}))])
    expected = loaded.model.frontend.decibels(torch.from_numpy(clip)[None])[0, 0].numpy()
    assert output.spectrogram is not None
    assert output.spectrogram.dtype == np.float16
    np.testing.assert_allclose(output.spectrogram.astype(np.float32), expected, atol=LEVEL)
    assert output.spectrogram.mean(axis=1).argmax() < 8, "a low tone is in the first rows"


def test_maps_are_the_channel_means_of_every_layer(engine: Engine, loaded: LoadedModel) -> None:
    """The activations that a hook gets, averaged over the channels; with the shapes in the model card."""
    (clip,) = sounds(1)
    (output,) = run_all(engine, loaded, [Window(clip, frozenset({Part.MAPS, Part.EMBEDDING}))])
    expected: dict[str, Tensor] = {}
    with torch.no_grad():
        loaded.model.network(
            loaded.model.frontend(torch.from_numpy(clip)[None]),
            lambda name, activation: expected.__setitem__(name, activation.float().clone()),
        )
    close(output.embedding, expected.pop("embedding")[0])
    assert list(output.maps) == list(expected) == list(loaded.model.network.structure())
    for layer, activation in expected.items():
        assert output.maps[layer].dtype == np.float16
        close(output.maps[layer], activation[0].mean(dim=0))
    assert {layer.name: tuple(layer.shape[1:]) for layer in loaded.card.layers} == {
        layer: values.shape for layer, values in output.maps.items()
    }


def test_the_class_activation_map_has_the_size_of_the_last_stage(engine: Engine, loaded: LoadedModel) -> None:
    """Values 0 to 1, with a maximum of one if there is any evidence for the class."""
    outputs = run_all(engine, loaded, [Window(clip, ALL) for clip in sounds(6)])
    for output in outputs:
        assert output.cam is not None
        assert output.cam.shape == output.maps["layer2"].shape
        assert np.isfinite(output.cam).all()
        assert output.cam.min() >= 0
        assert output.cam.max() in (0, 1)
    assert any(output.cam is not None and output.cam.max() == 1 for output in outputs)


def test_the_class_activation_map_is_of_the_requested_class(engine: Engine, loaded: LoadedModel) -> None:
    """Without a requested class it is that of the window's first class; different classes have different maps."""
    own, *requested = run_all(engine, loaded, [Window(sounds(1)[0], ALL, cam_class=of) for of in (None, *range(5))])
    close(own.cam, requested[int(own.probabilities.argmax())].cam)
    maps = [output.cam for output in requested if output.cam is not None]
    assert len(maps) == 5
    assert not all(np.allclose(maps[0], other, atol=0.1) for other in maps)


def test_tiles_of_a_spectrogram_are_muted_for_their_window_alone(engine: Engine, loaded: LoadedModel) -> None:
    """Windows of the same samples share a spectrogram, and each has its own tile muted; the others are as alone."""
    one, other = sounds(2)
    windows = [
        Window(one, ALL), Window(one, ALL, muted=0), Window(other), Window(one, muted=TILES - 1), Window(other, ALL),
    ]  # fmt: skip
    together = run_all(engine, loaded, windows)
    for output, window in zip(together, windows, strict=True):
        (alone,) = run_all(engine, loaded, [replace(window, samples=window.samples.copy())])
        close(output.probabilities, alone.probabilities)
        for layer, values in output.maps.items():
            close(values, alone.maps[layer])
    whole, muted = together[0], together[1]
    close(whole.spectrogram, muted.spectrogram)  # of the sound: muting is for the network
    height, width = whole.maps["stem"].shape
    change = np.abs(whole.maps["stem"] - muted.maps["stem"])
    assert change[: height // 6, : width // 10].max() > 10 * TOLERANCE
    assert change[height // 2 :].max() == change[:, width // 2 :].max() == 0


def test_each_tile_is_muted_once() -> None:
    """Together they are the whole spectrogram, whatever its size; the first is the lowest frequency at the start."""
    for mels, frames in ((32, 101), (64, 998), (8, 11)):
        frontend = LogMel(FrontendConfig(n_mels=mels))
        tiles = torch.stack([muted(frontend, tile, frames) for tile in range(TILES)])
        assert (tiles.sum(dim=0) == 1).all()
        assert tiles[0, 0, 0]
        assert tiles[-1, -1, -1]
    assert Part.OCCLUSION.info.passes == TILES + 1  # and once with all of it


def test_a_tile_has_the_same_frequencies_in_every_spectrogram() -> None:
    """Also where the mels of one are not at the frequencies of those of the other."""
    narrow, wide = FrontendConfig(n_mels=60, f_min=125, f_max=4_000), FrontendConfig(n_mels=90)
    frontend = LogMel(narrow.model_copy(update={"stacked": (wide,)}))
    of_narrow, of_wide = LogMel(narrow).bank, LogMel(wide).bank  # (bins, mels)
    tops = []
    for tile in range(0, TILES, 10):
        rows = muted(frontend, tile, 100)[:, 0]
        assert rows[:60].sum() == 10
        tops.append(int(rows[60:].nonzero().max()))
        if tile < 50:
            heard = (of_narrow[:, rows[:60]].sum(dim=1) > 0).nonzero().max()
            muted_too = (of_wide[:, rows[60:]].sum(dim=1) > 0).nonzero().max()
            assert abs(int(heard) - int(muted_too)) <= 8, "bins of 16 Hz"
    assert tops == sorted(tops)
    assert tops[-1] == 89, "what is above the spectrogram that is shown belongs to its highest row"


def test_a_moment_of_a_repeated_sound_is_muted_wherever_it_is() -> None:
    """In the same mels of all repetitions; a tile that is longer than the sound mutes all of them."""
    frontend = LogMel(FrontendConfig(n_mels=12))
    for period in (25, 7):
        for tile in (3, TILES - 1):
            first = 10 * (tile % 10)
            frames = [any((frame - one) % period == 0 for one in range(first, first + 10)) for frame in range(100)]
            rows = slice(0, 2) if tile < 10 else slice(10, 12)
            expected = torch.zeros(12, 100, dtype=torch.bool)
            expected[rows] = torch.tensor(frames)
            assert torch.equal(muted(frontend, tile, 100, period), expected)


def test_numbers_that_are_not_finite_fail_one_window(engine: Engine, loaded: LoadedModel) -> None:
    """With an error that names the model; the outputs of its neighbours are those they have alone."""
    good = sounds(2)
    bad = np.full(16_000, np.nan, np.float32)
    outputs = engine.run(loaded, [Window(good[0], ALL), Window(bad, ALL), Window(good[1], ALL)])
    assert isinstance(outputs[1], InferenceFailed)
    assert "tiny" in outputs[1].detail
    for output, clip in ((outputs[0], good[0]), (outputs[2], good[1])):
        (alone,) = run_all(engine, loaded, [Window(clip, ALL)])
        assert isinstance(output, WindowOutput)
        close(output.probabilities, alone.probabilities)
        close(output.cam, alone.cam, 5 * TOLERANCE)


def test_an_output_keeps_no_memory_of_its_neighbours(engine: Engine, loaded: LoadedModel) -> None:
    """Arrays own their memory: a small output does not keep the maps of the whole batch."""
    outputs = run_all(engine, loaded, [Window(clip, ALL) for clip in sounds(4)])
    for output in outputs:
        for array in (output.probabilities, output.spectrogram, output.embedding, output.cam, *output.maps.values()):
            assert array is not None
            assert array.base is None


def test_a_model_runs_under_the_name_of_its_directory(engine: Engine, tiny_models: Path, tmp_path: Path) -> None:
    """A copy can be loaded beside the original."""
    (tmp_path / "copy").symlink_to(tiny_models / "tiny")
    copied = engine.load(read_model(tmp_path / "copy"))
    assert (copied.name, copied.card.name) == ("copy", "copy")
    assert copied.card.classes == ["dog", "rain", "bell", "engine", "speech"]


def test_a_model_with_nan_weights_is_not_loaded(engine: Engine, tmp_path: Path) -> None:
    """The warm-up finds weights with which no sound can be classified."""
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


@pytest.mark.parametrize("error", FULL, ids=["PyTorch allocator", "CUDA"])
def test_a_model_is_loaded_whose_full_batch_does_not_fit(
    engine: Engine, tiny_models: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The warm-up skips that size. Every kind of out-of-memory is raised as OutOfMemoryError, never as DeviceLost."""
    run = Engine._run

    def small(self: Engine, loaded: LoadedModel, windows: list[Window], alone: bool) -> list[WindowOutput | Exception]:
        if len(windows) > 2:
            raise error
        return run(self, loaded, windows, alone)

    monkeypatch.setattr(Engine, "_run", small)
    loaded = engine.load(read_model(tiny_models / "tiny"), warm_up=(1, 4))
    windows = [Window(clip) for clip in sounds(4)]
    with pytest.raises(torch.OutOfMemoryError):
        engine.run(loaded, windows)
    assert len(run_all(engine, loaded, windows[:2])) == 2


def test_a_failed_pass_frees_its_memory(engine: Engine, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its halves run, which need that memory: the raised error references none of it."""
    held: list[weakref.ref[Tensor]] = []

    def full(self: TorchBackend, features: Tensor, *_: object, **__: object) -> None:
        activation = features.clone()
        held.extend((weakref.ref(features), weakref.ref(activation)))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TorchBackend, "__call__", full)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        engine.run(loaded, [Window(clip) for clip in sounds(2)])
    assert [tensor() for tensor in held] == [None, None], raised.value


def test_two_versions_of_a_model_never_share_a_batch(engine: Engine, tiny_models: Path) -> None:
    """Loaded models are compared by identity."""
    models = [engine.load(read_model(tiny_models / "tiny")) for _ in range(2)]
    assert models[0] != models[1]
    batches: list[tuple[LoadedModel, int]] = []

    def run(loaded: LoadedModel, windows: list[Window]) -> list[WindowOutput | Exception]:
        batches.append((loaded, len(windows)))
        return engine.run(loaded, windows)

    batcher: Batcher[Window, WindowOutput] = Batcher(run, size=4, window=1_000)
    futures = [batcher.submit(Window(clip), key=models[n % 2]) for n, clip in enumerate(sounds(4))]
    batcher.start()
    batcher.stop(timeout=20)
    assert all(isinstance(future.result(0), WindowOutput) for future in futures)
    assert sorted(size for _, size in batches) == [2, 2]
    assert {id(loaded) for loaded, _ in batches} == {id(model) for model in models}


@pytest.mark.usefixtures("cuda")
def test_the_gpu_agrees_with_the_cpu(engine: Engine, loaded: LoadedModel, tiny_models: Path) -> None:
    """Within the precision of bfloat16: every part, in one batch."""
    device = Engine(torch.device("cuda"))
    there = device.load(read_model(tiny_models / "tiny"))
    windows = [Window(clip, ALL) for clip in sounds(5)]
    for gpu, cpu in zip(run_all(device, there, windows), run_all(engine, loaded, windows), strict=True):
        close(gpu.probabilities, cpu.probabilities, 0.03)
        close(gpu.spectrogram, cpu.spectrogram, 0.01)
        close(gpu.embedding, cpu.embedding, 0.03)
        for layer in cpu.maps:
            close(gpu.maps[layer], cpu.maps[layer], 0.03)


@pytest.mark.usefixtures("cuda")
def test_a_batch_that_exceeds_the_memory_of_the_gpu_is_halved(tiny_models: Path) -> None:
    """With the memory that PyTorch may use limited to half of what the batch takes: every window has its result."""
    device = torch.device("cuda")
    gpu = Engine(device)
    there = gpu.load(read_model(tiny_models / "tiny"))
    windows = [Window(clip) for clip in sounds(4)] * 128
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    idle = torch.cuda.memory_reserved()
    expected = run_all(gpu, there, windows)
    needed = torch.cuda.max_memory_reserved() - idle
    batches: list[int] = []

    def run(loaded: LoadedModel, items: list[Window]) -> list[WindowOutput | Exception]:
        batches.append(len(items))
        return gpu.run(loaded, items)

    batcher: Batcher[Window, WindowOutput] = Batcher(run, size=len(windows), window=1_000)
    futures = [batcher.submit(window, key=there) for window in windows]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((idle + needed / 2) / torch.cuda.mem_get_info()[1])
    try:
        batcher.start()
        outputs = [future.result(60) for future in futures]
        batcher.stop(timeout=20)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert batches[0] == len(windows) > batches[-1]
    for output, other in zip(outputs, expected, strict=True):
        close(output.probabilities, other.probabilities, 0.03)
