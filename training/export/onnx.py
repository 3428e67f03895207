"""Exports a model as one ONNX file, from waveform to probabilities, for any ONNX runtime.

The front end is part of the file: ONNX has an STFT operator since opset 17, so no other log-mel implementation has to
match ours. The exported file is compared with PyTorch before it gets its final name.
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
from training.errors import ExportError, cause
from worker.model.base import parameters
from worker.model.checkpoint import Model, ModelConfig, ModelError, load_model

TOLERANCE = 1e-3  # maximum absolute difference in probability from PyTorch in float32
MIN_OPSET = 18  # the lowest opset that torch.onnx supports here; reflection padding cannot be converted to an older one
INPUT_NAME, OUTPUT_NAME = "waveform", "probabilities"


@dataclass(frozen=True)
class ExportResult:
    """The exported file, and its maximum difference from PyTorch."""

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
    """Front end, network and softmax as one module: (batch, samples) -> calibrated probabilities (batch, classes)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.frontend, self.network = model.frontend, model.network
        self._model = model

    def forward(self, waveform: Tensor) -> Tensor:
        return self._model.probabilities(self.network(self.frontend(waveform)))


def export_onnx(directory: Path, out: Path, *, opset: int | None = None) -> ExportResult:
    """Export the model in `directory` to `out`, for any batch size and length; `opset` defaults to that of the
    exporter.

    Raises ExportError, and then `out` is unchanged.
    """
    onnx, runtime = _packages()
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not MIN_OPSET <= opset <= newest:
        raise ExportError(f"opset {opset} is not supported; this version of onnx accepts {MIN_OPSET} to {newest}")
    try:
        model = load_model(directory)
    except ModelError as error:
        raise ExportError(str(error)) from error

    if out.is_dir():
        raise ExportError(f"{out} cannot be written: it is a folder")
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # so that an error is known before the export
        classifier = Classifier(model).eval()
        program = _export(classifier, model.config, opset)
        written = program.model.opset_imports[""]
        if opset not in (None, written):
            raise ExportError(f"the exporter could not convert the model to opset {opset}; its default is {written}")
        _set_metadata(program.model, model.config)
        program.save(partial, external_data=False)
        difference = max_difference(classifier, model.config, partial, runtime)
        if not difference <= TOLERANCE:  # so that NaN fails, too
            raise ExportError(
                f"the exported model differs from PyTorch by {difference:.2g} in probability; at most"
                f" {TOLERANCE:g} is allowed"
            )
        size = partial.stat().st_size
        os.replace(partial, out)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {cause(error)}") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return ExportResult(out, written, size, parameters(model.network), difference)


def max_difference(classifier: Classifier, config: ModelConfig, path: Path, runtime: Any) -> float:
    """Maximum absolute difference between ONNX Runtime and PyTorch, in float32 on the CPU, over batch sizes and
    lengths.

    Raises ExportError.
    """
    window = config.frontend.window_samples
    try:
        session = runtime.InferenceSession(path, _options(runtime), providers=["CPUExecutionProvider"])
        max_error = 0.0
        for samples in (window, max(window // 2, config.frontend.shortest), window + window // 2):
            waves = _test_waveforms(samples, config.frontend.sample_rate)
            for part in (waves, *np.split(waves[:2], 2)):  # batch of three, noise, tone
                (actual,) = session.run([OUTPUT_NAME], {INPUT_NAME: part})
                with torch.inference_mode():
                    expected = classifier(torch.from_numpy(part)).numpy()
                if actual.shape != expected.shape:
                    raise ExportError(
                        f"the exported model returns shape {actual.shape} for {part.shape}, not {expected.shape}"
                    )
                max_error = float(np.maximum(max_error, np.abs(actual - expected).max()))  # np.maximum propagates NaN
    except ExportError:
        raise
    except Exception as error:  # the runtime has many exception types
        raise ExportError(f"the exported model cannot be run: {error}") from error
    return max_error


def _packages() -> tuple[Any, Any]:
    """Import onnx and onnxruntime; onnxscript is only needed by torch, whose own message for it would be unclear."""
    found = {}
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            found[name] = import_module(name)
        except ImportError as error:
            raise ExportError(f"exporting needs {name}: {install_command('onnx')} ({error})") from error
    return found["onnx"], found["onnxruntime"]


def _export(classifier: Classifier, config: ModelConfig, opset: int | None) -> Any:
    """Returns a torch.onnx.ONNXProgram in memory. Raises ExportError."""
    example = torch.zeros(2, config.frontend.window_samples)  # torch treats a batch size of one as a constant
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
    except Exception as error:  # torch and onnxscript have many exception types
        cause = error.__cause__ or error  # the exporter wraps the cause in advice on debugging the exporter
        raise ExportError(f"{config.name} cannot be exported: {type(cause).__name__}: {cause}") from error
    return program


@contextmanager
def _suppress_exporter_noise() -> Iterator[None]:
    """Suppress two messages of the exporter that appear in every run and require no action."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")

    def keep(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    registry.addFilter(keep)
    try:
        with warnings.catch_warnings():
            # torch 2.13 warns about its own use of LeafSpec while it copies a graph.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        registry.removeFilter(keep)


def _set_metadata(program: Any, config: ModelConfig) -> None:
    """Write metadata properties for the runtime, and remove torch's stack traces, which contain source paths."""
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
            "window_samples": str(config.frontend.window_samples),  # window length in training
            "licence": config.licence,
            "weights_sha256": config.weights_sha256,
        }
    )


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only; they are also raised
    return options


def _test_waveforms(samples: int, rate: int) -> NDArray[np.float32]:
    """Test input (3, samples): noise, a tone, and noise close to the floor of the log-mel."""
    noise = np.random.default_rng(0).normal(size=(2, samples))
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)
    return np.stack([0.1 * noise[0], tone, 1e-3 * noise[1]]).astype(np.float32)
