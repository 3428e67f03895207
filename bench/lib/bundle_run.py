"""Runs bench/gpu.py from a bundle (bench/lib/bundle.py): `python run.py [options of bench/gpu.py]`.

Needs Python 3.11 or 3.12 with torch, and nothing else: no network, no pip, no root. The bundle is unpacked beside this
file, or where that is not writable into a temporary folder.
"""

import os
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = HERE / "unpacked" if os.access(HERE, os.W_OK) else Path(tempfile.mkdtemp(prefix="otoscope-"))
    complete = folder / f"{version}.complete"
    if not complete.exists():
        with tarfile.open(HERE / "bundle.tar.xz") as archive:
            members = [member for member in archive if member.name.startswith((f"{version}/", "tree/"))]
            if all(member.name.startswith("tree/") for member in members):
                raise SystemExit(f"the bundle has no packages for Python {version}")
            if hasattr(tarfile, "data_filter"):
                archive.extractall(folder, members, filter="data")
            else:
                archive.extractall(folder, members)
        complete.touch()
    tree = folder / "tree"
    arguments = sys.argv[1:]
    if "--out" not in arguments:
        arguments += ["--out", str(folder.parent / "results")]
    at = arguments.index("--out") + 1
    arguments[at] = str(Path(arguments[at]).absolute())
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tree), str(folder / version)])
    os.chdir(tree)
    os.execv(sys.executable, [sys.executable, str(tree / "bench" / "gpu.py"), *arguments])


if __name__ == "__main__":
    main()
