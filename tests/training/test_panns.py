"""Networks of PANNs: a checkpoint with the names and shapes of the original gives the scores that its paper describes.

The checkpoints themselves are not used: they have 300 MB.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tests.support.mel import slaney_filters
from tests.support.noise import Noise, State
from training.base_models.add import add, find_source, given
from training.base_models.panns import FRONTEND_16K, FRONTEND_32K
from training.base_models.registry import PANNS_CNN14, PANNS_CNN14_16K, PANNS_MOBILENETV2, BaseModel, OfficialFile
from training.errors import BaseModelError
from worker.model.base import parameters
from worker.model.checkpoint import load_model
from worker.model.frontend import FrontendConfig, LogMel

CLASSES = 527
SIZES = {
    "panns-cnn14-16k": (16_000, 512, 160, 8_000.0),
    "panns-cnn14": (32_000, 1_024, 320, 14_000.0),
    "panns-mobilenetv2": (32_000, 1_024, 320, 14_000.0),
}
"""Sample rate, window, hop and highest frequency, as the README of the original states them."""


def front_end_weights(rate: int, size: int, highest: float) -> State:
    """The constant weights of the original's front end, and the statistics of its mel rows."""
    noise, filters = Noise(), slaney_filters(rate, size, 64, 50.0, highest)
    return {
        "spectrogram_extractor.stft.conv_real.weight": torch.zeros(size // 2 + 1, 1, size),
        "spectrogram_extractor.stft.conv_imag.weight": torch.zeros(size // 2 + 1, 1, size),
        "logmel_extractor.melW": torch.from_numpy(filters).float(),
        **noise.norm("bn0", 64),
        "bn0.running_mean": noise(64) * 5 - 35,
        "bn0.running_var": noise(64).square() * 20 + 300,
    }


def cnn14_state(name: str) -> State:
    rate, size, _, highest = SIZES[name]
    noise, state, inputs = Noise(), front_end_weights(rate, size, highest), 1
    for number, outputs in enumerate((64, 128, 256, 512, 1_024, 2_048), start=1):
        for part, channels in ((1, inputs), (2, outputs)):
            state |= noise.layer(f"conv_block{number}.conv{part}", outputs, channels, 3, 3, bias=False)
            state |= noise.norm(f"conv_block{number}.bn{part}", outputs)
        inputs = outputs
    state |= noise.layer("fc1", 2_048, 2_048)
    return {**state, **noise.layer("fc_audioset", CLASSES, 2_048), "fc_audioset.bias": noise(CLASSES)}


def decibels(name: str, waves: Tensor) -> Tensor:
    """(batch, samples) -> (batch, 1, frames, 64): the front end, frame by frame."""
    rate, size, hop, highest = SIZES[name]
    padded = np.pad(waves.double().numpy(), ((0, 0), (size // 2, size // 2)), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    starts = range(0, padded.shape[1] - size + 1, hop)
    power = np.stack([np.abs(np.fft.rfft(padded[:, at : at + size] * window)) ** 2 for at in starts], axis=1)
    mels = power @ slaney_filters(rate, size, 64, 50.0, highest)
    return torch.from_numpy(10 * np.log10(np.maximum(mels, 1e-10))).float()[:, None]


def normalised(state: State, name: str, x: Tensor) -> Tensor:
    """Batch normalisation of the channels of (batch, channels, ...)."""
    mean, variance, scale, offset = (
        state[f"{name}.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
    )
    return functional.batch_norm(x, mean, variance, scale, offset, eps=1e-5)


def rows_normalised(state: State, x: Tensor) -> Tensor:
    """(batch, 1, frames, mels), each mel with its own statistics."""
    return normalised(state, "bn0", x.transpose(1, 3)).transpose(1, 3)


def classified(state: State, x: Tensor) -> Tensor:
    """(batch, channels, frames, mels) -> scores (batch, classes)."""
    means = x.mean(dim=3)
    hidden = functional.linear(means.max(dim=2)[0] + means.mean(dim=2), state["fc1.weight"], state["fc1.bias"]).relu()
    return functional.linear(hidden, state["fc_audioset.weight"], state["fc_audioset.bias"]).sigmoid()


def cnn14_scores(state: State, name: str, waves: Tensor) -> Tensor:
    """(batch, samples) -> scores (batch, classes), as the paper describes the network."""
    x = rows_normalised(state, decibels(name, waves))
    for number in range(1, 7):
        for part in (1, 2):
            kernel = state[f"conv_block{number}.conv{part}.weight"]
            x = normalised(state, f"conv_block{number}.bn{part}", functional.conv2d(x, kernel, padding=1)).relu()
        if number < 6:
            x = functional.avg_pool2d(x, 2)
    return classified(state, x)


# Table 2 of arXiv:1801.04381, with the strides of PANNs: expansion, outputs, number, stride of the first one.
BOTTLENECKS = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 2),
    (6, 160, 3, 1),
    (6, 320, 1, 1),
]


def bottlenecks() -> Iterator[tuple[str, int, int, int, int]]:
    """Name, inputs, expansion, outputs and stride of each block."""
    inputs, number = 32, 0
    for expansion, outputs, count, first in BOTTLENECKS:
        for index in range(count):
            number += 1
            yield f"features.{number}.conv", inputs, expansion, outputs, first if index == 0 else 1
            inputs = outputs


def mobilenet_state(name: str) -> State:
    rate, size, _, highest = SIZES[name]
    noise, state = Noise(), front_end_weights(rate, size, highest)

    def normed(name: str, norm: str, *shape: int) -> State:
        return noise.layer(name, *shape, bias=False) | noise.norm(norm, shape[0])

    state |= normed("features.0.0", "features.0.2", 32, 1, 3, 3)
    for block, inputs, expansion, outputs, _ in bottlenecks():
        wide, at = inputs * expansion, 0
        if expansion > 1:
            state |= normed(f"{block}.0", f"{block}.1", wide, inputs, 1, 1)
            at = 3
        state |= normed(f"{block}.{at}", f"{block}.{at + 2}", wide, 1, 3, 3)
        state |= normed(f"{block}.{at + 4}", f"{block}.{at + 5}", outputs, wide, 1, 1)
    state |= normed("features.18.0", "features.18.1", 1_280, 320, 1, 1)
    state |= noise.layer("fc1", 1_024, 1_280)
    return {**state, "fc_audioset.weight": noise(CLASSES, 1_024) * 0.05, "fc_audioset.bias": noise(CLASSES)}


def mobilenet_scores(state: State, name: str, waves: Tensor) -> Tensor:
    """(batch, samples) -> scores (batch, classes), as the papers describe the network."""

    def convolved(kernel: str, norm: str, x: Tensor, *, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{kernel}.weight"]
        x = functional.conv2d(x, weight, padding=weight.shape[2] // 2, groups=groups)
        return normalised(state, norm, functional.avg_pool2d(x, stride))

    x = rows_normalised(state, decibels(name, waves))
    x = functional.relu6(convolved("features.0.0", "features.0.2", x, stride=2))
    for block, inputs, expansion, outputs, stride in bottlenecks():
        before, at = x, 0
        if expansion > 1:
            x = functional.relu6(convolved(f"{block}.0", f"{block}.1", x))
            at = 3
        groups = inputs * expansion
        x = functional.relu6(convolved(f"{block}.{at}", f"{block}.{at + 2}", x, stride=stride, groups=groups))
        x = convolved(f"{block}.{at + 4}", f"{block}.{at + 5}", x)
        if stride == 1 and inputs == outputs:
            x = x + before
    return classified(state, functional.relu6(convolved("features.18.0", "features.18.1", x)))


NETWORKS: list[tuple[BaseModel, Callable[[str], State], Callable[[State, str, Tensor], Tensor], int]] = [
    (PANNS_CNN14_16K, cnn14_state, cnn14_scores, 80_753_615),
    (PANNS_CNN14, cnn14_state, cnn14_scores, 80_753_615),
    (PANNS_MOBILENETV2, mobilenet_state, mobilenet_scores, 4_075_343),
]


def sounds(frontend: FrontendConfig) -> Tensor:
    """(2, samples): noise of 1.5 s, and a tone that begins after digital silence."""
    generator = torch.Generator().manual_seed(1)
    samples = round(1.5 * frontend.sample_rate)
    tone = torch.sin(torch.arange(samples) * 0.3) * 0.5
    tone[: samples // 2] = 0
    return torch.stack([torch.randn(samples, generator=generator) * 0.1, tone])


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "weights", "scores", "size"),
    [pytest.param(*NETWORKS[0], marks=pytest.mark.long), *NETWORKS[1:]],  # of the two of 80M parameters one is enough
    ids=lambda one: getattr(one, "name", ""),
)
def test_the_scores_are_those_of_the_paper(
    model: BaseModel,
    weights: Callable[[str], State],
    scores: Callable[[State, str, Tensor], Tensor],
    size: int,
    tmp_path: Path,
) -> None:
    """From the waveform on: front end and network, also after saving them with weights of 16 bits. The directory states
    source, licence and ontology."""
    state, waves = weights(model.name), sounds(model.frontend)
    torch.save({"iteration": 600_000, "model": state}, tmp_path / "weights.pth")
    expected = scores(state, model.name, waves)
    assert expected.std() > 0.05
    assert (expected[0] - expected[1]).abs().max() > 0.05
    network = model.convert(tmp_path / "weights.pth")
    assert parameters(network) == size
    torch.testing.assert_close(network(LogMel(model.frontend)(waves)).sigmoid(), expected, rtol=0, atol=1e-3)
    added = add(model, given(model, tmp_path / "weights.pth"), tmp_path)
    assert added.difference is None
    saved = load_model(added.directory)
    torch.testing.assert_close(saved.network(saved.frontend(waves)).sigmoid(), expected, rtol=0, atol=0.01)
    assert (saved.config.classes[0], saved.config.classes[-1]) == ("Speech", "Field recording")
    assert saved.config.parents["Bark"] == ("Dog",)
    assert saved.config.licence == model.licence
    assert saved.config.frontend.window_seconds == 10
    card = (added.directory / "README.md").read_text()
    assert model.credit in card
    assert "could not be compared" in card


def old_checkpoint(path: Path, content: dict[str, object]) -> None:
    """As torch 1.4 and numpy 1 wrote it: one file of pickles, which calls numpy's package by its older name."""
    torch.save(content, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert b"numpy._core.multiarray" in data
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


def test_a_checkpoint_of_a_training_is_read(tmp_path: Path) -> None:
    """The 16 kHz file also has the order of the clips, as arrays; its weights are not those of CNN14 here."""
    order: NDArray[np.int64] = np.arange(10)
    old_checkpoint(tmp_path / "a.pth", {"model": {"other.weight": torch.zeros(2)}, "sampler": {"indexes": order}})
    with pytest.raises(BaseModelError, match=r"it has no bn0\.weight"):
        PANNS_CNN14_16K.convert(tmp_path / "a.pth")


class Unsafe:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("raise SystemExit",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    """Neither an object itself nor one in an array of objects."""
    for number, unsafe in enumerate((Unsafe(), np.array([Unsafe()]))):
        torch.save({"model": {}, "sampler": unsafe}, tmp_path / f"{number}.pth")
        with pytest.raises(BaseModelError, match="cannot be read as weights of PyTorch"):
            PANNS_CNN14_16K.convert(tmp_path / f"{number}.pth")


def test_weights_for_another_sample_rate_are_refused(tmp_path: Path) -> None:
    """The networks for 16 and 32 kHz have the same shapes: the mel filters in the file tell them apart."""
    for one, other in (("panns-cnn14-16k", PANNS_CNN14), ("panns-cnn14", PANNS_CNN14_16K)):
        torch.save(front_end_weights(*(SIZES[one][at] for at in (0, 1, 3))), tmp_path / f"{one}.pth")  # type: ignore[arg-type]
        with pytest.raises(BaseModelError, match=r"another front end: .* at (32,000|16,000) Hz"):
            other.convert(tmp_path / f"{one}.pth")


def test_superfluous_weights_and_other_shapes_are_refused(tmp_path: Path) -> None:
    """The weights of a network with the same first layers."""
    state = {**front_end_weights(16_000, 512, 8_000.0), **Noise().norm("bn0", 32)}
    torch.save(state, tmp_path / "shape.pth")
    with pytest.raises(BaseModelError, match=r"bn0\.weight has the shape \[32\], not \[64\]"):
        PANNS_CNN14_16K.convert(tmp_path / "shape.pth")


def test_a_file_without_a_known_checksum_is_not_downloaded() -> None:
    """The error names its address."""
    with pytest.raises(BaseModelError, match=r"its file with --from: https://zenodo\.org/records/3987831/files/Mobile"):
        find_source(PANNS_MOBILENETV2, None)


def test_a_known_file_of_the_user_has_the_licence_of_its_address(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"weights")
    official = OfficialFile("https://example.org/weights.pth", hashlib.sha256(b"weights").hexdigest(), "CC0")
    assert given(replace(PANNS_CNN14, download=official), tmp_path / "weights.pth").licence == "CC0"
    assert given(PANNS_CNN14, tmp_path / "weights.pth").licence.startswith("CC BY 4.0")


def test_front_ends_are_those_of_the_readme() -> None:
    for name, frontend in (("panns-cnn14-16k", FRONTEND_16K), ("panns-cnn14", FRONTEND_32K)):
        assert (frontend.sample_rate, frontend.n_fft, frontend.hop, frontend.f_max) == SIZES[name]
