"""The network and its front end."""

import subprocess

import pytest
import torch

from tests.conftest import PYTHON, ROOT
from tests.support.mel import evenly
from worker.model.activations import ActivationRecorder
from worker.model.architectures.resnet import ResidualCNN, ResNetConfig
from worker.model.base import parameters
from worker.model.frontend import FrontendConfig, LogMel


def small(**options: object) -> ResidualCNN:
    torch.manual_seed(0)
    config = ResNetConfig(classes=5, depths=(2, 1), widths=(8, 16), dropout=(0.5,)).model_copy(update=options)
    return ResidualCNN(ResNetConfig.model_validate(config.model_dump())).eval()


def test_the_default_network_has_the_parameters_of_earlier_systems() -> None:
    """3, 4, 6, 3 blocks at 64 to 512 channels and 50 classes: 21,304,050."""
    assert parameters(ResidualCNN(ResNetConfig(classes=50))) == 21_304_050


def test_layers_are_named_in_the_order_of_computation() -> None:
    """A hook gets exactly the layers of the structure, and the embedding."""
    names: list[str] = []
    network = small()
    network(torch.randn(1, 1, 32, 40), lambda name, _: names.append(name))
    assert names == [*network.structure(), "embedding"]
    assert names[:-1] == ["stem", "layer1.block1", "layer1.block2", "layer1", "layer2.block1", "layer2"]


def test_a_cnn_without_a_stem_has_maps_and_class_activation() -> None:
    """Three plain blocks: every layer is named, pooling halves its size, and Grad-CAM works on the last one."""
    network = small(stem=False, block="plain", depths=(1, 1, 1), widths=(4, 8, 16))
    recorder = ActivationRecorder(network, maps=[0], embedding=[0], cam=[0])
    with torch.no_grad():
        logits = network(torch.randn(1, 1, 32, 40), recorder)
    assert list(recorder.maps) == ["layer1.block1", "layer1", "layer2.block1", "layer2", "layer3.block1", "layer3"]
    assert [tuple(values.shape) for values in recorder.maps.values()] == [
        (1, 32, 40), (1, 32, 40), (1, 16, 20), (1, 16, 20), (1, 8, 10), (1, 8, 10),
    ]  # fmt: skip
    assert recorder.cam(evenly(32), logits.argmax(dim=1)).shape == (1, 8, 10)


@torch.no_grad()
def test_a_hook_changes_nothing() -> None:
    """There is one forward pass, with and without a hook: the logits are equal to the last bit."""
    network, x = small(), torch.randn(3, 1, 32, 40)
    assert torch.equal(network(x), network(x, lambda *_: None))


@torch.no_grad()
@pytest.mark.parametrize("size", [(128, 251), (128, 173), (96, 77), (33, 31)])
@pytest.mark.parametrize("options", [{}, {"squeeze_excitation": True}, {"feature_pyramid": True},
                                     {"squeeze_excitation": True, "feature_pyramid": True, "head": (12,),
                                      "dropout": (0.5, 0.3)}, {"stem": False, "block": "plain"}])  # fmt: skip
def test_options_work_at_odd_sizes(options: dict[str, object], size: tuple[int, int]) -> None:
    """Squeeze-and-excitation and the pyramid, whose coarse levels are not half of the finer ones."""
    network = small(**options)
    assert network(torch.randn(2, 1, *size)).shape == (2, 5)
    assert (parameters(network) == parameters(small())) == (not options)


@torch.no_grad()
def test_neighbours_do_not_change_an_output() -> None:
    """A clip beside a loud one, and alone: the same log-mel and the same logits, within rounding."""
    frontend, network = LogMel(FrontendConfig()), small(squeeze_excitation=True, feature_pyramid=True)
    quiet, loud = torch.randn(1, 16_000) * 1e-3, torch.randn(1, 16_000)
    together = torch.cat([quiet, loud])
    torch.testing.assert_close(frontend(together)[:1], frontend(quiet), rtol=0, atol=1e-5)
    torch.testing.assert_close(network(frontend(together))[:1], network(frontend(quiet)), rtol=1e-4, atol=1e-4)


def test_the_log_mel_equals_that_of_torchaudio() -> None:
    """The same numbers as MelSpectrogram and AmplitudeToDB, within the rounding of float32, above the floor."""
    from worker.model.compat.torchaudio import torchaudio

    config = FrontendConfig()
    wave = torch.randn(2, 16_000) * 0.1
    power = torchaudio.transforms.MelSpectrogram(
        config.sample_rate, config.n_fft, hop_length=config.hop, f_min=config.f_min, f_max=config.f_max,
        n_mels=config.n_mels,
    )(wave)  # fmt: skip
    expected = torchaudio.transforms.AmplitudeToDB("power")(power).clamp_min(config.floor_db)  # (2, mels, frames)
    torch.testing.assert_close(LogMel(config).decibels(wave)[:, 0], expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("rate", "n_fft", "hop"), [(16_000, 1_024, 320), (22_050, 1_024, 512), (44_100, 2_048, 512)])
def test_no_mel_row_is_empty(rate: int, n_fft: int, hop: int) -> None:
    """Every mel filter of the usual front ends covers at least one frequency bin."""
    config = FrontendConfig(sample_rate=rate, n_fft=n_fft, hop=hop, f_max=rate / 2)
    assert (LogMel(config).bank.sum(dim=0) > 0).all()
    assert LogMel(config)(torch.zeros(1, config.window_samples)).shape[-1] == config.window_frames


def test_empty_mel_row_is_refused() -> None:
    """128 mels with an FFT of 1,024 points at 44.1 kHz: some filters cover no bin."""
    config = FrontendConfig(sample_rate=44_100, n_fft=1_024, hop=512, f_max=22_050)
    with pytest.raises(ValueError, match="mel filters are empty"):
        LogMel(config)


@pytest.mark.parametrize("wrong", [{"f_max": 9_000}, {"f_min": 8_000}, {"hop": 2_000}, {"std": 0}, {"colour": 1}])
def test_inconsistent_front_end_is_refused(wrong: dict[str, float]) -> None:
    """A range beyond half the rate, a hop that skips samples, a zero deviation, an unknown key."""
    with pytest.raises(
        ValueError, match=next(iter(wrong)).split("_")[0] if "f_" not in next(iter(wrong)) else "mel range"
    ):
        FrontendConfig.model_validate(wrong)


def test_digital_silence_is_finite() -> None:
    """Zeros become the floor, not minus infinity."""
    decibels = LogMel(FrontendConfig()).decibels(torch.zeros(1, 16_000))
    assert (decibels == -50).all()


def test_torchaudio_imports_beside_any_torch() -> None:
    """In a new process, whether or not its compiled extension can be loaded."""
    code = "from worker.model.compat.torchaudio import torchaudio; torchaudio.transforms.Resample(8000, 16000)"
    subprocess.run([PYTHON, "-c", code], cwd=ROOT, check=True, timeout=100)
