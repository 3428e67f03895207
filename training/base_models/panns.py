"""Networks of PANNs (Kong et al., 2020, arXiv:1912.10211) as model directories: 527 classes of AudioSet, several at
once.

Networks, front ends and names of the weights follow https://github.com/qiuqiangkong/audioset_tagging_cnn, whose
checkpoints are at https://zenodo.org/records/3987831. There time is before frequency; here it is behind it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from training.base_models.sources import read_pytorch, with_weights
from training.errors import BaseModelError
from worker.model.architectures.cnn14 import Cnn14Config
from worker.model.architectures.mobilenet_v2 import MobileNetV2Config
from worker.model.base import Network
from worker.model.frontend import FrontendConfig, LogMel

CLASSES = 527

_ROWS = "bn0"  # batch normalisation of the mel rows
_EPSILON = 1e-5  # of it, here and there
_FILTERS = "logmel_extractor.melW"  # (n_fft / 2 + 1, mels)
_OF_THE_FRONT_END = ("spectrogram_extractor.", "logmel_extractor.")
_FILTER_TOLERANCE = 1e-3  # of the largest weight of a filter bank
_COMMON = {"norm": _ROWS, "pooling.linear": "fc1", "head.1": "fc_audioset"}
"""Module here -> name there."""


def front_end(sample_rate: int, f_max: float) -> FrontendConfig:
    """Windows of 32 ms, a hop of 10 ms, decibels from -100 on. The network normalises each row of them; mean and
    standard deviation here are round numbers of the size that sounds have."""
    return FrontendConfig(
        sample_rate=sample_rate,
        n_fft=round(sample_rate * 0.032),
        hop=sample_rate // 100,
        n_mels=64,
        mel_filters="slaney",
        f_min=50.0,
        f_max=f_max,
        floor_db=-100.0,
        mean=-40.0,
        std=20.0,
        window_seconds=10.0,
    )


FRONTEND_16K = front_end(16_000, 8_000.0)
FRONTEND_32K = front_end(32_000, 14_000.0)


@dataclass(frozen=True)
class Cnn14Weights:
    """Reads CNN14 for a front end."""

    frontend: FrontendConfig

    def __call__(self, path: Path) -> Network:
        """The network with the weights of a checkpoint, in evaluation mode. Raises BaseModelError."""
        names = dict(_COMMON)
        for stage in range(6):
            for block in range(2):
                names[f"stages.{stage}.{block}.0"] = f"conv_block{stage + 1}.conv{block + 1}"
                names[f"stages.{stage}.{block}.1"] = f"conv_block{stage + 1}.bn{block + 1}"
        state = _checked(read_pytorch(path), self.frontend, path)
        return with_weights(Cnn14Config(classes=CLASSES), state, names, path, "CNN14 of PANNs", time_first=True)


def mobilenet_v2(path: Path) -> Network:
    """MobileNetV2 with the weights of a checkpoint, in evaluation mode. Raises BaseModelError."""
    config = MobileNetV2Config(classes=CLASSES)
    design = config.design()
    names = {**_COMMON, "stem.0": "features.0.0", "stem.2": "features.0.2"}
    for number, (ours, block, stride, inputs) in enumerate(design.blocks(), start=1):
        theirs, at = f"features.{number}.conv", 0
        if block.expanded != inputs:
            names |= {f"{ours}.expand.0": f"{theirs}.0", f"{ours}.expand.1": f"{theirs}.1"}
            at = 3  # behind convolution, normalisation and activation
        # There, average pooling stands behind every depthwise convolution, also without a stride.
        norm = 2 if stride > 1 else 1
        names |= {f"{ours}.depthwise.0": f"{theirs}.{at}", f"{ours}.depthwise.{norm}": f"{theirs}.{at + 2}"}
        names |= {f"{ours}.project.0": f"{theirs}.{at + 4}", f"{ours}.project.1": f"{theirs}.{at + 5}"}
    names |= {f"{design.last_name}.{layer}": f"features.{number + 1}.{layer}" for layer in (0, 1)}
    state = _checked(read_pytorch(path), FRONTEND_32K, path)
    return with_weights(config, state, names, path, "MobileNetV2 of PANNs", time_first=True)


def _checked(state: Mapping[str, Tensor], frontend: FrontendConfig, path: Path) -> dict[str, Tensor]:
    """The weights without those of the front end, if its mel filters are ours, and with the statistics of the mel rows
    for its features instead of decibels. Raises BaseModelError.

    The networks for different sample rates have weights of the same names and shapes.
    """
    theirs, ours = state.get(_FILTERS), LogMel(frontend).bank
    if theirs is not None and (
        theirs.shape != ours.shape or not (theirs - ours).abs().max() <= _FILTER_TOLERANCE * ours.max()
    ):
        raise BaseModelError(
            f"{path} was trained with another front end: its mel filters are not those of {frontend.f_min:g}–"
            f"{frontend.f_max:g} Hz at {frontend.sample_rate:,} Hz"
        )
    kept = {name: value for name, value in state.items() if not name.startswith(_OF_THE_FRONT_END)}
    mean, variance = f"{_ROWS}.running_mean", f"{_ROWS}.running_var"
    if mean in kept and variance in kept:  # otherwise they are missed later
        kept[mean] = (kept[mean] - frontend.mean) / frontend.std
        kept[variance] = (kept[variance] + _EPSILON) / frontend.std**2 - _EPSILON
    return kept
