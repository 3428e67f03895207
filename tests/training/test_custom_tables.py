"""Tables of files and labels as spreadsheets and other data sets write them."""

import unicodedata
import zipfile
from pathlib import Path

import pytest

from tests.support.recordings import write_recording
from training.data.custom.folders import import_folder, import_zip
from training.data.custom.importers import import_csv
from training.data.custom.manifest import read_manifest
from training.errors import DatasetError

ROWS = "file,label\ndog/rex.wav,dog\ncat/Mühle.wav,cat\n"
TABLES: dict[str, bytes] = {
    "plain": ROWS.encode(),
    "of a spreadsheet, with its delimiter in the first line": ("sep=;\r\n" + ROWS.replace(",", ";")).encode(),
    "of a spreadsheet, as Unicode text": ROWS.replace(",", "\t").encode("utf-16"),
    "separated by |": ROWS.replace(",", "|").encode(),
    "separated by | without a header": ROWS.replace(",", "|").split("\n", 1)[1].encode(),
    "with spaces and quotes": b'\xef\xbb\xbf\n file , label\n"dog/rex.wav", "dog"\n\ncat/M\xc3\xbchle.wav , cat \n',
    "UTF-16 with the other byte order": ("\ufeff" + ROWS).encode("utf-16-be"),
    "of Windows, with backslashes": ROWS.replace("/", "\\").encode(),
    "of a Mac, with decomposed accents": unicodedata.normalize("NFD", ROWS).encode(),
    "in the columns of ESC-50": b"filename,fold,target,category\ndog/rex.wav,1,0,dog\ncat/M\xc3\xbchle.wav,2,5,cat\n",
    "with a path and a class": "ID,Class,Path\n1,dog,dog/rex.wav\n2,cat,cat/Mühle.wav\n".encode(),
}  # fmt: skip


def recordings(root: Path) -> Path:
    """A folder with two of them."""
    for name in ("dog/rex.wav", "cat/Mühle.wav"):
        write_recording(root / name)
    return root


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_other_programs(name: str, tmp_path: Path) -> None:
    """The same two sounds under the same two labels."""
    table = recordings(tmp_path / "src") / "list.csv"
    table.write_bytes(TABLES[name])
    result = import_csv(table, tmp_path / "sounds")
    assert (result.added, result.skipped) == (2, [])
    entries = read_manifest(tmp_path / "sounds")
    assert {(entry.label, Path(entry.origin).name) for entry in entries} == {("dog", "rex.wav"), ("cat", "Mühle.wav")}


def test_several_labels_without_a_header(tmp_path: Path) -> None:
    """More semicolons than commas do not separate the columns."""
    table = recordings(tmp_path / "src") / "list.csv"
    table.write_text("dog/rex.wav,dog;rain;wind\ncat/Mühle.wav,cat;rain\n")
    import_csv(table, tmp_path / "sounds")
    assert {entry.label for entry in read_manifest(tmp_path / "sounds")} == {"dog;rain;wind", "cat;rain"}


@pytest.mark.parametrize("composed", [True, False])
def test_metadata_of_another_system(composed: bool, tmp_path: Path) -> None:
    """The names of files and those in the table may have their accents in either of Unicode's forms."""
    forms = ("NFC", "NFD") if composed else ("NFD", "NFC")
    name = unicodedata.normalize(forms[0], "Mühle.wav")
    write_recording(tmp_path / "src" / name)
    write_recording(tmp_path / "src" / "rex.wav")
    text = f"file_name,label\r\n{unicodedata.normalize(forms[1], name)},mill\r\nrex.wav,dog\r\n"
    (tmp_path / "src" / "metadata.csv").write_bytes(text.encode("utf-16"))
    result = import_folder(tmp_path / "src", tmp_path / "sounds")
    assert (result.added, result.skipped) == (2, [])


