"""Networks compiled by OpenVINO: on a CPU a fifth to two times faster than PyTorch, with the same results.

An optional package (the extra `openvino`); a worker without a GPU uses it automatically if it is installed. A network
is traced once, from its own `forward` with a hook that keeps every activation that can be requested: every architecture
that runs in PyTorch runs here too. The rare request for all channels of a layer is left to PyTorch.
"""

import sys
import threading
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worker.inference.backend import Activations, OutputRequest, Outputs, TorchBackend
from worker.model.activations import class_activation
from worker.model.base import Need, Network
from worker.model.checkpoint import Model
from worker.model.fake_quant import quantised
from worker.model.open_set import OpenSetScorer
from worker.model.precision import native_bf16

_CPU = torch.device("cpu")


class OpenVINOBackend:
    """May be called from `cores` threads at a time. Raises ImportError if the package is missing, and RuntimeError for
    a network that it cannot convert."""

    def __init__(self, model: Model, cores: int, *, int8: bool) -> None:
        # The converter sends an event to Google Analytics for each network, unless the user opted out
        # (openvinotoolkit/openvino#20290), from processes that it forks off this one. Without this module it uses its
        # own stub, which sends nothing.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        import openvino

        self._network = model.network
        self._torch = TorchBackend(model, _CPU)
        self._frontend, self._shown_at = model.config.frontend, model.frontend.shown_at
        use_int8 = int8 and bool(model.config.int8_ranges)
        network = quantised(model.network, model.config.int8_ranges) if use_int8 else model.network
        self._open_set = model.open_set
        self._keys, graph = self._convert(openvino, network)
        scores_only = openvino.Model(graph.get_results()[len(self._keys) :], graph.get_parameters())
        precision = "bf16" if native_bf16(_CPU) else "f32"
        self.name = f"openvino, {'int8' if use_int8 else {'bf16': 'bfloat16', 'f32': 'float32'}[precision]}"
        compiler = openvino.Core()

        def compiled(part: Any, streams: int) -> Any:
            options = {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": cores,
                "NUM_STREAMS": streams,
                "ENABLE_CPU_PINNING": False,  # other processes use the same cores
            }
            return compiler.compile_model(part, "CPU", options)

        # A batch that has the machine to itself uses all cores. Otherwise each batch uses one core, so that no core
        # waits for another.
        self._alone = _InferRequests(compiled(scores_only, 1))
        self._shared = _InferRequests(compiled(scores_only, cores)) if cores > 1 else self._alone
        self._with_activations = _InferRequests(compiled(graph, cores))

    def __call__(self, features: Tensor, request: OutputRequest, *, alone: bool) -> Outputs:
        """As `Backend.__call__`."""
        if request.channels:
            return self._torch(features, request, alone=alone)
        batch = features.numpy()
        if not request:
            logits, *scores = (self._alone if alone else self._shared)(batch)
            return logits, scores[0] if scores else None, {}
        outputs = self._with_activations(batch)
        kept = len(self._keys)
        of_all_rows = dict(zip(self._keys, outputs[:kept], strict=True))
        logits, *scores = outputs[kept:]
        known = scores[0] if scores else None
        activations: Activations = {}
        if request.maps:
            activations |= {key: values[request.maps] for key, values in of_all_rows.items() if key[0] == "maps"}
        if request.embedding:
            activations["embedding",] = of_all_rows["embedding",][request.embedding]
        if request.cam:
            levels = [of_all_rows["level", layer][list(request.cam)] for layer in self._network.pooled_layers]
            activations["cam",] = class_activation(self._network, self._shown_at, levels, request.cam_classes(logits))
        return logits, known, activations

    @property
    def precisions(self) -> list[str]:
        """The actual input type of each convolution, as the compiler decided: `bf16`, `f32`, `u8`, `i8`, ..."""
        infos = [node.get_rt_info() for node in self._alone.compiled.get_runtime_model().get_ops()]
        nodes = [{name: str(info[name].astype(str)) for name in ("layerType", "runtimePrecision")} for info in infos]
        return [node["runtimePrecision"] for node in nodes if node["layerType"] == "Convolution"]

    def _convert(self, openvino: Any, network: Network) -> tuple[list[tuple[str, ...]], Any]:
        """The keys of the outputs before the logits, and the graph for any batch size."""
        with_all_outputs = _AllOutputs(network, self._open_set)
        example = torch.zeros(2, 1, self._frontend.rows, self._frontend.window_frames)
        with torch.no_grad(), warnings.catch_warnings():
            # Deprecated in favour of torch.export, which takes seven times as long for the same network.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            # Not frozen: PyTorch would keep the frozen weights until the process ends (pytorch/pytorch#96726).
            traced = torch.jit.trace(with_all_outputs, example, check_trace=False)  # type: ignore[no-untyped-call]
            graph = openvino.convert_model(traced, example_input=example)
        graph.reshape({graph.inputs[0]: [-1, *example.shape[1:]]})
        return with_all_outputs.keys, graph


class _AllOutputs(nn.Module):
    """A network that returns every activation that can be requested, for all rows, then its logits and known scores.

    The compiler runs what the first output needs, then what the second one needs, and so on. In this order a layer is
    reduced to its map before the next one is computed, so that only few layers are in memory at a time.
    """

    def __init__(self, network: Network, open_set: OpenSetScorer | None) -> None:
        super().__init__()
        self.network, self.open_set = network, open_set
        self.keys: list[tuple[str, ...]] = []

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        hook = _Kept(self.network.pooled_layers)
        logits = self.network(features, hook)
        self.keys = list(hook.outputs)
        scores = () if self.open_set is None else (self.open_set(hook.outputs["embedding",], logits),)
        return (*hook.outputs.values(), logits, *scores)


class _Kept:
    """An activation hook that keeps what can be requested: a map of each layer, all channels of those from which class
    activation maps are computed, and the embedding."""

    def __init__(self, pooled_layers: tuple[str, ...]) -> None:
        self._pooled_layers = pooled_layers
        self.outputs: dict[tuple[str, ...], Tensor] = {}

    def need(self, name: str) -> Need:
        return "channels" if name in self._pooled_layers else "mean"

    def __call__(self, name: str, activation: Tensor) -> None:
        if name == "embedding":
            self.outputs["embedding",] = activation
            return
        self.outputs["maps", name] = activation.mean(dim=1)
        if name in self._pooled_layers:
            self.outputs["level", name] = activation


class _InferRequests:
    """A compiled network with one infer request per thread, since a request can run one batch at a time."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self._local = threading.local()

    def __call__(self, batch: np.ndarray[Any, Any]) -> list[Tensor]:
        """The outputs; the next batch in this thread overwrites them."""
        if not hasattr(self._local, "request"):
            self._local.request = self.compiled.create_infer_request()
        outputs = self._local.request.infer([batch], share_inputs=True, share_outputs=True)
        return [torch.from_numpy(values) for values in outputs.values()]
