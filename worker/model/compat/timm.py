"""Imports timm, also if the installed torchvision was built for another torch.

timm imports torchvision for its data loading, which is not used here. torchvision's wheels have compiled operators that
a CPU-only torch cannot load; its import then fails with "operator torchvision::nms does not exist" where it registers
fake implementations of them (pytorch/vision#9085). Defining the two operators that it needs by name is enough, since
nothing here calls them.
"""

import importlib
import sys
from typing import Any

import torch

from shared.install_hints import install_command

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_timm() -> Any:
    """The module `timm`. Raises ImportError with the command that installs it."""
    try:
        try:
            importlib.import_module("torchvision")
        except RuntimeError:  # operator torchvision::nms does not exist
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            for operator in _OPERATORS:
                torch.library.define(f"torchvision::{operator}", _SCHEMA)
            importlib.import_module("torchvision")
        return importlib.import_module("timm")
    except ImportError as error:
        raise ImportError(f"{error}: image networks need timm, {install_command('pictures')}") from error
