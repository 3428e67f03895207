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

from training.data.custom.manifest import (
    MANIFEST,
    SPLIT_DIR,
    ManifestEntry,
    lock_dataset,
    manifest_digest,
    read_manifest,
)
from training.data.custom.tables import read_table, write_table
from training.errors import DatasetError

Subset = Literal["train", "val", "test"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)

_COLUMNS = ("file", "label", "source")
_INFO = "split.json"
_MISSING_COST = 1e3  # what a class costs that a part lacks: more than distances from the shares can
_MAX_ATTEMPTS = 20  # in different orders, where recordings of several classes are in each other's way


class SplitInfo(BaseModel):
    """split.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    shares: dict[Subset, float]
    counts: dict[str, dict[Subset, int]]  # sounds, by label
    sources: dict[Subset, list[str]]
    items_sha256: str


def split_by_source(entries: Sequence[ManifestEntry], *, val: float, test: float, seed: int) -> dict[str, Subset]:
    """The part of every source. Raises DatasetError when a class has too few of them.

    The same sounds and seed give the same split, whatever their order. A share of zero is a part that is not wanted.
    """
    if min(val, test) < 0 or val + test >= 1:
        raise DatasetError(f"shares of {val:g} for val and {test:g} for test must leave something to train on")
    shares = {subset: share for subset, share in _shares(val, test).items() if share}
    groups: dict[str, Counter[str]] = defaultdict(Counter)  # source -> sounds by label
    for entry in entries:
        groups[entry.source][entry.label] += 1
    _check_enough(groups, shares)

    for attempt in range(_MAX_ATTEMPTS):
        order = sorted(groups)
        random.Random(f"{seed} {attempt}").shuffle(order)
        subsets, missing = _assign(order, groups, shares)
        if not missing:
            return subsets
    raise DatasetError(
        f"no split found in which class {missing[0][0]!r} stands in each of {', '.join(shares)}: its recordings hold"
        " other classes, too, and move as one; bring more recordings of it"
    )


def _assign(
    order: Sequence[str], groups: Mapping[str, Counter[str]], shares: Mapping[Subset, float]
) -> tuple[dict[str, Subset], list[tuple[str, Subset]]]:
    """Each source to the part that lacks it most; then what no part may lack; then whatever is better off elsewhere.

    Returns the parts and what is still absent from where.
    """
    balance = _Balance(groups, shares)
    for source in order:
        balance.move(source, min(shares, key=lambda subset: balance.distance(source, subset)))
    while missing := balance.missing():
        label, subset = missing[0]
        source = min((s for s in order if label in groups[s]), key=lambda s: balance.change(s, subset))
        if balance.change(source, subset) >= 0:
            return balance.subsets, missing
        balance.move(source, subset)
    moved = True
    while moved:  # the cost falls with every move, so that this comes to an end
        moved = False
        for source in order:
            best = min(shares, key=lambda subset: balance.change(source, subset))
            if balance.change(source, best) < -1e-9:
                balance.move(source, best)
                moved = True
    return balance.subsets, []


def write_split(root: Path, *, val: float, test: float, seed: int) -> SplitInfo:
    """Split the collection and write it down, instead of an older split. Raises DatasetError."""
    with lock_dataset(root):
        entries, digest = read_manifest(root), manifest_digest(root)
        subsets = split_by_source(entries, val=val, test=test, seed=seed)
        counts: dict[str, dict[Subset, int]] = {
            label: dict.fromkeys(SUBSETS, 0) for label in sorted({entry.label for entry in entries})
        }
        for entry in entries:
            counts[entry.label][subsets[entry.source]] += 1
        info = SplitInfo(
            seed=seed, shares=_shares(val, test), counts=counts, items_sha256=digest,
            sources={one: sorted(source for source, subset in subsets.items() if subset == one) for one in SUBSETS},
        )  # fmt: skip
        folder, partial = root / SPLIT_DIR, root / f"{SPLIT_DIR}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for subset in SUBSETS:
                rows = ((entry.file, entry.label, entry.source) for entry in entries if subsets[entry.source] == subset)
                write_table(partial / f"{subset}.csv", _COLUMNS, rows)
            (partial / _INFO).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(partial, folder)
        except OSError as error:
            raise DatasetError(f"{folder} cannot be written: {error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return info


def read_split(root: Path) -> dict[str, Subset]:
    """The part of every source. Raises DatasetError when there is no split, it is of other sounds, or was changed."""
    info = read_split_info(root)
    subsets: dict[str, Subset] = {}
    for subset in SUBSETS:
        table = root / SPLIT_DIR / f"{subset}.csv"
        for line, row in read_table(table, _COLUMNS):
            if (other := subsets.setdefault(row["source"], subset)) != subset:
                raise DatasetError(f"{table}, line {line}: {row['source']} stands in {other}.csv, too")
    if subsets != {source: subset for subset in SUBSETS for source in info.sources[subset]}:
        raise DatasetError(f"{root / SPLIT_DIR}: the tables are not those of {_INFO}; {_hint(root)}")
    return subsets


def read_split_info(root: Path) -> SplitInfo:
    """split.json. Raises DatasetError when there is none, or it is of other sounds."""
    path = root / SPLIT_DIR / _INFO
    if not path.is_file():
        raise DatasetError(f"{root} has no split; {_hint(root)}")
    try:
        info = SplitInfo.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; {_hint(root)}") from error
    if info.items_sha256 != manifest_digest(root):
        raise DatasetError(f"{path} is of another {MANIFEST}: sounds were added or changed since; {_hint(root)}")
    return info


def _hint(root: Path) -> str:
    return f"`otoscope data split {root}` makes one"


def _shares(val: float, test: float) -> dict[Subset, float]:
    return {"train": 1 - val - test, "val": val, "test": test}


def _check_enough(groups: Mapping[str, Counter[str]], shares: Mapping[Subset, float]) -> None:
    sources = Counter(label for labels in groups.values() for label in labels)
    if len(sources) < 2:
        raise DatasetError(f"needs two classes or more; there is only {', '.join(map(repr, sources)) or 'none'}")
    too_few = {label: count for label, count in sorted(sources.items()) if count < len(shares)}
    if too_few:
        listed = ", ".join(f"{label!r} has {count}" for label, count in too_few.items())
        wanted = ", ".join(shares)
        without = "; a part is left out with --val 0 or --test 0" if len(shares) > 2 else ""
        raise DatasetError(
            f"too few recordings (sources): {listed}; {len(shares)} are needed of each class,"
            f" one each for {wanted}{without}"
        )


class _Balance:
    """Which source stands where, and what that costs: over classes and parts, the squared distance between share held
    and share wanted, and far more for each class that a part lacks."""

    def __init__(self, groups: Mapping[str, Counter[str]], shares: Mapping[Subset, float]) -> None:
        self.subsets: dict[str, Subset] = {}
        self._groups, self._shares = groups, shares
        self._total: Counter[str] = Counter()
        for labels in groups.values():
            self._total.update(labels)
        self._sounds: Counter[tuple[str, Subset]] = Counter()
        self._sources: Counter[tuple[str, Subset]] = Counter()

    def move(self, source: str, target: Subset) -> None:
        """Into a part, from where it stands, if it stands anywhere."""
        current = self.subsets.get(source)
        self.subsets[source] = target
        for label, count in self._groups[source].items():
            if current:
                self._sounds[label, current] -= count
                self._sources[label, current] -= 1
            self._sounds[label, target] += count
            self._sources[label, target] += 1

    def distance(self, source: str, target: Subset) -> float:
        """What a source that stands nowhere yet would add to the distances there."""
        return sum(
            self._squared(label, target, count) - self._squared(label, target, 0)
            for label, count in self._groups[source].items()
        )

    def change(self, source: str, target: Subset) -> float:
        """What moving it would add to the cost."""
        current = self.subsets[source]
        if current == target:
            return 0.0
        change = self.distance(source, target)
        for label, count in self._groups[source].items():
            change += self._squared(label, current, -count) - self._squared(label, current, 0)
            change += _MISSING_COST * ((self._sources[label, current] == 1) - (self._sources[label, target] == 0))
        return change

    def missing(self) -> list[tuple[str, Subset]]:
        return [
            (label, subset)
            for label in sorted(self._total)
            for subset in self._shares
            if not self._sources[label, subset]
        ]

    def _squared(self, label: str, subset: Subset, extra: int) -> float:
        return ((self._sounds[label, subset] + extra) / self._total[label] - self._shares[subset]) ** 2
