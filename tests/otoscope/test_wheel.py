"""What pip makes of the project, for whoever installs it elsewhere."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PYTHON, ROOT
from tests.test_structure import ROOMS


def test_a_wheel_has_everything_of_the_rooms(tmp_path: Path) -> None:
    """The page and the recipes too, which are no modules."""
    pytest.importorskip("setuptools", reason="a wheel is built offline, and needs setuptools for it")
    source = tmp_path / "source"
    for room in ROOMS:  # elsewhere, since setuptools leaves things behind
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [PYTHON, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*build, "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("otoscope-*.whl")
    ours = {str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()}
    assert {path for path in ours if "__pycache__" not in path} == {
        path for path in zipfile.ZipFile(wheel).namelist() if path.split("/")[0] in ROOMS
    }
