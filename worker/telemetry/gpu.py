"""What a worker tells of its GPU: memory, and how much of the time it is busy where that can be known."""

from collections.abc import Callable

import torch
from prometheus_client import CollectorRegistry, Gauge


def register_gpu_metrics(device: torch.device, registry: CollectorRegistry) -> None:
    """Add the gauges of a CUDA device. A device that is lost tells NaN: the other metrics are wanted most then."""

    def gauge(name: str, told: str, read: Callable[[], float]) -> None:
        Gauge(name, told, registry=registry).set_function(lambda: _or_nan(read))

    gauge(
        "otoscope_worker_gpu_memory_bytes",
        "GPU memory held by tensors of this process",
        lambda: float(torch.cuda.memory_allocated(device)),
    )
    gauge(
        "otoscope_worker_gpu_memory_free_bytes",
        "GPU memory that no process on this machine holds",
        lambda: float(torch.cuda.mem_get_info(device)[0]),
    )
    gauge(
        "otoscope_worker_gpu_memory_total_bytes",
        "Memory of the GPU",
        lambda: float(torch.cuda.mem_get_info(device)[1]),
    )

    def busy() -> float:
        return torch.cuda.utilization(device) / 100

    try:
        busy()  # needs nvidia-ml-py and the driver's own library
    except Exception:
        return
    gauge("otoscope_worker_gpu_busy_ratio", "Share of the last moment in which the GPU ran something", busy)


def _or_nan(read: Callable[[], float]) -> float:
    try:
        return read()
    except Exception:
        return float("nan")
