"""A folder with which bench/gpu.py runs on a host that has Python and torch, and no network.

It holds `run.py` and an archive: the tracked files of this tree with one shipped model of each kind of network, and for
each version of Python the packages of requirements/local.txt that the runs need. Packages of several versions have many
files in common, which one compressed archive with a large dictionary holds once: a third of the size of their wheels.
"""

import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

TREE = Path(__file__).parents[2]
LIMIT_MB = 60
PYTHONS = ("3.11", "3.12")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")

_OF_TORCH = {"filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy"}
_UNUSED = {
    "absl-py",
    "av",
    "contourpy",
    "cycler",
    "fonttools",
    "grpcio",
    "kiwisolver",
    "markdown",
    "matplotlib",
    "pillow",
}
_UNUSED |= {"protobuf", "pyparsing", "tensorboard", "tensorboard-data-server", "werkzeug"}
"""Of the lock: FFmpeg, images, and what only `otoscope train` imports, which would be more than half of the bundle."""
_ADDED = ("execnet", "iniconfig", "pluggy", "psutil", "pytest", "pytest-timeout", "pytest-xdist")
"""What tests and benchmarks import besides, in the versions that are installed here."""
_LEFT_OUT = {".a", ".exe", ".h", ".pxd", ".pyi", ".pyx"}
_OF_THE_SAME_KIND = (
    "models/cat-dog/",
    "models/drone-car-speech/",
    "models/esc50-resnet34/",
    "models/esc50-scratch/",
)
"""Residual CNNs, as is the network of 21.3M parameters, which the runs make."""
_UNUSED_FOLDERS = ("docs/", "kubernetes/", ".github/", *_OF_THE_SAME_KIND)


def make_bundle(folder: Path) -> int:
    """Write the bundle into a new folder; returns its size in bytes.

    Raises FileExistsError where the folder exists, CalledProcessError where a package cannot be fetched.
    """
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("bundle_run.py"), folder / "run.py")
    with tempfile.TemporaryDirectory() as name:
        for python in PYTHONS:
            _install(python, Path(name) / python)
        _copy_tree(Path(name) / "tree")
        _pack(Path(name), folder / "bundle.tar.xz")
    return sum(path.stat().st_size for path in folder.iterdir())


def _copy_tree(target: Path) -> None:
    """The tracked files as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TREE, check=True, stdout=subprocess.PIPE, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if not name.startswith(_UNUSED_FOLDERS) and (TREE / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TREE / name, target / name)


def _install(python: str, target: Path) -> None:
    """The packages for that version of Python, whichever runs here."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--only-binary", ":all:"]
    command += [word for name in PLATFORMS for word in ("--platform", name)]
    command += ["--python-version", python, "--target", str(target)]
    locked = target.with_name("locked.txt")
    locked.write_text(without_unused((TREE / "requirements" / "local.txt").read_text()))
    subprocess.run([*command, "--require-hashes", "--requirement", str(locked)], check=True)
    subprocess.run([*command, *(f"{name}=={version(name)}" for name in _ADDED)], check=True)
    locked.unlink()


def without_unused(text: str) -> str:
    """The entries of a lock without those that are not needed."""
    entries = re.split(r"\n(?=[a-z0-9])", text)
    skipped = _OF_TORCH | _UNUSED
    return "\n".join(entry for entry in entries if entry.partition("==")[0].strip() not in skipped) + "\n"


def _pack(folder: Path, archive: Path) -> None:
    """Files of packages with the same name side by side, so that copies are found."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    files = [path for path in files if _is_needed(path.relative_to(folder))]
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**26}]
    with lzma.open(archive, "wb", filters=filters) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(files, key=lambda path: (path.suffix, path.name, path.stat().st_size)):
            tar.add(path, str(path.relative_to(folder)))


def _is_needed(path: Path) -> bool:
    return path.parts[0] == "tree" or (path.suffix not in _LEFT_OUT and not {"tests", "bin"} & set(path.parts[:-1]))