ARCHIVES: dict[str, dict[str, str]] = {  # beside two recordings: names and texts; "" for the recordings
    "a description beside the classes": {"set/dog/rex.wav": "", "set/cat/tom.wav": "", "set/README.md": "About"},
    "a description beside the folder": {"set/dog/rex.wav": "", "set/cat/tom.wav": "", "LICENSE": "CC0"},
    "metadata": {
        "set/rex.wav": "", "set/tom.wav": "", "set/metadata.csv": "file_name,label\nrex.wav,dog\ntom.wav,cat\n",
    },
    "metadata of a folder": {
        "data/rex.wav": "", "data/tom.wav": "",
        "metadata.csv": "file_name,label\ndata/rex.wav,dog\ndata/tom.wav,cat\n",
    },
    "ESC-50": {
        "ESC-50-master/audio/rex.wav": "", "ESC-50-master/audio/tom.wav": "", "ESC-50-master/README.md": "About",
        "ESC-50-master/meta/esc50.csv": "filename,fold,target,category,esc10,src_file\n"
        "rex.wav,1,0,dog,True,1\ntom.wav,2,5,cat,False,2\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ARCHIVES)
def test_what_lies_beside_the_sounds_is_no_class(name: str, zipped: bool, tmp_path: Path) -> None:
    """Of an archive also in a folder around everything; the table has the labels where there is one."""
    write_recording(tmp_path / "rex.wav")
    write_recording(tmp_path / "tom.wav")
    archive, around = tmp_path / "set.zip", tmp_path / "src"
    with zipfile.ZipFile(archive, "w") as file:
        for inner, text in ARCHIVES[name].items():
            file.writestr(inner, text or (tmp_path / Path(inner).name).read_bytes())
    if zipped:
        result = import_zip(archive, tmp_path / "sounds")
    else:
        with zipfile.ZipFile(archive) as file:
            file.extractall(around)
        inside = next((around / each for each in ("set", "ESC-50-master") if (around / each).exists()), around)
        result = import_folder(inside, tmp_path / "sounds")
    assert result.added == 2
    entries = read_manifest(tmp_path / "sounds")
    assert {(entry.label, Path(entry.origin).name) for entry in entries} == {("dog", "rex.wav"), ("cat", "tom.wav")}
    assert name != "ESC-50" or {entry.source for entry in entries} == {"1", "2"}


def test_a_table_that_is_not_unicode(tmp_path: Path) -> None:
    """The error says what to do."""
    table = recordings(tmp_path / "src") / "list.csv"
    table.write_bytes(ROWS.encode("cp1252"))
    with pytest.raises(DatasetError, match=r"list\.csv cannot be read: line 3 is not UTF-8; save it as UTF-8"):
        import_csv(table, tmp_path / "sounds")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("file,label\ndog/rex.wav,dog, big\n", "line 2: more cells than columns; a label with"),
        ("dog/rex.wav\ncat/Mühle.wav\n", "line 1: no label; without a first line `file,label`"),
        ("file,label\ndog/rex.wav,\n", "line 2: no label$"),
        ("recording,species_name\ndog/rex.wav,dog\n", "line 1: no column file, label among recording, species_name; a"),
        ("File;Kind\ndog/rex.wav;dog\n", "line 1: no column label among File, Kind; a"),
    ],
)
def test_a_table_that_can_be_read_in_two_ways(text: str, why: str, tmp_path: Path) -> None:
    """Nothing is guessed: the error has the line, and what is accepted."""
    table = recordings(tmp_path / "src") / "list.csv"
    table.write_text(text)
    with pytest.raises(DatasetError, match=why):
        import_csv(table, tmp_path / "sounds")


def test_a_manifest_that_a_spreadsheet_has_saved(tmp_path: Path) -> None:
    """It may have another delimiter; another encoding is refused."""
    import_folder(recordings(tmp_path / "src"), tmp_path / "sounds")
    manifest = tmp_path / "sounds" / "items.csv"
    before, text = read_manifest(tmp_path / "sounds"), manifest.read_text()
    manifest.write_text("\ufeff" + text.replace(",", ";"))
    assert read_manifest(tmp_path / "sounds") == before
    manifest.write_bytes(text.encode("cp1252"))
    with pytest.raises(DatasetError, match=r"items\.csv cannot be read: line \d is not UTF-8"):
        read_manifest(tmp_path / "sounds")


def test_events_with_a_duration(tmp_path: Path) -> None:
    """In place of an end."""
    table = recordings(tmp_path / "src") / "events.csv"
    table.write_text("filename\tonset\tduration\tevent_label\ndog/rex.wav\t0,1\t0,1\tdog\n")
    assert import_csv(table, tmp_path / "sounds").added == 1
    (entry,) = read_manifest(tmp_path / "sounds")
    assert entry.origin.endswith("rex.wav#t=0.1,0.2")
    table.write_text("filename,onset,duration,event_label\ndog/rex.wav,0.1,long,dog\n")
    with pytest.raises(DatasetError, match="line 2: start and end are seconds"):
        import_csv(table, tmp_path / "sounds")
