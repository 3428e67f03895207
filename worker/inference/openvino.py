"""Networks compiled by OpenVINO: on a processor a fifth to two times faster than PyTorch, at the same answers.

An optional package (the extra `openvino`), which a worker without a GPU uses by itself when it is there.
A network is traced once, from its own `forward` with a tap that keeps what can be asked for, so that whatever PyTorch
runs, this runs too; what is asked for rarely, all channels of a layer, is left to PyTorch.
"""

import sys
import threading
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worker.inference.backend import Activations, OutputRequest, TorchBackend
from worker.model.activations import class_activation
from worker.model.base import Network
from worker.model.checkpoint import Model
from worker.model.fake_quant import quantised
from worker.model.precision import native_bf16

_CPU = torch.device("cpu")


class OpenVINOBackend:
    """May be called from `cores` threads at a time. Raises ImportError where the package is missing, and RuntimeError
    for a network that it cannot take."""

    def __init__(self, model: Model, cores: int, *, int8: bool) -> None:
        # Its converter would tell Google Analytics of each network, from processes that it forks off this one; without
        # that package it uses a stand-in of its own which tells nobody.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        import openvino

        self._network = model.network
        self._torch = TorchBackend(model, _CPU)
        self._window = model.config.frontend
        eight = int8 and bool(model.config.int8_ranges)
        network = quantised(model.network, model.config.int8_ranges) if eight else model.network
        self._shown, graph = self._convert(openvino, network, freeze=not eight)
        answer = openvino.Model([graph.get_results()[0]], graph.get_parameters())
        precision = "bf16" if native_bf16(_CPU) else "f32"
        self.name = f"openvino, {'int8' if eight else {'bf16': 'bfloat16', 'f32': 'float32'}[precision]}"
        compiler = openvino.Core()

        def compiled(part: Any, streams: int) -> Any:
            options = {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": cores,
                "NUM_STREAMS": streams,
                "ENABLE_CPU_PINNING": False,  # other processes have their work on the same cores
            }
            return compiler.compile_model(part, "CPU", options)

        # A batch that has the machine to itself takes all cores; otherwise each takes one, which wastes none on waiting
        # for each other.
        self._alone = _Requests(compiled(answer, 1))
        self._among = _Requests(compiled(answer, cores)) if cores > 1 else self._alone
        self._looking = _Requests(compiled(graph, cores))

    def __call__(self, features: Tensor, rows: OutputRequest, *, alone: bool) -> tuple[Tensor, Activations]:
        if rows.channels:
            return self._torch(features, rows, alone=alone)
        batch = features.numpy()
        if not rows:
            (logits,) = (self._alone if alone else self._among)(batch)
            return logits, {}
        logits, *shown = self._looking(batch)
        seen = dict(zip(self._shown, shown, strict=True))
        looks: Activations = {}
        if rows.maps:
            looks |= {key: values[rows.maps] for key, values in seen.items() if key[0] == "maps"}
        if rows.embedding:
            looks["embedding",] = seen["embedding",][rows.embedding]
        if rows.cam:
            levels = [seen["level", layer][list(rows.cam)] for layer in self._network.pooled_layers]
            looks["cam",] = class_activation(self._network, levels, rows.cam_classes(logits))
        return logits, looks

    @property
    def precisions(self) -> list[str]:
        """What each convolution really takes, as the compiler decided: `bf16`, `f32`, `u8`, ..."""
        told = [node.get_rt_info() for node in self._alone.compiled.get_runtime_model().get_ops()]
        found = [{name: str(info[name].astype(str)) for name in ("layerType", "runtimePrecision")} for info in told]
        return [node["runtimePrecision"] for node in found if node["layerType"] == "Convolution"]

    def _convert(self, openvino: Any, network: Network, *, freeze: bool) -> tuple[list[tuple[str, ...]], Any]:
        """The graph for any batch size, and the keys of its outputs behind the logits."""
        open_network = _Open(network)
        example = torch.zeros(2, 1, self._window.n_mels, self._window.window_frames)
        with torch.no_grad(), warnings.catch_warnings():
            # Deprecated in favour of torch.export, which takes seven times as long over the same.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            traced = torch.jit.trace(open_network, example, check_trace=False)  # type: ignore[no-untyped-call]
            if freeze:  # which halves the time of the conversion, but works out what rounded weights come to
                traced = torch.jit.freeze(traced.eval())
            graph = openvino.convert_model(traced, example_input=example)
        graph.reshape({graph.inputs[0]: [-1, *example.shape[1:]]})
        return open_network.keys, graph


class _Open(nn.Module):
    """A network that gives, behind its logits, everything that can be asked for of all rows."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.keys: list[tuple[str, ...]] = []

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        shown: dict[tuple[str, ...], Tensor] = {}

        def see(name: str, activation: Tensor) -> None:
            if name == "embedding":
                shown["embedding",] = activation
                return
            shown["maps", name] = activation.mean(dim=1)
            if name in self.network.pooled_layers:
                shown["level", name] = activation

        logits = self.network(features, see)
        self.keys = list(shown)
        return (logits, *shown.values())


class _Requests:
    """A compiled network with one request a thread, since a request is for one batch at a time."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self._own = threading.local()

    def __call__(self, batch: np.ndarray[Any, Any]) -> list[Tensor]:
        """The outputs, which the thread's next batch overwrites."""
        if not hasattr(self._own, "request"):
            self._own.request = self.compiled.create_infer_request()
        answers = self._own.request.infer([batch], share_inputs=True, share_outputs=True)
        return [torch.from_numpy(values) for values in answers.values()]
