"""Importing from a CSV table, and the validation of the manifest."""

import csv
from pathlib import Path

import pytest

from tests.support.recordings import write_class_folders
from training.data.custom.folders import import_folder
from training.data.custom.importers import import_csv
from training.data.custom.ingest import normalise_label
from training.data.custom.manifest import read_manifest
from training.errors import DatasetError


@pytest.mark.parametrize("copy", [False, True])
def test_table(copy: bool, tmp_path: Path) -> None:
    """Paths are relative to the folder of the table; a source column takes precedence; other columns are ignored."""
    src = write_class_folders(tmp_path / "mine", "dog", "rain", takes=2)
    (src / "list.csv").write_text(
        "label,take,file,source\n"
        "dog,1,dog/dog0-0.wav,Rex\n"
        "dog,2,dog/dog1-1.wav,\n"
        f'"rain, heavy",3,"{src / "rain" / "rain0-0.wav"}",\n'
        "dog,4,dog/nowhere.wav,Rex\n",
        encoding="utf-8-sig",
    )
    result = import_csv(src / "list.csv", tmp_path / "sounds", group=r"(\w+)-", copy=copy)
    found = {(item.label, item.source, Path(item.file).is_absolute()) for item in read_manifest(tmp_path / "sounds")}
    assert found == {("dog", "Rex", not copy), ("dog", "dog1", not copy), ("rain, heavy", "rain0", not copy)}
    assert "nowhere.wav: No such file" in result.skipped[0]
    assert import_csv(src / "list.csv", tmp_path / "sounds", group=r"(\w+)-", copy=copy).unchanged == 3


@pytest.mark.parametrize(
    "text",
    [
        "# mine\n\ndog/dog0-0.wav,dog\nrain/rain0-0.wav,rain\n",
        "dog/dog0-0.wav;dog\r\nrain/rain0-0.wav;rain\r\n",
        "URL\tLabel\ndog/dog0-0.wav\tdog\nrain/rain0-0.wav\train\n",
    ],
)
def test_table_dialects(text: str, tmp_path: Path) -> None:
    """Without a header, with comments, with semicolons or tabs."""
    src = write_class_folders(tmp_path / "mine", "dog", "rain", takes=1)
    (src / "list.txt").write_bytes(text.encode())
    import_csv(src / "list.txt", tmp_path / "sounds")
    found = {(Path(item.origin).name, item.label) for item in read_manifest(tmp_path / "sounds")}
    assert found == {("dog0-0.wav", "dog"), ("rain0-0.wav", "rain")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "lists no sounds"),
        (b"file,label\n", "lists no sounds"),
        (b"name,label\nx.wav,dog\n", "has no column file"),
        (b"file,label\nx.wav,dog\ny.wav, \n", "line 3: no label"),
        (b"file,label\n,dog\n", "line 2: no file"),
        (b'file,label\n"x.wav,dog\n', "line 2"),
        (b"file,label\n\xff.wav,dog\n", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_invalid_table(text: bytes | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(DatasetError, match=message):
        import_csv(tmp_path / "list.csv", tmp_path / "sounds")
    assert not (tmp_path / "sounds").exists()


def test_manifest_is_validated(tmp_path: Path) -> None:
    """Every message names the table and the line."""
    root = tmp_path / "sounds"
    import_folder(write_class_folders(tmp_path / "mine", "dog", "rain", takes=2), root, copy=True)
    table = root / "items.csv"
    good = list(csv.reader(table.read_text().splitlines()))

    def check(rows: list[list[str]], message: str) -> None:
        with table.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        with pytest.raises(DatasetError, match=message):
            read_manifest(root)

    check([row[:3] for row in good], "has no column origin, sha256")
    check([*good[:2], [good[2][0], " ", *good[2][2:]]], "line 3: no label")
    check([*good[:2], good[1]], "line 3: .* is also in line 2")
    check([*good[:2], ["audio/gone.wav", *good[2][1:]]], r"line 3: .*gone\.wav does not exist; restore it")
    check([*good, ["a", "b", "c", "d", "e", "f"]], "line 6: more fields")
    check(good[:1], "lists no sounds")
    table.unlink()
    with pytest.raises(DatasetError, match="is not a custom data set"):
        read_manifest(root)


def test_labels_that_are_not_valid_folder_names(tmp_path: Path) -> None:
    """Nothing is written outside of `audio/`."""
    src = write_class_folders(tmp_path / "mine", "dog", takes=4)
    labels = ["../../evil", "a/b", "..", "x" * 300]
    lines = (f"dog/dog{at}-{at}.wav,{label}" for at, label in enumerate(labels))
    (src / "list.csv").write_text("\n".join(lines))
    import_csv(src / "list.csv", tmp_path / "sounds", copy=True)
    assert {item.label for item in read_manifest(tmp_path / "sounds")} == set(labels)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "sounds"}
    assert normalise_label(" a ") == "a"
