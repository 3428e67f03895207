"""Importing recordings from folders, repeatedly, with everything that real folders contain."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REAL_SOUNDS
from tests.support.recordings import wav_bytes, write_class_folders, write_recording, write_video
from training.data.custom.folders import given_subsets, import_folder, import_zip
from training.data.custom.manifest import lock_dataset, read_manifest
from training.data.custom.prepare import load_segments, prepare_segments
from training.data.custom.reset import reset
from training.data.custom.split import read_split, write_split
from training.errors import DatasetError


def rows(root: Path) -> set[tuple[str, str]]:
    return {(Path(item.origin).name, item.label) for item in read_manifest(root)}


def test_files_are_referenced(tmp_path: Path) -> None:
    """Every class folder at any depth; nothing is copied; each file is its own source."""
    src = write_class_folders(tmp_path / "mine", "dog", "rain", takes=2)
    write_recording(src / "dog" / "2024" / "may" / "deep.WAV")
    result = import_folder(src, tmp_path / "sounds")
    items = read_manifest(tmp_path / "sounds")
    assert (result.added, result.unchanged, result.duplicates, result.skipped) == (5, 0, [], [])
    assert rows(tmp_path / "sounds") >= {("deep.WAV", "dog"), ("rain1-1.wav", "rain")}
    assert all(Path(item.file).is_absolute() and item.file == item.origin == item.source for item in items)
    assert {path.name for path in (tmp_path / "sounds").iterdir()} == {"items.csv"}


def test_files_are_copied(tmp_path: Path) -> None:
    """The copies do not depend on the originals; their paths in the manifest are relative to the data set."""
    src = write_class_folders(tmp_path / "mine", "dog", "rain", takes=2)
    import_folder(src, tmp_path / "sounds", copy=True)
    shutil.rmtree(src)
    items = read_manifest(tmp_path / "sounds")
    assert len(items) == 4
    assert all(item.file.startswith(f"audio/{item.label}/{item.label}") for item in items)


def test_names(tmp_path: Path) -> None:
    """Spaces, quotes, commas, line breaks, non-Latin letters and decomposed accents, in folders and files."""
    src, root = tmp_path / "mine", tmp_path / "my sounds"
    labels = ['say "hi", dog', "雨", "птица", "cafe\u0301", "a\nb"]
    for label in labels:
        write_recording(src / label / f"it's {label} 1.wav")
    for copy in (False, True):
        import_folder(src, root, copy=copy)
        found = {item.label for item in read_manifest(root)}
        assert found == {*labels[:3], "caf\u00e9", "a\nb"}
        reset(root)
        shutil.rmtree(root)


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    src = write_class_folders(tmp_path / "mine", "dog", "rain")
    (src / "dog" / "dog0-0.wav").rename(src / "dog" / os.fsdecode(b"\xff.wav"))
    assert "not valid UTF-8" in import_folder(src, tmp_path / "sounds").skipped[0]


def test_unusable_files_are_skipped(tmp_path: Path) -> None:
    """By name, by content, unreadable, hidden, outside the class folders; an empty class folder is reported."""
    src = write_class_folders(tmp_path / "mine", "dog", "rain", takes=1)
    (src / "dog" / "notes.txt").write_text("two dogs")
    (src / "dog" / "page.wav").write_text("<html>")
    (src / "dog" / "empty.wav").touch()
    (src / "dog" / "short.wav").write_bytes(write_recording(tmp_path / "whole.wav").read_bytes()[:100])
    (src / "dog" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (src / "dog" / ".hidden.wav").write_text("")
    (src / "dog" / ".cache").mkdir()
    (src / "dog" / ".cache" / "x.wav").touch()
    (src / "bird").mkdir()
    (src / "dog" / "again").symlink_to(src / "dog")
    write_recording(src / "loose.wav")
    write_recording(src / " ;" / "unnamed.wav")
    result = import_folder(src, tmp_path / "sounds")
    assert result.added == len(read_manifest(tmp_path / "sounds")) == 2
    reasons = {Path(line.split(": ")[0]).name: line.split(": ", 1)[1] for line in result.skipped}
    assert set(reasons) == {
        "notes.txt",
        "page.wav",
        "empty.wav",
        "short.wav",
        "gone.wav",
        "bird",
        "loose.wav",
        "unnamed.wav",
    }
    assert reasons["unnamed.wav"] == "its class has no name"
    assert reasons["notes.txt"] == "the file name has no audio extension"
    assert reasons["page.wav"] == "The file starts like HTML or XML, not like a sound file."
    assert reasons["empty.wav"] == "The file is empty."
    assert "No such file" in reasons["gone.wav"]
    assert reasons["bird"] == "a class folder without sounds"


def test_invalid_folders(tmp_path: Path) -> None:
    """Missing, without class folders, without usable sounds; names that the data set reserves."""
    root = tmp_path / "sounds"
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        import_folder(tmp_path / "nowhere", root)
    with pytest.raises(DatasetError, match=r"note\.md is not a folder, and no \.zip, \.csv or \.txt"):
        import_folder(write_recording(tmp_path / "note.md"), root)
    (tmp_path / "flat").mkdir()
    write_recording(tmp_path / "flat" / "a.wav")
    with pytest.raises(DatasetError, match="has no sub-folders; each class"):
        import_folder(tmp_path / "flat", root)
    (tmp_path / "bad" / "dog").mkdir(parents=True)
    (tmp_path / "bad" / "dog" / "x.wav").touch()
    with pytest.raises(DatasetError, match=r"no usable sound; first: .*x\.wav: The file is empty$"):
        import_folder(tmp_path / "bad", root)
    (tmp_path / "bad" / "dog" / "x.wav").write_text("<html>")
    with pytest.raises(DatasetError, match=r"not like a sound file; accepted: WAV, FLAC, .*NIST\)$"):
        import_folder(tmp_path / "bad", root)
    (tmp_path / "mine" / "cache").mkdir(parents=True)
    with pytest.raises(DatasetError, match="cache is in the way"):
        import_folder(write_class_folders(tmp_path / "mine", "dog"), tmp_path / "mine")
    inside = tmp_path / "mine" / "dog"
    with pytest.raises(DatasetError, match=r"mine/dog is inside .*/mine, and would be imported as one of its classes"):
        import_folder(tmp_path / "mine", inside)
    assert not (inside / "items.csv").exists()


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = write_class_folders(tmp_path / "mine", "dog", "rain", takes=1)
    write_recording(src / "dog" / "long.wav", 2.0)
    monkeypatch.setattr("training.data.custom.importers.MAX_FILE_BYTES", 10_000)
    assert "long.wav: larger than 10,000 bytes" in import_folder(src, tmp_path / "sounds").skipped[0]


def test_data_set_that_contains_the_class_folders(tmp_path: Path) -> None:
    """The class folders may be inside the data set: the whole folder can then be moved."""
    root = write_class_folders(tmp_path / "sounds", "dog", "rain", takes=3)
    import_folder(root, root)
    write_split(root, val=0.3, test=0.3, seed=1)
    write_recording(root / "dog" / "new.wav")
    result = import_folder(root, root)
    assert (result.added, result.unchanged, result.skipped) == (1, 6, [])
    root.rename(tmp_path / "elsewhere")
    assert {item.file for item in read_manifest(tmp_path / "elsewhere")} >= {"dog/new.wav", "rain/rain0-0.wav"}


def test_repeated_import(tmp_path: Path) -> None:
    """A second import adds new files, keeps existing ones, and follows moves, changes and new sources."""
    src, root = write_class_folders(tmp_path / "mine", "dog", "rain"), tmp_path / "sounds"
    import_folder(src, root)
    before = read_manifest(root)
    write_recording(src / "dog" / "new.wav")
    result = import_folder(src, root)
    assert (result.added, result.unchanged) == (1, 8)
    assert read_manifest(root)[:8] == before

    (src / "dog" / "new.wav").rename(src / "dog" / "renamed.wav")
    write_recording(src / "rain" / "rain0-0.wav", 0.5)
    result = import_folder(src, root)
    assert (result.added, result.unchanged) == (2, 7)
    assert len(read_manifest(root)) == 9
    assert ("renamed.wav", "dog") in rows(root)

    import_folder(src, root, group="([a-z]+)")
    assert {item.source for item in read_manifest(root)} == {"dog", "rain", "renamed"}


def test_moved_to_another_class(tmp_path: Path) -> None:
    src, root = write_class_folders(tmp_path / "mine", "dog", "rain"), tmp_path / "sounds"
    import_folder(src, root)
    (src / "dog" / "dog0-0.wav").rename(src / "rain" / "dog0-0.wav")
    import_folder(src, root)
    assert len(read_manifest(root)) == 8
    assert ("dog0-0.wav", "rain") in rows(root)


def test_duplicates(tmp_path: Path) -> None:
    """Under one label: stored once and reported. Under two labels: left out and listed, unless an earlier import has
    it; nothing else is affected."""
    src, root = write_class_folders(tmp_path / "mine", "dog", "rain"), tmp_path / "sounds"
    shutil.copy(src / "dog" / "dog0-0.wav", src / "dog" / "twin.wav")
    result = import_folder(src, root)
    assert result.added == 8
    assert result.duplicates == [f"{src / 'dog' / 'twin.wav'} is the same sound as {src / 'dog' / 'dog0-0.wav'}"]

    before = (root / "items.csv").read_bytes()
    for name in ("yyy.wav", "zzz.wav"):
        shutil.copy(src / "dog" / "dog1-1.wav", src / "rain" / name)
    again = import_folder(src, root)
    pair = f"{src / 'rain' / 'zzz.wav'} as 'rain', {src / 'dog' / 'dog1-1.wav'} as 'dog'"
    assert len(again.conflicts) == 2
    assert again.conflicts[1].startswith(f"{pair}, which it stays: correct ")
    assert (root / "items.csv").read_bytes() == before
    other = import_folder(src, tmp_path / "other")
    assert (other.added, len(other.conflicts), other.conflicts[1]) == (7, 2, f"{pair}: both are left out")
    origins = {Path(item.origin).name for item in read_manifest(tmp_path / "other")}
    assert origins.isdisjoint({"dog1-1.wav", "yyy.wav", "zzz.wav"})
    assert import_folder(src, tmp_path / "other").conflicts == other.conflicts, "also when it is continued"


def test_folders_of_a_split(tmp_path: Path) -> None:
    """`train`, `valid` and `test` are no classes: the classes are in them, and the split is theirs."""
    for part, takes in (("train", 4), ("valid", 2), ("test", 2)):
        write_class_folders(tmp_path / "mine" / part, "dog", "rain", takes=takes)
    result = import_folder(tmp_path / "mine", tmp_path / "sounds")
    assert result.added == 16
    assert {item.label for item in read_manifest(tmp_path / "sounds")} == {"dog", "rain"}
    subsets = read_split(tmp_path / "sounds")
    assert {Path(source).parts[-3]: subset for source, subset in subsets.items()} == {
        "train": "train", "valid": "val", "test": "test",
    }  # fmt: skip
    assert result.split is not None
    assert result.split.counts == {name: {"train": 4, "val": 2, "test": 2} for name in ("dog", "rain")}
    with pytest.raises(DatasetError, match="the source dog0 is in test and in train; `otoscope data split"):
        import_folder(tmp_path / "mine", tmp_path / "grouped", group=r"^(\w+)-")
    assert given_subsets(["train", "validation"]) == {"train": "train", "validation": "test"}
    assert given_subsets(["train", "tram", "test"]) == {}, "classes of vehicles"
    assert given_subsets(["test", "val"]) == {}


def test_group(tmp_path: Path) -> None:
    """The source is the group of the pattern; names that do not match are skipped; the pattern must have one group."""
    src, root = write_class_folders(tmp_path / "mine", "dog", takes=6, speakers=3), tmp_path / "sounds"
    write_recording(src / "rain" / "roof.wav")
    result = import_folder(src, root, group=r"^(\w+)-")
    assert {item.source for item in read_manifest(root)} == {"dog0", "dog1", "dog2"}
    assert "roof.wav: --group does not match" in result.skipped[-1]
    for pattern, message in (("(", "not a regular expression"), ("x", "needs exactly one group"), ("(a)(b)", "has 2")):
        with pytest.raises(DatasetError, match=message):
            import_folder(src, root, group=pattern)


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While copying: an error, no partial files, and the next import continues."""
    src, root = write_class_folders(tmp_path / "mine", "dog", "rain"), tmp_path / "sounds"
    real, written = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) == 3:
            real(path, data[:50])
            raise OSError(28, os.strerror(28))
        return real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DatasetError, match=r"cannot be written: No space left"):
            import_folder(src, root, copy=True)
    assert len(list((root / "audio").rglob("*.*"))) == 2
    assert import_folder(src, root, copy=True).added == 8


