"""Layers of a loaded model: their description in its card, and all channels of a requested layer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from otoscope.arithmetic import LOGITS, Cell
from otoscope.types import Part, ReceptiveField
from tests.worker.test_engine import ALL, close, run_all, sounds
from worker.inference.engine import Engine, LoadedModel, SpectrogramOnly, Window, read_model
from worker.model.architectures import build_network
from worker.model.architectures.parallel import ParallelConfig
from worker.model.base import Network


@pytest.fixture(scope="module")
def loaded(engine: Engine, tiny_models: Path) -> LoadedModel:
    """The tiny model, loaded."""
    return engine.load(read_model(tiny_models / "tiny"))


def test_the_card_has_the_inputs_of_each_layer(loaded: LoadedModel) -> None:
    """With its kind, and the receptive field of one of its cells in the spectrogram."""
    described = [(layer.name, layer.kind, layer.inputs, layer.receptive_field) for layer in loaded.card.layers]
    assert described == [
        ("stem", "stem", [], ReceptiveField(start=-5, stride=4, size=11)),
        ("layer1.block1", "residual", ["stem"], ReceptiveField(start=-13, stride=4, size=27)),
        ("layer1", "stage", ["layer1.block1"], ReceptiveField(start=-13, stride=4, size=27)),
        ("layer2.block1", "residual", ["layer1"], ReceptiveField(start=-25, stride=8, size=51)),
        ("layer2", "stage", ["layer2.block1"], ReceptiveField(start=-25, stride=8, size=51)),
    ]


def test_a_network_without_a_structure_is_a_chain_of_stages(
    engine: Engine, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input of each layer is the one before; receptive fields are unknown; channels can still be requested."""
    model = read_model(tiny_models / "tiny")
    monkeypatch.setattr(model.network, "structure", lambda: Network.structure(model.network))
    unknown = engine.load(model)
    layers = unknown.card.layers
    assert [layer.inputs for layer in layers] == [[], *([layer.name] for layer in layers[:-1])]
    assert {(layer.kind, layer.receptive_field) for layer in layers} == {("stage", None)}
    (output,) = run_all(engine, unknown, [Window(sounds(1)[0], layer="layer2")])
    assert list(output.channels) == ["layer2"]


