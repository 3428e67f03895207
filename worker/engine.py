"""Windows of sound -> one batch on the device -> what the network saw, one answer a window.

Runs on the batcher's thread alone. Nothing crosses from one clip to another: a batched answer is the answer of the
clip alone, within the rounding of the arithmetic.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.contract import Array
from shared.errors import InferenceFailed
from shared.schemas import Layer, ModelCard, Part
from worker.model.checkpoint import Model, load_model
from worker.model.network import parameters
from worker.model.precision import autocast
from worker.model.taps import Tap


@dataclass(frozen=True)
class Window:
    """One network window of sound."""

    samples: NDArray[np.float32]  # (window samples,) at the model's rate; under `FrontEnd` any length
    parts: frozenset[Part] = frozenset()
    layer: str | None = None  # all of whose channels are wanted


@dataclass
class Seen:
    """What the network made of one window."""

    probabilities: NDArray[np.float32]  # (classes,); none under `FrontEnd`
    spectrogram: Array | None = None  # (mels, frames), dB
    maps: dict[str, Array] = field(default_factory=dict)
    channels: dict[str, Array] = field(default_factory=dict)  # (channels, height, width) each
    embedding: Array | None = None
    cam: Array | None = None


def read_model(directory: Path) -> Model:
    """A model directory in main memory, under the name of the directory: a copy can be served beside the original.

    May be called from any thread. Raises ModelError.
    """
    model = load_model(directory)
    return replace(model, config=model.config.model_copy(update={"name": directory.name}))


@dataclass(frozen=True, eq=False)
class Served:
    """A model on the device, ready to run; compared by identity, so that a new version never joins an old batch."""

    model: Model
    card: ModelCard

    @property
    def name(self) -> str:
        return self.model.config.name


@dataclass(frozen=True)
class FrontEnd:
    """The front end of a served model without its network: what runs under it is given its spectrogram alone."""

    served: Served


class Engine:
    """Brings models to one device and runs batches of windows through them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def serve(self, model: Model, warm_up: Sequence[int] = (1,)) -> Served:
        """Bring a model to the device and run batches of silence of the given sizes through it.

        Raises what a forward pass can raise.
        """
        model.frontend.to(self.device)
        model.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        served = Served(model, _card(model, self._layers(model)))
        silence = np.zeros(model.config.frontend.window_samples, np.float32)
        for size in warm_up:
            for answer in self.run(served, [Window(silence)] * size):
                if isinstance(answer, Exception):
                    raise answer
        return served

    @torch.no_grad()
    def run(self, served: Served | FrontEnd, windows: Sequence[Window]) -> list[Seen | Exception]:
        """One forward pass. A window whose logits are not finite gets InferenceFailed; its neighbours do not."""
        if isinstance(served, FrontEnd):
            return self._spectrograms(served.served.model, windows)
        model = served.model
        rows = {part: [i for i, window in enumerate(windows) if part in window.parts] for part in Part}
        layers: defaultdict[str, list[int]] = defaultdict(list)
        for i, window in enumerate(windows):
            if window.layer is not None:
                layers[window.layer].append(i)
        stacked = torch.from_numpy(np.stack([window.samples for window in windows]))  # (batch, samples)
        decibels = model.frontend.decibels(stacked.to(self.device, non_blocking=True))  # (batch, 1, mels, frames)
        features = model.frontend.normalise(decibels).contiguous(memory_format=torch.channels_last)

        tap = None
        maps, embedding, cam = rows[Part.MAPS], rows[Part.EMBEDDING], rows[Part.CAM]
        if maps or embedding or cam or layers:
            tap = Tap(model.network, maps=maps, embedding=embedding, cam=cam, channels=layers)
        with autocast(self.device):
            logits = model.network(features, tap, tap.opened if tap else ()).float()  # (batch, classes)

        outputs: dict[tuple[str, ...], Tensor] = {("probabilities",): model.probabilities(logits)}
        if rows[Part.SPECTROGRAM]:
            outputs["spectrogram",] = decibels[rows[Part.SPECTROGRAM], 0]
        if tap:
            outputs |= {("maps", layer): values for layer, values in tap.maps.items()}
            outputs |= {("channels", *names): values for names, values in tap.channels.items()}
            if tap.embedding is not None:
                outputs["embedding",] = tap.embedding
            if cam:
                outputs["cam",] = tap.cam(logits[cam].argmax(dim=1))
        host = _to_host(outputs)

        # What an answer keeps is copied: a view would keep the whole batch in memory for as long.
        answers: list[Seen | Exception] = []
        for probabilities in host["probabilities",]:
            if np.isfinite(probabilities).all():
                answers.append(Seen(probabilities.copy()))
            else:
                answers.append(InferenceFailed(f"Model {served.name} gave numbers that are not finite for this sound."))
        for (name, *names), values in host.items():
            if name == "probabilities":
                continue
            asked = layers[names[0]] if name == "channels" else rows[Part(name)]
            for row, value in zip(asked, values, strict=True):
                seen = answers[row]
                if isinstance(seen, Seen):
                    if names:
                        getattr(seen, name)[names[-1]] = value.astype(np.float16)
                    else:
                        setattr(seen, name, value.astype(np.float16))
        return answers

    def _spectrograms(self, model: Model, windows: Sequence[Window]) -> list[Seen | Exception]:
        """Of any lengths, so one by one; in one copy all the same."""
        outputs: dict[tuple[str, ...], Tensor] = {}
        for number, window in enumerate(windows):
            samples = torch.from_numpy(np.ascontiguousarray(window.samples))[None].to(self.device, non_blocking=True)
            outputs[str(number),] = model.frontend.decibels(samples)[0, 0]  # (mels, frames)
        nothing = np.zeros(0, np.float32)
        return [Seen(nothing, spectrogram=values.astype(np.float16)) for values in _to_host(outputs).values()]

    @torch.no_grad()
    def _layers(self, model: Model) -> list[Layer]:
        """All layers, with their shapes for one window, from a forward pass of silence."""
        layers: list[Layer] = []
        nodes = model.network.structure()

        def see(name: str, activation: Tensor) -> None:
            if activation.ndim != 4:
                return
            layer = Layer(name=name, shape=list(activation.shape[1:]), inputs=[last.name for last in layers[-1:]])
            if node := nodes.get(name):
                layer.kind, layer.inputs = node.kind, list(node.inputs)
                layer.receptive_field = node.receptive_field
            layers.append(layer)

        silence = torch.zeros(1, model.config.frontend.window_samples, device=self.device)
        with autocast(self.device):
            model.network(model.frontend(silence), see)
        return layers


def _to_host(outputs: dict[tuple[str, ...], Tensor]) -> dict[tuple[str, ...], NDArray[np.float32]]:
    """All outputs in one copy from the device, whatever their shapes."""
    flat = torch.cat([values.reshape(-1) for values in outputs.values()]).cpu().numpy()
    host: dict[tuple[str, ...], NDArray[np.float32]] = {}
    at = 0
    for key, values in outputs.items():
        host[key] = flat[at : at + values.numel()].reshape(values.shape)
        at += values.numel()
    return host


def _card(model: Model, layers: list[Layer]) -> ModelCard:
    config = model.config
    described: dict[str, Any] = config.architecture.model_dump(mode="json")
    return ModelCard(
        name=config.name,
        description=config.description,
        classes=list(config.classes),
        sample_rate=config.frontend.sample_rate,
        window_seconds=config.frontend.window_seconds,
        architecture=described,
        frontend=config.frontend.model_dump(mode="json"),
        parameters=parameters(model.network),
        layers=layers,
        accuracy=list(config.accuracy),
        licence=config.licence,
        version=config.weights_sha256[:16],
    )
