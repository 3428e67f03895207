"""ESC-50 and other folders in its layout: `meta/esc50.csv` and `audio/`, in any format and at any sample rate that
`shared.audio` decodes.

Every error is a DatasetError that names the file.
"""

import csv
import shlex
from collections import Counter
from pathlib import Path

from training.data.base import Clip, Dataset, DatasetInfo, clips_digest
from training.errors import DatasetError, cause

_COLUMNS = ("filename", "fold", "target", "category", "src_file")


ESC50 = DatasetInfo(
    "ESC-50",
    "CC BY-NC 3.0 (non-commercial)",
    'Karol J. Piczak, "ESC: Dataset for Environmental Sound Classification", 2015; clips from Freesound',
)
_ESC50_DIGEST = "17e7efbf00fc0a57c3d1124810c251d860ff682fa5ae0de432483c7b16be0949"  # clips_digest of ESC-50


def load_esc50(root: Path) -> Dataset:
    """Read the table of a folder in the layout of ESC-50. Raises DatasetError."""
    table = root / "meta" / "esc50.csv"
    if not root.exists():
        raise DatasetError(f"{root} does not exist")
    if not table.is_file():
        raise DatasetError(
            f"{root} is not a data set: it has neither items.csv nor meta/esc50.csv; `otoscope data import"
            f" {shlex.quote(str(root))} --to sounds` makes one of a folder with a sub-folder for each class"
        )
    clips: list[Clip] = []
    names: dict[int, str] = {}
    for line, row in _rows(table):
        try:
            fold, label, name = int(row["fold"]), int(row["target"]), row["category"]
        except ValueError as error:
            raise DatasetError(f"{table}, line {line}: fold and target must be whole numbers ({error})") from error
        if names.setdefault(label, name) != name:
            raise DatasetError(
                f"{table}, line {line}: target {label} is {name}, but it is {names[label]} in an earlier line"
            )
        clips.append(Clip(root / "audio" / row["filename"], fold, label, row["src_file"]))

    if sorted(names) != list(range(len(names))):
        raise DatasetError(f"{table}: the targets are not 0 to {len(names) - 1}")
    if len(names) < 2 or len(set(names.values())) < len(names):
        raise DatasetError(f"{table}: needs two classes or more, each with a name of its own")
    paths = [clip.path for clip in clips]
    if twice := [path.name for path, count in Counter(paths).items() if count > 1]:
        raise DatasetError(f"{table} lists {twice[0]} twice")
    if missing := [path for path in paths if not path.is_file()]:
        raise DatasetError(f"{len(missing)} of {len(clips)} clips are missing, {missing[0]} first")

    info = ESC50 if clips_digest(root, clips) == _ESC50_DIGEST else DatasetInfo(root.resolve().name)
    return Dataset(root, tuple(clips), tuple(names[label] for label in range(len(names))), info)


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the table: line numbers and rows. All required columns are present and filled."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
            columns = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} cannot be read: {cause(error)}") from error
    if lacking := [name for name in _COLUMNS if name not in columns]:
        raise DatasetError(f"{table} has no column {', '.join(lacking)}")
    if not rows:
        raise DatasetError(f"{table} lists no clips")
    for line, row in rows:
        if empty := [name for name in _COLUMNS if not row[name]]:
            raise DatasetError(f"{table}, line {line}: no {', '.join(empty)}")
    return rows
