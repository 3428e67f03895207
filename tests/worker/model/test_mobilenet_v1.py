"""MobileNet-v1 on patches: what it shares with the other networks, and what patches mean for embedding and maps."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.support.mel import evenly
from tests.support.receptive_fields import changed_columns
from worker.model.activations import ActivationRecorder
from worker.model.architectures import build_network, parse
from worker.model.architectures.mobilenet_v1 import MobileNetConfig, MobileNetV1
from worker.model.architectures.resnet import ResNetConfig
from worker.model.base import Need, parameters
from worker.model.checkpoint import Model, ModelConfig, load_model, save_model
from worker.model.frontend import FrontendConfig, LogMel

YAMNET = FrontendConfig(
    n_fft=512, win_length=400, center=False, hop=160, n_mels=64, f_min=125, f_max=7_500, spectrum="magnitude",
    log_offset=1e-3, floor_db=-60, window_seconds=0.975,
)  # fmt: skip


def small(**options: object) -> MobileNetV1:
    torch.manual_seed(0)
    config = MobileNetConfig.model_validate({"classes": 5, "width": 0.25, **options})
    return MobileNetV1(config).eval()


def test_the_size_is_that_of_yamnet() -> None:
    """Its 3.7 million parameters, with batch normalisation folded into the convolutions."""
    assert parameters(MobileNetV1(MobileNetConfig(classes=521))) == 3_729_481


@torch.no_grad()
@pytest.mark.parametrize("hop", [48, 96])
def test_the_embedding_is_the_mean_over_patches(hop: int) -> None:
    """Each patch passes through the network on its own; frames behind the last whole patch are not used."""
    network, x = small(patch_hop=hop), torch.randn(2, 1, 64, 250)
    expected = torch.stack([network(x[..., first : first + 96]) for first in range(0, 250 - 95, hop)]).mean(dim=0)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_time_is_linear_in_the_columns_of_a_map() -> None:
    """Patches that do not overlap lie side by side, with zeros behind the last; a hook changes no logits."""
    network, x = small(), torch.randn(2, 1, 64, 250)
    recorder = ActivationRecorder(network, maps=[0, 1], embedding=[0], cam=[1], channels={"layer5": [0]})
    logits = network(x, recorder)
    assert torch.equal(logits, network(x))
    assert list(recorder.maps) == list(network.structure())
    assert recorder.maps["stem"].shape == (2, 32, 125)
    assert not recorder.maps["stem"][..., 2 * 48 :].any()
    first: dict[str, Tensor] = {}
    network(x[..., 96:192], lambda name, activation: first.__setitem__(name, activation))
    torch.testing.assert_close(recorder.maps["layer4.block1"][..., 6:12], first["layer4.block1"].mean(dim=1))
    assert recorder.channels["layer5", "layer5"].shape == (1, 256, 2, 8)
    assert recorder.cam(evenly(64), logits[1:].argmax(dim=1)).shape == (1, 2, 8)


@torch.no_grad()
def test_a_hook_gets_what_it_needs() -> None:
    """The maps are means over the channels, whether the hook needs these or not; what it does not need is left out."""
    network, x = small(), torch.randn(2, 1, 64, 250)
    whole: dict[str, Tensor] = {}
    network(x, whole.__setitem__)
    recorder = ActivationRecorder(network, maps=[1], embedding=[], cam=[], channels={"layer2": [0]})
    network(x, recorder)
    assert list(recorder.maps) == list(network.structure())
    for name, shown in recorder.maps.items():
        torch.testing.assert_close(shown, whole[name][1:].mean(dim=1))
    assert torch.equal(recorder.channels["layer2", "layer2"], whole["layer2"][:1])

    class OnlyOne(dict[str, Tensor]):
        def need(self, name: str) -> Need:
            return "mean" if name == "layer3.block1" else "nothing"

        __call__ = dict.__setitem__

    network(x, some := OnlyOne())
    assert [(name, list(shown.shape)) for name, shown in some.items()] == [
        ("layer3.block1", [2, 1, 8, 32]), ("embedding", [2, 256])
    ]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("layers", [13, 9])
def test_a_cell_depends_on_its_receptive_field_within_its_patch(layers: int) -> None:
    """A changed frame changes cells of its own patch only, and of those no cell with another receptive field."""
    network, x, frame = small(layers=layers, patch_hop=96), torch.rand(1, 1, 64, 288), 120
    assert network.pooled_layers == tuple(network.structure())[-1:]
    reached = changed_columns(network, x, frame)
    for name, node in network.structure().items():
        field, (changed, expected) = node.receptive_field, reached[name]
        assert field.patch == 96
        assert set() < changed <= expected, name
        assert {column * field.stride // field.patch for column in changed} == {frame // field.patch}, name


@torch.no_grad()
def test_a_short_sound_is_one_patch() -> None:
    """Its last frame is repeated."""
    network, x = small(), torch.randn(1, 1, 64, 40)
    torch.testing.assert_close(network(x), network(torch.cat([x, x[..., -1:].expand(-1, -1, -1, 56)], dim=3)))


def test_patches_fit_the_strides() -> None:
    with pytest.raises(ValidationError, match="multiple of 32"):
        MobileNetConfig(classes=2, patch_frames=100)
    with pytest.raises(ValidationError, match="patch_hop"):
        MobileNetConfig(classes=2, patch_hop=50)


def test_fine_tuning_keeps_the_weights_and_takes_the_rest_of_the_recipe() -> None:
    """Dropout and hop between patches change no weights; a recipe of another network changes nothing."""
    own = MobileNetConfig(classes=2, width=0.5)
    wanted = MobileNetConfig(classes=2, width=1.0, dropout=(0.3,), patch_hop=96)
    assert own.fine_tuned_as(wanted) == own.model_copy(update={"dropout": (0.3,), "patch_hop": 96})
    assert own.fine_tuned_as(ResNetConfig(classes=2)) == own


@torch.no_grad()
def test_a_multi_label_model_has_a_sigmoid_for_each_class(tmp_path: Path) -> None:
    """Saved, loaded, and with probabilities that do not sum to 1."""
    config = parse({"type": "mobilenet-v1", "classes": 3, "width": 0.25, "batch_norm": True})
    save_model(
        tmp_path / "m", build_network(config),
        ModelConfig(name="m", architecture=config, frontend=YAMNET, classes=("a", "b", "c"), multi_label=True),
    )  # fmt: skip
    model = load_model(tmp_path / "m")
    assert isinstance(model, Model)
    probabilities = model.probabilities(torch.tensor([[8.0, 0.0, 8.0]]))
    torch.testing.assert_close(probabilities, torch.tensor([[8.0, 0.0, 8.0]]).sigmoid())


def test_the_front_end_is_that_of_yamnet() -> None:
    """The formula of its code, one frame at a time: windows of 25 ms padded with zeros, magnitudes, log(x + 0.001)."""
    frontend = LogMel(YAMNET)
    wave = torch.randn(2, YAMNET.window_samples) * 0.1
    frames = wave.unfold(1, 400, 160) * torch.hann_window(400)  # (2, frames, 400)
    mels = torch.fft.rfft(frames, 512).abs() @ frontend.bank  # (2, frames, mels)
    expected = torch.log(mels + 1e-3).transpose(1, 2)
    assert expected.shape[2] == YAMNET.window_frames == 96
    decibels = frontend.decibels(wave)[:, 0]
    torch.testing.assert_close(decibels / (20 / torch.log(torch.tensor(10.0))), expected, rtol=0, atol=1e-4)


def test_a_level_is_a_gain_before_the_offset() -> None:
    """The features of a quiet sound that is brought to a level are those of the louder sound."""
    frontend = LogMel(YAMNET.model_copy(update={"level_dbfs": -20.0}))
    wave = torch.randn(1, YAMNET.window_samples) * 0.1
    torch.testing.assert_close(frontend(wave * 0.05), frontend(wave), rtol=0, atol=0.01)
    assert (frontend.decibels(wave * 0.05) < frontend.decibels(wave)).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"win_length": 600}, "longer than n_fft"), ({"hop": 500}, "skips samples"), ({"window_seconds": 0.02}, "short")],
)
def test_windows_of_the_front_end_are_checked(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FrontendConfig.model_validate({**YAMNET.model_dump(), **wrong})
