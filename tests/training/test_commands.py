"""The training commands on the command line: results on stdout, errors in one line, resuming."""

import json
import os
import shlex
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from commands.options import interrupted
from otoscope.cli import INTERRUPTED
from otoscope.cli.main import app
from shared.audio.decode import decode
from tests.conftest import PYTHON, ROOT
from tests.support.recordings import write_class_folders, write_recording
from tests.support.tiny_recipe import TINY, changed
from training.data.esc50 import load_esc50
from training.data.spectrograms_npz import export_spectrograms
from training.fit.loop import train
from training.recipe import load_recipe, to_yaml
from worker.model.checkpoint import read_config
from worker.model.frontend import LogMel

LIGHT = ROOT / "models" / "esc50-light"


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(to_yaml(changed(TINY, epochs=1)))
    return str(path)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_train_and_evaluate(data: Path, recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train` needs no --out, `evaluate` accepts its output, `--record` stores the accuracy in the model."""
    monkeypatch.chdir(tmp_path)
    trained = run("train", "--data", data, "--fold", 2, "--recipe", recipe_file)
    assert trained.exit_code == 0, trained.output
    assert "The model tiny is in runs/tiny-fold2" in trained.output
    assert trained.stderr == "", "no progress bar in a log"
    assert "Serve it: mkdir -p models && cp -r runs/tiny-fold2 models/ && otoscope up" in trained.output
    assert f"otoscope evaluate runs/tiny-fold2-folds --data {data} --recipe {recipe_file} --folds 3" in trained.output
    left = {path.name for path in Path("runs/tiny-fold2").iterdir()}
    assert {"README.md", "learning_curve.png", "history.csv", "evaluation", "recipe.yaml"} <= left
    assert "](learning_curve.png)" in Path("runs/tiny-fold2/README.md").read_text()
    text = Path("runs/tiny-fold2/evaluation/report.txt").read_text().splitlines()
    assert text[0].split() == ["precision", "recall", "f1-score", "support"]
    assert text[-2].split()[:2] == ["macro", "avg"] or text[-1].split()[:2] == ["weighted", "avg"]
    again = run("train", "--data", data, "--fold", 2, "--recipe", recipe_file)
    assert again.exit_code != 0
    assert "already holds a run: --resume continues it, --out names another folder" in str(again.exception)
    result = run("evaluate", "runs/tiny-fold2", "--data", data, "--views", 2)
    assert result.exit_code == 0, result.output
    assert "fold 2" in result.output
    assert "of 12" in result.output
    both = run("evaluate", "runs/tiny-fold2", "runs/tiny-fold2", "--data", data)
    assert "forward passes per clip 2" in both.output
    recorded = run("evaluate", "runs/tiny-fold2", "--data", data, "--record")
    assert recorded.exit_code == 0, recorded.output
    assert "Recorded" in recorded.output
    assert "otoscope evaluate" in Path("runs/tiny-fold2/README.md").read_text()


def test_evaluate_fits_and_measures_answers(data: Path, recipe_file: str, tmp_path: Path) -> None:
    """`train` fits thresholds on the test fold if nothing is held out; `evaluate` fits them again on request, stores
    thresholds for a precision, and measures the sounds of other classes and of a folder."""
    model = tmp_path / "two"
    dataset = load_esc50(data).select_classes(["low", "noise"], "two of three")
    train(load_recipe(recipe_file), dataset, 2, model)
    assert read_config(model).training["answers"]["thresholds_from"] == "training clips"
    fit = ("--fit-answers", "--model-classes", "--precision-target", "0.9", "--level-dbfs", "-30")
    result = run("evaluate", model, "--data", data, *fit, "--outside", data / "audio", "--record")
    assert result.exit_code == 0, result.output
    assert "8 recordings: named " in result.output
    assert "outside sounds: AUROC " in result.output
    config = read_config(model)
    assert config.frontend.level_dbfs == -30
    assert set(config.answers.class_thresholds) == {"low", "noise"}
    assert sum(each.sounds for each in config.accuracy[0].reliability) == 8
    page = (model / "README.md").read_text()
    assert "| high | 4 |" in page
    assert "--fit-answers --level-dbfs -30 --precision-target 0.9" in page
    refused = run("evaluate", model, "--data", data, "--model-classes", "--fit-temperature")
    assert refused.exit_code != 0
    assert "--fit-answers" in refused.output
    whole = run("train", "--data", data, "--fold", 2, "--recipe", recipe_file, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    assert read_config(tmp_path / "whole").training["answers"]["thresholds_from"] == "fold 2"


def test_cross_validation(data: Path, recipe_file: str, tmp_path: Path) -> None:
    """One row per fold, mean and standard deviation."""
    result = run("evaluate", tmp_path / "cv", "--data", data, "--folds", 2, "--recipe", recipe_file)
    assert result.exit_code == 0, result.output
    assert "2 of 3 folds" in result.output
    assert " ± " in result.output
    assert (tmp_path / "cv" / "fold3" / "evaluation" / "confusion_matrix.png").is_file()
    assert (tmp_path / "cv" / "fold2" / "model.safetensors").is_file()


def test_checks_before_a_long_run(data: Path, recipe_file: str, tmp_path: Path) -> None:
    """`lr-find` prints the path of its plot; `overfit` prints the number of steps."""
    found = run("lr-find", "--data", data, "--recipe", recipe_file, "--fold", 3, "--out", tmp_path / "lr")
    assert found.exit_code == 0, found.output
    assert "lr_find.png" in found.output
    (tmp_path / "file").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.diagnostics.set_up_training", None)  # known before anything is decoded
        refused = run("lr-find", "--data", data, "--recipe", recipe_file, "--fold", 3, "--out", tmp_path / "file")
    assert "file: File exists" in str(refused.exception)
    learned = run("overfit", "--data", data, "--recipe", recipe_file, "--fold", 3)
    assert learned.exit_code == 0, learned.output
    assert "100 % of one minibatch" in learned.output


def test_lr_find_prints_the_matching_train_command(
    data: Path, recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The printed command has the same fold and overrides, plus the learning rate, and quotes spaces for the shell."""
    apart = tmp_path / "of mine"
    apart.symlink_to(data)
    found = run(
        "lr-find", "--data", apart, "--recipe", recipe_file, "--fold", 1, "--out", tmp_path / "lr",
        "--set", "optim.epochs=2", "--set", "optim.max_lr=1", "--set", "network.widths=[4, 8]",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    (suggestion,) = (line for line in found.output.splitlines() if line.startswith("Try it: "))
    monkeypatch.chdir(tmp_path)
    trained = run(*shlex.split(suggestion)[3:])
    assert trained.exit_code == 0, trained.output
    made = read_config(Path("runs/tiny-fold1")).training["recipe"]
    assert (made["optim"]["epochs"], made["network"]["widths"]) == (2, [4, 8])
    steepest = json.loads((tmp_path / "lr" / "lr_find.json").read_text())["steepest"]
    assert made["optim"]["max_lr"] == pytest.approx(steepest, rel=0.1)


def test_ignored_overrides_are_errors(data: Path, recipe_file: str, tmp_path: Path) -> None:
    """With --from, network and front end are those of the pretrained model; its own values may be repeated."""
    train(changed(load_recipe(recipe_file), epochs=1), load_esc50(data), 2, tmp_path / "first")
    more = (
        "--data",
        data,
        "--recipe",
        recipe_file,
        "--fold",
        2,
        "--out",
        tmp_path / "more",
        "--from",
        tmp_path / "first",
    )
    for key, value in (("network.widths", "[4, 8]"), ("frontend.n_mels", "32")):
        refused = run("train", *more, "--set", f"{key}={value}")
        assert refused.exit_code != 0
        assert f"{key} cannot be set with --from" in refused.output + str(refused.exception)
    both = run("train", "--data", data, "--recipe", "pictures", "--from", tmp_path / "first")
    assert "--set start.weights=random" in str(both.exception)
    trained = run("train", *more, "--set", "network.widths=[8, 16]", "--set", "optim.epochs=1")
    assert trained.exit_code == 0, trained.output


def test_invalid_arguments(data: Path, recipe_file: str, tmp_path: Path) -> None:
    """No such folder, fold or key; not KEY=VALUE; no such precision. No empty folder is left."""
    new = tmp_path / "new"
    cross_validated = ("evaluate", new, "--data", data, "--folds", 2, "--recipe", recipe_file)
    for arguments, message in (
        (("train", "--data", tmp_path), "is not a data set"),
        (("train", "--data", data, "--recipe", recipe_file, "--fold", 9), "no fold 9"),
        (("train", "--data", data, "--recipe", recipe_file, "--set", "optim.speed=1"), "unknown key"),
        (("train", "--data", data, "--recipe", recipe_file, "--set", "optim.epochs"), "is not KEY=VALUE"),
        (("evaluate", tmp_path, "--data", data, "--precision", "int3"), "one of float32"),
        (("evaluate", tmp_path, "--data", data), "config.json"),
        (("evaluate", LIGHT, "--data", data, "--out", recipe_file), "yaml is no folder that can be written"),
        (("evaluate", LIGHT, "--data", data, "--out", f"{recipe_file}/x"), "yaml is no folder that can be written"),
        (("evaluate", LIGHT, "--data", data, "--outside", tmp_path / "none"), "none does not exist"),
        (("data", "split", data, "--test", 0), "greater than or equal to 0.01"),
        (("evaluate", tmp_path, "--data", data, "--folds", 2, "--views", 4), "--views: is for a trained model"),
        (("evaluate", tmp_path, "--data", data, "--recipe", recipe_file), "--folds: needed with --recipe"),
        ((*cross_validated, "--set", "optim.epochs=0"), "greater than or equal to 1"),
        ((*cross_validated, "--set", "optim.loss=none"), "no 'none' among the losses"),
        (("train", "--data", data, "--recipe", recipe_file, "--set", "optim.loss=none"), "no 'none' among the losses"),
    ):
        result = run(*arguments, *(("--out", new / "run") if arguments[0] == "train" else ()))
        assert result.exit_code != 0
        assert message in result.output + str(result.exception)
        assert not new.exists()


def test_overfit_from_a_model(data: Path, recipe_file: str, tmp_path: Path) -> None:
    """`overfit --from` goes on from a trained model, whose network it takes."""
    train(load_recipe(recipe_file), load_esc50(data), 2, tmp_path / "first")
    learned = run("overfit", "--data", data, "--recipe", recipe_file, "--fold", "2", "--from", tmp_path / "first")
    assert learned.exit_code == 0, learned.output
    assert "100 % of one minibatch" in learned.output


def test_runs_are_compared(data: Path, recipe_file: str, tmp_path: Path) -> None:
    """One row for each run with its changes and accuracies, the best first, unfinished ones too; and one plot."""
    runs = tmp_path / "runs"
    for name, epochs in (("short", 1), ("long", 6)):
        given = ("--set", f"optim.epochs={epochs}", "--set", "optim.holdout=0.3", "--out", runs / name)
        made = run("train", "--data", data, "--recipe", recipe_file, "--fold", "2", *given)
        assert made.exit_code == 0, made.output
    assert "accuracy, held out  " in made.output
    result = run("runs", runs, "--plot", tmp_path / "curves.png")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    titles, *rows = (line.split("  ") for line in lines[:3])
    assert titles[0] == "run"
    assert len(lines) == 4, "a pipe gets one line for each run"
    shares = {row[0].strip(): float(next(cell for cell in row if " of 12" in cell).split("%")[0]) for row in rows}
    assert list(shares) == sorted(shares, key=lambda name: -shares[name])
    assert shares.keys() == {"short", "long"}
    assert (tmp_path / "curves.png").stat().st_size > 5_000
    empty = run("runs", tmp_path / "none")
    assert "holds no run" in str(empty.exception)


def test_preview_and_export(data: Path, recipe_file: str, tmp_path: Path) -> None:
    """The shapes of a batch and its picture; log-mels, labels and file names of each fold as arrays."""
    shown = run("data", "preview", data, "--recipe", recipe_file, "--out", tmp_path / "batch.png")
    assert shown.exit_code == 0, shown.output
    front, size = load_recipe(recipe_file).frontend, load_recipe(recipe_file).optim.batch
    assert f"log-mels ({size}, 1, {front.n_mels}, " in shown.output
    assert (tmp_path / "batch.png").stat().st_size > 5_000
    made = run("data", "export", data, "--npz", tmp_path / "mels.npz", "--recipe", recipe_file)
    assert made.exit_code == 0, made.output
    dataset = load_esc50(data)
    with np.load(tmp_path / "mels.npz") as arrays:
        assert arrays["classes"].tolist() == list(dataset.classes)
        for fold in dataset.folds:
            own = [clip for clip in dataset.clips if clip.fold == fold]
            assert arrays[f"y_{fold}"].tolist() == [clip.label for clip in own]
            assert arrays[f"file_{fold}"].tolist() == [f"audio/{clip.path.name}" for clip in own]
            waves, _ = dataset.load(own, front)
            expected = LogMel(front.model_copy(update={"mean": 0.0, "std": 1.0}))(waves)[:, 0].numpy()
            assert np.allclose(arrays[f"x_{fold}"], expected, atol=1e-3)


def test_export_decodes_each_clip_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding is what an export of a large data set spends its time on."""
    dataset, decoded = load_esc50(data), Counter[bytes]()

    def counted(sound: bytes, rate: int) -> Any:
        decoded[sound] += 1
        return decode(sound, rate)

    monkeypatch.setattr("training.data.base.decode", counted)
    shapes = export_spectrograms(dataset, TINY.frontend, tmp_path / "mels.npz")
    assert sum(shape[0] for name, shape in shapes.items() if name.startswith("x_")) == len(dataset.clips)
    assert set(decoded.values()) == {1}
    assert len(decoded) == len(dataset.clips)


def test_ctrl_c_saves(data: Path, recipe_file: str, tmp_path: Path) -> None:
    """A real process and SIGINT: exit status 130 and a saved checkpoint, which another recipe cannot resume."""
    command = [
        PYTHON, "-m", "otoscope", "train", "--data", str(data), "--recipe", recipe_file, "--fold", "3",
        "--out", str(tmp_path / "run"), "--set", "optim.epochs=4000",
    ]  # fmt: skip
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "run").glob("tensorboard/*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        started.send_signal(signal.SIGINT)
        _, stderr = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 130, stderr
    assert "--resume continues" in stderr
    assert (tmp_path / "run" / "train_state.pt").is_file()
    other = subprocess.run(
        [*command, "--set", "optim.epochs=3", "--resume"], capture_output=True, text=True, timeout=100, check=False
    )
    assert other.returncode != 0
    assert "another recipe" in other.stderr


def test_an_interrupted_import_is_continued(tmp_path: Path) -> None:
    """A real process and SIGINT while a file is read: one line, exit status 130, and the same command goes on."""
    write_class_folders(tmp_path / "mine", "dog", "rain")
    slow = tmp_path / "mine" / "rain" / "slow.wav"
    os.mkfifo(slow)
    command = [PYTHON, "-m", "otoscope", "data", "import", str(tmp_path / "mine"), "--to", str(tmp_path / "sounds")]
    started = subprocess.Popen([*command, "--copy"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while len([*tmp_path.glob("sounds/audio/rain/*.wav")]) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
        started.send_signal(signal.SIGINT)
        stdout, stderr = started.communicate(timeout=60)
    finally:
        started.kill()
    assert (started.returncode, stdout) == (INTERRUPTED, "")
    assert stderr.splitlines()[-1] == "Stopped: the same command imports the rest."
    assert "Traceback" not in stderr
    slow.unlink()
    write_recording(slow)
    assert "9 sounds added" in run(*command[3:], "--copy").output


@pytest.mark.slow
def test_without_a_terminal_nothing_is_trained(data: Path) -> None:
    """There is no terminal to ask whether the proposed recipe is wanted: the output says so."""
    proposed = run("train", "--data", data)
    assert proposed.exit_code == 2, proposed.output
    assert "Nothing was trained" in proposed.stderr
    assert "  otoscope train --data" in proposed.stdout


def test_interrupted_while_decoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first checkpoint there is nothing to resume, and no command that would fail is recommended."""
    for saved, message in ((False, "nothing is saved; the same command starts again"), (True, "with --resume")):
        with pytest.raises(SystemExit) as stopped:
            interrupted(saved, tmp_path, "the same command with --resume")
        assert stopped.value.code == INTERRUPTED
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_ctrl_c_before_the_first_step_promises_nothing(
    command: str, data: Path, recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the clips are decoded, neither a training nor a cross-validation has saved anything."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.fit.loop.set_up_training", stop)
    given = ("--data", data, "--recipe", recipe_file)
    if command == "train":
        stopped = run("train", *given, "--out", tmp_path / "run")
    else:
        stopped = run("evaluate", tmp_path / "cv", *given, "--folds", 2)
    assert stopped.exit_code == INTERRUPTED
    assert "nothing is saved" in stopped.output
