"""Calibration for 8-bit inference: input ranges of the convolutions, measured on training clips."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests.support.tiny_recipe import TINY, changed
from training.data.base import Clip, Dataset
from training.data.esc50 import load_esc50
from training.errors import EvaluationError
from training.eval.evaluate import evaluate
from training.export.quantise import quantise
from training.fit.loop import train
from worker.model.architectures import build_network, parse
from worker.model.checkpoint import load_model, read_config
from worker.model.fake_quant import convolutions, quantised


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with fold 3 held out."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(changed(TINY, epochs=4), load_esc50(data), 3, out)
    return out


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "tiny"))


def test_ranges_of_every_convolution_but_the_first(model: Path, data: Path) -> None:
    """The first convolution, on the spectrogram, is not quantised; weights and the rest of the config are unchanged."""
    before, weights = read_config(model), (model / "model.safetensors").read_bytes()
    config = quantise(model, load_esc50(data))
    assert read_config(model) == config == before.model_copy(update={"int8_ranges": config.int8_ranges})
    assert (model / "model.safetensors").read_bytes() == weights
    network = load_model(model).network
    assert set(config.int8_ranges) == {name for name, _ in convolutions(network)}
    assert "stem.0.0" not in config.int8_ranges
    assert not any(
        part.groups > 1 for _, part in convolutions(build_network(parse({"type": "mobilenet-v1", "classes": 2})))
    )
    assert all(low >= 0 < high for low, high in config.int8_ranges.values()), "each convolution follows a ReLU"


def record_loaded_clips(patch: pytest.MonkeyPatch) -> list[Clip]:
    """The clips that are decoded from now on."""
    loaded: list[Clip] = []
    load = Dataset.load

    def seen(self: Dataset, clips: list[Clip], *rest: int) -> tuple[Tensor, Tensor]:
        loaded.extend(clips)
        return load(self, clips, *rest)

    patch.setattr(Dataset, "load", seen)
    return loaded


def test_held_out_fold_is_not_used(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges from test clips would let these clips influence the model."""
    loaded = record_loaded_clips(monkeypatch)
    quantise(model, load_esc50(data))
    assert {clip.fold for clip in loaded} == {1, 2}


def test_clips_are_spread_evenly(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No fold or class at the end of the table is left out."""
    dataset, loaded = load_esc50(data), record_loaded_clips(monkeypatch)
    quantise(model, dataset, clips=10)
    positions = [dataset.split(3)[0].index(clip) for clip in loaded]
    gaps = {after - before for before, after in pairwise([*positions, 24])}
    assert (len(positions), positions[0], gaps) == (10, 0, {2, 3})


def test_quantised_network_stays_on_its_device(model: Path, data: Path) -> None:
    """On the device `meta`, in place of a GPU: no tensor of the copy is created elsewhere."""
    ranges = quantise(model, load_esc50(data)).int8_ranges
    rounding = quantised(load_model(model).network.to("meta"), ranges)
    assert {tensor.device.type for tensor in rounding.state_dict().values()} == {"meta"}


def test_int8_accuracy_can_be_measured(model: Path, data: Path) -> None:
    """The probabilities hardly change; without ranges, the error names the command that measures them."""
    dataset = load_esc50(data)
    with pytest.raises(EvaluationError, match="otoscope quantise"):
        evaluate(model, dataset, precision="int8")
    quantise(model, dataset)
    exact, rounded = (evaluate(model, dataset, precision=p) for p in ("float32", "int8"))
    assert rounded.precision == "int8"
    difference = np.abs(exact.probabilities - rounded.probabilities).max()
    assert 0 < difference < 0.05
