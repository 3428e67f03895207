"""The report on a custom data set, the reset, and all `data` commands on the command line."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread
from typer.testing import CliRunner, Result

from otoscope.cli.main import app
from tests.conftest import PYTHON, ROOT
from tests.support.recordings import write_class_folders, write_recording
from tests.support.sounds import encode, tone
from tests.support.tiny_recipe import TINY
from training.data.custom.copied import FINGERPRINTS
from training.data.custom.folders import import_folder
from training.data.custom.manifest import read_manifest, write_manifest
from training.data.custom.report import write_dataset_report
from training.data.custom.reset import reset
from training.data.custom.split import write_split
from training.errors import DatasetError
from training.recipe import to_yaml


@pytest.fixture
def root(tmp_path: Path) -> Path:
    import_folder(write_class_folders(tmp_path / "mine", "dog", "rain", takes=4), tmp_path / "sounds")
    return tmp_path / "sounds"


def test_statistics(root: Path, tmp_path: Path) -> None:
    """Counts, minutes, durations, sample rates, clipping, silence, duplicates, undecodable files, the split."""
    mine = tmp_path / "mine"
    half = np.concatenate([tone(1.0, 16_000), np.zeros((16_000, 1), np.float32)])
    soundfile.write(mine / "rain" / "half.flac", half, 16_000)
    (mine / "dog" / "loud.wav").write_bytes(encode(np.sign(tone(1.5, 8_000)).astype(np.float32), 8_000))
    import_folder(mine, root)
    (mine / "dog" / "dog0-0.wav").write_bytes(b"RIFF")
    write_split(root, val=0.2, test=0.2, seed=5)
    page = write_dataset_report(root, tmp_path / "out")
    report_json = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report_json["sounds"], report_json["imbalance"], report_json["split_seed"]) == (10, 1.0, 5)
    assert report_json["minutes"] == pytest.approx((3 * 0.3 + 1.5 + 4 * 0.3 + 2.0) / 60)
    dog, rain = report_json["classes"]["dog"], report_json["classes"]["rain"]
    assert (dog["sounds"], dog["sources"], dog["share"], dog["rates"]) == (5, 5, 0.5, {"8000": 4})
    assert (dog["shortest"], dog["median"], dog["longest"]) == pytest.approx((0.3, 0.3, 1.5))
    assert dog["clipped"] == pytest.approx(1.5 / 2.4, abs=0.01)
    assert rain["silent"] == pytest.approx(1.0 / 3.2, abs=0.01)
    assert rain["clipped"] == dog["silent"] == 0
    assert rain["rates"] == {"8000": 4, "16000": 1}
    assert dog["parts"] == {"train": 3, "val": 1, "test": 1}
    assert len(report_json["unusable"]) == 1
    assert "dog0-0.wav: " in report_json["unusable"][0]
    text = page.read_text()
    assert page == tmp_path / "out" / "report.md"
    assert "| dog | 5 | 50.0% | 5 |" in text
    assert "Split with seed 5" in text
    assert "The lowest sample rates differ" not in text
    assert "Unusable files: 1" in text


def test_sample_rates_that_identify_a_class(root: Path, tmp_path: Path) -> None:
    write_recording(tmp_path / "mine" / "bird" / "b.wav", rate=16_000)
    import_folder(tmp_path / "mine", root)
    text = write_dataset_report(root, tmp_path / "out").read_text()
    assert "The lowest sample rates differ between the classes (bird 16 kHz, dog 8 kHz, rain 8 kHz)" in text
    assert "No split: " in text


@pytest.mark.parametrize("classes", [3, 13])
def test_spectrograms(classes: int, tmp_path: Path) -> None:
    """Spectrograms of every class, for any class name."""
    names = ["dog_bark", "$x_1$ costs $", "птица"] + [f"c{number}" for number in range(classes - 3)]
    import_folder(write_class_folders(tmp_path / "mine", *names, takes=2), tmp_path / "sounds")
    write_dataset_report(tmp_path / "sounds", tmp_path / "out")
    image = imread(tmp_path / "out" / "overview.png")
    assert image.shape[:2] == ((570, 1_040) if classes == 3 else (570, 1_560))
    assert image[..., :3].std() > 0.1


def test_characters_without_a_glyph(tmp_path: Path) -> None:
    import_folder(write_class_folders(tmp_path / "mine", "雨", "犬|猫", takes=1), tmp_path / "sounds")
    assert "| 犬&#124;猫 | 1 |" in write_dataset_report(tmp_path / "sounds", tmp_path / "out").read_text()


def test_duplicate_in_the_manifest(root: Path, tmp_path: Path) -> None:
    """An import rejects it, but a manual edit may create it."""
    items = read_manifest(root)
    copy = write_recording(tmp_path / "copy.wav")
    copy.write_bytes(Path(items[0].file).read_bytes())
    write_manifest(root, [*items, type(items[0])(str(copy), "rain", "x", "x", items[0].sha256)])
    text = write_dataset_report(root, tmp_path / "out").read_text()
    assert f"{copy} is the same sound as {items[0].file}" in text


def test_nothing_to_report(root: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "mine").rglob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"none of the 8 sounds is usable; first: .*The file is empty"):
        write_dataset_report(root, tmp_path / "out")


def test_reset(tmp_path: Path) -> None:
    """Generated folders are removed; everything else stays; a folder that is not a custom data set is not touched."""
    root = tmp_path / "sounds"
    import_folder(write_class_folders(tmp_path / "mine", "dog", "rain"), root, copy=True)
    (root / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert reset(root) == []
    write_split(root, val=0.25, test=0.25, seed=1)
    write_dataset_report(root, root / "report")
    assert (root / "cache" / FINGERPRINTS).is_file()
    assert [path.name for path in reset(root)] == ["cache", "split", "report"]
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    (tmp_path / "mine" / "cache").mkdir()
    with pytest.raises(DatasetError, match="is not a custom data set"):
        reset(tmp_path / "mine")
    assert (tmp_path / "mine" / "cache").is_dir()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.mark.slow
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder to segments on the command line; every command reports its result."""
    monkeypatch.chdir(tmp_path)
    src = write_class_folders(Path("mine"), "dog", "rain", takes=12)
    (src / "dog" / "notes.txt").touch()
    (src / "dog" / "page.wav").write_text("<html>")
    (src / "dog" / "twin.wav").write_bytes((src / "dog" / "dog0-0.wav").read_bytes())
    output = run("import", "mine", "--to", "sounds", "--group", r"(\w+)-\d+|twin").output
    assert "24 sounds added, 0 already imported; sounds now has 24:\ndog 12, rain 12\n" in output
    assert "Skipped (accepted: WAV, FLAC, " in output
    assert "NIST)): 3" in output
    assert "notes.txt: the file name has no audio extension" in output
    assert output.count("FLAC") == 2  # also in Ogg: the list is not repeated for each file
    again = run("import", "mine", "--to", "sounds", "--group", r"^([a-z]+\d*)").output
    assert "0 sounds added, 24 already imported" in again
    assert "Duplicates, kept once: 1" in again

    output = run("split", "sounds", "--val", "0.25", "--test", "0.25", "--seed", "3").stdout
    assert [line.split() for line in output.splitlines()[1:4]] == [
        ["dog", "6", "3", "3"], ["rain", "6", "3", "3"], ["sources", "4", "2", "2"],
    ]  # fmt: skip
    Path("tiny.yaml").write_text(to_yaml(TINY))
    output = run("prepare", "sounds", "--recipe", "tiny.yaml").output
    assert "24 segments of 1 s at 8,000 Hz from 24 files: sounds/cache/" in output
    assert "24 segments of any length" in run("prepare", "sounds", "--recipe", "tiny.yaml", "--whole").output
    assert run("report", "sounds").stdout == "sounds/report/report.md\n"
    assert Path("sounds/report/overview.png").is_file()
    assert run("reset", "sounds").output == "Removed sounds/cache, sounds/split, sounds/report\n"
    assert run("reset", "sounds").output == "Nothing to remove\n"
    assert not Path("sounds/split").exists()


