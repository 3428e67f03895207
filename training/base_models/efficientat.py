"""`mn10_as` of EfficientAT (Schmid et al., 2023, arXiv:2211.04772) as a model directory: MobileNetV3 for 527 classes of
AudioSet, several at once.

Network, front end and names of the weights follow https://github.com/fschmid56/EfficientAT.
"""

import math
from pathlib import Path

from training.base_models.sources import read_pytorch, with_weights
from worker.model.architectures.mobilenet_v3 import MobileNetV3Config
from worker.model.base import Network
from worker.model.frontend import FrontendConfig

CLASSES = 527

_PER_NEPER = 10 / math.log(10)  # dB of a factor of e in a power

FRONTEND = FrontendConfig(
    sample_rate=32_000,
    n_fft=1_024,
    win_length=799,  # a symmetric window of 800 samples is a periodic one of 799 and a zero
    hop=320,
    preemphasis=0.97,
    n_mels=128,
    mel_filters="kaldi",
    f_min=0.0,
    f_max=15_000.0,
    log_offset=1e-5,
    floor_db=-50.0,  # the offset alone
    mean=-4.5 * _PER_NEPER,
    std=5 * _PER_NEPER,
    window_seconds=10.0,
)


def convert(path: Path) -> Network:
    """The network with the weights of a file, in evaluation mode. Raises BaseModelError."""
    config = MobileNetV3Config(classes=CLASSES)
    names = {
        "stem.0": "features.0.0",
        "stem.1": "features.0.1",
        "pooling.linear": "classifier.2",
        "head.1": "classifier.5",
    }
    design = config.design()
    for number, (name, block, _, inputs) in enumerate(design.blocks(), start=1):
        parts = [
            *(["expand"] if block.expanded != inputs else []),
            "depthwise",
            *(["gates"] if block.gates else []),
            "project",
        ]
        for at, part in enumerate(parts):
            ours, theirs = f"{name}.{part}", f"features.{number}.block.{at}"
            if part == "gates":
                names |= {f"{ours}.{one}": f"{theirs}.conc_se_layers.0.{other}" for one, other in _GATES}
            else:
                names |= {f"{ours}.{layer}": f"{theirs}.{layer}" for layer in (0, 1)}
    names |= {f"{design.last_name}.{layer}": f"features.{number + 1}.{layer}" for layer in (0, 1)}
    return with_weights(config, read_pytorch(path), names, path, "mn10_as of EfficientAT", time_first=False)


_GATES = (("down", "fc1"), ("up", "fc2"))
