"""Writes a model as one ONNX file, waveform in and probabilities out, for runtimes that know nothing of Otoscope.

The front end goes into the file: ONNX has had an STFT of its own since opset 17, so whoever runs it needs no log-mel
that agrees with ours. What was written is run beside PyTorch and compared before it gets its name.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.install_hints import install_command
from training.errors import ExportError
from worker.model.base import parameters
from worker.model.checkpoint import Model, ModelConfig, ModelError, load_model

TOLERANCE = 1e-3  # largest difference in probability from PyTorch in float32
MIN_OPSET = 18  # what torch's exporter has operators for; it cannot convert a reflecting pad to anything older
INPUT_NAME, OUTPUT_NAME = "waveform", "probabilities"


@dataclass(frozen=True)
class ExportResult:
    """What was written, and how far it is from PyTorch."""

    path: Path
    opset: int
    bytes: int
    parameters: int
    max_difference: float  # in probability

    def __str__(self) -> str:
        return (
            f"{self.path}: opset {self.opset}, {self.bytes / 1e6:.1f} MB, {self.parameters:,} parameters, within"
            f" {self.max_difference:.1g} of PyTorch"
        )


class Classifier(nn.Module):
    """(batch, samples) -> calibrated probabilities (batch, classes): front end, network and softmax as one module."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.frontend, self.network = model.frontend, model.network
        self._model = model

    def forward(self, waveform: Tensor) -> Tensor:
        return self._model.probabilities(self.network(self.frontend(waveform)))


def export_onnx(directory: Path, out: Path, *, opset: int | None = None) -> ExportResult:
    """Write the model of `directory` to `out`, for any batch and any length; without `opset`, the exporter's default.

    Raises ExportError, and then nothing has been written.
    """
    onnx, runtime = _packages()
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not MIN_OPSET <= opset <= newest:
        raise ExportError(f"opset {opset} cannot be written: {MIN_OPSET} to {newest} can, with this onnx")
    try:
        model = load_model(directory)
    except ModelError as error:
        raise ExportError(str(error)) from error

    classifier = Classifier(model).eval()
    program = _export(classifier, model.config, opset)
    written = program.model.opset_imports[""]
    if opset not in (None, written):
        raise ExportError(f"the exporter could not bring the model to opset {opset}; without one it writes {written}")
    _set_metadata(program.model, model.config)

    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        program.save(partial, external_data=False)
        difference = max_difference(classifier, model.config, partial, runtime)
        if not difference <= TOLERANCE:  # so that NaN fails too
            raise ExportError(
                f"the exported model differs from PyTorch by {difference:.2g} in probability; {TOLERANCE:g} is allowed"
            )
        size = partial.stat().st_size
        os.replace(partial, out)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return ExportResult(out, written, size, parameters(model.network), difference)


def max_difference(classifier: Classifier, config: ModelConfig, path: Path, runtime: Any) -> float:
    """Between ONNX Runtime and PyTorch, both in float32 on the CPU, over batches and lengths. Raises ExportError."""
    window = config.frontend.window_samples
    shortest = config.frontend.n_fft // 2 + 1  # a centred window reflects half of itself at either end
    try:
        session = runtime.InferenceSession(path, _options(runtime), providers=["CPUExecutionProvider"])
        max_error = 0.0
        for samples in (window, max(window // 2, shortest), window + window // 2):
            waves = _test_waveforms(samples, config.frontend.sample_rate)
            for part in (waves, *np.split(waves[:2], 2)):  # a batch of three, the noise alone, the tone alone
                (actual,) = session.run([OUTPUT_NAME], {INPUT_NAME: part})
                with torch.inference_mode():
                    expected = classifier(torch.from_numpy(part)).numpy()
                if actual.shape != expected.shape:
                    raise ExportError(
                        f"the exported model answers {actual.shape} to {part.shape}, not {expected.shape}"
                    )
                max_error = float(np.maximum(max_error, np.abs(actual - expected).max()))  # np.maximum lets NaN through
    except ExportError:
        raise
    except Exception as error:  # each of the runtime's failures has a type of its own
        raise ExportError(f"the exported model cannot be run beside PyTorch: {error}") from error
    return max_error


def _packages() -> tuple[Any, Any]:
    """onnx and onnxruntime; torch finds onnxscript by itself, but would report it missing in its own words."""
    found = {}
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            found[name] = import_module(name)
        except ImportError as error:
            raise ExportError(f"exporting needs {name}: {install_command('onnx')} ({error})") from error
    return found["onnx"], found["onnxruntime"]


def _export(classifier: Classifier, config: ModelConfig, opset: int | None) -> Any:
    """torch.onnx.ONNXProgram, in memory. Raises ExportError."""
    example = torch.zeros(2, config.frontend.window_samples)  # two, since torch takes a batch of one for a constant
    try:
        with _suppress_exporter_noise():
            program = torch.onnx.export(
                classifier,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={INPUT_NAME: {0: "batch", 1: "samples"}},
                verbose=False,
            )
    except Exception as error:  # torch and onnxscript each have their own types
        cause = error.__cause__ or error  # the exporter wraps it in advice on how to debug the exporter
        raise ExportError(f"{config.name} cannot be exported: {type(cause).__name__}: {cause}") from error
    return program


@contextmanager
def _suppress_exporter_noise() -> Iterator[None]:
    """Keeps back what the exporter says on every run and nobody here can act on."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")

    def keep(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    registry.addFilter(keep)
    try:
        with warnings.catch_warnings():
            # torch 2.13 warns of its own use of LeafSpec, in the middle of copying a graph.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        registry.removeFilter(keep)


def _set_metadata(program: Any, config: ModelConfig) -> None:
    """Metadata properties for the runtime, instead of torch's notes on where in which source file a node comes from."""
    for graph in program.graphs():
        graph.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
    program.doc_string = config.description
    program.metadata_props.update(
        {
            "name": config.name,
            "classes": json.dumps(config.classes, ensure_ascii=False),
            "sample_rate": str(config.frontend.sample_rate),
            "window_samples": str(config.frontend.window_samples),  # what the network was trained on
            "licence": config.licence,
            "weights_sha256": config.weights_sha256,
        }
    )


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only, which are raised as well
    return options


def _test_waveforms(samples: int, rate: int) -> NDArray[np.float32]:
    """(3, samples): noise, a tone, and noise near the floor of the log-mel."""
    noise = np.random.default_rng(0).normal(size=(2, samples))
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)
    return np.stack([0.1 * noise[0], tone, 1e-3 * noise[1]]).astype(np.float32)
