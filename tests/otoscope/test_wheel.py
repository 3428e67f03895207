"""The two distributions: what pip builds of them, and the client alone in an environment of its own."""

import os
import re
import shutil
import subprocess
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PYTHON, ROOT
from tests.test_structure import ROOMS

APPLICATION = [room for room in ROOMS if room != "otoscope"]

_LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")


def build(source: Path, directory: Path) -> set[str]:
    """Build a wheel without the network; the names of its files."""
    pytest.importorskip("setuptools", reason="building a wheel without the network requires setuptools")
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", str(directory), str(source)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = directory.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_application_has_every_file_of_its_packages(tmp_path: Path) -> None:
    """Also the page, the recipes and the Lua scripts, which are not modules; and not the client."""
    source = tmp_path / "source"
    for room in APPLICATION:  # a copy, since setuptools writes into the folder
        shutil.copytree(ROOT / room, source / room, ignore=_LEFT_BEHIND)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    files = build(source, tmp_path)
    ours = {str(path.relative_to(source)) for room in APPLICATION for path in (source / room).rglob("*")
            if path.is_file() and "build" not in path.parts}  # fmt: skip
    assert ours == {path for path in files if path.split("/")[0] in ROOMS}


def test_the_client_has_every_module_and_its_types(tmp_path: Path) -> None:
    """With py.typed (PEP 561) and the license, without a package of the application."""
    source = tmp_path / "client"
    shutil.copytree(ROOT / "otoscope", source, ignore=_LEFT_BEHIND)
    files = build(source, tmp_path)
    modules = {f"otoscope/{path.relative_to(ROOT / 'otoscope')}" for path in (ROOT / "otoscope").rglob("*.py")
               if "build" not in path.parts}  # fmt: skip
    packaged = {path for path in files if ".dist-info/" not in path}
    assert packaged == modules | {"otoscope/py.typed"}
    assert any(path.endswith("/licenses/LICENSE") for path in files)
    assert (ROOT / "otoscope" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_metadata_fits_an_index_page() -> None:
    """Both distributions have one version; links in the client's README are absolute, as an index page needs them."""
    application, client = (
        tomllib.loads((ROOT / path).read_text())["project"] for path in ("pyproject.toml", "otoscope/pyproject.toml")
    )
    assert application["version"] == client["version"]
    assert "Private :: Do Not Upload" in application["classifiers"]
    assert not [name for name in application["dependencies"] if name.startswith("otoscope")]
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "otoscope" / "README.md").read_text())
    assert links
    assert all(link.startswith("https://") for link in links)


@pytest.mark.timeout(600)
def test_the_client_installs_alone(tmp_path: Path) -> None:
    """In a new environment, in a folder that has packages `shared` and `api` of its own: the library with about a dozen
    packages, and the command line with the extra `cli`."""
    for name in ("shared", "api"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a foreign package')\n")
    shutil.copytree(ROOT / "otoscope", tmp_path / "otoscope", ignore=_LEFT_BEHIND)
    venv.create(tmp_path / "venv", symlinks=True)
    scripts = tmp_path / "venv" / "bin"
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: str | Path, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=500, check=False)

    pip = (PYTHON, "-m", "pip", "--disable-pip-version-check", "--python", scripts / "python")
    install = (*pip, "install", "--no-compile")
    installed = run(*install, "./otoscope")
    unreachable = (
        r"No matching distribution found|Temporary failure in name resolution|Connection(Error| refused| broken)"
    )
    if installed.returncode and re.search(unreachable, installed.stderr):
        pytest.skip(f"the package index cannot be reached: {installed.stderr.strip().splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr
    elsewhere = tmp_path / "elsewhere"  # where no folder `otoscope` can be imported instead of the installed package
    elsewhere.mkdir()
    for name in ("shared", "api"):
        shutil.copytree(tmp_path / name, elsewhere / name)
    imported = run(
        scripts / "python", "-W", "error", "-c",
        "import otoscope, otoscope.client, otoscope.exports, otoscope.loadgen, otoscope.recordings;"
        " print(otoscope.__file__)", cwd=elsewhere,
    )  # fmt: skip
    assert imported.returncode == 0, imported.stderr
    assert "site-packages" in imported.stdout
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    distributions = {path.name.partition("-")[0] for path in packages.glob("*.dist-info")} - {"pip", "setuptools"}
    assert len(distributions - {"otoscope"}) <= 13, distributions
    bare = run(scripts / "otoscope", "--help", cwd=elsewhere)
    assert (bare.returncode, bare.stderr.count("\n")) == (1, 1), bare.stderr
    assert "pip install './otoscope[cli]'" in bare.stderr

    installed = run(*install, "./otoscope[cli]")
    assert installed.returncode == 0, installed.stderr
    shown = run(scripts / "otoscope", "--help", cwd=elsewhere)
    assert shown.returncode == 0, shown.stderr
    assert "classify" in shown.stdout
    imported = run(scripts / "python", "-W", "error", "-c", "import otoscope.top.screen", cwd=elsewhere)
    assert imported.returncode == 0, imported.stderr
    missing = run(scripts / "otoscope", "train", "--recipe", "esc50-best", cwd=elsewhere)
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1), missing.stderr
    assert "-e '.[worker,train]'" in missing.stderr
    names = {path.name for path in packages.iterdir()}
    assert not names & {*APPLICATION, "torch", "redis", "celery", "fastapi"}
