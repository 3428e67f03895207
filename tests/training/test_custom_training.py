"""From a folder of recordings to a model, on the command line."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from otoscope.cli.main import app
from shared.audio.decode import decode
from tests.support.recordings import write_class_folders, write_recording
from tests.support.tiny_recipe import TINY, changed, windows_of
from training.data.base import Clip, DatasetInfo
from training.data.custom.dataset import CustomDataset, load_custom_dataset, load_dataset
from training.data.custom.split import write_split
from training.data.esc50 import load_esc50
from training.data.fingerprint import TRAINING_SOUNDS
from training.errors import DatasetError, EvaluationError, RunError
from training.eval.evaluate import evaluate
from training.eval.model_card import record_accuracy
from training.eval.report import seen_warning, summarise, write_report
from training.export.quantise import quantise
from training.fit.distillation import load_teachers
from training.fit.loop import train
from training.fit.pretrained import load_pretrained
from training.fit.run_state import is_finished, run_identity
from training.recipe import to_yaml
from worker.model.checkpoint import load_model, read_config, write_config
from worker.pipeline.windows import split_windows

pytestmark = pytest.mark.training  # the commands that train run through the command line

GROUP = r"^([a-z]+[0-9]+)-"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    return result


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split data set."""
    folder = tmp_path_factory.mktemp("own")
    for take in range(24):
        write_recording(folder / "mine" / "dog" / f"dog{take % 8}-{take}.wav", 1.0, hz=300 + 5 * take)
        write_recording(folder / "mine" / "rain" / f"rain{take % 8}-{take}.wav", 1.0, hz=2_500 + 20 * take)
    run("data", "import", folder / "mine", "--to", folder / "sounds", "--group", GROUP)
    run("data", "split", folder / "sounds", "--val", 0.2, "--test", 0.2)
    return folder / "sounds"


def test_subsets_are_the_folds(sounds: Path) -> None:
    """Train on train, stop early on val, evaluate on test; no source in two of them."""
    dataset = load_dataset(sounds, TINY.frontend)
    assert isinstance(dataset, CustomDataset)
    train, held = dataset.train_validation_split("test", 0.5, seed=1)
    _, test = dataset.split("test")
    sources = [{clip.source for clip in part} for part in (train, held, test)]
    assert all(sources)
    assert len(set.union(*sources)) == sum(map(len, sources))
    waves, of = dataset.load(test, windows_of(1.0))
    assert waves.shape == (len(test), 8_000)
    assert of.tolist() == list(range(len(test)))
    assert 0.01 < waves.abs().max() <= 1.0
    assert {clip.label for clip in test} == {0, 1}
    with pytest.raises(DatasetError, match="prepared at 8,000 Hz"):
        dataset.load(test, windows_of(0.5, rate=16_000))
    with pytest.raises(DatasetError, match="one test set"):
        dataset.train_validation_split("val", 0.0, seed=1)


