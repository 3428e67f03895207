"""How the command line finds the application's commands."""

import subprocess
import tomllib

from commands import COMMANDS
from otoscope.cli.main import APPLICATION_COMMANDS, GROUP
from tests.conftest import PYTHON, ROOT


def test_commands_are_declared_alike() -> None:
    """The entry points, the commands of a source tree, and those that the client lists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][GROUP] == COMMANDS
    assert APPLICATION_COMMANDS.keys() == COMMANDS.keys()
    extras = {extra for needed in APPLICATION_COMMANDS.values() for extra in needed.split(",") if extra}
    assert extras <= project["optional-dependencies"].keys()


def test_a_source_tree_needs_no_installation() -> None:
    """`python -m commands`, as in the images, has the application's commands and the client's."""
    done = subprocess.run(
        [PYTHON, "-m", "commands", "keys", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "revoke" in done.stdout
    done = subprocess.run(
        [PYTHON, "-m", "commands", "classify", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "--top-k" in done.stdout
