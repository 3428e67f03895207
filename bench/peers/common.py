"""The model code of every peer, so that only the server differs: a sound file in, the five most probable classes out.

It uses public packages (soundfile, torchaudio, eager PyTorch or OpenVINO), as a user of such a framework would, and not
Otoscope's engine; only the network and its arithmetic are the same. Environment variables have the model directory, the
engine and the port.
"""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.model.checkpoint import Model, load_model, read_config
from worker.model.compat.torchaudio import torchaudio
from worker.model.precision import autocast, native_bf16

PROCESSES = 2  # with the model, of one thread each
BATCH = 8
WAIT = 0.005  # seconds a batch waits to fill
TIMEOUT = 60  # seconds that a request may take; the load generator gives up after as many
TOP = 5
HOST = "127.0.0.1"
PORT, MODEL, ENGINE = "PEERS_PORT", "PEERS_MODEL", "PEERS_ENGINE"  # names of environment variables
ENGINES = ("eager", "openvino")
CPU = torch.device("cpu")

Answer = dict[str, list[dict[str, Any]]]
Samples = NDArray[np.float32]


class NotASound(ValueError):
    """Bytes that soundfile cannot read; each peer responds with 400 in its own way."""


def port() -> int:
    return int(os.environ[PORT])


def model_directory() -> Path:
    return Path(os.environ[MODEL])


class Decoder:
    """The bytes of a file -> the input of the model; needs the model's config, not its weights."""

    def __init__(self, directory: Path | None = None) -> None:
        self._config = read_config(directory or model_directory()).frontend

    def __call__(self, sound: bytes) -> Samples:
        """(window samples,) mono at the model's rate, truncated or padded with silence. Raises NotASound."""
        try:
            samples, rate = soundfile.read(io.BytesIO(sound), dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise NotASound("not a sound file that can be read") from error
        mono = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
        if rate != self._config.sample_rate:
            waveform = torch.from_numpy(mono)
            mono = torchaudio.functional.resample(waveform, rate, self._config.sample_rate).numpy()
        window = self._config.window_samples
        return np.pad(mono[:window], (0, max(0, window - len(mono))))


class Classifier:
    """The model in one process."""

    def __init__(self, directory: Path | None = None, threads: int = 1, engine: str = "") -> None:
        """`engine` is one of ENGINES; by default that of the environment, or else eager PyTorch."""
        torch.set_num_threads(threads)
        model = load_model(directory or model_directory())
        self._model, self._config, self._classes = model, model.config.frontend, model.config.classes
        uses_openvino = (engine or os.environ.get(ENGINE)) == "openvino"
        self._logits = _compiled(model, threads) if uses_openvino else _eager(model)
        self._mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=self._config.sample_rate,
            n_fft=self._config.n_fft,
            win_length=self._config.frame_samples,
            center=self._config.center,
            power=1.0 if self._config.spectrum == "magnitude" else 2.0,
            hop_length=self._config.hop,
            n_mels=self._config.n_mels,
            f_min=self._config.f_min,
            f_max=self._config.f_max,
        )
        silence = np.zeros(self._config.window_samples, np.float32)
        for size in (1, BATCH):  # what is set up at the first call is not for the first caller to wait for
            self([silence] * size)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Samples]) -> list[Answer]:
        """One forward pass, one answer a clip."""
        features = self._features(torch.from_numpy(np.stack(clips)))
        best = self._model.probabilities(self._logits(features)).topk(TOP)
        return [
            {"predictions": [{"class": self._classes[i], "confidence": p} for p, i in zip(*row, strict=True)]}
            for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _features(self, waveforms: Tensor) -> Tensor:
        """(batch, samples) -> (batch, 1, mels, frames), by torchaudio; several spectrograms by the model itself."""
        if self._config.stacked:
            features: Tensor = self._model.frontend(waveforms)
            return features
        if not self._config.center:  # as `worker.model.frontend` pads it, or the last frame would be missing
            margin = self._config.n_fft - self._config.frame_samples
            waveforms = torch.nn.functional.pad(waveforms, (margin // 2, margin - margin // 2))
        floor = 10.0 ** (self._config.floor_db / 10.0)
        decibels = torchaudio.functional.amplitude_to_DB(self._mel(waveforms), 10.0, floor, 0.0)
        return ((decibels - self._config.mean) / self._config.std).unsqueeze(1)


def _eager(model: Model) -> Callable[[Tensor], Tensor]:
    network = model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def logits(features: Tensor) -> Tensor:
        with autocast(CPU):
            found: Tensor = network(features.contiguous(memory_format=torch.channels_last)).float()
        return found

    return logits


def _compiled(model: Model, threads: int) -> Callable[[Tensor], Tensor]:
    """The network in OpenVINO, for batches of any size."""
    import openvino

    frontend = model.config.frontend
    # Two clips: with one some networks are traced for exactly one.
    example = torch.zeros(2, 1, frontend.rows, frontend.window_frames)
    with torch.no_grad():
        traced = torch.jit.trace(model.network, example, check_trace=False)  # type: ignore[no-untyped-call]
        graph = openvino.convert_model(torch.jit.freeze(traced.eval()), example_input=example)
    graph.reshape({graph.inputs[0]: [-1, *example.shape[1:]]})
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if native_bf16(CPU) else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino.Core().compile_model(graph, "CPU", options).create_infer_request()
    return lambda features: torch.from_numpy(request.infer([features.numpy()])[0])
