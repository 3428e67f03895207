"""Splits a custom data set into train, val and test by source: a grouped, stratified split.

Whole sources (recordings, speakers) are assigned, never single sounds of one. Sources that share a sound, one of them
re-encoded, are assigned together. A source with sounds of several classes
is assigned as a whole. Within these constraints the shares of every class are as close as possible to the requested
ones, and every class has at least one source in every subset.

    split/train.csv, val.csv, test.csv    file (as in items.csv), label, source
    split/split.json                      seed, shares, counts, sources, and the digest of the items.csv it belongs to
"""

import os
import random
import shlex
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict

from training.data.custom.copied import Copies, describe_copy, find_copies
from training.data.custom.manifest import (
    MANIFEST,
    MORE_OR_NONE,
    SPLIT_DIR,
    ManifestEntry,
    lock_dataset,
    manifest_digest,
    present_entries,
    read_manifest,
)
from training.data.custom.tables import read_table, write_table
from training.errors import DatasetError, cause

Subset = Literal["train", "val", "test"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)
VAL_SHARE = TEST_SHARE = 0.15  # by default
Part = TypeVar("Part", Subset, int)
"""A subset, or the number of a fold."""

_COLUMNS = ("file", "label", "source")
_INFO = "split.json"
_MISSING_COST = 1e3  # cost of a class without any source in a subset; exceeds any sum of squared distances
_MAX_ATTEMPTS = 20  # with different orders; sources with several classes can block each other


class SplitInfo(BaseModel):
    """Content of split.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    shares: dict[Subset, float]
    counts: dict[str, dict[Subset, int]]  # sounds, by label
    sources: dict[Subset, list[str]]
    items_sha256: str
    copies: list[str] = []  # messages about re-encoded copies, which are on the same side as their originals
    single: dict[str, list[Subset]] = {}  # by class: the subsets in which all of its sounds have one source
    missing: list[str] = []  # files of the manifest that do not exist; they have a place in the split all the same


def split_by_source(
    entries: Sequence[ManifestEntry], *, val: float, test: float, seed: int, copies: Copies | None = None
) -> dict[str, Subset]:
    """Assign every source to a subset; sources with copies of one sound to the same. Raises DatasetError if a class
    has too few sources.

    The result depends on the sounds and the seed only, not on the order of the entries. A share of zero omits that
    subset.
    """
    if min(val, test) < 0 or val + test >= 1:
        raise DatasetError(f"shares of {val:g} for val and {test:g} for test must leave a share for training")
    shares = {subset: share for subset, share in _shares(val, test).items() if share}
    joined = _joined(entries, copies or [])
    groups = _by_group(entries, joined)
    if too_few := _too_few(groups, len(shares)):
        without = "; --val 0 omits one of them" if len(shares) > 2 else ""
        raise DatasetError(
            f"too few recordings (sources): {too_few}; each class needs {len(shares)}, one each for"
            f" {', '.join(shares)}{without}; {MORE_OR_NONE}"
        )
    parts = _search(groups, shares, seed)
    return {source: parts[group] for source, group in joined.items()}


def folds_by_source(
    entries: Sequence[ManifestEntry], folds: int, seed: int, copies: Copies | None = None
) -> dict[str, int]:
    """Assign every source to one of the folds 1 to `folds`, for cross-validation: a grouped, stratified split.

    Raises DatasetError if a class has fewer sources than there are folds: one fold would lack it.
    """
    if folds < 2:
        raise DatasetError(f"cross-validation needs two folds or more, not {folds}")
    joined = _joined(entries, copies or [])
    groups = _by_group(entries, joined)
    if too_few := _too_few(groups, folds):
        raise DatasetError(
            f"too few recordings (sources) for {folds} folds: {too_few}; each class needs one for each fold:"
            f" choose fewer folds, {MORE_OR_NONE}"
        )
    parts = _search(groups, dict.fromkeys(range(1, folds + 1), 1 / folds), seed)
    return {source: parts[group] for source, group in joined.items()}


def _joined(entries: Sequence[ManifestEntry], copies: Copies) -> dict[str, str]:
    """Source -> the first one of the sources that are assigned together with it."""
    joined = {entry.source: entry.source for entry in entries}
    for first, second in copies:
        kept, other = sorted((joined[first.source], joined[second.source]))
        joined = {source: kept if group == other else group for source, group in joined.items()}
    return joined


def _by_group(entries: Sequence[ManifestEntry], joined: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Group of sources -> sounds by label."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        groups[joined[entry.source]].update(entry.labels)
    return groups


def _search(groups: Mapping[str, Counter[str]], shares: Mapping[Part, float], seed: int) -> dict[str, Part]:
    """The part of every source. Raises DatasetError."""
    for attempt in range(_MAX_ATTEMPTS):
        order = sorted(groups)
        random.Random(f"{seed} {attempt}").shuffle(order)
        subsets, missing = _assign(order, groups, shares)
        if not missing:
            return subsets
    raise DatasetError(
        f"no split found in which class {missing[0][0]!r} is in each of {', '.join(map(str, shares))}: its recordings"
        " contain other classes, too, and are not separated; add more recordings of it"
    )


def _assign(
    order: Sequence[str], groups: Mapping[str, Counter[str]], shares: Mapping[Part, float]
) -> tuple[dict[str, Part], list[tuple[str, Part]]]:
    """Greedy assignment: each source to the subset that lacks it most, then sources for missing classes, then local
    search.

    Returns the assignment and the (class, subset) pairs that are still missing.
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
    while moved:  # every move lowers the cost, so the loop terminates
        moved = False
        for source in order:
            best = min(shares, key=lambda subset: balance.change(source, subset))
            if balance.change(source, best) < -1e-9:
                balance.move(source, best)
                moved = True
    return balance.subsets, []


