"""Splitting by source: no source in two subsets, every class in every subset, shares, reproducibility."""

import csv
import random
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from otoscope.cli.main import app
from tests.support.recordings import write_class_folders, write_recording
from training.data.custom.folders import import_folder
from training.data.custom.manifest import ManifestEntry, read_manifest
from training.data.custom.split import SUBSETS, folds_by_source, read_split, split_by_source, write_split
from training.errors import DatasetError


def items(*rows: tuple[str, str, int]) -> list[ManifestEntry]:
    """Entries from (label, source, number of sounds)."""
    return [
        ManifestEntry(f"{label}-{source}-{take}", label, source, "", "")
        for label, source, count in rows
        for take in range(count)
    ]


def counts(sounds: list[ManifestEntry], subsets: dict[str, str], label: str) -> dict[str, int]:
    found = Counter(subsets[item.source] for item in sounds if item.label == label)
    return {subset: found[subset] for subset in SUBSETS}


def test_single_recordings_keep_the_shares() -> None:
    """If every sound is its own source, each class is split to the nearest sound."""
    sounds = items(*[("dog", f"d{at}", 1) for at in range(100)], *[("rain", f"r{at}", 1) for at in range(20)])
    subsets = split_by_source(sounds, val=0.15, test=0.15, seed=1)
    assert counts(sounds, subsets, "dog") == {"train": 70, "val": 15, "test": 15}
    assert counts(sounds, subsets, "rain") == {"train": 14, "val": 3, "test": 3}


def test_seeded() -> None:
    """The split depends on the seed, but not on the order of the rows."""
    sounds = items(*[("dog", f"d{at}", 1 + at % 3) for at in range(30)], *[("rain", f"r{at}", 2) for at in range(30)])
    first = split_by_source(sounds, val=0.2, test=0.2, seed=1)
    assert split_by_source(sounds, val=0.2, test=0.2, seed=1) == first
    assert split_by_source(sounds[::-1], val=0.2, test=0.2, seed=1) == first
    assert split_by_source(sounds, val=0.2, test=0.2, seed=2) != first


@pytest.mark.parametrize("seed", range(10))
def test_one_large_source(seed: int) -> None:
    """It is assigned to the largest subset, whatever its position in the order."""
    sounds = items(("dog", "big", 10), ("dog", "a", 1), ("dog", "b", 1), ("rain", "x", 3), ("rain", "y", 3),
                   ("rain", "z", 3))  # fmt: skip
    subsets = split_by_source(sounds, val=0.15, test=0.15, seed=seed)
    assert subsets["big"] == "train"
    assert {subsets["a"], subsets["b"]} == {"val", "test"}


@pytest.mark.parametrize("seed", range(150))
def test_random_data_sets(seed: int) -> None:
    """Any number of classes, sources of any size, some with several classes: every source is assigned once, every class
    is in every subset, and shares deviate by the size of the largest source at most."""
    draw = random.Random(seed)
    rows: list[tuple[str, str, int]] = []
    for label in range(draw.randint(2, 8)):
        rows += [(f"c{label}", f"{label}.{at}", draw.randint(1, 12)) for at in range(draw.randint(3, 30))]
    rows += [(f"c{draw.randrange(2)}", f"{draw.randrange(2)}.{at}", draw.randint(1, 5)) for at in range(4)]
    sounds = items(*rows)
    val, test = draw.choice([(0.15, 0.15), (0.1, 0.3), (0.2, 0.0), (0.0, 0.25)])
    subsets = split_by_source(sounds, val=val, test=test, seed=seed)
    assert set(subsets) == {item.source for item in sounds}
    for label in {item.label for item in sounds}:
        found = counts(sounds, subsets, label)
        total = sum(found.values())
        sizes = Counter(item.source for item in sounds if item.label == label)
        for subset, share in (("train", 1 - val - test), ("val", val), ("test", test)):
            assert bool(found[subset]) == bool(share)
            assert abs(found[subset] - share * total) <= max(max(sizes.values()), total / len(sizes)) + 1


def test_sources_with_several_classes_move_as_one() -> None:
    """Speakers who each say every word: whole speakers are assigned."""
    sounds = items(*[(word, f"speaker {at}", 5) for word in ("yes", "no", "up") for at in range(10)])
    subsets = split_by_source(sounds, val=0.2, test=0.2, seed=3)
    for word in ("yes", "no", "up"):
        assert counts(sounds, subsets, word) == {"train": 30, "val": 10, "test": 10}


