"""Imports torchaudio, also if its wheel does not load beside the installed torch.

The wheel of torchaudio's last release links against CUDA: beside a CPU-only torch, `import torchaudio` fails on a
missing library. Only its compiled codecs and decoders need that library; the functions used here are plain torch. If,
and only if, the plain import fails, a stub replaces the loader of the compiled part and the import is repeated. All
code that uses torchaudio imports it from here.
"""

import sys
from types import ModuleType
from typing import Any, NoReturn


def _unavailable(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise RuntimeError("torchaudio's compiled extension is not available beside this torch build")


def _extension_stub() -> ModuleType:
    module = ModuleType("torchaudio._extension")
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False  # type: ignore[attr-defined]
    module._load_lib = lambda name: False  # type: ignore[attr-defined]
    module._check_cuda_version = lambda: None  # type: ignore[attr-defined]
    module.fail_if_no_align = lambda function: _unavailable  # type: ignore[attr-defined]
    return module


try:
    import torchaudio
except (ImportError, OSError):
    for name in [n for n in sys.modules if n == "torchaudio" or n.startswith("torchaudio.")]:
        del sys.modules[name]
    sys.modules["torchaudio._extension"] = _extension_stub()
    import torchaudio

__all__ = ["torchaudio"]
