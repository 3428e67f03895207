"""The commands of the README, run unchanged against the real stack."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PYTHON, ROOT
from tests.e2e.conftest import Stack

README = (ROOT / "README.md").read_text()
ACTIVATE = ". .venv/bin/activate\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def reader(stack: Stack, tmp_path: Path) -> dict[str, str]:
    """Folder and environment of a user who has just run `make up`, with the sound that the README downloads first."""
    (tmp_path / ".venv").symlink_to(Path(PYTHON).parent.parent)
    shutil.copy(ROOT / "api" / "static" / "sounds" / "siren.flac", tmp_path)
    folders = os.environ["PATH"].split(os.pathsep)
    return {
        **os.environ,
        "PATH": os.pathsep.join(folder for folder in folders if Path(folder) != Path(PYTHON).parent),
        "OTOSCOPE_URL": stack.url,
        "HERE": str(tmp_path),
    }


@pytest.mark.parametrize("block", blocks("sh"))
def test_shell_block_runs(stack: Stack, reader: dict[str, str], block: str) -> None:
    """Every `sh` block exits with 0, and no curl in it gets an error response."""
    script = block.replace("localhost:8000", stack.url.removeprefix("http://")).replace(
        "curl ", "curl --fail-with-body "
    )
    if ACTIVATE in README.partition(block)[0]:
        script = ACTIVATE + script  # the same terminal as in the block before
    if "$job" in script and "job=" not in script:
        pytest.fail("a block uses a variable of another")
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=reader["HERE"], env=reader, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, f"{script}\n{ran.stdout}\n{ran.stderr}"


@pytest.mark.parametrize("block", blocks("python"))
def test_python_block_runs(stack: Stack, reader: dict[str, str], block: str) -> None:
    """Every Python block runs as a program of its own, in the environment that is named before it."""
    assert ACTIVATE in README.partition(block)[0]
    ran = subprocess.run(
        ["bash", "-c", f"{ACTIVATE}python -c {shlex.quote(block)}"],
        cwd=reader["HERE"], env=reader, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def test_commands_that_install_or_train_exist() -> None:
    """The blocks that are not run here name targets of make, commands of otoscope and options that exist."""
    commands = "\n".join(blocks("console"))
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([\w-]+)", commands):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for command in sorted(set(re.findall(r"bin/otoscope ((?:data |keys )?[a-z-]+)", commands))):
        ran = subprocess.run(
            [PYTHON, "-m", "otoscope", *command.split(), "--help"], capture_output=True, text=True, check=True
        )
        for option in re.findall(rf"otoscope {command}.*", commands):
            for flag in re.findall(r"--[a-z-]+", option):
                assert flag in ran.stdout, (command, flag)
