"""Layers of a served model: what its card says of them, and what a window that asked for one gets."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from otoscope.types import Part, ReceptiveField
from tests.worker.test_engine import ALL, close, see, sounds
from worker.inference.engine import Engine, LoadedModel, SpectrogramOnly, Window, read_model
from worker.model.base import Network


@pytest.fixture(scope="module")
def served(engine: Engine, tiny_models: Path) -> LoadedModel:
    """The tiny model, ready to run."""
    return engine.load(read_model(tiny_models / "tiny"))


def test_the_card_says_what_feeds_each_layer(served: LoadedModel) -> None:
    """With its kind and how much of the spectrogram one of its cells can see."""
    described = [(layer.name, layer.kind, layer.inputs, layer.receptive_field) for layer in served.card.layers]
    assert described == [
        ("stem", "stem", [], ReceptiveField(start=-5, stride=4, size=11)),
        ("layer1.block1", "residual", ["stem"], ReceptiveField(start=-13, stride=4, size=27)),
        ("layer1", "stage", ["layer1.block1"], ReceptiveField(start=-13, stride=4, size=27)),
        ("layer2.block1", "residual", ["layer1"], ReceptiveField(start=-25, stride=8, size=51)),
        ("layer2", "stage", ["layer2.block1"], ReceptiveField(start=-25, stride=8, size=51)),
    ]


def test_a_network_that_does_not_know_its_inside_is_a_row_of_stages(
    engine: Engine, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fed by the one before; what a cell of it sees is not known; its channels can be looked at all the same."""
    model = read_model(tiny_models / "tiny")
    monkeypatch.setattr(model.network, "structure", lambda: Network.structure(model.network))
    unknown = engine.load(model)
    layers = unknown.card.layers
    assert [layer.inputs for layer in layers] == [[], *([layer.name] for layer in layers[:-1])]
    assert {(layer.kind, layer.receptive_field) for layer in layers} == {("stage", None)}
    (seen,) = see(engine, unknown, [Window(sounds(1)[0], layer="layer2")])
    assert list(seen.channels) == ["layer2"]


@pytest.mark.parametrize("layer", ["layer2", "layer2.block1"])
def test_a_residual_layer_is_what_it_adds_and_to_what(engine: Engine, served: LoadedModel, layer: str) -> None:
    """All of its channels, whose mean is its map; a stage is its last block under the stage's name."""
    (seen,) = see(engine, served, [Window(sounds(1)[0], frozenset({Part.MAPS}), layer)])
    assert seen.channels.keys() == {layer, f"{layer}.residual", f"{layer}.shortcut"}
    shape = next(tuple(known.shape) for known in served.card.layers if known.name == layer)
    assert {(values.shape, values.dtype) for values in seen.channels.values()} == {(shape, np.dtype(np.float16))}
    close(seen.channels[layer].astype(np.float32).mean(axis=0), seen.maps[layer])
    residual, shortcut = (seen.channels[f"{layer}.{part}"].astype(np.float32) for part in ("residual", "shortcut"))
    close(seen.channels[layer], np.maximum(residual + shortcut, 0), 1e-2)
    assert seen.maps.keys() == {known.name for known in served.card.layers}


def test_rows_of_a_batch_may_ask_for_different_layers(engine: Engine, served: LoadedModel) -> None:
    """Each gets its own, and what it would get alone; who asked for none gets none."""
    layers = ["stem", None, "layer1", "layer2.block1", "layer1", None, "layer1.block1"]
    windows = [
        Window(clip, ALL if number % 2 else frozenset(), layer)
        for number, (clip, layer) in enumerate(zip(sounds(len(layers)), layers, strict=True))
    ]
    for together, window in zip(see(engine, served, windows), windows, strict=True):
        (alone,) = see(engine, served, [window])
        assert (window.layer is None) == (together.channels == {})
        assert together.channels.keys() == alone.channels.keys()
        for name, values in together.channels.items():
            close(values, alone.channels[name])
            assert values.base is None, "it would keep the whole batch in memory"


def test_the_front_end_alone_runs_no_network(
    engine: Engine, served: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sounds of any lengths in one batch, each with the spectrogram that it has by itself."""

    def run(*_: object) -> nn.Module:
        raise AssertionError("the network was run")

    monkeypatch.setattr(served.model.network, "forward", run)
    clips = [sound[:length] for sound, length in zip(sounds(3, 40_000), (300, 16_000, 40_000), strict=True)]
    answers = engine.run(SpectrogramOnly(served), [Window(clip) for clip in clips])
    for answer, clip in zip(answers, clips, strict=True):
        expected = served.model.frontend.decibels(torch.from_numpy(clip)[None])[0, 0]
        assert not isinstance(answer, Exception)
        assert answer.spectrogram is not None
        np.testing.assert_allclose(answer.spectrogram, expected, atol=0.03)
        assert answer.spectrogram.base is None


def test_front_ends_of_one_model_are_one_key(served: LoadedModel, engine: Engine, tiny_models: Path) -> None:
    """So that stretches of several sounds share a batch, but never with those of another version."""
    assert {SpectrogramOnly(served): 1}[SpectrogramOnly(served)] == 1
    assert SpectrogramOnly(served) != SpectrogramOnly(engine.load(read_model(tiny_models / "tiny")))


@pytest.mark.usefixtures("cuda")
def test_the_gpu_shows_the_same_channels(engine: Engine, served: LoadedModel, tiny_models: Path) -> None:
    """Within what bfloat16 leaves: every layer in one batch, what a block adds, and the front end alone."""
    device = Engine(torch.device("cuda"))
    there = device.load(read_model(tiny_models / "tiny"))
    names = [layer.name for layer in served.card.layers]
    windows = [Window(clip, layer=name) for clip, name in zip(sounds(len(names)), names, strict=True)]
    for gpu, cpu in zip(see(device, there, windows), see(engine, served, windows), strict=True):
        assert gpu.channels.keys() == cpu.channels.keys()
        for name, values in cpu.channels.items():
            close(gpu.channels[name], values, 0.03)
    heard, here = (one.run(SpectrogramOnly(model), windows[:2]) for one, model in ((device, there), (engine, served)))
    for one, other in zip(heard, here, strict=True):
        assert not isinstance(one, Exception)
        assert not isinstance(other, Exception)
        close(one.spectrogram, other.spectrogram, 0.01)