def write_split(root: Path, *, val: float | None, test: float, seed: int) -> SplitInfo:
    """Split the data set and replace any older split on disk. Raises DatasetError.

    Without `val` that is 15 %, or nothing if a class has two sources only: one to learn from, and one to measure on.
    """
    with lock_dataset(root):
        entries = _listed(root)
        present = present_entries(root, entries)
        copies = find_copies(root, present)
        if val is None:
            groups = _by_group(present, _joined(present, copies))
            val = VAL_SHARE if test == 0 or not _too_few(groups, 3) else 0.0
        subsets = split_by_source(present, val=val, test=test, seed=seed, copies=copies)
        for entry in entries:
            subsets.setdefault(entry.source, "train")  # a source of missing files only
        return _replace_split(root, entries, subsets, _shares(val, test), seed, copies)


def write_given_split(root: Path, subset_of: Mapping[str, Subset]) -> SplitInfo:
    """Adopt the split of the folders from which sounds were imported: `subset_of` maps their origins to subsets.

    Re-encoded copies on two sides are listed in the result; they stay there. Raises DatasetError for a source in two
    subsets, and for a sound of another origin.
    """
    with lock_dataset(root):
        entries = _listed(root)
        subsets: dict[str, Subset] = {}
        for entry in entries:
            recording = entry.origin.partition("#t=")[0]  # of an event that was cut out
            if (own := subset_of.get(entry.origin) or subset_of.get(recording)) is None:
                raise DatasetError(f"{entry.origin} is in no folder of the split; {_hint(root)}")
            if (other := subsets.setdefault(entry.source, own)) != own:
                raise DatasetError(f"the source {entry.source} is in {other} and in {own}; {_hint(root)}")
        copies = [
            (first, second)
            for first, second in find_copies(root, entries)
            if subsets[first.source] != subsets[second.source]
        ]
        number = Counter(subsets[entry.source] for entry in entries)
        shares = {subset: number[subset] / len(entries) for subset in SUBSETS}
        return _replace_split(root, entries, subsets, shares, 0, copies)


def _listed(root: Path) -> list[ManifestEntry]:
    """The sounds of a data set, those whose files are missing included. Raises DatasetError if all of them are."""
    entries = read_manifest(root, missing_ok=True)
    return entries if present_entries(root, entries) else read_manifest(root)


