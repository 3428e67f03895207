"""The sandbox of the decode processes, tried from inside in processes of its own."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are of Linux")

ATTEMPTS = {
    "reads a file": "open('/etc/passwd').read()",
    "reads its own code": "open('worker/decode/child.py').read()",
    "writes a file": "open('/tmp/otoscope-sandbox', 'w')",
    "lists a folder": "os.listdir('/')",
    "deletes a file": "os.unlink('/tmp/otoscope-nothing')",
    "opens a socket": "socket.socket()",
    "opens a Unix socket": "socket.socket(socket.AF_UNIX)",
    "starts a program": "os.execv('/bin/true', ['/bin/true'])",
    "starts a process": "os.fork()",
    "starts a thread": "threading.Thread(target=print).start()",
    "signals its parent": "os.kill(os.getppid(), 0)",
    "reads another process": "os.open(f'/proc/{os.getppid()}/mem', os.O_RDONLY)",
    "makes memory executable": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "becomes another user": "os.setuid(65534)",
}

CHILD = f"""
import json, mmap, os, socket, sys, threading
from worker.decode import sandbox
sandbox.forbid_files()
sandbox.forbid_calls()
ends = {{}}
for name, code in {ATTEMPTS!r}.items():
    try:
        exec(code)
        ends[name] = "done"
    except (OSError, RuntimeError) as error:
        ends[name] = type(error).__name__
print(json.dumps(ends))
"""


def test_nothing_outside_can_be_reached() -> None:
    """Each attempt fails with an error, and the process goes on."""
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if "not available" in done.stderr:
        pytest.skip(done.stderr)
    ends = json.loads(done.stdout)
    assert ends.keys() == ATTEMPTS.keys()
    assert not [name for name, end in ends.items() if end == "done"]