@pytest.mark.parametrize(
    ("rows", "shares", "message"),
    [
        ([("dog", "a", 9), ("dog", "b", 9), ("rain", "x", 1)], (0.2, 0.2),
         "too few recordings .*'dog' has 2, 'rain' has 1; each class needs 3, one each for train, val, test"),
        ([("dog", "a", 9), ("rain", "x", 1), ("rain", "y", 1)], (0.2, 0),
         "dog' has 1; .* needs 2.*train, val; import more .*, or remove .* items.csv$"),
        ([("dog", "a", 1)], (0.2, 0.2), "two or more classes are needed; there is only 'dog'"),
        ([("dog", "a", 1)], (0.5, 0.5), "must leave a share for training"),
        ([("dog", "a", 1)], (-0.1, 0.5), "must leave a share"),
        ([("dog", "a", 1), ("dog", "b", 1), ("rain", "b", 1), ("rain", "c", 1), ("ice", "a", 1), ("ice", "c", 1)],
         (0.3, 0), "no split found in which class .* are not separated"),
    ],
)  # fmt: skip
def test_impossible_splits(rows: list[tuple[str, str, int]], shares: tuple[float, float], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        split_by_source(items(*rows), val=shares[0], test=shares[1], seed=1)


def test_folds_by_source() -> None:
    """Every class is in every fold, no source is in two, and more folds than a class has sources are an error."""
    sounds = items(*[("drone", f"machine{at}", 20) for at in range(2)], *[("car", f"c{at}", 2) for at in range(20)])
    folds = folds_by_source(sounds, 2, seed=1)
    assert {folds["machine0"], folds["machine1"]} == {1, 2}
    assert sorted(folds[f"c{at}"] for at in range(20)) == [1] * 10 + [2] * 10
    with pytest.raises(DatasetError, match=r"too few recordings \(sources\) for 3 folds: 'drone' has 2; .*fewer folds"):
        folds_by_source(sounds, 3, seed=1)
    with pytest.raises(DatasetError, match="two folds or more, not 1"):
        folds_by_source(sounds, 1, seed=1)


def test_fewer_files_than_subsets(tmp_path: Path) -> None:
    """Two recordings of a class cannot be in three subsets; they can be in two."""
    root = tmp_path / "sounds"
    import_folder(write_class_folders(tmp_path / "mine", "dog", "rain", takes=2), root)
    with pytest.raises(DatasetError, match=r"'dog' has 2, 'rain' has 2; each class needs 3.* --val 0 omits one"):
        write_split(root, val=0.2, test=0.2, seed=1)
    assert not (root / "split").exists()
    write_split(root, val=0.5, test=0, seed=1)
    assert sorted(read_split(root).values()) == ["train", "train", "val", "val"]


def test_written_and_read(tmp_path: Path) -> None:
    """Three tables that hold every sound once, and everything that reproduces them."""
    root = tmp_path / "sounds"
    import_folder(write_class_folders(tmp_path / "mine", "dog", "雨, 'heavy'", takes=8), root, group=r"^(.+)-")
    info = write_split(root, val=0.25, test=0.25, seed=7)
    subsets = read_split(root)
    assert subsets == split_by_source(read_manifest(root), val=0.25, test=0.25, seed=7)
    listed = []
    for subset in SUBSETS:
        with (root / "split" / f"{subset}.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                assert subsets[row["source"]] == subset
                listed.append((row["file"], row["label"], row["source"]))
    assert sorted(listed) == sorted((item.file, item.label, item.source) for item in read_manifest(root))
    assert info.seed == 7
    assert info.counts["dog"] == {"train": 4, "val": 2, "test": 2}
    assert len(info.sources["train"]) == 4
    assert not (root / "split.partial").exists()


def test_classes_with_one_source_are_stated(tmp_path: Path) -> None:
    """One machine to learn from and one to measure on: the accuracy says little, whatever it is, and there is none for
    calibration."""
    for take in range(4):
        write_recording(tmp_path / "mine" / "drone" / f"drone{take % 2}-{take}.wav", 0.5, hz=300 + 50 * take)
        write_recording(tmp_path / "mine" / "rain" / f"rain{take}-{take}.wav", 0.5, hz=2_000 + 50 * take)
    import_folder(tmp_path / "mine", tmp_path / "sounds", group=r"^([a-z]+[0-9])-")
    assert write_split(tmp_path / "sounds", val=0, test=0.5, seed=1).single == {"drone": ["train", "test"]}
    printed = CliRunner().invoke(app, ["data", "split", str(tmp_path / "sounds")]).output
    assert "No val set: a class has two sources only" in printed
    assert "One source only" in printed
    assert "  drone: train, test\n" in printed
    assert "each class needs 3" in str(
        CliRunner().invoke(app, ["data", "split", str(tmp_path / "sounds"), "--val", "0.15"]).exception
    ), "a share that is asked for is not left out"


def test_stale_or_changed(tmp_path: Path) -> None:
    """A split of another manifest, an edited split and a missing split are detected."""
    src, root = write_class_folders(tmp_path / "mine", "dog", "rain", takes=4), tmp_path / "my sounds"
    import_folder(src, root)
    with pytest.raises(DatasetError, match=r"has no split; `otoscope data split '/.*/my sounds'` creates one"):
        read_split(root)
    write_split(root, val=0.25, test=0.25, seed=1)
    val, test = root / "split" / "val.csv", root / "split" / "test.csv"
    lines = val.read_text().splitlines()
    test.write_text(test.read_text() + lines[1] + "\n")
    with pytest.raises(DatasetError, match=r"test\.csv, line 4: .* is also in val\.csv"):
        read_split(root)
    val.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    with pytest.raises(DatasetError, match=r"the tables do not match split\.json"):
        read_split(root)
    (root / "split" / "split.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"split\.json cannot be read"):
        read_split(root)
    write_split(root, val=0.25, test=0.25, seed=1)
    after = read_split(root)
    assert len(after) == 8
    write_recording(src / "dog" / "new.wav")
    import_folder(src, root)
    with pytest.raises(DatasetError, match=r"another version of items\.csv: sounds were added"):
        read_split(root)


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old split is kept."""
    root = tmp_path / "sounds"
    import_folder(write_class_folders(tmp_path / "mine", "dog", "rain"), root)
    write_split(root, val=0.25, test=0.25, seed=1)
    before = read_split(root)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(DatasetError, match="No space left"):
            write_split(root, val=0.25, test=0.25, seed=2)
    assert read_split(root) == before
    assert not (root / "split.partial").exists()


def test_nothing_is_left_in_another_folder(tmp_path: Path) -> None:
    """A misspelt name creates no folder, and the name of a folder that is no data set no file."""
    (tmp_path / "other").mkdir()
    for name in ("misspelt", "other"):
        with pytest.raises(DatasetError, match=f"{name} is not a custom data set.*`otoscope data import` creates"):
            write_split(tmp_path / name, val=0.15, test=0.15, seed=1)
    assert [*tmp_path.rglob("*")] == [tmp_path / "other"]
