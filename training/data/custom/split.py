"""Parts a collection into train, val and test, so that no recording and no speaker stands on two sides.

Whole sources move, never single sounds of one, and a source with sounds of several classes moves as one. Within that,
every class comes as close to the shares as its sources allow, and has at least one source in every part.

    split/train.csv, val.csv, test.csv    file (as in items.csv), label, source
    split/split.json                      seed, shares, counts, sources, and the digest of the items.csv it belongs to
"""

import os
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from training.data.custom.manifest import SPLIT, TABLE, Item, alone, read_items, table_digest
from training.data.custom.tables import read_table, write_table
from training.errors import DatasetError

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = get_args(Part)

_COLUMNS = ("file", "label", "source")
_RECORD = "split.json"
_ABSENT = 1e3  # what a class costs that a part lacks: more than distances from the shares can
_ATTEMPTS = 20  # in different orders, where recordings of several classes are in each other's way


class SplitRecord(BaseModel):
    """split.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    shares: dict[Part, float]
    counts: dict[str, dict[Part, int]]  # sounds, by label
    sources: dict[Part, list[str]]
    items_sha256: str


def split(items: Sequence[Item], *, val: float, test: float, seed: int) -> dict[str, Part]:
    """The part of every source. Raises DatasetError when a class has too few of them.

    The same sounds and seed give the same split, whatever their order. A share of zero is a part that is not wanted.
    """
    if min(val, test) < 0 or val + test >= 1:
        raise DatasetError(f"shares of {val:g} for val and {test:g} for test must leave something to train on")
    shares = {part: share for part, share in _shares(val, test).items() if share}
    groups: dict[str, Counter[str]] = defaultdict(Counter)  # source -> sounds by label
    for item in items:
        groups[item.source][item.label] += 1
    _check_enough(groups, shares)

    for attempt in range(_ATTEMPTS):
        order = sorted(groups)
        random.Random(f"{seed} {attempt}").shuffle(order)
        parts, absent = _assign(order, groups, shares)
        if not absent:
            return parts
    raise DatasetError(
        f"no split found in which class {absent[0][0]!r} stands in each of {', '.join(shares)}: its recordings hold"
        " other classes, too, and move as one; bring more recordings of it"
    )


def _assign(
    order: Sequence[str], groups: Mapping[str, Counter[str]], shares: Mapping[Part, float]
) -> tuple[dict[str, Part], list[tuple[str, Part]]]:
    """Each source to the part that lacks it most; then what no part may lack; then whatever is better off elsewhere.

    Returns the parts and what is still absent from where.
    """
    balance = _Balance(groups, shares)
    for source in order:
        balance.move(source, min(shares, key=lambda part: balance.distance(source, part)))
    while absent := balance.absent():
        label, part = absent[0]
        source = min((s for s in order if label in groups[s]), key=lambda s: balance.change(s, part))
        if balance.change(source, part) >= 0:
            return balance.parts, absent
        balance.move(source, part)
    moved = True
    while moved:  # the cost falls with every move, so that this comes to an end
        moved = False
        for source in order:
            best = min(shares, key=lambda part: balance.change(source, part))
            if balance.change(source, best) < -1e-9:
                balance.move(source, best)
                moved = True
    return balance.parts, []


def write_split(root: Path, *, val: float, test: float, seed: int) -> SplitRecord:
    """Split the collection and write it down, instead of an older split. Raises DatasetError."""
    with alone(root):
        items, digest = read_items(root), table_digest(root)
        parts = split(items, val=val, test=test, seed=seed)
        counts: dict[str, dict[Part, int]] = {
            label: dict.fromkeys(PARTS, 0) for label in sorted({item.label for item in items})
        }
        for item in items:
            counts[item.label][parts[item.source]] += 1
        record = SplitRecord(
            seed=seed, shares=_shares(val, test), counts=counts, items_sha256=digest,
            sources={part: sorted(source for source, its in parts.items() if its == part) for part in PARTS},
        )  # fmt: skip
        folder, partial = root / SPLIT, root / f"{SPLIT}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for part in PARTS:
                rows = ((item.file, item.label, item.source) for item in items if parts[item.source] == part)
                write_table(partial / f"{part}.csv", _COLUMNS, rows)
            (partial / _RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(partial, folder)
        except OSError as error:
            raise DatasetError(f"{folder} cannot be written: {error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return record


def read_split(root: Path) -> dict[str, Part]:
    """The part of every source. Raises DatasetError when there is no split, it is of other sounds, or was changed."""
    record = read_record(root)
    parts: dict[str, Part] = {}
    for part in PARTS:
        table = root / SPLIT / f"{part}.csv"
        for line, row in read_table(table, _COLUMNS):
            if (other := parts.setdefault(row["source"], part)) != part:
                raise DatasetError(f"{table}, line {line}: {row['source']} stands in {other}.csv, too")
    if parts != {source: part for part in PARTS for source in record.sources[part]}:
        raise DatasetError(f"{root / SPLIT}: the tables are not those of {_RECORD}; {_again(root)}")
    return parts


def read_record(root: Path) -> SplitRecord:
    """split.json. Raises DatasetError when there is none, or it is of other sounds."""
    path = root / SPLIT / _RECORD
    if not path.is_file():
        raise DatasetError(f"{root} has no split; {_again(root)}")
    try:
        record = SplitRecord.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; {_again(root)}") from error
    if record.items_sha256 != table_digest(root):
        raise DatasetError(f"{path} is of another {TABLE}: sounds were added or changed since; {_again(root)}")
    return record


def _again(root: Path) -> str:
    return f"`otoscope data split {root}` makes one"


def _shares(val: float, test: float) -> dict[Part, float]:
    return {"train": 1 - val - test, "val": val, "test": test}


def _check_enough(groups: Mapping[str, Counter[str]], shares: Mapping[Part, float]) -> None:
    sources = Counter(label for labels in groups.values() for label in labels)
    if len(sources) < 2:
        raise DatasetError(f"needs two classes or more; there is only {', '.join(map(repr, sources)) or 'none'}")
    poor = {label: count for label, count in sorted(sources.items()) if count < len(shares)}
    if poor:
        few = ", ".join(f"{label!r} has {count}" for label, count in poor.items())
        wanted = ", ".join(shares)
        without = "; a part is left out with --val 0 or --test 0" if len(shares) > 2 else ""
        raise DatasetError(
            f"too few recordings (sources): {few}; {len(shares)} are needed of each class,"
            f" one each for {wanted}{without}"
        )


class _Balance:
    """Which source stands where, and what that costs: over classes and parts, the squared distance between share held
    and share wanted, and far more for each class that a part lacks."""

    def __init__(self, groups: Mapping[str, Counter[str]], shares: Mapping[Part, float]) -> None:
        self.parts: dict[str, Part] = {}
        self._groups, self._shares = groups, shares
        self._total: Counter[str] = Counter()
        for labels in groups.values():
            self._total.update(labels)
        self._sounds: Counter[tuple[str, Part]] = Counter()
        self._sources: Counter[tuple[str, Part]] = Counter()

    def move(self, source: str, end: Part) -> None:
        """Into a part, from where it stands, if it stands anywhere."""
        start = self.parts.get(source)
        self.parts[source] = end
        for label, count in self._groups[source].items():
            if start:
                self._sounds[label, start] -= count
                self._sources[label, start] -= 1
            self._sounds[label, end] += count
            self._sources[label, end] += 1

    def distance(self, source: str, end: Part) -> float:
        """What a source that stands nowhere yet would add to the distances there."""
        return sum(
            self._squared(label, end, count) - self._squared(label, end, 0)
            for label, count in self._groups[source].items()
        )

    def change(self, source: str, end: Part) -> float:
        """What moving it would add to the cost."""
        start = self.parts[source]
        if start == end:
            return 0.0
        change = self.distance(source, end)
        for label, count in self._groups[source].items():
            change += self._squared(label, start, -count) - self._squared(label, start, 0)
            change += _ABSENT * ((self._sources[label, start] == 1) - (self._sources[label, end] == 0))
        return change

    def absent(self) -> list[tuple[str, Part]]:
        return [
            (label, part) for label in sorted(self._total) for part in self._shares if not self._sources[label, part]
        ]

    def _squared(self, label: str, part: Part, more: int) -> float:
        return ((self._sounds[label, part] + more) / self._total[label] - self._shares[part]) ** 2
