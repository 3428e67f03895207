"""The arithmetic of the network, decided once by the device.

bfloat16 if the hardware multiplies it natively: half the memory traffic and two to three times the speed; over the 400
clips of ESC-50's fold 5 the confidence differs by at most 0.01, and no clip changes its first class. Otherwise float32,
since emulated bfloat16 is slower than that.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

TrainingPrecision = Literal["auto", "float32", "bfloat16"]
"""`auto`: bfloat16 where the device multiplies it natively, else float32."""


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA if available, else the CPU; anything else is torch's own name of a device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # is_bf16_supported checks the current device
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


def autocast(device: torch.device, precision: TrainingPrecision = "auto") -> AbstractContextManager[None]:
    """The context in which the network runs on that device: by default in the arithmetic of the device."""
    if precision == "bfloat16" or (precision == "auto" and native_bf16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