def test_from_folder_to_model(sounds: Path, tmp_path: Path) -> None:
    """One command trains and evaluates: on val, which was used for early stopping, and on test, which was not used."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(to_yaml(changed(TINY, epochs=25, patience=20)))
    result = run("train", "--data", sounds, "--recipe", recipe, "--out", tmp_path / "mine")
    assert "val set" in result.output
    assert "validation clips" in result.output
    assert f"otoscope evaluate {tmp_path / 'mine'}-folds --data {sounds} --recipe {recipe} --folds 5" in result.output
    report = json.loads((tmp_path / "mine" / "evaluation-test" / "report.json").read_text())
    assert (report["fold"], report["trained_on"], report["chosen_by"]) == ("test", False, False)
    assert report["accuracy"] > 0.8
    for part in ("val", "test"):
        folder = tmp_path / "mine" / f"evaluation-{part}"
        truth, predicted = (np.load(folder / f"{name}_labels.npy") for name in ("true", "pred"))
        assert len(truth) == len(predicted)
        assert (folder / "confusion_matrix.png").is_file()
    model = load_model(tmp_path / "mine")
    assert model.config.classes == ("dog", "rain")
    assert model.config.training["test_fold"] == "test"
    chosen_by = evaluate(tmp_path / "mine", load_custom_dataset(sounds, TINY.frontend), "val")
    with pytest.raises(EvaluationError, match="val set was used for early stopping or calibration"):
        record_accuracy(tmp_path / "mine", chosen_by, summarise(chosen_by))
    run("evaluate", tmp_path / "mine", "--data", sounds, "--record")
    page = (tmp_path / "mine" / "README.md").read_text()
    assert "trained on the train set; the val set is used for early stopping and calibration; no recording" in page


@pytest.mark.parametrize("named", [True, False])
def test_a_folder_that_holds_a_run_is_refused_before_anything_is_decoded(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding may take an hour; that the folder is taken, or has nothing to resume, is known before."""
    monkeypatch.chdir(tmp_path)
    write_class_folders(tmp_path / "mine", "dog", "rain")
    run("data", "import", "mine", "--to", "sounds")
    run("data", "split", "sounds")
    recipe, out = tmp_path / "tiny.yaml", Path("runs/taken" if named else "runs/tiny-testset")
    recipe.write_text(to_yaml(TINY))
    command = ["train", "--data", "sounds", "--recipe", str(recipe), *(("--out", str(out)) if named else ())]
    nothing = CliRunner().invoke(app, [*command, "--resume"])
    assert f"{out} holds no run to resume" in str(nothing.exception)
    out.mkdir(parents=True)
    (out / "config.json").write_text("{}")
    taken = CliRunner().invoke(app, command)
    assert f"{out} already holds a run" in str(taken.exception)
    assert not [*Path("sounds/cache").rglob("waveforms.npy")]


def test_use_of_the_val_set(sounds: Path, tmp_path: Path) -> None:
    """Early stopping, which then needs no hold-out; without patience calibration only, as the model card states."""
    dataset = load_custom_dataset(sounds, TINY.frontend)
    for name, patience, use in (("a", 0, "calibration"), ("b", 1, "early stopping and calibration")):
        train(changed(TINY, epochs=1, patience=patience), dataset, "test", tmp_path / name)
        evaluation = evaluate(tmp_path / name, dataset)
        record_accuracy(tmp_path / name, evaluation, summarise(evaluation))
        page = (tmp_path / name / "README.md").read_text()
        assert f"the val set is used for {use}; " in page
        assert "`otoscope evaluate --folds`" in page


def test_model_of_an_older_split_is_rejected(sounds: Path, tmp_path: Path) -> None:
    """After a new split it is neither evaluated, nor fine-tuned, nor used as a teacher, nor resumed."""
    own = Path(shutil.copytree(sounds, tmp_path / "sounds"))
    out, recipe = tmp_path / "mine", changed(TINY, epochs=1)
    train(recipe, load_custom_dataset(own, TINY.frontend), "test", out)
    write_split(own, val=0.3, test=0.3, seed=2)
    after = load_custom_dataset(own, TINY.frontend)
    for part in ("test", "val"):
        with pytest.raises(EvaluationError, match="with another split of sounds"):
            evaluate(out, after, part)
    assert evaluate(out, after, "test", allow_training_fold=True).trained_on
    with pytest.raises(EvaluationError, match="with another split of sounds"):
        quantise(out, after)
    with pytest.raises(RunError, match="has seen the test clips"):
        train(recipe, after, "test", tmp_path / "other", pretrained=load_pretrained(out))
    with pytest.raises(RunError, match="would leak the test labels"):
        load_teachers([out], after, "test", 8_000, torch.device("cpu"))
    identity = run_identity(recipe, after, "test", len(after.train_validation_split("test", 0.0, 1)[0]), (), None)
    with pytest.raises(RunError, match="another recipe, fold, data"):
        is_finished(out, identity)

    config = read_config(out)
    del config.training["data"]["digest"]
    write_config(out, config)
    with pytest.raises(EvaluationError, match="by their sound"):
        evaluate(out, after, "test")
    (out / TRAINING_SOUNDS).unlink()
    assert not evaluate(out, after, "test").trained_on, "without a digest of its training clips nothing is known"


