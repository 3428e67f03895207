"""How a network computed one number: the operations from the layer before, with their inputs and weights.

Nothing here knows an architecture. A forward pass of one window is recorded as the torch functions that it calls, and
followed backwards from the requested number: a convolution gives its patch and its kernel, batch normalisation its four
numbers, and functions that only move numbers (padding, patches, permutations) are passed through by running them on
indexes instead of numbers. What is not understood ends a branch as a `number`, with its value.

The pass is in float32 on the weights that are served. The service itself may use bfloat16 or 8 bits: its numbers differ
from these by that rounding.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from otoscope.arithmetic import LOGITS, Cell, Operation
from otoscope.errors import InvalidRequest
from worker.model.base import BLOCK_PARTS, Network

INPUT = "input"  # name of the normalised spectrogram

_STRONGEST = 6  # terms of a sum whose own computation is followed
_DEPTH = 2  # sums within sums
_MAX_NUMBERS = 100_000  # of all patches and kernels together: 400 kB; shared.results reserves memory for them
_MAX_OPERATIONS = 400

_COPIES = ("to", "float", "type_as", "contiguous", "clone", "detach", "dropout", "dropout2d")  # dropout is off
_JOINS = ("cat", "concat")
_MOVES = frozenset(
    (
        *(*_COPIES, *_JOINS, "reshape", "view", "permute", "transpose", "movedim", "flatten", "unflatten", "expand"),
        *("unsqueeze", "squeeze", "pad", "__getitem__", "narrow", "select", "split", "chunk", "interpolate"),
    )
)
"""Functions whose output has the numbers of their input at other places."""
_ACTIVATIONS = frozenset(
    (
        *("relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "mish", "sigmoid", "tanh", "softplus"),
        *("hardswish", "hardsigmoid", "hardtanh", "clamp"),
    )
)
_ARITHMETIC = {
    **dict.fromkeys(("add", "__add__", "__radd__", "__iadd__"), "add"),
    **dict.fromkeys(("sub", "__sub__", "__isub__"), "subtract"),
    **dict.fromkeys(("mul", "__mul__", "__rmul__", "__imul__"), "multiply"),
    **dict.fromkeys(("div", "__truediv__", "true_divide"), "divide"),
}
_OUT_OF_PLACE: dict[str, Callable[..., Tensor]] = {
    "relu_": torch.relu,
    "sigmoid_": torch.sigmoid,
    **dict.fromkeys(("add_", "__iadd__"), torch.add),
    **dict.fromkeys(("sub_", "__isub__"), torch.sub),
    **dict.fromkeys(("mul_", "__imul__"), torch.mul),
}
"""Functions that overwrite their input, and those that compute the same without doing so."""


@dataclass(frozen=True)
class _Call:
    """A call of a torch function."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: int | None  # which of its outputs; None where it has one

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument, by position or by name."""
        return self.args[index] if index < len(self.args) else self.kwargs.get(name, default)


class _Tape(TorchFunctionMode):
    """Records the torch functions that this thread calls. Functions that overwrite their input are replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[int, _Call] = {}  # id of an output -> the call that made it
        self.layers: dict[str, Tensor] = {}
        self._kept: list[Any] = []  # so that no id is used twice

    def report(self, name: str, activation: Tensor) -> None:
        """The hook of `Network.forward`."""
        self.layers[name] = activation

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        func = _OUT_OF_PLACE.get(name, func)
        name = getattr(func, "__name__", name)
        result = func(*args, **kwargs)
        outputs = result if isinstance(result, tuple | list) else (result,)
        for index, output in enumerate(outputs):
            if isinstance(output, Tensor):
                # A function that returns one of its inputs computes nothing (dropout, `to`); one that overwrites it
                # (with a name that ends in an underscore) makes a number that is not followed.
                if any(output is arg for arg in args) and not name.endswith("_"):
                    continue
                number = index if isinstance(result, tuple | list) else None
                self.calls[id(output)] = _Call(name, func, tuple(args), kwargs, number)
                self._kept.append((output, args))
        return result


