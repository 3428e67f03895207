"""Cards of the served models."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from otoscope.arithmetic import LOGITS, Cell
from otoscope.errors import InvalidRequest
from otoscope.types.base import Public
from otoscope.types.results import Prediction


class ReliabilityBin(BaseModel):
    """Predictions of about the same confidence: a bar of a reliability diagram."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float = Field(description="of the confidences")
    high: float
    sounds: int
    confidence: float = Field(description="mean")
    accuracy: float = Field(description="share of the sounds whose first class is right")


class Accuracy(BaseModel):
    """A measured accuracy, and the protocol of the measurement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    protocol: str
    correct: int
    total: int
    reliability: tuple[ReliabilityBin, ...] = Field((), description="of whole recordings; empty where not measured")


LayerKind = Literal["input", "stem", "residual", "plain", "stage"]


class ReceptiveField(Public):
    """The receptive field of a layer on the spectrogram of its network, the same along mels and frames: cell `i` covers
    `size` of them from `start + i * stride` on, padding included. The global receptive field of squeeze-and-excitation
    gates is not counted."""

    start: int
    stride: int
    size: int
    patch: int | None = Field(
        None,
        description="frames of a patch, if the network takes the spectrogram in patches: a cell depends on no frame of"
        " another patch than the one that it begins in, the first of which begins at frame 0",
    )
    pooled_frames: int = Field(
        1,
        description="frames whose mean is one column of the network's input: along frames, `start`, `stride` and `size`"
        " count these columns",
    )


class Layer(Public):
    """A layer whose activations can be requested."""

    name: str
    shape: list[int] = Field(description="(channels, height, width) for one window")
    kind: LayerKind = Field(
        "stage",
        description="a stage has the same activation as its last block; an input is the spectrogram of one of several"
        " networks",
    )
    inputs: list[str] = Field([], description="names of its input layers; empty if the input is the spectrogram")
    receptive_field: ReceptiveField | None = Field(None, description="null if not known")


class ModelCard(Public):
    """A served model."""

    name: str
    description: str
    classes: list[str]
    multi_label: bool = Field(
        False,
        description="whether several classes can be right at once: each confidence is of its class alone, and they do"
        " not sum to 1",
    )
    parents: dict[str, list[str]] = Field(
        {}, description="what a class is a kind of, and so on upwards; empty for classes without an ontology"
    )
    sample_rate: int = Field(description="Hz to which sounds are resampled")
    window_seconds: float
    architecture: dict[str, Any]
    frontend: dict[str, Any]
    parameters: int
    layers: list[Layer]
    accuracy: list[Accuracy]
    licence: str
    version: str = Field(description="changes with the weights")

    def require_layer(self, name: str) -> None:
        """Raises InvalidRequest if there is no such layer; the message names some that exist."""
        names = [layer.name for layer in self.layers]
        if name not in names:
            names.sort(key=lambda known: known.count("."))  # stages before the blocks inside
            raise InvalidRequest(f"Model {self.name} has no layer {name!r}; it has {_some(names) or 'none'}.")

    def require_class(self, name: str) -> int:
        """The index of a class. Raises InvalidRequest if there is no such class; the message names some that exist."""
        if name not in self.classes:
            raise InvalidRequest(f"Model {self.name} has no class {name!r}; it has {_some(self.classes)}.")
        return self.classes.index(name)

    def require_cell(self, text: str) -> Cell:
        """The cell of the option `cell`. Raises InvalidRequest if the model has no such number."""
        cell = Cell.parse(text, self.classes)
        if cell.layer != LOGITS:
            self.require_layer(cell.layer)
            shape = next(layer.shape for layer in self.layers if layer.name == cell.layer)
            place = (cell.channel, cell.row, cell.column)
            if any(at >= size for at, size in zip(place, shape, strict=True)):
                raise InvalidRequest(f"cell: {cell.layer} has the shape {shape}; {list(place)} is outside of it.")
        return cell

    def rolled_up(self, predictions: Iterable[Prediction]) -> list[Prediction]:
        """The predictions and what their classes are kinds of, by confidence: that of a parent is the largest one of
        its own and its children's. Predictions of a model without an ontology are returned as they are."""
        found: dict[str, float] = {}
        queue = [(prediction.class_, prediction.confidence) for prediction in predictions]
        while queue:
            name, confidence = queue.pop()
            if confidence > found.get(name, -1.0):
                found[name] = confidence
                queue += [(parent, confidence) for parent in self.parents.get(name, ())]
        ranked = sorted(found.items(), key=lambda item: -item[1])
        return [Prediction(class_=name, confidence=confidence) for name, confidence in ranked]


class ModelList(Public):
    default: str
    models: list[ModelCard]


def _some(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:6]) + (" and so on" if len(names) > 6 else "")
