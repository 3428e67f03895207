"""EfficientAT: a checkpoint with the names and shapes of the original gives the scores that its papers describe."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.support.mel import kaldi_filters
from tests.support.noise import Noise, State
from training.base_models.add import add, given
from training.base_models.registry import MN10_AS
from training.errors import BaseModelError
from worker.model.base import parameters
from worker.model.checkpoint import load_model
from worker.model.frontend import LogMel

# Table 1 of arXiv:1905.02244: kernel, expansion, outputs, squeeze-and-excitation, hard swish, stride.
LARGE = [
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
]  # fmt: skip
HIDDEN = {72: 24, 120: 32, 480: 120, 672: 168, 960: 240}
"""Expansion -> hidden width of the gates: a quarter, as a multiple of 8."""


@pytest.fixture(scope="module")
def state() -> State:
    noise, inputs = Noise(), 16
    found = {**noise.layer("features.0.0", 16, 1, 3, 3, bias=False), **noise.norm("features.0.1", 16)}
    for number, (kernel, wide, outputs, gated, _, _) in enumerate(LARGE, start=1):
        name, at = f"features.{number}.block", 0
        if wide != inputs:
            found |= noise.layer(f"{name}.{at}.0", wide, inputs, 1, 1, bias=False) | noise.norm(f"{name}.{at}.1", wide)
            at += 1
        found |= noise.layer(f"{name}.{at}.0", wide, 1, kernel, kernel, bias=False) | noise.norm(f"{name}.{at}.1", wide)
        if gated:
            at += 1
            found |= noise.layer(f"{name}.{at}.conc_se_layers.0.fc1", HIDDEN[wide], wide)
            found |= noise.layer(f"{name}.{at}.conc_se_layers.0.fc2", wide, HIDDEN[wide])
        at += 1
        found |= noise.layer(f"{name}.{at}.0", outputs, wide, 1, 1, bias=False) | noise.norm(f"{name}.{at}.1", outputs)
        inputs = outputs
    found |= noise.layer("features.16.0", 960, 160, 1, 1, bias=False) | noise.norm("features.16.1", 960)
    found |= noise.layer("classifier.2", 1_280, 960)
    weight = noise(527, 1_280) * 0.003  # for logits of about 2, after residual sums that grow from block to block
    return {**found, "classifier.5.weight": weight, "classifier.5.bias": noise(527)}


def features(wave: Tensor) -> Tensor:
    """(samples,) -> (1, 1, mels, frames): power spectrum of the pre-emphasised signal, frame by frame."""
    samples = wave.double().numpy()
    padded = np.pad(samples[1:] - 0.97 * samples[:-1], 512, mode="reflect")
    window = np.zeros(1_024)
    window[112:912] = np.hanning(800)
    frames = np.stack([padded[at : at + 1_024] * window for at in range(0, len(padded) - 1_023, 320)])
    mels = np.abs(np.fft.rfft(frames)) ** 2 @ kaldi_filters(32_000, 1_024, 128, 0.0, 15_000.0)
    return torch.from_numpy((np.log(mels.T + 1e-5) + 4.5) / 5).float()[None, None]


def scores(state: State, x: Tensor) -> Tensor:
    def convolved(name: str, x: Tensor, *, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = state[f"{name}.0.weight"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[2] // 2, groups=groups)
        mean, variance, scale, offset = (
            state[f"{name}.1.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, scale, offset, eps=1e-3)

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = functional.hardswish(convolved("features.0", x, stride=2))
    for number, (_, wide, outputs, gated, hard, stride) in enumerate(LARGE, start=1):
        name, at, before = f"features.{number}.block", 0, x
        activation = functional.hardswish if hard else functional.relu
        if wide != x.shape[1]:
            x = activation(convolved(f"{name}.{at}", x))
            at += 1
        x = activation(convolved(f"{name}.{at}", x, stride=stride, groups=wide))
        if gated:
            at += 1
            hidden = linear(f"{name}.{at}.conc_se_layers.0.fc1", x.mean(dim=(2, 3))).relu()
            x = x * linear(f"{name}.{at}.conc_se_layers.0.fc2", hidden).sigmoid()[..., None, None]
        x = convolved(f"{name}.{at + 1}", x)
        if stride == 1 and before.shape[1] == outputs:
            x = x + before
    x = functional.hardswish(convolved("features.16", x))
    hidden = functional.hardswish(linear("classifier.2", x.mean(dim=(2, 3))))
    return linear("classifier.5", hidden).sigmoid()


@pytest.mark.slow
@torch.no_grad()
def test_the_scores_are_those_of_the_papers(state: State, tmp_path: Path) -> None:
    """From the waveform on, also after saving with weights of 16 bits. The file has as many numbers as the original."""
    assert (len(state), sum(each.numel() for each in state.values())) == (312, 4_901_277)
    torch.save(state, tmp_path / "mn10_as.pt")
    network = MN10_AS.convert(tmp_path / "mn10_as.pt")
    assert parameters(network) == 4_876_831
    added = add(MN10_AS, given(MN10_AS, tmp_path / "mn10_as.pt"), tmp_path)
    saved = load_model(added.directory)
    generator = torch.Generator().manual_seed(1)
    noise, tone = torch.randn(64_000, generator=generator) * 0.1, torch.sin(torch.arange(64_000) * 0.3) * 0.5
    found = []
    for wave in (noise, tone):
        expected = scores(state, features(wave))
        found.append(expected)
        torch.testing.assert_close(network(LogMel(MN10_AS.frontend)(wave[None])).sigmoid(), expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(saved.network(saved.frontend(wave[None])).sigmoid(), expected, rtol=0, atol=0.01)
    assert found[0].std() > 0.05
    assert (found[0] - found[1]).abs().max() > 0.05
    assert saved.config.frontend.window_frames == 1_000
    assert saved.config.licence.startswith("MIT")


def test_another_width_is_refused(state: State, tmp_path: Path) -> None:
    """Such as the weights of mn20_as."""
    torch.save({**state, "features.0.0.weight": torch.zeros(32, 1, 3, 3)}, tmp_path / "mn20_as.pt")
    with pytest.raises(BaseModelError, match=r"is not mn10_as of EfficientAT: features\.0\.0\.weight has the shape"):
        MN10_AS.convert(tmp_path / "mn20_as.pt")


def test_another_head_is_refused(state: State, tmp_path: Path) -> None:
    """EfficientAT also has heads of convolutions, and attention."""
    torch.save({**state, "classifier.7.weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(BaseModelError, match=r"it also has classifier\.7\.weight"):
        MN10_AS.convert(tmp_path / "other.pt")
