"""From a trained model to one that runs in 8 bits: what its convolutions are given, on clips that it was trained on."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests.training.conftest import TINY, changed
from training.data.base import Clip, Dataset
from training.data.esc50 import load_esc50
from training.errors import EvaluationError
from training.eval.evaluate import evaluate
from training.export.quantise import quantise
from training.fit.loop import train
from worker.model.checkpoint import load_model, read_config
from worker.model.fake_quant import convolutions, quantised


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With fold 3 held out."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    train(changed(TINY, epochs=4), load_esc50(data), 3, out)
    return out


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "tiny"))


def test_the_ranges_are_of_every_convolution_but_the_first(model: Path, data: Path) -> None:
    """Which sees the spectrogram; weights and everything else in the config stay as they were."""
    before, weights = read_config(model), (model / "model.safetensors").read_bytes()
    config = quantise(model, load_esc50(data))
    assert read_config(model) == config == before.model_copy(update={"int8_ranges": config.int8_ranges})
    assert (model / "model.safetensors").read_bytes() == weights
    network = load_model(model).network
    assert set(config.int8_ranges) == {name for name, _ in convolutions(network)}
    assert "stem.0.0" not in config.int8_ranges
    assert all(low >= 0 < high for low, high in config.int8_ranges.values()), "a ReLU is before each"


def watched(patch: pytest.MonkeyPatch) -> list[Clip]:
    """The clips that are decoded from now on."""
    asked: list[Clip] = []
    load = Dataset.load

    def seen(self: Dataset, clips: list[Clip], *rest: int) -> tuple[Tensor, Tensor]:
        asked.extend(clips)
        return load(self, clips, *rest)

    patch.setattr(Dataset, "load", seen)
    return asked


def test_the_held_out_fold_has_no_say(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range from it would be a choice by the clips that the model is measured on."""
    asked = watched(monkeypatch)
    quantise(model, load_esc50(data))
    assert {clip.fold for clip in asked} == {1, 2}


def test_clips_are_chosen_from_beginning_to_end(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As evenly as their number allows, so that no fold or class at the end is left out."""
    dataset, asked = load_esc50(data), watched(monkeypatch)
    quantise(model, dataset, clips=10)
    places = [dataset.split(3)[0].index(clip) for clip in asked]
    gaps = {after - before for before, after in pairwise([*places, 24])}
    assert (len(places), places[0], gaps) == (10, 0, {2, 3})


def test_ranges_are_applied_where_the_network_is(model: Path, data: Path) -> None:
    """On `meta` here, for want of a GPU: nothing of the copy is made elsewhere."""
    ranges = quantise(model, load_esc50(data)).int8_ranges
    rounding = quantised(load_model(model).network.to("meta"), ranges)
    assert {tensor.device.type for tensor in rounding.state_dict().values()} == {"meta"}


def test_what_eight_bits_cost_can_be_measured(model: Path, data: Path) -> None:
    """Nearly nothing; before the ranges are there, the way to them is told."""
    dataset = load_esc50(data)
    with pytest.raises(EvaluationError, match="otoscope quantise"):
        evaluate(model, dataset, precision="int8")
    quantise(model, dataset)
    exact, rounded = (evaluate(model, dataset, precision=p) for p in ("float32", "int8"))
    assert rounded.precision == "int8"
    difference = np.abs(exact.probabilities - rounded.probabilities).max()
    assert 0 < difference < 0.05