def test_recordings_are_evaluated_as_the_service_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recording counts once, with its silence and half-overlapping windows; so does predictions.csv."""
    for take in range(12):
        for label, hz in (("dog", 300 + 5 * take), ("rain", 2_500 + 20 * take)):
            path = tmp_path / "mine" / label / f"{label}{take}-1.wav"
            write_recording(path, 1.7, hz=hz)
            sound, rate = soundfile.read(path)
            soundfile.write(path, np.concatenate([np.zeros(3 * rate), sound]), rate)
    run("data", "import", tmp_path / "mine", "--to", tmp_path / "sounds", "--group", GROUP)
    run("data", "split", tmp_path / "sounds")
    dataset, out = load_custom_dataset(tmp_path / "sounds", TINY.frontend), tmp_path / "model"
    train(changed(TINY, epochs=6), dataset, "test", out)
    left_out = "by class: dog (36 silent windows), rain (36 silent windows)"
    output = capsys.readouterr()
    assert f"left out, {left_out}" in output.out + output.err
    evaluation = evaluate(out, dataset)
    report = write_report(evaluation, tmp_path / "report")
    assert f"In no window of the data set, {left_out}." in (tmp_path / "report" / "report.md").read_text()
    files = {clip.path for clip in dataset.split("test")[1]}
    assert report.clips == len(evaluation.truth) == len(files) < len(dataset.split("test")[1])
    assert report.windows == 4 * report.clips  # from 2.5 s, 3 s, and 3.5 s on, and the last second; the rest is silent
    with (tmp_path / "report" / "predictions.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert list(rows[0]) == ["file", "truth", "answer", "confidence", "verdict", "start"]
    for row in rows:
        assert row["verdict"] in ("named", "unsure", "unknown")
        assert float(row["start"]) >= 2.5
    assert sum(row["truth"] == row["answer"] for row in rows) == report.correct


def test_silent_recordings_are_measured(sounds: Path, tmp_path: Path) -> None:
    """A service answers them, with the verdict `silent`: so they count in every report, and are named beside its
    accuracy; also where a class has no others. A file that cannot be decoded is left out."""
    out, new = tmp_path / "model", tmp_path / "new"
    train(changed(TINY, epochs=1), load_custom_dataset(sounds, TINY.frontend), "test", out)
    write_recording(new / "dog" / "bark.wav", 1.0, hz=333)
    broken = write_recording(new / "dog" / "broken.wav", 1.0, hz=444)
    (new / "rain").mkdir()
    for label, seconds in (("dog", 1), ("rain", 2), ("rain", 3)):
        soundfile.write(new / label / f"{seconds}.wav", np.zeros(seconds * 8_000), 8_000)
    run("data", "import", new, "--to", tmp_path / "heard")
    broken.write_bytes(b"RIFF")
    output = run("evaluate", out, "--data", tmp_path / "heard").output
    report = json.loads((out / "evaluation" / "report.json").read_text())
    assert (report["clips"], report["silent"], report["windows"]) == (4, 3, 1)
    assert report["answers"]["verdicts"]["silent"] == 3
    right = report["correct_silent"]
    assert report["answers"]["correct_by_verdict"]["silent"] == right
    note = f"nothing is heard in 3 of the 4 recordings (verdict `silent`): {right} right by their first class"
    assert note in output
    assert note in (out / "evaluation" / "report.md").read_text()
    with (out / "evaluation" / "predictions.csv").open(newline="") as table:
        verdicts = {Path(row["file"]).name: row["verdict"] for row in csv.DictReader(table)}
    assert sorted(name for name, verdict in verdicts.items() if verdict == "silent") == ["1.wav", "2.wav", "3.wav"]
    assert verdicts.keys() == {"1.wav", "2.wav", "3.wav", "bark.wav"}
    with pytest.raises(DatasetError, match=r"no usable sound of class 'rain'; first: .*2\.wav: silent"):
        load_custom_dataset(tmp_path / "heard", TINY.frontend, folds=2)


def test_silent_recordings_have_a_place_in_the_split(tmp_path: Path) -> None:
    """They are measured with their set, and nothing is trained on them; `--model-classes` keeps them."""
    for part in ("train", "test"):
        write_class_folders(tmp_path / "mine" / part, "dog", "rain", takes=2)
        soundfile.write(tmp_path / "mine" / part / "dog" / "nothing.wav", np.zeros(len(part) * 8_000), 8_000)
    run("data", "import", tmp_path / "mine", "--to", tmp_path / "sounds")
    dataset = load_custom_dataset(tmp_path / "sounds", TINY.frontend)
    for one in (dataset, dataset.select_classes(("dog",), "dogs"), dataset.in_classes(("cat", "dog", "rain"))):
        for part in ("train", "test"):
            clips = [clip for clip in one.split(part)[1] if one.classes[clip.label] == "dog"]
            recordings = [clip for clip in one.recordings(part) if one.classes[clip.label] == "dog"]
            assert (len(clips), len(recordings)) == (2, 3)
            assert {clip.path.name for clip in recordings} - {clip.path.name for clip in clips} == {"nothing.wav"}


def test_some_classes_of_a_data_set_are_read_from_its_cache(tmp_path: Path) -> None:
    """Each window once, however many there are of a file, also where a model has counterparts of some classes only."""
    for label in ("dog", "rain"):
        (tmp_path / "mine" / label).mkdir(parents=True)
        sound = np.random.default_rng(len(label)).normal(0, 0.1, 6 * 8_000)
        soundfile.write(tmp_path / "mine" / label / "long.wav", sound, 8_000)
    run("data", "import", tmp_path / "mine", "--to", tmp_path / "sounds")
    dataset = load_custom_dataset(tmp_path / "sounds", TINY.frontend, to_measure=True)
    _, clips = dataset.split("test")
    some = dataset.select_classes(("rain",), "rains")
    _, of_rain = some.split("test")
    assert len(clips) == 2 * len(of_rain) > 10
    windows, _ = some.open(of_rain, windows_of(1.0))
    expected, _ = dataset.open(clips[len(of_rain) :], windows_of(1.0))
    assert len(windows) == len(of_rain)
    rows = torch.arange(len(of_rain))
    assert torch.equal(windows[rows], expected[rows])


def test_short_sounds_fill_the_windows_of_training_as_those_of_the_service(tmp_path: Path) -> None:
    """Repeated where the front end says so, else in front of silence."""
    (tmp_path / "mine" / "dog").mkdir(parents=True)
    (tmp_path / "mine" / "rain").mkdir()
    sound = np.random.default_rng(1).integers(-9_000, 9_000, 2_400).astype(np.int16)
    soundfile.write(tmp_path / "mine" / "dog" / "bark.wav", sound, 8_000, "PCM_16")
    soundfile.write(tmp_path / "mine" / "rain" / "long.wav", np.tile(sound, 4), 8_000, "PCM_16")
    run("data", "import", tmp_path / "mine", "--to", tmp_path / "sounds")
    dataset = load_custom_dataset(tmp_path / "sounds", TINY.frontend, to_measure=True)
    clips = dataset.split("test")[1]
    for pause, front in ((None, windows_of(1.0)), (800, windows_of(1.0, pause=0.1))):
        windows, _ = dataset.open(clips, front)
        for clip, window in zip(clips, windows[:], strict=True):
            wave = decode(clip.path.read_bytes(), 8_000).waveform
            (_, expected), *_ = split_windows(wave, 8_000, pause=pause)
            np.testing.assert_allclose(window, expected, atol=1e-6)
    assert TINY.frontend.pause_samples == 2_000


def test_training_sounds_are_recognised_under_another_name(sounds: Path, tmp_path: Path) -> None:
    """A renamed folder, split anew, has clips of the training; under its own split it is as unseen as before."""
    out, renamed = tmp_path / "mine", Path(shutil.copytree(sounds, tmp_path / "renamed"))
    train(changed(TINY, epochs=1), load_custom_dataset(sounds, TINY.frontend), "test", out)
    same = evaluate(out, load_custom_dataset(renamed, TINY.frontend))
    assert not same.trained_on
    assert not same.seen
    write_split(renamed, val=0.3, test=0.3, seed=2)
    other = load_custom_dataset(renamed, TINY.frontend)
    with pytest.raises(EvaluationError, match=r"was trained on \d+ of the \d+ files, by their sound, first .*wav"):
        evaluate(out, other)
    allowed = evaluate(out, other, allow_training_fold=True)
    assert allowed.trained_on
    assert summarise(allowed).seen_clips == len(allowed.seen)
    assert 0 < len(allowed.seen) < len(allowed.truth)
    (out / "training_sounds.npy").unlink()  # as in the shipped models
    assert summarise(evaluate(out, other, allow_training_fold=True)).seen_clips is None


def test_prepare_for_a_fine_tuning(sounds: Path, tmp_path: Path) -> None:
    """With --from, the sample rate is that of the pretrained model: `train` finds its windows in the cache."""
    own, base = Path(shutil.copytree(sounds, tmp_path / "own")), tmp_path / "base"
    train(changed(TINY, epochs=1), load_custom_dataset(sounds, TINY.frontend), "test", base)
    start = ("--recipe", "own-sounds", "--from", base)
    assert " of 2 s at 8,000 Hz" in run("data", "prepare", own, *start).output
    prepared = {path.name for path in (own / "cache").iterdir()}
    changes = ("--set", "optim.epochs=1", "--set", "open_set.background=0")
    run("train", "--data", own, *start, *changes, "--out", tmp_path / "mine")
    assert {path.name for path in (own / "cache").iterdir()} == prepared


def test_sounds_of_the_pretrained_model_count_as_seen(sounds: Path, tmp_path: Path) -> None:
    """A model that goes on from one that was trained on a copy of the data set, with another split, has seen test
    clips: its accuracy carries a warning, although its own training never had them."""
    first, second = tmp_path / "first", tmp_path / "second"
    train(changed(TINY, epochs=1), load_custom_dataset(sounds, TINY.frontend), "test", first)
    renamed = Path(shutil.copytree(sounds, tmp_path / "renamed"))
    write_split(renamed, val=0.3, test=0.3, seed=2)
    again = load_custom_dataset(renamed, TINY.frontend)
    train(changed(TINY, epochs=1), again, "test", second, pretrained=load_pretrained(first))
    evaluation = evaluate(second, again)
    seen = evaluation.seen
    assert 3 < len(seen) < len(evaluation.truth)
    mine = run("evaluate", second, "--data", renamed)
    assert f"WARNING: the sound of {len(seen)} of the {len(evaluation.truth)} clips" in mine.output
    assert f"as well: {', '.join(seen[:3])} and {len(seen) - 3} more, which report.json lists" in mine.output
    report = json.loads((second / "evaluation" / "report.json").read_text())
    assert report["seen_files"] == list(seen)
    assert seen_warning(("a.wav", "b.wav"), 9).endswith("as well: a.wav, b.wav")


def test_moved_recordings_keep_the_digest(tmp_path: Path) -> None:
    """After an import from the new place and the same split, the test set is still unseen."""
    dataset, old_place, new_place = tmp_path / "sounds", tmp_path / "old", tmp_path / "new"
    write_class_folders(old_place, "dog", "rain", takes=8, speakers=8)

    def digest_of(recordings: Path) -> str:
        run("data", "import", recordings, "--to", dataset, "--group", GROUP)
        run("data", "split", dataset)
        return load_custom_dataset(dataset, TINY.frontend).digest("test")

    before = digest_of(old_place)
    old_place.rename(new_place)
    assert digest_of(new_place) == before


def test_files_that_differ_in_their_extension_only(tmp_path: Path) -> None:
    """Swapping them between subsets changes the digest."""
    paths = tmp_path / "dog" / "1.wav", tmp_path / "dog" / "1.mp3"

    def digest_of(*parts: str) -> str:
        rows = enumerate(zip(paths, parts, strict=True))
        clips = tuple(Clip(path, part, 0, path.name, row, f"{row:064}") for row, (path, part) in rows)
        waves, lengths = np.zeros((2, 8), np.int16), np.full(2, 8)
        return CustomDataset(tmp_path, clips, ("dog",), DatasetInfo("sounds"), 8_000, waves, lengths).digest("test")

    assert digest_of("train", "test") != digest_of("test", "train")


def test_run_without_a_digest(data: Path, tmp_path: Path) -> None:
    """A run stored before digests existed is still recognised."""
    dataset, recipe = load_esc50(data), changed(TINY, epochs=1)
    config = train(recipe, dataset, 3, tmp_path / "run")
    del config.training["data"]["digest"]
    write_config(tmp_path / "run", config)
    assert is_finished(tmp_path / "run", run_identity(recipe, dataset, 3, 24, (), None))


def test_select_classes(data: Path) -> None:
    """A data set with its own name and labels from 0."""
    some = load_esc50(data).select_classes(["noise", "low"], "some")
    assert some.classes == ("noise", "low")
    assert some.info.name == "some"
    assert {(clip.label, clip.path.stem[-1]) for clip in some.clips} == {(0, "2"), (1, "0")}
    with pytest.raises(DatasetError, match="no class 'cow'"):
        load_esc50(data).select_classes(["cow"], "none")


def test_folds_of_a_custom_data_set(sounds: Path, tmp_path: Path) -> None:
    """One command cross-validates by source and states the interval that counts sources; overlap and silence are those
    of the recipe."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(to_yaml(changed(TINY, epochs=2)))
    run("data", "prepare", sounds, "--recipe", recipe)
    before = set((sounds / "cache").glob("*/segments.csv"))
    options = ("--data", sounds, "--recipe", recipe, "--set", "segments.overlap=0.5", "--folds", 2)
    result = run("evaluate", tmp_path / "cv", *options)
    assert "2 of 2 folds" in result.output
    assert "95 % interval by source (16 sources)" in result.output
    report = json.loads((tmp_path / "cv" / "folds.json").read_text())
    assert (report["clips"], report["sources"]) == (48, 16)
    assert report["deviation"] is not None
    after = set((sounds / "cache").glob("*/segments.csv"))
    assert len(after - before) == 1, "another overlap has windows of its own"
    again = run("data", "prepare", sounds, "--recipe", recipe, "--set", "segments.overlap=0.5")
    assert set((sounds / "cache").glob("*/segments.csv")) == after, "prepare makes what train reads"
    assert "48 segments" in again.output