def test_each_of_several_networks_without_a_structure_begins_at_the_spectrogram(
    engine: Engine, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not fed by the network beside it."""
    model = read_model(tiny_models / "tiny")
    own = model.config.architecture
    joined = ParallelConfig.model_validate({"classes": own.classes, "parts": {"one": own, "other": own}})
    monkeypatch.setattr(type(model.network), "structure", Network.structure)
    config = model.config.model_copy(update={"architecture": joined})
    layers = engine.load(replace(model, config=config, network=build_network(joined).eval())).card.layers
    assert [layer.name for layer in layers if not layer.inputs] == ["one.stem", "other.stem"]
    assert all(layer.inputs[0].startswith(layer.name.partition(".")[0]) for layer in layers if layer.inputs)


@pytest.mark.parametrize("layer", ["layer2", "layer2.block1"])
def test_a_residual_layer_has_its_residual_and_its_shortcut(engine: Engine, loaded: LoadedModel, layer: str) -> None:
    """All of its channels, whose mean is its map; a stage is its last block, under the stage's name."""
    (output,) = run_all(engine, loaded, [Window(sounds(1)[0], frozenset({Part.MAPS}), layer)])
    assert output.channels.keys() == {layer, f"{layer}.residual", f"{layer}.shortcut"}
    shape = next(tuple(known.shape) for known in loaded.card.layers if known.name == layer)
    assert {(values.shape, values.dtype) for values in output.channels.values()} == {(shape, np.dtype(np.float16))}
    close(output.channels[layer].astype(np.float32).mean(axis=0), output.maps[layer])
    residual, shortcut = (output.channels[f"{layer}.{part}"].astype(np.float32) for part in ("residual", "shortcut"))
    close(output.channels[layer], np.maximum(residual + shortcut, 0), 1e-2)
    assert output.maps.keys() == {known.name for known in loaded.card.layers}


def test_rows_of_a_batch_may_request_different_layers(engine: Engine, loaded: LoadedModel) -> None:
    """Each gets its own, as it would alone; a row without a request gets none."""
    layers = ["stem", None, "layer1", "layer2.block1", "layer1", None, "layer1.block1"]
    windows = [
        Window(clip, ALL if number % 2 else frozenset(), layer)
        for number, (clip, layer) in enumerate(zip(sounds(len(layers)), layers, strict=True))
    ]
    for together, window in zip(run_all(engine, loaded, windows), windows, strict=True):
        (alone,) = run_all(engine, loaded, [window])
        assert (window.layer is None) == (together.channels == {})
        assert together.channels.keys() == alone.channels.keys()
        for name, values in together.channels.items():
            close(values, alone.channels[name])
            assert values.base is None, "it would keep the whole batch in memory"


def test_the_front_end_alone_runs_no_network(
    engine: Engine, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sounds of any lengths in one batch, each with the spectrogram that it has alone."""

    def run(*_: object) -> nn.Module:
        raise AssertionError("the network was run")

    monkeypatch.setattr(loaded.model.network, "forward", run)
    clips = [sound[:length] for sound, length in zip(sounds(3, 40_000), (300, 16_000, 40_000), strict=True)]
    outputs = engine.run(SpectrogramOnly(loaded), [Window(clip) for clip in clips])
    for output, clip in zip(outputs, clips, strict=True):
        expected = loaded.model.frontend.decibels(torch.from_numpy(clip)[None])[0, 0]
        assert not isinstance(output, Exception)
        assert output.spectrogram is not None
        np.testing.assert_allclose(output.spectrogram, expected, atol=0.03)
        assert output.spectrogram.base is None


def test_front_ends_of_one_model_are_one_key(loaded: LoadedModel, engine: Engine, tiny_models: Path) -> None:
    """So that chunks of several sounds share a batch, but never with those of another version of the model."""
    assert {SpectrogramOnly(loaded): 1}[SpectrogramOnly(loaded)] == 1
    assert SpectrogramOnly(loaded) != SpectrogramOnly(engine.load(read_model(tiny_models / "tiny")))


@pytest.mark.usefixtures("cuda")
def test_the_gpu_shows_the_same_channels(engine: Engine, loaded: LoadedModel, tiny_models: Path) -> None:
    """Within the precision of bfloat16: every layer in one batch, residuals, and the front end alone."""
    device = Engine(torch.device("cuda"))
    there = device.load(read_model(tiny_models / "tiny"))
    names = [layer.name for layer in loaded.card.layers]
    windows = [Window(clip, layer=name) for clip, name in zip(sounds(len(names)), names, strict=True)]
    for gpu, cpu in zip(run_all(device, there, windows), run_all(engine, loaded, windows), strict=True):
        assert gpu.channels.keys() == cpu.channels.keys()
        for name, values in cpu.channels.items():
            close(gpu.channels[name], values, 0.03)
    on_gpu, on_cpu = (
        one.run(SpectrogramOnly(model), windows[:2]) for one, model in ((device, there), (engine, loaded))
    )
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert not isinstance(one, Exception)
        assert not isinstance(other, Exception)
        close(one.spectrogram, other.spectrogram, 0.01)


@pytest.mark.parametrize("cell", [Cell("layer2.block1", 3, 1, 4), Cell("stem", 0, 0, 0), Cell(LOGITS, 2)])
def test_the_arithmetic_of_a_cell_is_that_of_its_channel(engine: Engine, loaded: LoadedModel, cell: Cell) -> None:
    """The number that is explained is the one on the map, within the rounding of the service; other windows of the
    batch have none."""
    layer = None if cell.layer == LOGITS else cell.layer
    windows = [Window(sound, layer=layer) for sound in sounds(2)]
    other, output = run_all(engine, loaded, [windows[0], replace(windows[1], cell=cell)])
    assert other.operations is None
    assert output.operations is not None
    if layer is None:
        probabilities = torch.tensor(output.logits).softmax(dim=0)
        close(output.probabilities, probabilities)
        assert output.operations[0].value == pytest.approx(output.logits[2], abs=1e-4)
    else:
        close(output.channels[layer][cell.channel, cell.row, cell.column], output.operations[0].value)