def test_single_class_is_reported(tmp_path: Path) -> None:
    src = write_class_folders(tmp_path / "mine", "dog")
    assert "This is one class; training needs at least two." in run("import", src, "--to", tmp_path / "sounds").output
    failed = run("split", tmp_path / "sounds")
    assert isinstance(failed.exception, DatasetError)
    assert "two or more classes are needed; there is only 'dog'" in str(failed.exception)


def test_source_argument(tmp_path: Path) -> None:
    """A table by its extension; a link alone has no class; anything else is a folder."""
    write_recording(tmp_path / "a.wav")
    (tmp_path / "list.CSV").write_text("file,label\na.wav,dog\n")
    assert "1 sound added" in run("import", tmp_path / "list.CSV", "--to", tmp_path / "sounds").output
    single = run("import", "https://example.org/dog.wav", "--to", tmp_path / "sounds")
    assert "a link needs a class" in single.output
    assert "does not exist" in str(run("import", tmp_path / "nowhere", "--to", tmp_path / "sounds").exception)


def test_errors_are_one_line(tmp_path: Path) -> None:
    command = [PYTHON, "-m", "otoscope", "data", "split", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"otoscope: {tmp_path} is not a custom data set")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [(["--help"], "  data "), (["data", "--help"], "fetch-esc50"), (["data", "import", "--help"], "--group PATTERN")],
)
def test_help_is_light(arguments: list[str], shown: str) -> None:
    """The help needs no slow imports."""
    code = (
        "import sys; from typer.testing import CliRunner; from otoscope.cli.main import app;"
        f"result = CliRunner().invoke(app, {arguments!r}); print(result.output); assert not result.exit_code;"
        "assert not {'numpy', 'torch', 'httpx2', 'training'} & set(sys.modules)"
    )
    done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
