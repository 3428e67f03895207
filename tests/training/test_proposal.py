"""`otoscope train` without a recipe: what it sees in the data, what it proposes and why, and that it asks."""

import os
import pty
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from otoscope.cli import INTERRUPTED
from otoscope.cli.main import app
from tests.conftest import PYTHON
from tests.support.recordings import write_class_folders, write_recording
from tests.support.tiny_recipe import TINY
from training.data.custom.folders import import_folder
from training.data.custom.manifest import write_manifest
from training.data.custom.split import write_split
from training.errors import DatasetError
from training.fit.pretrained import MODELS
from training.proposal import FEW_SOUNDS, Survey, describe_time, estimate_seconds, propose, survey

MANY = Survey(
    total=290, sounds={"dog": 200, "rain": 90}, sources={"dog": 40, "rain": 30}, seconds=1_450.0, median_seconds=5.0,
    train_share=0.7, needs_split=False, paths=(),
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three dogs of 1 s from two sources, five rains of 2 s from three, not split."""
    for take in range(3):
        write_recording(tmp_path / "mine" / "dog" / f"dog{take % 2}-{take}.wav", 1.0)
    for take in range(5):
        write_recording(tmp_path / "mine" / "rain" / f"rain{take % 3}-{take}.wav", 2.0)
    import_folder(tmp_path / "mine", tmp_path / "sounds", group=r"^([a-z0-9]+)-")
    return tmp_path / "sounds"


def test_survey(root: Path, data: Path) -> None:
    """Sounds and sources of each class, their length, the split; of a folder like ESC-50 too."""
    found = survey(root)
    assert (found.sounds, found.sources) == ({"dog": 3, "rain": 5}, {"dog": 2, "rain": 3})
    assert (found.seconds, found.median_seconds, found.needs_split) == (pytest.approx(13.0), 2.0, True)
    write_split(root, val=0, test=0.4, seed=1)
    found = survey(root)
    assert not found.needs_split
    assert str(found).endswith("about 10 s (median 2.0 s)")
    assert 0.3 < found.train_share < 0.9
    layout = survey(data, 2)
    assert (layout.total, layout.train_share, layout.needs_split) == (36, pytest.approx(2 / 3), False)


def test_unusable_data(tmp_path: Path) -> None:
    import_folder(write_class_folders(tmp_path / "mine", "dog"), tmp_path / "one")
    with pytest.raises(DatasetError, match="1 class; training needs two"):
        survey(tmp_path / "one")
    (tmp_path / "mine").rename(tmp_path / "my own")
    with pytest.raises(DatasetError, match=r"`otoscope data import '/.*/my own' --to sounds` makes one"):
        survey(tmp_path / "my own")
    with pytest.raises(DatasetError, match=r"nowhere does not exist"):
        survey(tmp_path / "nowhere")
    write_manifest(tmp_path / "one", ())
    with pytest.raises(DatasetError, match=r"items\.csv lists no sounds"):
        survey(tmp_path / "one")


def test_proposals() -> None:
    """Few or short sounds: a new head; many: the whole network, weighted where classes are uneven; a network to go on
    from if there is one."""
    many = propose(MANY)
    assert (many.recipe, many.changes) == ("audioset-finetune", ())
    assert many.start is not None
    uneven = propose(replace(MANY, sounds={"dog": 400, "rain": 80}))
    assert uneven.changes == ("optim.balance=true",)
    assert "5.0 times" in uneven.reasons[-1]
    for few in (
        replace(MANY, sounds={"dog": 200, "rain": FEW_SOUNDS - 1}),
        replace(MANY, sources={"dog": 40, "rain": 2}),
        replace(MANY, median_seconds=0.8),
    ):
        assert propose(few).recipe == "own-sounds"
    assert propose(replace(MANY, sources={"dog": 40, "rain": 1})).reasons[0] == "a class has 1 source only"
    assert propose(MANY, Path("mine")).start == Path("mine")


def test_the_network_that_knows_most_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.proposal.MODELS", tmp_path)
    few = replace(MANY, sounds={"dog": 9, "rain": 9})
    for name in ("esc50", "yamnet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
        assert propose(few).start == propose(MANY).start == tmp_path / name


def test_without_a_network_to_go_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert propose(MANY).recipe == "esc50-best"
    assert propose(MANY).reasons[0].endswith("otoscope models add yamnet")
    assert propose(replace(MANY, median_seconds=0.8, sounds={"a": 5, "b": 5})).recipe == "small-cnn"


@pytest.mark.parametrize(("seconds", "text"), [(4, "about 10 s"), (200, "about 3 minutes"), (9_000, "about 2.5 hours")])
def test_time_in_words(seconds: float, text: str) -> None:
    assert describe_time(seconds) == text


@pytest.mark.slow
def test_estimate(root: Path) -> None:
    """More epochs take longer; the estimate is of the order of seconds for a tiny recipe."""
    found = survey(root)
    one, many = (
        estimate_seconds(TINY.model_copy(update={"optim": TINY.optim.model_copy(update={"epochs": epochs})}), found)
        for epochs in (1, 5_000)
    )
    assert 0 < one < many


@pytest.mark.slow
def test_command(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal the command is printed and nothing is trained; `--set` alone is an error."""
    models = tmp_path / "models"
    shutil.copytree(MODELS / "esc50", models / "esc50")
    monkeypatch.setattr("training.proposal.MODELS", models)
    result = CliRunner().invoke(app, ["train", "--data", str(root)])
    assert result.exit_code == 2, result.output
    assert "8 sounds of 2 classes (dog 3 to rain 5), from 5 sources" in result.output
    assert f"Proposed: own-sounds from {models}/esc50" in result.output
    assert f"otoscope data split {root}\n" in result.output
    (command,) = (line for line in result.output.splitlines() if line.startswith("  otoscope train"))
    assert shlex.split(command)[2:] == ["--data", str(root), "--recipe", "own-sounds", "--from", f"{models}/esc50"]
    refused = CliRunner().invoke(app, ["train", "--data", str(root), "--set", "optim.epochs=2"])
    assert "needed with --set" in refused.output


@pytest.mark.slow
@pytest.mark.parametrize("refusal", ["n", "Ctrl-C"])
def test_terminal_is_asked(refusal: str, root: Path) -> None:
    """On a terminal the proposal is a question; `n` and Ctrl-C train nothing."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PYTHON, "-m", "otoscope", "train", "--data", str(root)], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while b"Train with this recipe? [Y/n]" not in shown:
            shown += os.read(ours, 4_096)
        if refusal == "n":
            os.write(ours, b"n\n")
        else:
            time.sleep(1)  # a signal between the question and the system call that waits for its answer ends no wait
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == (1 if refusal == "n" else INTERRUPTED)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert not (root / "split").exists()
