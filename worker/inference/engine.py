"""The inference engine: windows of sound -> one batch on the device -> one output per window.

Runs only in the batcher's threads: one thread for a GPU; on a CPU one per core, since a core that has a batch of its
own does not wait for the others. No data crosses from one clip to another: the output for a clip in a batch equals its
output alone, within the rounding of the arithmetic.
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

from otoscope.arithmetic import Cell, Operation
from otoscope.errors import InferenceFailed
from otoscope.results import Array
from otoscope.types import Layer, ModelCard, Part
from shared.config.settings import BackendName
from shared.install_hints import install_command
from shared.tracing import TraceLink
from worker.inference.backend import Backend, OutputRequest, TorchBackend
from worker.model.arithmetic import explain
from worker.model.base import parameters
from worker.model.checkpoint import Model, ModelError, load_model
from worker.model.occlusion import muted
from worker.model.precision import autocast

log = logging.getLogger(__name__)


class DeviceLost(Exception):
    """From now on the device returns only errors to this process: a new process is needed."""


@dataclass(frozen=True)
class Window:
    """One network window of sound."""

    samples: NDArray[np.float32]  # (window samples,) at the model's rate; with SpectrogramOnly any length
    parts: frozenset[Part] = frozenset()  # requested besides the probabilities
    layer: str | None = None  # requested with all its channels
    cam_class: int | None = None  # of the class activation map; None: the first class of the window itself
    cell: Cell | None = None  # a number of the network whose computation is requested
    muted: int | None = None  # a tile of the spectrogram (`worker.model.occlusion`) that the network does not get
    period: int | None = None  # samples after which a sound begins again that is repeated to fill the window
    trace_link: TraceLink | None = None  # to the span of its job; None if that is not traced


@dataclass
class WindowOutput:
    """The network's output for one window. Arrays are float16 and present only if requested."""

    probabilities: NDArray[np.float32]  # (classes,); empty with SpectrogramOnly
    known: float | None = None  # open-set score, 0 to 1; None for a model that has no scorer
    spectrogram: Array | None = None  # (mels, frames), dB
    maps: dict[str, Array] = field(default_factory=dict)  # layer -> (height, width)
    channels: dict[str, Array] = field(default_factory=dict)  # name -> (channels, height, width)
    embedding: Array | None = None  # (features,)
    cam: Array | None = None  # (height, width), 0 to 1
    occlusion: Array | None = None  # (rows, columns), -1 to 1; not of one forward pass, so not set by the engine
    operations: list[Operation] | None = None  # that computed the number of the requested cell
    logits: list[float] = field(default_factory=list)  # (classes,), where that cell is a logit


