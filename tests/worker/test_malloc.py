"""Memory that glibc keeps for the next batch, and when it is returned to the kernel."""

import platform
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CODE = """
import numpy as np
import psutil
from worker.inference.malloc import keep_freed_memory, release_freed_memory

def resident():
    return psutil.Process().memory_info().rss >> 20

keep_freed_memory()
start = resident()
large, behind = np.ones(100 << 17), np.ones(100)  # 100 MB and what lies behind them in the heap
del large
print(resident() - start)
release_freed_memory()
print(resident() - start)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these functions")
def test_freed_memory_is_kept_until_it_is_released() -> None:
    """A large array that was freed stays resident until then, also below an array that is still in use."""
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    kept, released = map(int, done.stdout.split())
    assert kept > 90
    assert released < 10
