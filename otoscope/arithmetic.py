"""How one number of a network was computed: the operations with their inputs, as `cell=` returns them."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otoscope.errors import InvalidRequest

LOGITS = "logits"
"""The layer of a cell that is a class before the softmax."""

Float32Array = NDArray[np.float32]

OPERATIONS = {
    "convolution": "bias + the sum of patch × kernel",
    "linear": "bias + the sum of patch × kernel",
    "batch_norm": "(input − mean) / √(variance + epsilon) × weight + bias",
    "activation": "the function `name` of the input",
    "add": "the sum of the inputs",
    "subtract": "the first input minus the second",
    "multiply": "the product of the inputs",
    "divide": "the first input divided by the second",
    "max_pool": "the largest number of the patch",
    "mean": "the mean of the patch",
    "cell": "a number of the layer `name`, at `place`; `input` is the normalised spectrogram",
    "number": "a number whose computation is not shown",
}
"""The kinds of operations, and what each computes."""


@dataclass(frozen=True)
class Cell:
    """A number of a network: one cell of one channel of a layer, or the logit of a class."""

    layer: str  # or LOGITS
    channel: int  # of LOGITS: index of the class
    row: int = 0  # from the lowest frequency
    column: int = 0  # from the beginning of the window

    @classmethod
    def parse(cls, text: str, classes: list[str]) -> "Cell":
        """`LAYER:CHANNEL:ROW:COLUMN`, or `logits:CLASS`. Raises InvalidRequest."""
        layer, _, rest = text.partition(":")
        if layer == LOGITS:
            if rest not in classes:
                raise InvalidRequest(f"cell: the model has no class {rest!r}.")
            return cls(LOGITS, classes.index(rest))
        numbers = rest.split(":")
        if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise InvalidRequest(f"cell must be LAYER:CHANNEL:ROW:COLUMN or {LOGITS}:CLASS; it is {text[:80]!r}.")
        channel, row, column = (int(number[:9]) for number in numbers)
        return cls(layer, channel, row, column)


@dataclass(frozen=True)
class Operation:
    """One operation. What it has beside its value depends on its kind (OPERATIONS)."""

    kind: str
    value: float  # its output
    inputs: list[int] = field(default_factory=list)  # indexes of the operations that compute its inputs
    name: str = ""  # of the module with its weights, of the function, or of the layer
    place: list[int] = field(default_factory=list)
    """Channel, row and column of a cell; of a patch that is cut from a layer those of its first number, which are
    negative or behind the end in the padding."""
    layer: str = ""  # from which the patch is cut; empty where it is not a layer
    positions: list[int] = field(default_factory=list)  # in the patch, counted row by row: of each of `inputs`
    numbers: dict[str, float] = field(default_factory=dict)  # bias, mean, variance, weight, epsilon
    patch: Float32Array | None = None  # (channels, rows, columns)
    kernel: Float32Array | None = None  # the shape of the patch


@dataclass(frozen=True)
class Arithmetic:
    """How the network computed one number, in float32. The first operation is the last one that was computed."""

    cell: str  # as requested
    operations: list[Operation]
    logits: list[float] = field(default_factory=list)  # of all classes, where `cell` is a logit
    temperature: float = 1.0  # divides the logits before the softmax

    def tree(self, array: Any) -> dict[str, Any]:
        """As dictionaries; `array` is called with each array and returns what stands for it."""
        operations = []
        for operation in self.operations:
            given = {each.name: getattr(operation, each.name) for each in fields(Operation)}
            operations.append(
                {
                    name: array(value) if isinstance(value, np.ndarray) else value
                    for name, value in given.items()
                    if name in ("kind", "value") or (value is not None and (isinstance(value, np.ndarray) or value))
                }
            )
        return {
            "cell": self.cell,
            "operations": operations,
            "logits": self.logits,
            "temperature": self.temperature,
        }

    @classmethod
    def of_tree(cls, tree: dict[str, Any]) -> "Arithmetic":
        """The reverse of `tree` for arrays as `pack` makes them; fields that are not known here are ignored."""
        known = {each.name for each in fields(Operation)}

        def operation(of: dict[str, Any]) -> Operation:
            given: dict[str, Any] = {name: value for name, value in of.items() if name in known}
            arrays: dict[str, Any] = {name: unpack(given[name]) for name in ("patch", "kernel") if name in given}
            return Operation(**(given | arrays))

        return cls(tree["cell"], list(map(operation, tree["operations"])), list(tree["logits"]), tree["temperature"])


def pack(values: Float32Array) -> dict[str, Any]:
    """Shape and little-endian float32 values in row order."""
    return {"shape": list(values.shape), "data": np.ascontiguousarray(values, "<f4").tobytes()}


def unpack(tree: dict[str, Any]) -> Float32Array:
    """The reverse of `pack`, read-only."""
    return np.frombuffer(tree["data"], "<f4").reshape(tree["shape"])
