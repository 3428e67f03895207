"""The networks that `otoscope models add` knows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.config.models_dir import models_dir
from shared.install_hints import install_command
from training.base_models import aisfx, efficientat, panns, yamnet
from training.base_models.audioset import audioset_classes, yamnet_classes
from training.errors import BaseModelError
from worker.model.answers import AnswerConfig
from worker.model.base import Network
from worker.model.frontend import FrontendConfig


@dataclass(frozen=True)
class OfficialFile:
    """A file at its official address."""

    url: str
    sha256: str
    licence: str  # of the file, as its authors state it


@dataclass(frozen=True)
class PackagedFile:
    """A file in an installed Python package."""

    package: str
    path: str
    sha256: str
    licence: str
    install: str = install_command("audioset")
    """How to install the package."""


class Run(Protocol):
    """Runs the network of a file in its own framework."""

    def __call__(
        self, path: Path, features: NDArray[np.float32], *, rounding: bool = True
    ) -> NDArray[np.float32] | None:
        """Features (batch, 1, mels, frames) -> scores (batch, classes); None if the file cannot be run here.

        Without `rounding`, those of a quantised file in floating point. Raises BaseModelError.
        """
        ...


@dataclass(frozen=True)
class BaseModel:
    """A network of another project, and how to make a model directory of its weights."""

    name: str
    title: str
    description: str
    licence: str  # of its weights, where they come from elsewhere
    credit: str
    frontend: FrontendConfig
    classes: tuple[str, ...]
    convert: Callable[[Path], Network]
    """A file of weights -> the network in evaluation mode. Raises BaseModelError."""
    run: Run | None = None
    """None: the network of a file cannot be run here without being converted."""
    answers: AnswerConfig = field(default_factory=AnswerConfig)
    data: str = "AudioSet"  # on which it was trained
    multi_label: bool = True
    served: bool = True  # a network whose classes have no names is only fine-tuned
    measured: str = ""
    """What was measured with its weights, and how: Markdown for the model card."""
    address: str = ""
    """Where its file is, if no checksum of it is known: then the user downloads and checks it."""
    download: OfficialFile | None = None
    package: PackagedFile | None = None

    @property
    def folder(self) -> Path:
        """Where its model directory is created, unless another folder is named."""
        return models_dir() if self.served else Path("runs")


_YAMNET_THRESHOLD = 0.6
"""Score from which on a class is named. Chosen on fold 1 of ESC-50 with `bench/base_model.py`: between 0.6 and 0.8 the
harmonic mean of the share of clips whose class is named and of the share of names that are right is 0.60, below it is
less."""

_YAMNET_MEASURED = """
## Measured

With the weights of the package, on fold 5 of ESC-50, of whose 50 classes 46 have counterparts among those of AudioSet
(`training/base_models/esc50.csv`); 2026-11-29:

- the class of the counterpart with the highest score is right for 263 of 368 clips (71.5 %), one of the first five for
  94.3 %; mean average precision 0.751 (`otoscope evaluate models/yamnet --data ESC50 --fold 5`);
- among all 521 classes, the first one is a counterpart for 40.2 % of the clips, and one of the first five for 79.1 %;
  the first is a counterpart, a kind of one, or what one is a kind of (`Animal` for a dog) for 64.1 %
  (`bench/base_model.py`);
- from a score of 0.6 on a class is named in 92.9 % of the clips, and a counterpart in 70.1 %. On average 1.76 classes
  of a clip are named, of which 49.8 % are compatible with its label; a label does not have all sounds of a clip;
- of 120 clips spread over the fold 69.2 % are right as recorded, 70.8 % after Opus at 16 kbit/s, 65.8 % when 20 dB
  quieter, 50.8 and 43.3 % with babble and traffic 10 dB below, 46.7 % in a long room, 32.5 % over a telephone
  (`bench/robustness.py models/yamnet --clips 120`).
