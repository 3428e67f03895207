"""timm, where it is installed, also beside a torchvision that was built for another torch.

timm imports torchvision for its data loading, which is not used here. torchvision's wheels carry compiled operators
that a CPU-only torch cannot load, and its import then fails where it describes them. Declaring the two it asks for by
name is enough: nothing here calls them.
"""

import importlib
import sys
from typing import Any

import torch

from shared.install_hints import install_command

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_timm() -> Any:
    """Raises ImportError, which says how to install it."""
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
        raise ImportError(f"{error}: networks made for pictures need timm, {install_command('pictures')}") from error
