"""Windows of sound -> one batch on the device -> what the network saw, one answer a window.

Runs on the batcher's threads alone: one for a GPU, on a processor one a core, since a core that has a batch to itself
waits for no other. Nothing crosses from one clip to another: a batched answer is the answer of the clip alone, within
the rounding of the arithmetic.
"""

import logging
import threading
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otoscope.errors import InferenceFailed
from otoscope.results import Array
from otoscope.types import Layer, ModelCard, Part
from shared.config.settings import BackendName
from shared.install_hints import install_command
from shared.tracing import TraceLink
from worker.inference.backend import Backend, OutputRequest, TorchBackend
from worker.model.base import parameters
from worker.model.checkpoint import Model, ModelError, load_model
from worker.model.precision import autocast

log = logging.getLogger(__name__)


class DeviceLost(Exception):
    """The device answers nothing but errors to this process from now on: it has to be another process."""


@dataclass(frozen=True)
class Window:
    """One network window of sound."""

    samples: NDArray[np.float32]  # (window samples,) at the model's rate; under `SpectrogramOnly` any length
    parts: frozenset[Part] = frozenset()
    layer: str | None = None  # all of whose channels are wanted
    cam_of: int | None = None  # class whose activation is wanted; the window's own first where it is not said
    trace_link: TraceLink | None = None  # the job that it is of, where that is traced


@dataclass
class WindowOutput:
    """What the network made of one window."""

    probabilities: NDArray[np.float32]  # (classes,); none under `SpectrogramOnly`
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
class LoadedModel:
    """A model on the device, ready to run; compared by identity, so that a new version never joins an old batch."""

    model: Model
    card: ModelCard
    backend: Backend

    @property
    def name(self) -> str:
        return self.model.config.name


@dataclass(frozen=True)
class SpectrogramOnly:
    """The front end of a served model without its network: what runs under it is given its spectrogram alone."""

    served: LoadedModel