@torch.no_grad()
def explain(network: Network, features: Tensor, cell: Cell) -> tuple[list[Operation], list[float]]:
    """The operations of a number for one window, (1, 1, mels, frames) normalised, and all logits if it is a logit.

    The first operation is the last one that was computed. Raises InvalidRequest if the layer has no such cell.
    """
    with _Tape() as tape:
        logits = network(features, tape.report)
    target = logits if cell.layer == LOGITS else tape.layers.get(cell.layer)
    place = (0, cell.channel) if cell.layer == LOGITS else (0, cell.channel, cell.row, cell.column)
    if target is None or target.ndim != len(place):
        raise InvalidRequest(f"cell: the model has no layer {cell.layer!r}.")
    if any(at >= size for at, size in zip(place, target.shape, strict=True)):
        raise InvalidRequest(
            f"cell: {cell.layer} has the shape {list(target.shape[1:])}; {list(place[1:])} is outside."
        )
    names = {id(part): name for name, part in network.named_parameters()}
    operations = _Trace(tape, features, names, cell.layer).run(target, _flat(target, place))
    return operations, [float(x) for x in logits[0].cpu()] if cell.layer == LOGITS else []


@dataclass
class _Trace:
    """Follows the calls on a tape backwards from one number."""

    tape: _Tape
    features: Tensor
    names: dict[int, str]  # of parameters, by id
    requested: str  # layer
    operations: list[Operation] = field(default_factory=list)
    _numbers: int = 0

    def run(self, tensor: Tensor, index: int) -> list[Operation]:
        """The operations of the number at a flat index; the first one is the last one that was computed."""
        self._sources = self._layers()
        start = _Place(tensor, index)
        while (moved := self._move(start)) is not None and moved.tensor is not None:
            start = moved
        if start.tensor is not None:  # the layer itself is what is explained, not an end
            self._sources = {key: of for key, of in self._sources.items() if key != id(start.tensor)}
        self._follow(start, 0)
        return self.operations

    def _layers(self) -> "dict[int, tuple[str, Tensor, NDArray[np.int64] | None]]":
        """By the id of the tensor in which a layer was computed: its name, its shape as reported, and the flat index
        there of each of its numbers as reported; None where they are the same."""
        found: dict[int, tuple[str, Tensor, NDArray[np.int64] | None]] = {
            id(self.features): (INPUT, self.features, None)
        }
        for name, reported in self.tape.layers.items():
            if reported.ndim != 4 or name.rpartition(".")[2] in BLOCK_PARTS:
                continue
            tensor, indexes = reported, None
            while (call := self.tape.calls.get(id(tensor))) and call.name in _MOVES:
                sources = [arg for arg in call.args if isinstance(arg, Tensor)]
                if call.name in _JOINS or not sources or sources[0] is self.features:
                    break
                moved = _moved(call, sources[0])
                indexes = moved if indexes is None else np.where(indexes < 0, -1, moved[np.maximum(indexes, 0)])
                tensor = sources[0]
            found.setdefault(id(tensor), (name, reported, indexes))
        return found

    def _follow(self, place: "_Place", depth: int) -> int:
        """Append the operations of a number; the index of the last one that was computed."""
        while True:
            if place.tensor is None:
                return self._add(Operation("number", 0.0, name="padding"))
            source = self._source(place)
            if source is not None:
                return source
            moved = self._move(place)
            if moved is None:
                break
            place = moved
        tensor, index = place.tensor, place.index
        value = _number(tensor, index)
        call = self.tape.calls.get(id(tensor))
        name = call.name if call else ""
        if call is None or len(self.operations) >= _MAX_OPERATIONS:
            return self._add(Operation("number", value, name=name))
        if name == "conv2d":
            return self._convolution(call, tensor, index, value, depth)
        if name == "linear":
            return self._linear(call, tensor, index, value, depth)
        if name == "batch_norm":
            return self._batch_norm(call, tensor, index, value, depth)
        if name in ("max_pool2d", "boolean_dispatch", "_max_pool2d"):
            return self._max_pool(call, tensor, index, value, depth)
        if name in ("mean", "adaptive_avg_pool2d", "avg_pool2d", "amax"):
            return self._reduction(call, tensor, index, value, depth)
        if name in _ACTIVATIONS and isinstance(call.args[0], Tensor):
            at = self._add(Operation("activation", value, name=name))
            return self._set_inputs(at, [_Place(call.args[0], index)], depth)
        if name in _ARITHMETIC and len(call.args) == 2 and not call.kwargs:
            at = self._add(Operation(_ARITHMETIC[name], value))
            return self._set_inputs(at, [_operand(arg, tensor, index) for arg in call.args], depth)
        return self._add(Operation("number", value, name=name))

    def _add(self, operation: Operation) -> int:
        self.operations.append(operation)
        return len(self.operations) - 1

    def _set_inputs(
        self, at: int, places: "Sequence[_Place | float]", depth: int, positions: Sequence[int] = ()
    ) -> int:
        """Follow the inputs of an operation that was added."""
        inputs = [
            self._follow(place, depth)
            if isinstance(place, _Place)
            else self._add(Operation("number", place, name="constant"))
            for place in places
        ]
        self.operations[at].inputs.extend(inputs)
        self.operations[at].positions.extend(positions)
        return at

    def _source(self, place: "_Place") -> int | None:
        """The operation of a number that is a cell of a layer or of the spectrogram."""
        at = self._at(place)
        if at is None or place.tensor is None:
            return None
        name, coordinates = at
        value = _number(place.tensor, place.index)
        return self._add(Operation("cell", value, name=name, place=coordinates))

    def _at(self, place: "_Place") -> tuple[str, list[int]] | None:
        """Name of the layer and (channel, row, column); no place where the layer does not show it."""
        found = self._sources.get(id(place.tensor))
        if found is None:
            return None
        name, reported, indexes = found
        index = place.index
        if indexes is not None:
            where = np.flatnonzero(indexes == index)
            if not len(where):
                return name, []
            index = int(where[0])
        return name, [int(x) for x in np.unravel_index(index, tuple(reported.shape))[1:]]

    def _move(self, place: "_Place") -> "_Place | None":
        """Where a number came from, if the call that made it only moves numbers."""
        tensor = place.tensor
        call = self.tape.calls.get(id(tensor))
        if tensor is None or call is None or call.name not in _MOVES:
            return None
        if call.name in _JOINS:
            parts, dim = list(call.args[0]), call.arg(1, "dim", 0)
            coordinates = [int(x) for x in np.unravel_index(place.index, tuple(tensor.shape))]
            for part in parts:
                if coordinates[dim] < part.shape[dim]:
                    return _Place(part, _flat(part, coordinates))
                coordinates[dim] -= part.shape[dim]
            return None
        if not isinstance(call.args[0], Tensor):
            return None
        if call.name == "interpolate" and call.kwargs.get("mode", "nearest") != "nearest":
            return None
        index = int(_moved(call, call.args[0])[place.index])
        return _Place(None, 0) if index < 0 else _Place(call.args[0], index)

    def _convolution(self, call: _Call, tensor: Tensor, index: int, value: float, depth: int) -> int:
        inputs, weight, bias = call.args[0], call.arg(1, "weight"), call.arg(2, "bias")
        stride, padding = _pair(call.arg(3, "stride", 1)), call.arg(4, "padding", 0)
        dilation, groups = _pair(call.arg(5, "dilation", 1)), int(call.arg(6, "groups", 1))
        batch, channel, row, column = (int(x) for x in np.unravel_index(index, tuple(tensor.shape)))
        kernel = weight[channel].float()  # (input channels of its group, rows, columns)
        if isinstance(padding, str):
            sizes = [(dilation[i] * (kernel.shape[i + 1] - 1)) // 2 for i in (0, 1)]
            padding = sizes if padding == "same" else [0, 0]
        first = (channel // (weight.shape[0] // groups)) * weight.shape[1]
        corner = [at * stride[i] - _pair(padding)[i] for i, at in enumerate((row, column))]
        steps = [corner[i] + dilation[i] * np.arange(kernel.shape[i + 1]) for i in (0, 1)]
        inside = [(steps[i] >= 0) & (steps[i] < inputs.shape[i + 2]) for i in (0, 1)]
        patch = np.zeros(tuple(kernel.shape), np.float32)
        block = inputs[batch, first : first + weight.shape[1]].float().cpu().numpy()  # (channels, height, width)
        patch[np.ix_(range(len(patch)), *inside)] = block[
            np.ix_(range(len(patch)), steps[0][inside[0]], steps[1][inside[1]])
        ]

        def place(position: int) -> _Place | None:
            of, i, j = (int(x) for x in np.unravel_index(position, patch.shape))
            if not (inside[0][i] and inside[1][j]):
                return None
            return _Place(inputs, _flat(inputs, (batch, first + of, int(steps[0][i]), int(steps[1][j]))))

        return self._sum("convolution", call, value, depth, patch, kernel, bias, channel, place)

    def _linear(self, call: _Call, tensor: Tensor, index: int, value: float, depth: int) -> int:
        inputs, weight, bias = call.args[0], call.arg(1, "weight"), call.arg(2, "bias")
        *before, output = (int(x) for x in np.unravel_index(index, tuple(tensor.shape)))
        patch = inputs[tuple(before)].float().cpu().numpy()[:, None, None]  # (features, 1, 1)
        kernel = weight[output].float()[:, None, None]
        return self._sum(
            "linear", call, value, depth, patch, kernel, bias, output,
            lambda position: _Place(inputs, _flat(inputs, (*before, position))),
        )  # fmt: skip

    def _sum(
        self,
        kind: str,
        call: _Call,
        value: float,
        depth: int,
        patch: NDArray[np.float32],
        kernel: Tensor,
        bias: Tensor | None,
        output: int,
        place: "Callable[[int], _Place | None]",
    ) -> int:
        """A sum of products with its strongest terms."""
        name = self.names.get(id(call.arg(1, "weight")), "").rpartition(".")[0]
        if self._numbers + 2 * patch.size > _MAX_NUMBERS:
            return self._add(Operation("number", value, name=name or kind))
        self._numbers += 2 * patch.size
        weights = kernel.cpu().numpy()
        products = np.abs(patch * weights).ravel()
        order = np.argsort(-products, kind="stable")[:_STRONGEST]
        terms = [(int(position), place(int(position))) for position in order if products[position] > 0]
        origin = self._origin(place, patch.shape)
        at = self._add(
            Operation(
                kind,
                value,
                name=name,
                place=origin[1],
                layer=origin[0],
                numbers={} if bias is None else {"bias": float(bias[output])},
                patch=patch,
                kernel=weights,
            )
        )
        if depth + 1 < _DEPTH or origin[0]:
            chosen = [(position, of) for position, of in terms if of is not None]
            self._set_inputs(at, [of for _, of in chosen], depth + 1, [position for position, _ in chosen])
        return at

    def _origin(self, place: "Callable[[int], _Place | None]", shape: tuple[int, ...]) -> tuple[str, list[int]]:
        """The layer from which a patch is cut, and channel, row and column of its first number there."""
        _, rows, columns = shape
        for position in range(rows * columns):
            at = place(position)
            while at is not None and at.tensor is not None:
                found = self._at(at)
                if found and found[1]:
                    channel, row, column = found[1]
                    return found[0], [channel, row - position // columns, column - position % columns]
                if found:
                    return found[0], []
                at = self._move(at)
        return "", []

    def _batch_norm(self, call: _Call, tensor: Tensor, index: int, value: float, depth: int) -> int:
        channel = int(np.unravel_index(index, tuple(tensor.shape))[1])
        mean, variance = call.arg(1, "running_mean"), call.arg(2, "running_var")
        weight, bias = call.arg(3, "weight"), call.arg(4, "bias")
        numbers = {
            "mean": float(mean[channel]),
            "variance": float(variance[channel]),
            "epsilon": float(call.arg(7, "eps", 1e-5)),
            "weight": 1.0 if weight is None else float(weight[channel]),
            "bias": 0.0 if bias is None else float(bias[channel]),
        }
        name = self.names.get(id(weight), "").rpartition(".")[0]
        at = self._add(Operation("batch_norm", value, name=name, numbers=numbers))
        return self._set_inputs(at, [_Place(call.args[0], index)], depth)

    def _max_pool(self, call: _Call, tensor: Tensor, index: int, value: float, depth: int) -> int:
        inputs, kernel = call.args[0], _pair(call.arg(1, "kernel_size"))
        stride = _pair(call.arg(2, "stride") or kernel)
        padding, dilation = _pair(call.arg(3, "padding", 0)), _pair(call.arg(4, "dilation", 1))
        batch, channel, row, column = (int(x) for x in np.unravel_index(index, tuple(tensor.shape)))
        low = [at * stride[i] - padding[i] for i, at in enumerate((row, column))]
        places = [
            (i, j)
            for i in (low[0] + dilation[0] * np.arange(kernel[0]))
            for j in (low[1] + dilation[1] * np.arange(kernel[1]))
        ]
        is_inside = [0 <= i < inputs.shape[2] and 0 <= j < inputs.shape[3] for i, j in places]
        values = [
            float(inputs[batch, channel, int(i), int(j)]) if inside else -np.inf
            for (i, j), inside in zip(places, is_inside, strict=True)
        ]
        best = int(np.argmax(values))
        finite = [max(one, -3.4e38) for one in values]  # the padding is smaller than every number
        patch = np.array(finite, np.float32).reshape(1, *kernel)
        self._numbers += patch.size
        at = self._add(Operation("max_pool", value, patch=patch))
        source = _Place(inputs, _flat(inputs, (batch, channel, *(int(x) for x in places[best]))))
        return self._set_inputs(at, [source], depth, [best])

    def _reduction(self, call: _Call, tensor: Tensor, index: int, value: float, depth: int) -> int:
        """The mean or the maximum over one or two dimensions; the largest of its numbers is followed, for a mean unless
        a layer has them."""
        inputs = call.args[0]
        dims = call.arg(1, "dim", ())
        if call.name == "adaptive_avg_pool2d":
            dims = (2, 3) if inputs.ndim == 4 and tuple(tensor.shape[2:]) == (1, 1) else ()
        over = {dim % inputs.ndim for dim in ((dims,) if isinstance(dims, int) else dims or ())}
        if call.name == "avg_pool2d" or not 1 <= len(over) <= 2:
            return self._add(Operation("number", value, name=call.name))
        kept = [int(x) for x in np.unravel_index(index, tuple(tensor.shape))] if tensor.ndim else []
        if tensor.ndim == inputs.ndim:
            kept = [at for dim, at in enumerate(kept) if dim not in over]
        slices = [slice(None) if dim in over else kept.pop(0) for dim in range(inputs.ndim)]
        patch = np.atleast_2d(inputs[tuple(slices)].float().cpu().numpy())[None]  # (1, rows, columns)
        if self._numbers + patch.size > _MAX_NUMBERS:
            return self._add(Operation("number", value, name=call.name))
        self._numbers += patch.size

        def place(position: int) -> _Place:
            moving = [int(x) for x in np.unravel_index(position, tuple(inputs.shape[dim] for dim in sorted(over)))]
            return _Place(inputs, _flat(inputs, [moving.pop(0) if isinstance(one, slice) else one for one in slices]))

        is_mean = call.name != "amax"
        layer, origin = self._origin(place, patch.shape) if is_mean else ("", [])
        kind = "mean" if is_mean else "max_pool"
        at = self._add(Operation(kind, value, patch=np.ascontiguousarray(patch), layer=layer, place=origin))
        if layer:
            return at
        largest = int(np.argmax(patch))
        return self._set_inputs(at, [place(largest)], depth, [largest])


@dataclass(frozen=True)
class _Place:
    """A number: a flat index in a tensor; without a tensor a zero of some padding."""

    tensor: Tensor | None
    index: int


def _flat(tensor: Tensor, place: Sequence[int]) -> int:
    return int(np.ravel_multi_index(tuple(place), tuple(tensor.shape)))


def _number(tensor: Tensor, index: int) -> float:
    return float(tensor[tuple(int(x) for x in np.unravel_index(index, tuple(tensor.shape)))])


def _pair(size: Any) -> list[int]:
    """Both sides of a kernel: torch accepts one number, one in a list, or two."""
    sides = [int(size)] if isinstance(size, int) else [int(side) for side in size]
    return sides * 2 if len(sides) == 1 else sides


def _operand(arg: Any, output: Tensor, index: int) -> "_Place | float":
    """An operand of element-wise arithmetic, where the output has that index: by the rules of broadcasting."""
    if not isinstance(arg, Tensor):
        return float(arg)
    coordinates = np.unravel_index(index, tuple(output.shape))[output.ndim - arg.ndim :]
    own = [0 if size == 1 else int(at) for at, size in zip(coordinates, arg.shape, strict=True)]
    return _Place(arg, _flat(arg, own) if own else 0)


def _moved(call: _Call, source: Tensor) -> NDArray[np.int64]:
    """For each number of the output of a call that moves numbers its flat index in the input; -1 in padding."""
    ids = torch.arange(1, source.numel() + 1, dtype=torch.float64).reshape(tuple(source.shape))
    moved = ids if call.name in _COPIES else call.function(ids, *map(_on_cpu, call.args[1:]), **call.kwargs)
    if call.output is not None:
        moved = moved[call.output]
    found: NDArray[np.int64] = np.nan_to_num(moved.reshape(-1).numpy(), posinf=0, neginf=0).astype(np.int64) - 1
    return found


def _on_cpu(arg: Any) -> Any:
    """An argument with the tensors in it on the CPU."""
    if isinstance(arg, tuple):
        return tuple(map(_on_cpu, arg))
    return arg.cpu() if isinstance(arg, Tensor) else arg
