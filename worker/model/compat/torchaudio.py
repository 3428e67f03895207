"""Imports torchaudio where its wheel does not load beside the installed torch.

torchaudio's last release links against CUDA, so that beside a CPU-only torch `import torchaudio` fails on a missing
library. Only its compiled codecs and decoders need that part; the transforms used here are plain torch. When, and only
when, the plain import fails, a stand-in for the loader of the compiled part is registered and the import repeated.
Everything that uses torchaudio imports it from here.
"""

import sys
from types import ModuleType
from typing import Any, NoReturn


def _unavailable(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise RuntimeError("torchaudio's compiled extension is not available beside this torch build")


def _stand_in() -> ModuleType:
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
    sys.modules["torchaudio._extension"] = _stand_in()
    import torchaudio

__all__ = ["torchaudio"]
