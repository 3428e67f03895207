"""YAMNet as a model directory: MobileNet-v1 on patches of 0.96 s, 521 classes of AudioSet, several at once.

Network, front end and names follow https://github.com/tensorflow/models/tree/master/research/audioset/yamnet. The
weights are read from the original file (Keras), from the PyTorch port of w-hc/torch_audioset, or from an ONNX export.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.base_models.sources import (
    Affine,
    Floats,
    fold_batch_norm,
    onnx_file,
    read_keras,
    read_onnx,
    read_pytorch,
    run_onnx,
)
from training.errors import BaseModelError
from worker.model.architectures.mobilenet_v1 import MobileNetConfig, MobileNetV1
from worker.model.frontend import FrontendConfig

CLASSES = 521

FRONTEND = FrontendConfig(
    sample_rate=16_000,
    n_fft=512,
    win_length=400,
    center=False,
    hop=160,
    n_mels=64,
    f_min=125.0,
    f_max=7_500.0,
    spectrum="magnitude",
    log_offset=1e-3,
    floor_db=-60.0,  # the offset alone
    mean=0.0,
    std=20 / float(np.log(10)),  # dB of a factor of e: the network takes natural logarithms
    window_seconds=0.975,  # the samples of one patch
)

_EPSILON = 1e-4  # of its batch normalisation
_LAYERS = 14


def network_config(classes: int = CLASSES) -> MobileNetConfig:
    return MobileNetConfig(classes=classes)


def read_layers(path: Path) -> list[Affine]:
    """The 27 convolutions and the linear layer, first to last; kernels are (outputs, inputs, time, frequency).

    Raises BaseModelError.
    """
    readers: dict[str, Callable[[Path], list[Affine]]] = {
        ".h5": _from_keras,
        ".pth": _from_pytorch,
        ".pt": _from_pytorch,
    }
    if path.suffix in (".onnx", ".zip"):
        with onnx_file(path) as unpacked:
            return read_onnx(unpacked)
    if path.suffix not in readers:
        raise BaseModelError(f"{path}: weights of YAMNet are .h5, .pth, .onnx, or .zip with one .onnx file inside")
    return readers[path.suffix](path)


def run(path: Path, features: Floats, *, rounding: bool = True) -> Floats | None:
    """Scores (patches, classes) of an ONNX file for features (patches, 1, mels, frames); None for other files.

    Without `rounding`, of the same graph in floating point. Raises BaseModelError.
    """
    if path.suffix not in (".onnx", ".zip"):
        return None
    with onnx_file(path) as unpacked:
        logits = run_onnx(unpacked, np.ascontiguousarray(features.swapaxes(2, 3)), rounding=rounding)
    return torch.from_numpy(logits).sigmoid().numpy()


def convert(path: Path) -> MobileNetV1:
    """The network with the weights of a file, in evaluation mode. Raises BaseModelError."""
    return with_layers(MobileNetV1(network_config()), read_layers(path), path)


@torch.no_grad()
def with_layers(network: MobileNetV1, layers: list[Affine], path: Path) -> MobileNetV1:
    """Copy the weights into the network. Raises BaseModelError."""
    own = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    shapes = [tuple(_ours(layer).shape) for layer in layers]
    expected = [tuple(each.weight.shape) for each in own]
    if shapes != expected:
        raise BaseModelError(
            f"{path} is not YAMNet: the shapes of its {len(shapes)} layers are not those of YAMNet's {len(expected)}"
        )
    for module, layer in zip(own, layers, strict=True):
        module.load_state_dict({"weight": _ours(layer), "bias": torch.from_numpy(layer.bias)})
    network.eval().requires_grad_(False)
    return network


def _ours(layer: Affine) -> Tensor:
    """The weight with frequency before time, as in all networks here."""
    weight = torch.from_numpy(layer.weight)
    return weight.transpose(2, 3) if weight.ndim == 4 else weight


def _blocks() -> list[tuple[str, str]]:
    """(name in Keras, name in the PyTorch port) of each convolution."""
    separable = [
        (f"layer{number}/{part}_conv", f"layer{number}.{part}_conv")
        for number in range(2, _LAYERS + 1)
        for part in ("depthwise", "pointwise")
    ]
    return [("layer1/conv", "layer1.fused"), *separable]


def _from_keras(path: Path) -> list[Affine]:
    arrays = read_keras(path)

    def named(suffix: str) -> Floats:
        found = [array for name, array in arrays.items() if f"/{name}".endswith(f"/{suffix}:0")]
        if len(found) != 1:
            raise BaseModelError(f"{path} is not YAMNet: it has {len(found)} arrays {suffix}")
        return found[0]

    layers = []
    for name, _ in _blocks():
        depthwise = "depthwise" in name
        kernel = named(f"{name}/{'depthwise_kernel' if depthwise else 'kernel'}")  # (time, frequency, inputs, outputs)
        weight = kernel.transpose(2, 3, 0, 1) if depthwise else kernel.transpose(3, 2, 0, 1)
        mean, variance, offset = (named(f"{name}/bn/{each}") for each in ("moving_mean", "moving_variance", "beta"))
        layers.append(fold_batch_norm(weight, mean, variance, offset, epsilon=_EPSILON))
    dense = [array for array in arrays.values() if array.shape == (1_024, CLASSES)]
    bias = [array for array in arrays.values() if array.shape == (CLASSES,)]
    if len(dense) != 1 or len(bias) != 1:
        raise BaseModelError(f"{path} is not YAMNet: it has no classifier of {CLASSES} classes")
    return [*layers, Affine(np.ascontiguousarray(dense[0].T), bias[0])]


def _from_pytorch(path: Path) -> list[Affine]:
    state = read_pytorch(path)
    try:
        layers = [
            fold_batch_norm(
                state[f"{name}.conv.weight"].numpy(),
                *(state[f"{name}.bn.{each}"].numpy() for each in ("running_mean", "running_var", "bias", "weight")),
                epsilon=_EPSILON,
            )
            for _, name in _blocks()
        ]
        return [*layers, Affine(state["classifier.weight"].numpy(), state["classifier.bias"].numpy())]
    except KeyError as error:
        raise BaseModelError(f"{path} is not YAMNet: it has no {error.args[0]}") from error
