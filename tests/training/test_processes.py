"""Data-parallel training: real processes that torchrun starts, connected by gloo."""

import json
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from otoscope.cli.main import app
from tests.conftest import PYTHON
from tests.support.tiny_recipe import TINY
from training.data.esc50 import load_esc50
from training.errors import RunError
from training.fit.history import read_history
from training.fit.loop import train
from training.fit.run_state import CHECKPOINT
from training.recipe import Recipe, to_yaml

pytestmark = pytest.mark.timeout(900)

# Without dropout, which has random values of its own in each process.
EXACT = {
    **TINY.model_dump(mode="json"), "network": {"depths": [1, 1], "widths": [8, 16], "dropout": [0.0]},
}  # fmt: skip


CASES: dict[str, dict[str, object]] = {
    "adamw": {"holdout": 0.25},
    "accumulated": {"optimizer": "sgd", "batch": 4, "accumulate": 2, "average": "swa", "balance": True},
}
LONGER = TINY.model_copy(update={"optim": TINY.optim.model_copy(update={"epochs": 40})})


def exact(**optim: object) -> Recipe:
    changed = {**EXACT["optim"], "precision": "float32", "epochs": 3, **optim}
    return Recipe.model_validate({**EXACT, "optim": changed})


def recipe_file(path: Path, recipe: Recipe) -> Path:
    path.write_text(to_yaml(recipe))
    return path


def train_options(data: Path, recipe: Path, out: Path) -> list[str]:
    return ["train", *map(str, ("--data", data, "--fold", 3, "--recipe", recipe, "--out", out))]


def two_processes(*command: str) -> list[str]:
    return [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


SEVERAL = """
import json, os, sys
from pathlib import Path
from otoscope.__main__ import main
from training.fit import processes

with processes.joined():
    for arguments in json.loads(sys.argv[1]):
        sys.argv = ["otoscope", *arguments]
        try:
            main()
        except SystemExit as end:
            print("status", end.code)
threads = " ".join(Path(thread, "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir())
os.write(2, f"\\nthreads: {threads}\\n".encode())  # at once, since two processes write
"""
"""Runs one command after the other: each start of a process would import torch again."""


@dataclass
class Trained:
    """What two processes have printed, and the folder of their runs."""

    folder: Path
    ended: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The runs of CASES, a longer one, and one that is refused, by two processes."""
    folder = tmp_path_factory.mktemp("two")
    recipes = {
        **{name: exact(**optim) for name, optim in CASES.items()}, "longer": LONGER, "refused": exact(batch=7),
    }  # fmt: skip
    commands = [
        train_options(data, recipe_file(folder / f"{name}.yaml", recipe), folder / name)
        for name, recipe in recipes.items()
    ]
    (folder / "several.py").write_text(SEVERAL)
    ended = run(two_processes(str(folder / "several.py"), json.dumps(commands)))
    assert ended.returncode == 0, ended.stderr[-3_000:]
    statuses = [line for line in ended.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["status 0"] * 3 + ["status 1"], ended.stdout + ended.stderr[-3_000:]
    return Trained(folder, ended)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_loss_curve_of_one(data: Path, tmp_path: Path, trained: Trained, case: str) -> None:
    """Batch normalisation, augmentation, weights and the averages of them are those of one process with the whole
    batch, within rounding; the first process alone prints and measures."""
    train(exact(**CASES[case]), load_esc50(data), 3, tmp_path / "1", threshold_fold=3)
    assert trained.ended.stdout.count(f"The model tiny is in {trained.folder / case}\n") == 1
    assert trained.ended.stdout.count("cpu, 2 processes") == 3
    folders = tmp_path / "1", trained.folder / case
    one, two = map(read_history, folders)
    assert len(one) == len(two) == 3
    for before, after in zip(one, two, strict=True):
        assert after == pytest.approx(before, rel=2e-3, abs=2e-3)
    alone, shared = (load_file(folder / "model.safetensors") for folder in folders)
    for name, values in alone.items():
        assert torch.allclose(shared[name].float(), values.float(), rtol=0.02, atol=0.01), name


def test_threads_of_the_group_end_with_it(trained: Trained) -> None:
    """One that is left may abort the process at its end."""
    threads = [line for line in trained.ended.stderr.splitlines() if line.startswith("threads:")]
    assert len(threads) == 2
    assert "gloo" not in "".join(threads)


@pytest.mark.long
def test_interrupted_processes_resume(data: Path, tmp_path: Path, trained: Trained) -> None:
    """SIGTERM to all of them saves one checkpoint after a common step; as many processes go on from it, with dropout
    bit for bit, and another number is refused."""
    out = tmp_path / "run"
    command = two_processes("-m", "otoscope", *train_options(data, recipe_file(tmp_path / "recipe.yaml", LONGER), out))
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
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
    with pytest.raises(RunError, match="the run was started with 2 processes; resume it with as many"):
        train(LONGER, load_esc50(data), 3, out, resume=True)
    resumed = run([*command, "--resume"])
    assert resumed.returncode == 0, resumed.stderr[-3_000:]
    expected, found = (load_file(folder / "model.safetensors") for folder in (trained.folder / "longer", out))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_only_a_training_runs_in_several_processes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that all evaluate would write over each other's files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    given = ("--folds", 3, "--data", data, "--recipe", recipe_file(tmp_path / "recipe.yaml", exact()))
    ended = CliRunner().invoke(app, ["evaluate", *map(str, (tmp_path / "cv", *given))])
    assert "torchrun is for `otoscope train`" in str(ended.exception)
    assert not (tmp_path / "cv").exists()


def test_batch_that_cannot_be_shared_is_refused(trained: Trained) -> None:
    """It would otherwise weight the windows of one process more than those of another."""
    assert "optim.batch is 7, which cannot be divided among 2 processes" in trained.ended.stderr
    assert not (trained.folder / "refused" / "config.json").exists()