class Engine:
    """Brings models to one device and runs batches of windows through them."""

    def __init__(
        self, device: torch.device, choice: BackendName = "auto", *, int8: bool = False, cores: int = 1
    ) -> None:
        """`cores` counts for a processor alone, and is how many threads may call `run` at a time."""
        self.device, self._choice, self._int8 = device, choice, int8
        self._on_cpu = device.type == "cpu"
        self.device_threads = cores if self._on_cpu else 1
        self._running = 0
        self._lock = threading.Lock()

    def serve(self, model: Model, warm_up: Sequence[int] = (1,)) -> LoadedModel:
        """Bring a model to the device and run batches of silence of the given sizes through it.

        A size that is too much for the device's memory is left out: the batcher will halve such batches. Raises what a
        forward pass can raise, and ModelError where the chosen backend is not to be had.
        """
        model.frontend.to(self.device)
        backend = self._backend(model)
        served = LoadedModel(model, _card(model, self._layers(model)), backend)
        silence = np.zeros(model.config.frontend.window_samples, np.float32)
        for size in sorted(warm_up):
            try:
                answers = self.run(served, [Window(silence)] * size)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                break
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return served

    def _backend(self, model: Model) -> Backend:
        """OpenVINO where it was asked for, or is there and the device is a processor; else PyTorch."""
        if self._choice == "torch" or not self._on_cpu:
            if self._choice == "openvino":
                raise ModelError("OTOSCOPE_ENGINE=openvino is for processors; this worker has a GPU")
            if self._int8:
                raise ModelError("OTOSCOPE_INT8 needs OpenVINO, which is for processors; this worker has a GPU")
            return TorchBackend(model, self.device)
        from worker.inference.openvino import OpenVINOBackend

        try:
            return OpenVINOBackend(model, self.device_threads, int8=self._int8)
        except ImportError as error:
            if self._choice == "openvino" or self._int8:
                asked = "ENGINE=openvino" if self._choice == "openvino" else "INT8"
                raise ModelError(f"OTOSCOPE_{asked} needs {install_command('openvino')} ({error})") from error
        except Exception as error:
            if self._choice == "openvino":
                raise
            log.warning("model %s is left to PyTorch: %s", model.config.name, error)
        return TorchBackend(model, self.device)

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Whether this batch has the device to itself; the threads that PyTorch uses for it are set to match."""
        with self._lock:
            self._running += 1
            alone = self._running == 1
        if self._on_cpu:
            torch.set_num_threads(self.device_threads if alone else 1)
        try:
            yield alone
        finally:
            with self._lock:
                self._running -= 1

    @torch.no_grad()
    def run(self, served: LoadedModel | SpectrogramOnly, windows: Sequence[Window]) -> list[WindowOutput | Exception]:
        """One forward pass. A window whose logits are not finite gets InferenceFailed; its neighbours do not.

        Raises DeviceLost, torch.OutOfMemoryError where fewer windows may fit, or what is wrong with the windows.
        """
        try:
            with self._turn() as alone:
                if isinstance(served, SpectrogramOnly):
                    return self._spectrograms(served.served.model, windows)
                return self._run(served, windows, alone)
        except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
            said = str(error).partition("\n")[0]
            # What CUDA itself or a library of its cannot get is no OutOfMemoryError, as what PyTorch cannot get is.
            if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in said:
                raise DeviceLost(said) from error  # a bad address, a failed assertion, a lost card: these stay
            log.warning("%d windows are too much for the device's memory", len(windows))
            traceback.clear_frames(error.__traceback__)  # they hold the batch, and what the network made of it so far
            if not self._on_cpu:
                torch.cuda.empty_cache()  # what lies there in pieces that are too small
            raise torch.OutOfMemoryError(said) from error

    def _run(self, served: LoadedModel, windows: Sequence[Window], alone: bool) -> list[WindowOutput | Exception]:
        model = served.model
        rows = {part: [i for i, window in enumerate(windows) if part in window.parts] for part in Part}
        layers: defaultdict[str, list[int]] = defaultdict(list)
        for i, window in enumerate(windows):
            if window.layer is not None:
                layers[window.layer].append(i)
        stacked = torch.from_numpy(np.stack([window.samples for window in windows]))  # (batch, samples)
        decibels = model.frontend.decibels(stacked.to(self.device, non_blocking=True))  # (batch, 1, mels, frames)
        cam = {row: windows[row].cam_of for row in rows[Part.CAM]}
        asked = OutputRequest(rows[Part.MAPS], rows[Part.EMBEDDING], cam, layers)
        logits, looks = served.backend(model.frontend.normalise(decibels), asked, alone=alone)

        outputs: dict[tuple[str, ...], Tensor] = {("probabilities",): model.probabilities(logits), **looks}
        if rows[Part.SPECTROGRAM]:
            outputs["spectrogram",] = decibels[rows[Part.SPECTROGRAM], 0]
        host = _to_host(outputs)

        # What an answer keeps is copied: a view would keep the whole batch in memory for as long.
        answers: list[WindowOutput | Exception] = []
        for probabilities in host["probabilities",]:
            if np.isfinite(probabilities).all():
                answers.append(WindowOutput(probabilities.copy()))
            else:
                answers.append(InferenceFailed(f"Model {served.name} gave numbers that are not finite for this sound."))
        for (name, *names), values in host.items():
            if name == "probabilities":
                continue
            wanted = layers[names[0]] if name == "channels" else rows[Part(name)]
            for row, value in zip(wanted, values, strict=True):
                seen = answers[row]
                if isinstance(seen, WindowOutput):
                    if names:
                        getattr(seen, name)[names[-1]] = value.astype(np.float16)
                    else:
                        setattr(seen, name, value.astype(np.float16))
        return answers

    def _spectrograms(self, model: Model, windows: Sequence[Window]) -> list[WindowOutput | Exception]:
        """Of any lengths, so one by one; in one copy all the same."""
        outputs: dict[tuple[str, ...], Tensor] = {}
        for number, window in enumerate(windows):
            samples = torch.from_numpy(np.ascontiguousarray(window.samples))[None].to(self.device, non_blocking=True)
            outputs[str(number),] = model.frontend.decibels(samples)[0, 0]  # (mels, frames)
        nothing = np.zeros(0, np.float32)
        return [WindowOutput(nothing, spectrogram=values.astype(np.float16)) for values in _to_host(outputs).values()]

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
