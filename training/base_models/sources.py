"""Reads the weights of other frameworks as arrays: ONNX (also quantised, also in a zip archive), Keras' HDF5, PyTorch.

Nothing in a file is executed. Packages that read it are optional and imported when they are needed.
"""

import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared.install_hints import install_command
from training.errors import BaseModelError, cause
from worker.model.base import ArchitectureConfig, Network
from worker.model.checkpoint import empty_network

Floats = NDArray[np.float32]

MAX_UNPACKED_BYTES = 2 << 30


@dataclass(frozen=True)
class Affine:
    """A convolution or a linear layer: weight (outputs, inputs[, height, width]) and bias (outputs,)."""

    weight: Floats
    bias: Floats


@contextmanager
def unpacked(path: Path, archive: str, name: str) -> Iterator[Path]:
    """The file itself, or the only one of this name (a pattern) in a zip archive, for as long as the context lasts.

    `archive` is the suffix of an archive. All of it is unpacked, since ONNX can keep weights in a second file. Raises
    BaseModelError.
    """
    if path.suffix != archive:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(path) as packed:
                size = sum(info.file_size for info in packed.infolist())
                if size > MAX_UNPACKED_BYTES:
                    raise BaseModelError(f"{path} would unpack to {size:,} bytes; the limit is {MAX_UNPACKED_BYTES:,}")
                packed.extractall(folder)  # names that lead outside the folder are changed by zipfile
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
            raise BaseModelError(f"{path} is not a complete zip archive ({error})") from error
        found = sorted(Path(folder).rglob(name))
        if len(found) != 1:
            raise BaseModelError(f"{path} holds {len(found)} files {name}; it must hold one")
        yield found[0]


def read_onnx(path: Path) -> list[Affine]:
    """The convolutions and linear layers of a graph, in its order; quantised weights are dequantised.

    Raises BaseModelError.
    """
    onnx = _package("onnx", "onnx")
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf and onnx have many exception types
        raise BaseModelError(f"{path} cannot be read as ONNX: {error}") from error
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}

    def value(name: str) -> NDArray[Any]:
        """A constant, through the (de)quantisation behind it."""
        if name in constants:
            return np.asarray(constants[name])
        node = producers.get(name)
        if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            raise BaseModelError(f"{path}: the weights {name} are not constant")
        values, scale, *zero = (value(each) for each in node.input)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        shape = [-1 if dimension == axis else 1 for dimension in range(values.ndim)] if scale.ndim else []
        scale, offset = scale.reshape(shape), (zero[0].reshape(shape) if zero else np.zeros(shape, np.int8))
        if node.op_type == "DequantizeLinear":
            return np.asarray((values.astype(np.float32) - offset.astype(np.float32)) * scale)
        limits = np.iinfo(offset.dtype)
        return np.asarray(np.clip(np.rint(values / scale) + offset, limits.min, limits.max), offset.dtype)

    layers = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = value(node.input[1]).astype(np.float32)
        if node.op_type == "Gemm" and not any(each.name == "transB" and each.i for each in node.attribute):
            weight = weight.T
        bias = value(node.input[2]).astype(np.float32) if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        layers.append(Affine(np.ascontiguousarray(weight), bias))
    return layers


def run_onnx(path: Path, inputs: Floats, *, rounding: bool = True) -> Floats:
    """The only output of a graph for `inputs`, one row at a time, in floating point.

    An input or output of integers is quantised with the scale and zero point of its name, as exporters call them.
    Without `rounding` the graph computes in floating point; only its weights remain rounded. Raises BaseModelError.
    """
    onnx, runtime = _package("onnx", "onnx"), _package("onnxruntime", "onnx")
    try:
        model = onnx.load(path)
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        if not rounding:
            _remove_rounding(onnx, model.graph, set(constants))
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors: what is left of the quantisation is reported as unused
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (source,), (target,) = session.get_inputs(), session.get_outputs()

        def quantisation(name: str) -> tuple[float, float]:
            return float(constants[f"{name}_scale"]), float(constants[f"{name}_zero_point"])

        if "float" not in source.type:
            integers = np.dtype(source.type.removeprefix("tensor(").removesuffix(")"))
            (scale, zero), limits = quantisation(source.name), np.iinfo(integers)
            inputs = np.clip(np.rint(inputs / scale + zero), limits.min, limits.max).astype(integers)
        rows = [session.run([target.name], {source.name: inputs[i : i + 1]})[0] for i in range(len(inputs))]
        outputs = np.concatenate(rows).astype(np.float32)
        if "float" not in target.type:
            scale, zero = quantisation(target.name)
            outputs = (outputs - zero) * scale
    except Exception as error:  # the runtime has many exception types
        raise BaseModelError(f"{path} cannot be run: {error}") from error
    return np.asarray(outputs, np.float32)