def test_data_set_without_a_split(tmp_path: Path) -> None:
    """The message names the command that creates one."""
    write_class_folders(tmp_path / "mine", "dog", "rain")
    run("data", "import", tmp_path / "mine", "--to", tmp_path / "sounds")
    with pytest.raises(DatasetError, match="otoscope data split"):
        load_custom_dataset(tmp_path / "sounds", TINY.frontend)


def test_new_data_alone(sounds: Path, tmp_path: Path) -> None:
    """A data set without a split is measured as a whole, with some of the classes absent and under the name of the
    training data; a class that the model lacks, and a sound that it was trained on, are refused."""
    model = tmp_path / "mine"
    train(changed(TINY, epochs=12), load_custom_dataset(sounds, TINY.frontend), "test", model)
    fresh = tmp_path / "fresh"
    for take in range(4):
        write_recording(fresh / "rain" / f"{take}.wav", 1.7, hz=2_650 + 31 * take)
    new = tmp_path / "new" / sounds.name
    run("data", "import", fresh, "--to", new)
    result = run("evaluate", model, "--data", new)
    assert "of 4)" in result.output
    assert "TRAINING" not in result.output
    assert "validation" not in result.output
    report = json.loads((model / "evaluation" / "report.json").read_text())
    assert (report["clips"], report["trained_on"], report["chosen_by"]) == (4, False, False)
    of_rain = next(one for one in report["classes"] if one["name"] == "rain")
    assert (of_rain["clips"], report["macro_f1"]) == (4, of_rain["f1"])
    refused = CliRunner().invoke(app, ["evaluate", str(model), "--data", str(new), "--record"])
    assert "only its test set is recorded" in str(refused.exception)
    known = next(clip.path for clip in load_custom_dataset(sounds, TINY.frontend).clips if clip.fold == "train")
    shutil.copy(known, fresh / "rain" / "copy.wav")
    run("data", "import", fresh, "--to", new)
    refused = CliRunner().invoke(app, ["evaluate", str(model), "--data", str(new)])
    assert "was trained on 1 of the 5 files" in str(refused.exception)
    (fresh / "rain" / "copy.wav").unlink()
    write_recording(fresh / "snow" / "a.wav", 1.0)
    run("data", "import", fresh, "--to", new)
    refused = CliRunner().invoke(app, ["evaluate", str(model), "--data", str(new)])
    assert "has 1 class that the model does not have, first 'snow'" in str(refused.exception)