"""

YAMNET = BaseModel(
    name="yamnet",
    title="YAMNet",
    description="YAMNet (MobileNet-v1) for 521 classes of sound, several at once, trained on AudioSet",
    licence="Apache-2.0 (YAMNet, by Google)",
    credit="YAMNet by Manoj Plakal and Dan Ellis, https://github.com/tensorflow/models",
    frontend=yamnet.FRONTEND,
    classes=yamnet_classes(),
    convert=yamnet.convert,
    run=yamnet.run,
    answers=AnswerConfig(detection_threshold=_YAMNET_THRESHOLD),
    measured=_YAMNET_MEASURED,
    download=OfficialFile(
        "https://storage.googleapis.com/audioset/yamnet.h5",
        "13c3308955bbfaef262f175ac9c40e47b134573a93984f009220dd7cc12a1744",
        "Apache-2.0 (YAMNet, by Google)",
    ),
    package=PackagedFile(
        "sead",
        "data/YamNet_w8a8.onnx.zip",
        "cf149c90fc9b46c19569d7d6a841d7211ebfc45e6c927c3de0c9b080096bfb54",
        "Apache-2.0 (YAMNet, by Google); the 8-bit export in the package sead states no licence of its own",
    ),
)

_PANNS_LICENCE = "CC BY 4.0 (PANNs, by Kong et al.)"
_PANNS_FILES = "https://zenodo.org/records/3987831/files"
_PANNS_CREDIT = (
    "PANNs by Qiuqiang Kong, Yin Cao, Turab Iqbal, Yuxuan Wang, Wenwu Wang and Mark D. Plumbley,"
    " https://zenodo.org/records/3987831"
)


def _cnn14(name: str, rate: str, frontend: FrontendConfig, file: str, sha256: str) -> BaseModel:
    return BaseModel(
        name=name,
        title=f"CNN14 of PANNs for {rate}",
        description=f"CNN14 of PANNs for 527 classes of sound at {rate}, several at once, trained on AudioSet",
        licence=_PANNS_LICENCE,
        credit=_PANNS_CREDIT,
        frontend=frontend,
        classes=audioset_classes(),
        convert=panns.Cnn14Weights(frontend),
        download=OfficialFile(f"{_PANNS_FILES}/{file}?download=1", sha256, _PANNS_LICENCE),
    )


PANNS_CNN14_16K = _cnn14(
    "panns-cnn14-16k",
    "16 kHz",
    panns.FRONTEND_16K,
    "Cnn14_16k_mAP=0.438.pth",
    "e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
)
PANNS_CNN14 = _cnn14(
    "panns-cnn14",
    "32 kHz",
    panns.FRONTEND_32K,
    "Cnn14_mAP=0.431.pth",
    "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
)

PANNS_MOBILENETV2 = BaseModel(
    name="panns-mobilenetv2",
    title="MobileNetV2 of PANNs",
    description="MobileNetV2 of PANNs for 527 classes of sound, several at once, trained on AudioSet",
    licence=_PANNS_LICENCE,
    credit=_PANNS_CREDIT,
    frontend=panns.FRONTEND_32K,
    classes=audioset_classes(),
    convert=panns.mobilenet_v2,
    address=f"{_PANNS_FILES}/MobileNetV2_mAP=0.383.pth?download=1",
)

_EFFICIENTAT_LICENCE = "MIT (EfficientAT, by Florian Schmid)"

MN10_AS = BaseModel(
    name="mn10_as",
    title="mn10_as of EfficientAT",
    description="EfficientAT mn10_as (MobileNetV3) for 527 classes of sound, several at once, trained on AudioSet",
    licence=_EFFICIENTAT_LICENCE,
    credit="EfficientAT by Florian Schmid, Khaled Koutini and Gerhard Widmer, https://github.com/fschmid56/EfficientAT",
    frontend=efficientat.FRONTEND,
    classes=audioset_classes(),
    convert=efficientat.convert,
    download=OfficialFile(
        "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/mn10_as_mAP_471.pt",
        "0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e",
        _EFFICIENTAT_LICENCE,
    ),
)

_AISFX_LICENCE = "CC BY 4.0 (aiSFX, by Alison B. Ma and Alexander Lerch)"

AISFX = BaseModel(
    name="aisfx",
    title="aiSFX",
    description="aiSFX (CNN9), trained on libraries of sound effects, for fine-tuning: its categories have no names",
    licence=_AISFX_LICENCE,
    credit="aiSFX by Alison B. Ma and Alexander Lerch, https://github.com/alisonbma/aisfx",
    frontend=aisfx.FRONTEND,
    classes=aisfx.classes(),
    convert=aisfx.convert,
    data="libraries of sound effects",
    multi_label=False,
    served=False,
    package=PackagedFile(
        "aisfx",
        "models/checkpoint.pth",
        "499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5",
        _AISFX_LICENCE,
        install=".venv/bin/pip install --no-deps aisfx==0.1.2",  # the versions that it depends on are of 2022
    ),
)

BASE_MODELS = {model.name: model for model in (YAMNET, PANNS_CNN14_16K, PANNS_CNN14, MN10_AS, PANNS_MOBILENETV2, AISFX)}


def base_model(name: str) -> BaseModel:
    """Raises BaseModelError."""
    if name not in BASE_MODELS:
        raise BaseModelError(f"no base model {name!r}; known: {', '.join(BASE_MODELS)}")
    return BASE_MODELS[name]