def test_manifest_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src, root = write_class_folders(tmp_path / "mine", "dog", "rain"), tmp_path / "sounds"
    import_folder(src, root)
    before = (root / "items.csv").read_bytes()
    write_recording(src / "dog" / "new.wav")

    def fail(_: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr("training.data.custom.tables.os.fsync", fail)
        with pytest.raises(DatasetError, match=r"items\.csv cannot be written: No space left"):
            import_folder(src, root)
    assert (root / "items.csv").read_bytes() == before
    assert not list(root.glob("*.partial"))


def test_concurrent_change(tmp_path: Path) -> None:
    src, root = write_class_folders(tmp_path / "mine", "dog", "rain"), tmp_path / "sounds"
    root.mkdir()
    with lock_dataset(root), pytest.raises(DatasetError, match="another process is changing"):
        import_folder(src, root)


@pytest.mark.usefixtures("real_sounds")
def test_real_recordings_by_speaker(tmp_path: Path) -> None:
    """Sources from file names: the second field for cars, the first for drones and speakers; none in two subsets."""
    result = import_folder(REAL_SOUNDS / "drone-car-speech", tmp_path, group=r"^(?:\d-)?(\w+?)-")
    assert (result.added, result.duplicates, result.skipped) == (260, [], [])
    items = read_manifest(tmp_path)
    sources = {label: {item.source for item in items if item.label == label} for label in ("car", "drone", "speech")}
    assert sources["drone"] == {"bebop", "membo"}
    assert sources["speech"] == {"george", "jackson", "lucas", "nicolas", "theo", "yweweler"}
    assert len(sources["car"]) == 71
    with pytest.raises(DatasetError, match="'drone' has 2; each class needs 3"):
        write_split(tmp_path, val=0.2, test=0.2, seed=1)
    write_split(tmp_path, val=0.3, test=0, seed=1)
    subsets = read_split(tmp_path)
    sources_of = {
        subset: {(item.label, Path(item.file).name.split("-")[item.label == "car"]) for item in items
               if subsets[item.source] == subset}
        for subset in ("train", "val")
    }  # fmt: skip
    assert not sources_of["train"] & sources_of["val"]
    assert {label for label, _ in sources_of["val"]} == {"car", "drone", "speech"}


def zipped(archive: Path, folder: Path, inside: str = "") -> Path:
    """A ZIP archive of a folder, below `inside`."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, f"{inside}{path.relative_to(folder).as_posix()}")
    return archive


@pytest.mark.parametrize("inside", ["", "recordings of mine/"])
def test_zip_archive(inside: str, tmp_path: Path) -> None:
    """A ZIP of class folders, with or without a folder around them, is imported without being unpacked; again, it adds
    nothing. What macOS adds is left out; a damaged member is skipped."""
    src = write_class_folders(tmp_path / "mine", "dog", "rain", takes=2)
    (src / "__MACOSX").mkdir()
    (src / "__MACOSX" / "._dog0-0.wav").touch()
    archive = zipped(tmp_path / "mine.zip", src, inside)
    shutil.rmtree(src)
    root = tmp_path / "sounds"
    assert import_zip(archive, root).added == 4
    assert rows(root) == {(f"{label}{take}-{take}.wav", label) for label in ("dog", "rain") for take in range(2)}
    assert all((root / item.file).is_file() and item.file.startswith("audio/") for item in read_manifest(root))
    again = import_zip(archive, root)
    assert (again.added, again.unchanged, again.skipped) == (0, 4, [])
    data = bytearray(archive.read_bytes())
    at = data.index(b"RIFF")
    data[at + 100 : at + 200] = bytes(100)
    archive.write_bytes(data)
    damaged = import_zip(archive, tmp_path / "other")
    assert (damaged.added, len(damaged.skipped)) == (3, 1)
    assert "Bad CRC-32" in damaged.skipped[0]
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(DatasetError, match="not a zip file"):
        import_zip(tmp_path / "text.zip", root)


def test_zip_archive_cannot_leave_its_folder(tmp_path: Path) -> None:
    """A member whose path leaves the archive is not read; one above the limit is skipped."""
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr("../../dog/a.wav", wav_bytes())
        file.writestr("dog/b.wav", wav_bytes())
        file.writestr("rain/c.wav", wav_bytes())
    result = import_zip(tmp_path / "bad.zip", tmp_path / "sounds")
    assert result.added == 2
    assert {path.name for path in tmp_path.iterdir()} == {"bad.zip", "sounds"}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_audiofolder_metadata(kind: str, tmp_path: Path) -> None:
    """Hugging Face's audiofolder: labels come from metadata.csv or metadata.jsonl beside the sounds, or in each folder
    of a split; files that no table lists, and rows without a file, are listed."""
    src = tmp_path / "hub"
    for part, takes in (("train", 4), ("test", 2)):
        listed = [(f"{label}{take}.wav", label) for label in ("dog", "rain") for take in range(takes)]
        for name, _ in listed:
            write_recording(src / part / "audio" / name)
        listed.append(("gone.wav", "dog"))
        text = "file_name,label\n" + "".join(f"audio/{name},{label}\n" for name, label in listed)
        if kind == "jsonl":
            lines = [json.dumps({"file_name": f"audio/{name}", "label": label}) for name, label in listed]
            text = "\n".join(lines) + "\n"
        (src / part / f"metadata.{kind}").write_text(text)
    write_recording(src / "train" / "extra.wav")
    result = import_folder(src, tmp_path / "sounds")
    assert result.added == 12
    assert result.split is not None
    assert result.split.counts == {name: {"train": 4, "val": 0, "test": 2} for name in ("dog", "rain")}
    reasons = sorted(message.rsplit("/", 1)[1] for message in result.skipped)
    assert reasons == [
        "extra.wav: is in no metadata table",
        "gone.wav: is listed in a metadata table, and does not exist",
        "gone.wav: is listed in a metadata table, and does not exist",
    ]
    flat = tmp_path / "flat"
    shutil.copytree(src / "test", flat)
    assert import_folder(flat, tmp_path / "second").added == 4
    archive = zipped(tmp_path / "hub.zip", src)
    assert import_zip(archive, tmp_path / "third").added == 12


def test_metadata_without_labels(tmp_path: Path) -> None:
    """Folders are the classes where a metadata table has no labels; a broken table is an error that names its line."""
    src = write_class_folders(tmp_path / "mine", "dog", "rain", takes=2)
    (src / "metadata.csv").write_text("file_name,rating\ndog/dog0-0.wav,3\n")
    assert import_folder(src, tmp_path / "sounds").added == 4
    (src / "metadata.csv").unlink()
    (src / "metadata.jsonl").write_text('{"file_name": "dog/dog0-0.wav", "label": "dog"}\n{"label": "x"}\n')
    with pytest.raises(DatasetError, match=r"metadata.jsonl, line 2: not an object with file_name and label"):
        import_folder(src, tmp_path / "sounds")
    for nothing in ("null", '""', "[]", '" ;"'):
        (src / "metadata.jsonl").write_text(f'{{"file_name": "dog/dog0-0.wav", "label": {nothing}}}\n')
        with pytest.raises(DatasetError, match=r"metadata.jsonl, line 1: no label"):
            import_folder(src, tmp_path / "sounds")


def test_videos(tmp_path: Path) -> None:
    """The sound of a local video is imported: MPEG-4 and AAC in MP4 and in Matroska, encoded here."""
    for number, name in enumerate(("a.mp4", "b.mkv")):
        write_video(tmp_path / "mine" / "dog" / name, hz=300 + 100 * number)
        write_recording(tmp_path / "mine" / "rain" / f"{number}.wav", 1.0)
    result = import_folder(tmp_path / "mine", tmp_path / "sounds")
    assert (result.added, result.skipped) == (4, [])
    cache = prepare_segments(tmp_path / "sounds", rate=8_000, window_seconds=1.0)
    waveforms, segments = load_segments(cache)
    of_dogs = [row for row, segment in zip(waveforms, segments, strict=True) if segment.label == "dog"]
    for row, hz in zip(of_dogs, (300, 400), strict=True):
        spectrum = np.abs(np.fft.rfft(row[:8_000].astype(float)))
        assert abs(int(spectrum.argmax()) - hz) <= 2
