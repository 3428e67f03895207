"""aiSFX: a checkpoint with the names and shapes of the original gives the scores that its authors' network gives."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.support.noise import Noise, State
from training.base_models.add import add, find_source, given
from training.base_models.aisfx import CATEGORIES, FRONTEND, input_scale
from training.base_models.registry import AISFX
from training.errors import BaseModelError
from worker.model.architectures.cnn9 import Cnn9Config, MelPower
from worker.model.base import parameters
from worker.model.checkpoint import load_model
from worker.model.frontend import LogMel

MEMBER = "aisfx/models/checkpoint.pth"


def state() -> State:
    """The embedding network, and the classifiers of two libraries."""
    noise, inputs = Noise(), 1
    found: State = {}
    for number, outputs in enumerate((64, 128, 256, 512), start=1):
        for part, channels in ((1, inputs), (2, outputs)):
            name = f"embedding_net.conv_block{number}"
            found |= noise.layer(f"{name}.conv{part}", outputs, channels, 3, 3, bias=False)
            found |= noise.norm(f"{name}.bn{part}", outputs)
        inputs = outputs
    for library, categories in enumerate((CATEGORIES, 10)):
        for layer, (outputs, width) in {0: (256, 512), 2: (128, 256), 4: (categories, 128)}.items():
            found |= noise.layer(f"fc.{library}.{layer}", outputs, width)
    return found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the package has it: a tuple of the weights and the number of categories of each library."""
    path = tmp_path_factory.mktemp("aisfx") / "checkpoint.pth"
    torch.save((state(), {"prosfx": (np.int64(0), CATEGORIES), "other": (np.int64(1), 10)}), path)
    return path


@torch.no_grad()
def reference(weights: State, features: Tensor) -> Tensor:
    """The network of the paper: (batch, 1, time, mels) -> scores of the first library."""
    x = features
    for number in range(1, 5):
        name = f"embedding_net.conv_block{number}"
        for part in (1, 2):
            x = functional.conv2d(x, weights[f"{name}.conv{part}.weight"], padding=1)
            mean, variance, scale, offset = (
                weights[f"{name}.bn{part}.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
            )
            x = functional.batch_norm(x, mean, variance, scale, offset).relu()
        x = functional.max_pool2d(x, 2 if number < 4 else 1)
    x = x.mean(dim=3).amax(dim=2)
    for layer in (0, 2, 4):
        x = functional.linear(x.relu() if layer else x, weights[f"fc.0.{layer}.weight"], weights[f"fc.0.{layer}.bias"])
    return x


@torch.no_grad()
def test_weights_give_the_same_scores(checkpoint: Path, tmp_path: Path) -> None:
    added = add(AISFX, given(AISFX, checkpoint), tmp_path)
    model = load_model(added.directory)
    features = LogMel(FRONTEND)(torch.randn(2, FRONTEND.window_samples, generator=torch.Generator().manual_seed(0)))
    expected = reference(state(), model.network.input(features).transpose(2, 3))  # type: ignore[operator]
    torch.testing.assert_close(model.network(features), expected, rtol=5e-3, atol=5e-3 * float(expected.abs().max()))
    assert expected.std(dim=1).min() > 0.01
    assert (parameters(model.network), model.config.multi_label, model.config.parents) == (4_860_430, False, {})
    card = (added.directory / "README.md").read_text()
    assert "CC BY 4.0" in card
    assert "AudioSet" not in card


@torch.no_grad()
def test_features_are_those_of_the_original_front_end() -> None:
    """Noise and a tone, in YAMNet's mel rows: the level is that of log10(1 + 10⁴ p) / 9.46 with windows of 46 ms at
    44.1 kHz, to a hundredth of its range."""
    rate, seconds = 44_100, 2
    generator = np.random.default_rng(0)
    spectrum = np.fft.rfft(generator.normal(size=rate * seconds) * 0.05)
    spectrum[np.fft.rfftfreq(rate * seconds, 1 / rate) >= 8_000] = 0
    fine = np.fft.irfft(spectrum)
    coarse = np.fft.irfft(spectrum[: 8_000 * seconds + 1]) * 16_000 / rate
    power = np.mean(
        [
            np.abs(np.fft.rfft(fine[at : at + 2_048] * np.hanning(2_048))) ** 2
            for at in range(0, len(fine) - 2_048, 512)
        ],
        axis=0,
    )
    band = power[(np.fft.rfftfreq(2_048, 1 / rate) > 1_000) & (np.fft.rfftfreq(2_048, 1 / rate) < 7_000)].mean()
    expected = np.log10(1 + 1e4 * band) / 9.457798957824707

    layer = MelPower(Cnn9Config(classes=2))
    layer.scale.copy_(input_scale())
    found = layer(LogMel(FRONTEND)(torch.from_numpy(coarse[None]).float()))
    assert float(found[..., 20:60, :].mean()) == pytest.approx(expected, abs=0.01)


def test_the_wheel_of_the_package_is_read(checkpoint: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "aisfx-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.write(checkpoint, MEMBER)
    from_file, from_wheel = (AISFX.convert(path).state_dict() for path in (checkpoint, wheel))
    assert all(torch.equal(value, from_wheel[name]) for name, value in from_file.items())


def test_another_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.whl"
    text.write_bytes(b"no archive")
    empty = tmp_path / "empty.whl"
    with zipfile.ZipFile(empty, "w") as file:
        file.writestr("other", b"")
    damaged = tmp_path / "damaged.whl"
    with zipfile.ZipFile(damaged, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(MEMBER, checkpoint.read_bytes()[:1_000])
    content = damaged.read_bytes()
    at = content.index(MEMBER.encode()) + len(MEMBER)
    damaged.write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    for path, message in (
        (text, "not a complete zip archive"),
        (empty, f"holds 0 files {MEMBER}"),
        (damaged, "not a complete zip archive"),
    ):
        with pytest.raises(BaseModelError, match=message):
            AISFX.convert(path)
    weights = state()
    del weights["embedding_net.conv_block2.conv1.weight"]
    torch.save((weights, {}), tmp_path / "cut.pth")
    with pytest.raises(BaseModelError, match="is not aiSFX"):
        AISFX.convert(tmp_path / "cut.pth")


def test_the_package_is_named_where_it_is_missing() -> None:
    """Its dependencies are of 2022, so that it is installed without them."""
    with pytest.raises(BaseModelError, match="pip install --no-deps aisfx"):
        find_source(AISFX, "package")
