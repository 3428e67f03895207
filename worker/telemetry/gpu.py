"""GPU metrics of a worker: memory, and utilisation if the driver's library is installed."""

from collections.abc import Callable

import torch
from prometheus_client import CollectorRegistry, Gauge


def register_gpu_metrics(device: torch.device, registry: CollectorRegistry) -> None:
    """Add the gauges of a CUDA device.

    They are NaN while the device is lost, so that the other metrics can still be read: that is when they matter most.
    """

    def gauge(name: str, description: str, read: Callable[[], float]) -> None:
        Gauge(name, description, registry=registry).set_function(lambda: _or_nan(read))

    gauge(
        "otoscope_worker_gpu_memory_bytes",
        "GPU memory allocated to tensors of this process",
        lambda: float(torch.cuda.memory_allocated(device)),
    )
    gauge(
        "otoscope_worker_gpu_memory_free_bytes",
        "GPU memory that is free on this machine",
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
    gauge("otoscope_worker_gpu_busy_ratio", "Share of the last sampling period in which a kernel ran on the GPU", busy)


def _or_nan(read: Callable[[], float]) -> float:
    try:
        return read()
    except Exception:
        return float("nan")