def _remove_rounding(onnx: Any, graph: Any, constants: set[str]) -> None:
    """Make every (de)quantisation of an activation, and of the input and the output, an identity."""
    of_weights = set(constants)
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.input[0] in of_weights:
            of_weights.update(node.output)
        else:
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    del graph.value_info[:]  # the types of integers


def read_pytorch(path: Path) -> Mapping[str, torch.Tensor]:
    """A state dictionary, alone, in a checkpoint of a training, or the first of several values, without executing
    anything of the file.

    Arrays and numbers of NumPy, such as the order of the clips, are read and left out. Raises BaseModelError.
    """
    try:
        with torch.serialization.safe_globals(_arrays()):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for damaged files
        raise BaseModelError(f"{path} cannot be read as weights of PyTorch: {error}") from error
    if isinstance(state, tuple) and state:
        state = state[0]
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise BaseModelError(f"{path} is not a state dictionary")
    return state


def _arrays() -> list[Any]:
    """What torch.load needs to read numbers and arrays of them, as numpy 1 and 2 write them. It makes no other
    objects."""
    makers = {"_reconstruct": np.zeros(1).__reduce__()[0], "scalar": np.int64(0).__reduce__()[0]}
    kinds = {type(np.dtype(kind)) for kind in (np.int32, np.int64, np.float32, np.float64)}
    names = [(make, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for name, make in makers.items()]
    return [*names, np.ndarray, np.dtype, *kinds]


def with_weights(
    config: ArchitectureConfig,
    state: Mapping[str, torch.Tensor],
    names: Mapping[str, str],
    path: Path,
    title: str,
    *,
    time_first: bool,
) -> Network:
    """A network with the weights of another project, in evaluation mode.

    `names` has the name there of each module here that has weights, `title` is what the file should hold, and
    `time_first` says that the kernels there have time before frequency. Raises BaseModelError if a weight is missing,
    superfluous, or of another shape.
    """
    network = empty_network(config)
    values: dict[str, torch.Tensor] = {}
    unknown = set(state)
    for name, own in network.state_dict().items():
        module, _, leaf = name.rpartition(".")
        theirs = f"{names[module]}.{leaf}"
        if leaf == "num_batches_tracked":  # counts steps of the training
            unknown.discard(theirs)
            values[name] = torch.tensor(0)
            continue
        if theirs not in state:
            raise BaseModelError(f"{path} is not {title}: it has no {theirs}")
        unknown.discard(theirs)
        turned = time_first and own.ndim == 4
        expected = own.transpose(2, 3).shape if turned else own.shape
        if state[theirs].shape != expected:
            raise BaseModelError(
                f"{path} is not {title}: {theirs} has the shape {list(state[theirs].shape)}, not {list(expected)}"
            )
        value = state[theirs].transpose(2, 3) if turned else state[theirs]
        values[name] = value.float().contiguous()
    if unknown:
        raise BaseModelError(f"{path} is not {title}: it also has {min(unknown)}")
    network.load_state_dict(values, assign=True)
    network.eval().requires_grad_(False)
    return network


def read_keras(path: Path) -> dict[str, Floats]:
    """Path of each array of Keras weights in HDF5 -> array. Raises BaseModelError."""
    h5py = _package("h5py", "audioset")
    arrays: dict[str, Floats] = {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item, np.float32)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(add)
    except (OSError, ValueError, RuntimeError) as error:
        raise BaseModelError(f"{path} cannot be read as HDF5: {cause(error)}") from error
    return arrays


def fold_batch_norm(
    weight: Floats, mean: Floats, variance: Floats, offset: Floats, scale: Floats | float = 1.0, *, epsilon: float
) -> Affine:
    """A convolution without bias, followed by batch normalisation, as one convolution.

    Raises ValueError if the normalisation does not have one value for each output, or a variance is negative.
    """
    for each in (mean, variance, offset, *([] if isinstance(scale, float) else [scale])):
        if each.shape != weight.shape[:1]:
            raise ValueError(
                f"a batch normalisation of the shape {list(each.shape)} does not fit the kernel {list(weight.shape)}"
            )
    if not (variance >= 0).all():  # so that NaN fails, too
        raise ValueError("a variance of a batch normalisation is negative")
    factor = scale / np.sqrt(variance + epsilon)
    return Affine(
        (weight * factor.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32),
        (offset - mean * factor).astype(np.float32),
    )


def _package(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise BaseModelError(f"reading this file needs {name}: {install_command(extra)} ({error})") from error