def read_model(directory: Path) -> Model:
    """A model directory in main memory, under the name of the directory: a copy can be served beside the original.

    May be called from any thread. Raises ModelError.
    """
    model = load_model(directory)
    return replace(model, config=model.config.model_copy(update={"name": directory.name}))


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model on the device, ready to run; compared by identity, so that two versions of it never share a batch."""

    model: Model
    card: ModelCard
    backend: Backend

    @property
    def name(self) -> str:
        return self.model.config.name


@dataclass(frozen=True)
class SpectrogramOnly:
    """The front end of a loaded model without its network, as a key of batches: only spectrograms are computed."""

    loaded: LoadedModel

    @property
    def name(self) -> str:
        return self.loaded.name


class Engine:
    """Loads models to one device and runs batches of windows through them."""

    def __init__(
        self, device: torch.device, backend: BackendName = "auto", *, int8: bool = False, cores: int = 1
    ) -> None:
        """`cores` matters on a CPU only: it is the number of threads that may call `run` at a time."""
        self.device, self._backend_name, self._int8 = device, backend, int8
        self._on_cpu = device.type == "cpu"
        self.device_threads = cores if self._on_cpu else 1
        self._running = 0
        self._lock = threading.Lock()

    def load(self, model: Model, warm_up: Sequence[int] = (1,)) -> LoadedModel:
        """Move a model to the device and run batches of silence of the given sizes through it.

        A size that exceeds the device's memory is skipped: the batcher will halve such batches. Raises whatever a
        forward pass can raise, and ModelError if the configured backend is not available.
        """
        card = self.describe(model)
        loaded = LoadedModel(model, card, self._backend(model))
        silence = np.zeros(model.config.frontend.window_samples, np.float32)
        for size in sorted(warm_up):
            try:
                outputs = self.run(loaded, [Window(silence)] * size)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                break
            for output in outputs:
                if isinstance(output, Exception):
                    raise output
        return loaded

    @torch.no_grad()
    def describe(self, model: Model) -> ModelCard:
        """The card of a model, from a forward pass of silence in PyTorch, on the device.

        Raises whatever that can raise, and InferenceFailed if its logits are not finite.
        """
        model.frontend.to(self.device)
        model.network.to(self.device)
        return _card(model, self._layers(model))

    def _backend(self, model: Model) -> Backend:
        """OpenVINO if it is configured, or installed and the device is a CPU; otherwise PyTorch."""
        if self._backend_name == "torch" or not self._on_cpu:
            if self._backend_name == "openvino":
                raise ModelError("OTOSCOPE_ENGINE=openvino is for CPUs; this worker has a GPU")
            if self._int8:
                raise ModelError("OTOSCOPE_INT8 needs OpenVINO, which is for CPUs; this worker has a GPU")
            return TorchBackend(model, self.device)
        from worker.inference.openvino import OpenVINOBackend

        try:
            return OpenVINOBackend(model, self.device_threads, int8=self._int8)
        except ImportError as error:
            if self._backend_name == "openvino" or self._int8:
                setting = "ENGINE=openvino" if self._backend_name == "openvino" else "INT8"
                raise ModelError(f"OTOSCOPE_{setting} needs {install_command('openvino')} ({error})") from error
        except Exception as error:
            if self._backend_name == "openvino":
                raise
            log.warning("model %s runs on PyTorch, since OpenVINO failed: %s", model.config.name, error)
        return TorchBackend(model, self.device)

    @contextmanager
    def _device_slot(self) -> Iterator[bool]:
        """Yields whether this batch has the device to itself, and sets PyTorch's number of threads to match."""
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
    def run(self, key: LoadedModel | SpectrogramOnly, windows: Sequence[Window]) -> list[WindowOutput | Exception]:
        """One forward pass. A window whose logits are not finite gets InferenceFailed; its neighbours do not.

        Raises DeviceLost, torch.OutOfMemoryError if fewer windows may fit, or whatever is wrong with the windows.
        """
        try:
            with self._device_slot() as alone:
                if isinstance(key, SpectrogramOnly):
                    return self._spectrograms(key.loaded.model, windows)
                return self._run(key, windows, alone)
        except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
            message = str(error).partition("\n")[0]
            # A failed allocation of CUDA itself, or of one of its libraries, is not raised as OutOfMemoryError.
            if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in message:
                raise DeviceLost(message) from error  # bad address, failed assertion, lost card: these are permanent
            log.warning("a batch of %d windows exceeds the device's memory", len(windows))
            traceback.clear_frames(error.__traceback__)  # they reference the batch and its activations so far
            if not self._on_cpu:
                torch.cuda.empty_cache()  # cached blocks that are too small each
            raise torch.OutOfMemoryError(message) from error

    def _run(self, loaded: LoadedModel, windows: Sequence[Window], alone: bool) -> list[WindowOutput | Exception]:
        model = loaded.model
        rows = {part: [i for i, window in enumerate(windows) if part in window.parts] for part in Part}
        layers: defaultdict[str, list[int]] = defaultdict(list)
        for i, window in enumerate(windows):
            if window.layer is not None:
                layers[window.layer].append(i)
        log_power, features = self._front_end(model, windows)  # (batch, 1, mels, frames) each
        cam = {row: windows[row].cam_class for row in rows[Part.CAM]}
        request = OutputRequest(rows[Part.MAPS], rows[Part.EMBEDDING], cam, layers)
        logits, known, activations = loaded.backend(features, request, alone=alone)

        tensors: dict[tuple[str, ...], Tensor] = {("probabilities",): model.probabilities(logits), **activations}
        if known is not None:
            tensors["known",] = known
        if rows[Part.SPECTROGRAM]:
            shown = model.frontend.shown(log_power[rows[Part.SPECTROGRAM], 0])
            tensors["spectrogram",] = shown  # (rows, mels, frames), at the level of the sound
        host = _to_host(tensors)

        # Each output is a copy: a view would keep the arrays of the whole batch in memory as long as it lives.
        outputs: list[WindowOutput | Exception] = []
        for probabilities in host["probabilities",]:
            if np.isfinite(probabilities).all():
                outputs.append(WindowOutput(probabilities.copy()))
            else:
                outputs.append(_not_finite(loaded.name))
        known_scores = host.pop(("known",), None)
        if known_scores is not None:
            for output, score in zip(outputs, known_scores, strict=True):
                if isinstance(output, WindowOutput):
                    output.known = float(score)
        for (name, *names), values in host.items():
            if name == "probabilities":
                continue
            requested = layers[names[0]] if name == "channels" else rows[Part(name)]
            for row, value in zip(requested, values, strict=True):
                output = outputs[row]
                if isinstance(output, WindowOutput):
                    if names:
                        getattr(output, name)[names[-1]] = value.astype(np.float16)
                    else:
                        setattr(output, name, value.astype(np.float16))
        for row, (window, output) in enumerate(zip(windows, outputs, strict=True)):
            if window.cell is not None and isinstance(output, WindowOutput):
                output.operations, output.logits = explain(model.network, features[row : row + 1], window.cell)
        return outputs

    def _front_end(self, model: Model, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """Mel power in dB and the input of the network, (batch, 1, mels, frames) each. Windows of the same samples, of
        which parts are muted, share one spectrogram."""
        sounds = {id(window.samples): window.samples for window in windows}
        stacked = torch.from_numpy(np.stack(list(sounds.values())))  # (sounds, samples)
        waveforms = stacked.to(self.device, non_blocking=True)
        # On a CPU one by one: the spectrum of a clip fits into a core's cache.
        clips = torch.split(waveforms, 1) if self._on_cpu else (waveforms,)
        log_power = torch.cat([model.frontend.log_power(clip) for clip in clips])  # (sounds, 1, mels, frames)
        features = model.frontend.features(log_power, waveforms)  # (sounds, 1, mels, frames)
        if len(sounds) < len(windows):
            places = {sound: place for place, sound in enumerate(sounds)}
            of_each = [places[id(window.samples)] for window in windows]
            log_power, features = log_power[of_each], features[of_each]
        for row, window in enumerate(windows):
            if window.muted is not None:
                period = window.period and window.period / model.config.frontend.hop  # in frames
                tile = muted(model.frontend, window.muted, features.shape[-1], period)
                features[row, 0] = torch.where(tile, model.frontend.silence, features[row, 0])
        return log_power, features

    def _spectrograms(self, model: Model, windows: Sequence[Window]) -> list[WindowOutput | Exception]:
        """Windows of any lengths, so one by one, but with one copy from the device."""
        tensors: dict[tuple[str, ...], Tensor] = {}
        for number, window in enumerate(windows):
            samples = torch.from_numpy(np.ascontiguousarray(window.samples))[None].to(self.device, non_blocking=True)
            tensors[str(number),] = model.frontend.decibels(samples)[0, 0]  # (mels, frames)
        no_classes = np.zeros(0, np.float32)
        return [
            WindowOutput(no_classes, spectrogram=values.astype(np.float16)) for values in _to_host(tensors).values()
        ]

    def _layers(self, model: Model) -> list[Layer]:
        """All layers with their shapes for one window, from a forward pass of silence.

        A layer that the network does not describe is fed by the one before it, and the first one by the spectrogram; so
        are those of each of several networks side by side.
        """
        layers: list[Layer] = []
        nodes = model.network.structure()
        parts = getattr(model.config.architecture, "parts", {})

        def part_of(name: str) -> str | None:
            first = name.partition(".")[0]
            return first if first in parts else None

        def describe(name: str, activation: Tensor) -> None:
            if activation.ndim != 4:
                return
            before = [last.name for last in layers[-1:] if part_of(last.name) == part_of(name)]
            layer = Layer(name=name, shape=list(activation.shape[1:]), inputs=before)
            if node := nodes.get(name):
                layer.kind, layer.inputs = node.kind, list(node.inputs)
                layer.receptive_field = node.receptive_field
            layers.append(layer)

        silence = torch.zeros(1, model.config.frontend.window_samples, device=self.device)
        with autocast(self.device):
            logits = model.network(model.frontend(silence), describe)
        if not logits.isfinite().all():
            raise _not_finite(model.config.name)
        return layers


def _not_finite(model: str) -> InferenceFailed:
    return InferenceFailed(f"Model {model} gave numbers that are not finite for this sound.")


def _to_host(tensors: dict[tuple[str, ...], Tensor]) -> dict[tuple[str, ...], NDArray[np.float32]]:
    """All tensors in one copy from the device, whatever their shapes."""
    flat = torch.cat([values.reshape(-1) for values in tensors.values()]).cpu().numpy()
    host: dict[tuple[str, ...], NDArray[np.float32]] = {}
    at = 0
    for key, values in tensors.items():
        host[key] = flat[at : at + values.numel()].reshape(values.shape)
        at += values.numel()
    return host


def _card(model: Model, layers: list[Layer]) -> ModelCard:
    config = model.config
    architecture: dict[str, Any] = config.architecture.model_dump(mode="json")
    return ModelCard(
        name=config.name,
        description=config.description,
        classes=list(config.classes),
        multi_label=config.multi_label,
        parents={name: list(above) for name, above in config.parents.items()},
        sample_rate=config.frontend.sample_rate,
        window_seconds=config.frontend.window_seconds,
        architecture=architecture,
        frontend=config.frontend.model_dump(mode="json"),
        parameters=parameters(model.network),
        layers=layers,
        accuracy=list(config.accuracy),
        licence=config.licence,
        version=config.weights_sha256[:16],
    )
