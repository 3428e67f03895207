"""Data-parallel training: real processes that torchrun starts, connected by gloo."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import PYTHON
from tests.support.tiny_recipe import TINY
from training.fit.history import read_history
from training.fit.run_state import CHECKPOINT
from training.recipe import Recipe, to_yaml

pytestmark = pytest.mark.timeout(900)

# Without dropout, which has random values of its own in each process.
EXACT = {
    **TINY.model_dump(mode="json"), "network": {"depths": [1, 1], "widths": [8, 16], "dropout": [0.0]},
}  # fmt: skip


def recipe_file(folder: Path, **optim: object) -> Path:
    path = folder / "recipe.yaml"
    changed = {**EXACT["optim"], "precision": "float32", "epochs": 3, **optim}
    path.write_text(to_yaml(Recipe.model_validate({**EXACT, "optim": changed})))
    return path


def train_command(processes: int, data: Path, recipe: Path, out: Path, *options: str) -> list[str]:
    start = [PYTHON]
    if processes > 1:
        start = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    given = ("--data", data, "--fold", 3, "--recipe", recipe, "--out", out)
    return [*start, "-m", "otoscope", "train", *map(str, given), *options]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.parametrize(
    "optim",
    [
        {"holdout": 0.25},
        {"optimizer": "sgd", "batch": 4, "accumulate": 2, "average": "swa", "balance": True},
    ],
    ids=("adamw", "accumulated"),
)
def test_two_processes_have_the_loss_curve_of_one(data: Path, tmp_path: Path, optim: dict[str, object]) -> None:
    """Batch normalisation, augmentation, weights and the averages of them are those of one process with the whole
    batch, within rounding; the first process alone prints and measures."""
    recipe = recipe_file(tmp_path, **optim)
    printed = {}
    for processes in (1, 2):
        ended = run(train_command(processes, data, recipe, tmp_path / str(processes)))
        assert ended.returncode == 0, ended.stderr[-3_000:]
        printed[processes] = ended.stdout.replace(str(tmp_path / str(processes)), "RUN")
    assert printed[2].count("The model tiny is in RUN") == 1
    assert "cpu, 2 processes" in printed[2]
    one, two = (read_history(tmp_path / name) for name in "12")
    assert len(one) == len(two) == 3
    for before, after in zip(one, two, strict=True):
        assert after == pytest.approx(before, rel=2e-3, abs=2e-3)
    alone, shared = (load_file(tmp_path / name / "model.safetensors") for name in "12")
    for name, values in alone.items():
        assert torch.allclose(shared[name].float(), values.float(), rtol=0.02, atol=0.01), name


LEFT = """
import os, sys
from pathlib import Path
import torch
from training.fit import processes

with processes.joined():
    network = processes.parallel(torch.nn.Linear(2, 1))
    network(torch.ones(1, 2)).sum().backward()
    del network
print(*(Path(thread, "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()), file=sys.stderr)
"""


def test_threads_of_the_group_end_with_it(tmp_path: Path) -> None:
    """One that is left may abort the process at its end."""
    script = tmp_path / "left.py"
    script.write_text(LEFT)
    start = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    ended = run(start)
    assert ended.returncode == 0, ended.stderr
    assert "gloo" not in ended.stderr


def test_interrupted_processes_resume(data: Path, tmp_path: Path) -> None:
    """SIGTERM to all of them saves one checkpoint after a common step; as many processes go on from it, with dropout
    bit for bit, and another number is refused."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(TINY.model_copy(update={"optim": TINY.optim.model_copy(update={"epochs": 40})})))
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert run(train_command(2, data, recipe, whole)).returncode == 0
    started = subprocess.Popen(
        train_command(2, data, recipe, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 300
        while len(read_history(out)) < 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        started.send_signal(signal.SIGTERM)  # torchrun passes it on
        _, stderr = started.communicate(timeout=300)
    finally:
        started.kill()
    assert (out / CHECKPOINT).is_file(), stderr[-3_000:]
    assert len(torch.load(out / CHECKPOINT, weights_only=True)["other_processes"]) == 1
    refused = run(train_command(1, data, recipe, out, "--resume"))
    assert "the run was started with 2 processes; resume it with as many" in refused.stderr
    resumed = run(train_command(2, data, recipe, out, "--resume"))
    assert resumed.returncode == 0, resumed.stderr[-3_000:]
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, out))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_only_a_training_runs_in_several_processes(data: Path, tmp_path: Path) -> None:
    """Processes that all evaluate would write over each other's files."""
    folds = ("--folds", "3", "--data", str(data), "--recipe", str(recipe_file(tmp_path)))
    command = [PYTHON, "-m", "otoscope", "evaluate", str(tmp_path / "cv"), *folds]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=False, env={**os.environ, "WORLD_SIZE": "2"}
    )
    assert "torchrun is for `otoscope train`" in ended.stderr
    assert not (tmp_path / "cv").exists()


def test_batch_that_cannot_be_shared_is_refused(data: Path, tmp_path: Path) -> None:
    """It would otherwise weight the windows of one process more than those of another."""
    ended = run(train_command(3, data, recipe_file(tmp_path), tmp_path / "run"))
    assert ended.returncode != 0
    assert "optim.batch is 8, which cannot be divided among 3 processes" in ended.stderr
    assert not (tmp_path / "run" / "config.json").exists()