def _replace_split(
    root: Path, entries: Sequence[ManifestEntry], subsets: Mapping[str, Subset], shares: dict[Subset, float],
    seed: int, copies: Copies,
) -> SplitInfo:  # fmt: skip
    """Write a split of a locked data set. Raises DatasetError."""
    counts: dict[str, dict[Subset, int]] = {
        label: dict.fromkeys(SUBSETS, 0) for label in sorted({label for entry in entries for label in entry.labels})
    }
    for entry in entries:
        for label in entry.labels:
            counts[label][subsets[entry.source]] += 1
    info = SplitInfo(
        seed=seed, shares=shares, counts=counts, items_sha256=manifest_digest(root),
        copies=[describe_copy(*pair) for pair in copies],
        missing=sorted({entry.file for entry in entries} - {entry.file for entry in present_entries(root, entries)}),
        sources={one: sorted(source for source, subset in subsets.items() if subset == one) for one in SUBSETS},
        single=_single_sources(entries, subsets),
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
        raise DatasetError(f"{folder} cannot be written: {cause(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return info


def _single_sources(entries: Sequence[ManifestEntry], subsets: Mapping[str, Subset]) -> dict[str, list[Subset]]:
    """Of each class, the subsets in which it has one source only."""
    found: dict[str, dict[Subset, set[str]]] = defaultdict(lambda: defaultdict(set))
    for entry in entries:
        for label in entry.labels:
            found[label][subsets[entry.source]].add(entry.source)
    single = {label: [one for one in SUBSETS if len(own[one]) == 1] for label, own in sorted(found.items())}
    return {label: own for label, own in single.items() if own}


def has_split(root: Path) -> bool:
    """Whether a data set was split, even if its sounds have changed since."""
    return (root / SPLIT_DIR / _INFO).is_file()


def read_split(root: Path) -> dict[str, Subset]:
    """The subset of every source. Raises DatasetError if there is no split, if it is stale, or if it was edited."""
    info = read_split_info(root)
    subsets: dict[str, Subset] = {}
    for subset in SUBSETS:
        table = root / SPLIT_DIR / f"{subset}.csv"
        for line, row in read_table(table, _COLUMNS):
            if (other := subsets.setdefault(row["source"], subset)) != subset:
                raise DatasetError(f"{table}, line {line}: {row['source']} is also in {other}.csv")
    if subsets != {source: subset for subset in SUBSETS for source in info.sources[subset]}:
        raise DatasetError(f"{root / SPLIT_DIR}: the tables do not match {_INFO}; {_hint(root)}")
    return subsets


def read_split_info(root: Path) -> SplitInfo:
    """Read split.json. Raises DatasetError if there is none, or if the manifest has changed since."""
    path = root / SPLIT_DIR / _INFO
    if not has_split(root):
        raise DatasetError(f"{root} has no split; {_hint(root)}")
    try:
        info = SplitInfo.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {cause(error)}; {_hint(root)}") from error
    if info.items_sha256 != manifest_digest(root):
        raise DatasetError(
            f"{path} belongs to another version of {MANIFEST}: sounds were added or changed since; {_hint(root)}"
        )
    return info


def _hint(root: Path) -> str:
    return f"`otoscope data split {shlex.quote(str(root))}` creates one"


def _shares(val: float, test: float) -> dict[Subset, float]:
    return {"train": 1 - val - test, "val": val, "test": test}


def _too_few(groups: Mapping[str, Counter[str]], needed: int) -> str:
    """The classes with fewer sources than that, for a message; empty if there are none. Raises DatasetError."""
    sources = Counter(label for labels in groups.values() for label in labels)
    if len(sources) < 2:
        raise DatasetError(f"two or more classes are needed; there is only {', '.join(map(repr, sources)) or 'none'}")
    return ", ".join(f"{label!r} has {count}" for label, count in sorted(sources.items()) if count < needed)


class _Balance(Generic[Part]):
    """An assignment of sources to subsets, and its cost: the sum over classes and subsets of the squared distance
    between actual and requested share, plus a large penalty for every class that is missing in a subset."""

    def __init__(self, groups: Mapping[str, Counter[str]], shares: Mapping[Part, float]) -> None:
        self.subsets: dict[str, Part] = {}
        self._groups = groups
        self._shares: Mapping[Part, float] = shares
        self._total: Counter[str] = Counter()
        for labels in groups.values():
            self._total.update(labels)
        self._sounds: Counter[tuple[str, Part]] = Counter()
        self._sources: Counter[tuple[str, Part]] = Counter()

    def move(self, source: str, target: Part) -> None:
        """Assign a source to a subset, or move it there."""
        current = self.subsets.get(source)
        self.subsets[source] = target
        for label, count in self._groups[source].items():
            if current:
                self._sounds[label, current] -= count
                self._sources[label, current] -= 1
            self._sounds[label, target] += count
            self._sources[label, target] += 1

    def distance(self, source: str, target: Part) -> float:
        """The change of the squared distances when an unassigned source is assigned to `target`."""
        return sum(
            self._squared(label, target, count) - self._squared(label, target, 0)
            for label, count in self._groups[source].items()
        )

    def change(self, source: str, target: Part) -> float:
        """The change of the cost when a source is moved to `target`."""
        current = self.subsets[source]
        if current == target:
            return 0.0
        change = self.distance(source, target)
        for label, count in self._groups[source].items():
            change += self._squared(label, current, -count) - self._squared(label, current, 0)
            change += _MISSING_COST * ((self._sources[label, current] == 1) - (self._sources[label, target] == 0))
        return change

    def missing(self) -> list[tuple[str, Part]]:
        return [
            (label, subset)
            for label in sorted(self._total)
            for subset in self._shares
            if not self._sources[label, subset]
        ]

    def _squared(self, label: str, subset: Part, extra: int) -> float:
        return ((self._sounds[label, subset] + extra) / self._total[label] - self._shares[subset]) ** 2
