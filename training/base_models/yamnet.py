"""YAMNet as a model directory: MobileNet-v1 on patches of 0.96 s, 521 classes of AudioSet, several at once.

Network, front end and names follow https://github.com/tensorflow/models/tree/master/research/audioset/yamnet. The
weights are read from the original files (Keras, SavedModel), from the PyTorch port of w-hc/torch_audioset, or from an
ONNX export.
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
    read_keras,
    read_onnx,
    read_pytorch,
    run_onnx,
    unpacked,
)
from training.base_models.tensor_bundle import DATA_SUFFIX, read_tensor_bundle
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

_BATCH_NORM = ("moving_mean", "moving_variance", "beta")  # as Keras calls them; there is no scale
_EPSILON = 1e-4
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
        DATA_SUFFIX: _from_saved_model,
    }
    if path.suffix in (".onnx", ".zip"):
        with unpacked(path, ".zip", "*.onnx") as file:
            return read_onnx(file)
    if path.suffix not in readers:
        raise BaseModelError(
            f"{path}: weights of YAMNet are .h5, .pth, .onnx, .zip with one .onnx file inside, or the folder of a"
            " SavedModel"
        )
    try:
        return readers[path.suffix](path)
    except ValueError as error:
        raise BaseModelError(f"{path} is not YAMNet: {error}") from error


def run(path: Path, features: Floats, *, rounding: bool = True) -> Floats | None:
    """Scores (patches, classes) of an ONNX file for features (patches, 1, mels, frames); None for other files.

    Without `rounding`, of the same graph in floating point. Raises BaseModelError.
    """
    if path.suffix not in (".onnx", ".zip"):
        return None
    with unpacked(path, ".zip", "*.onnx") as file:
        logits = run_onnx(file, np.ascontiguousarray(features.swapaxes(2, 3)), rounding=rounding)
    return torch.from_numpy(logits).sigmoid().numpy()


def convert(path: Path) -> MobileNetV1:
    """The network with the weights of a file, in evaluation mode. Raises BaseModelError."""
    return with_layers(MobileNetV1(network_config()), read_layers(path), path)


@torch.no_grad()
def with_layers(network: MobileNetV1, layers: list[Affine], path: Path) -> MobileNetV1:
    """Copy the weights into the network. Raises BaseModelError."""
    own = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    shapes = [(_ours(layer).shape, layer.bias.shape) for layer in layers]
    expected = [(each.weight.shape, each.weight.shape[:1]) for each in own]
    if shapes != expected:
        raise BaseModelError(
            f"{path} is not YAMNet: the shapes of its {len(shapes)} layers are not those of YAMNet's {len(expected)}"
        )
    if not all(np.isfinite(values).all() for layer in layers for values in (layer.weight, layer.bias)):
        raise BaseModelError(f"{path} has weights that are not finite")
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
        kernel = named(f"{name}/{_kernel(name)}")
        layers.append(_folded(name, kernel, *(named(f"{name}/bn/{each}") for each in _BATCH_NORM)))
    dense = [array for array in arrays.values() if array.shape == (1_024, CLASSES)]
    bias = [array for array in arrays.values() if array.shape == (CLASSES,)]
    if len(dense) != 1 or len(bias) != 1:
        raise BaseModelError(f"{path} is not YAMNet: it has no classifier of {CLASSES} classes")
    return [*layers, Affine(np.ascontiguousarray(dense[0].T), bias[0])]


def _from_saved_model(path: Path) -> list[Affine]:
    """The layers with weights are numbered: each convolution, then its batch normalisation, and at last the classifier.

    YAMNet may be a part of the model: then all its names have the same prefix.
    """
    variables = read_tensor_bundle(path)
    last = f"layer_with_weights-{2 * len(_blocks())}/"
    prefixes = [name.removesuffix(f"{last}kernel") for name in variables if f"/{name}".endswith(f"/{last}kernel")]
    if len(prefixes) != 1:
        raise BaseModelError(f"{path} is not YAMNet: it has {len(prefixes)} classifiers {last}kernel")

    def named(name: str) -> Floats:
        if prefixes[0] + name not in variables:
            raise BaseModelError(f"{path} is not YAMNet: it has no variable {prefixes[0]}{name} of float32")
        return variables.pop(prefixes[0] + name)

    layers = []
    for number, (name, _) in enumerate(_blocks()):
        kernel = named(f"layer_with_weights-{2 * number}/{_kernel(name)}")
        norm = (named(f"layer_with_weights-{2 * number + 1}/{each}") for each in _BATCH_NORM)
        layers.append(_folded(name, kernel, *norm))
    layers.append(Affine(np.ascontiguousarray(named(f"{last}kernel").T), named(f"{last}bias")))
    unknown = [name for name in variables if name.startswith(f"{prefixes[0]}layer_with_weights-")]
    if unknown:
        raise BaseModelError(f"{path} is not YAMNet: it also has {unknown[0]}")
    return layers


def _kernel(convolution: str) -> str:
    """What Keras calls the kernel of a convolution."""
    return "depthwise_kernel" if "depthwise" in convolution else "kernel"


def _folded(convolution: str, kernel: Floats, mean: Floats, variance: Floats, offset: Floats) -> Affine:
    """A convolution of Keras (time, frequency, inputs, outputs) with its batch normalisation. Raises ValueError."""
    if kernel.ndim != 4:
        raise ValueError(f"the kernel of {convolution} has {kernel.ndim} dimensions")
    weight = kernel.transpose(2, 3, 0, 1) if "depthwise" in convolution else kernel.transpose(3, 2, 0, 1)
    return fold_batch_norm(weight, mean, variance, offset, epsilon=_EPSILON)


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
