"""The classes of AudioSet (Gemmeke et al., 2017, https://research.google.com/audioset/): names, and what each is a kind
of.

`audioset.csv` is made from the ontology (https://github.com/audioset/ontology, commit 1e85b88, CC BY-SA 4.0), and has
the same licence. First the 527 classes that have labels, in the order of most networks that were trained on them;
`yamnet` is the index among the 521 outputs of YAMNet, which leaves six out. Then the entries that only group others,
without an identifier. An entry can be a kind of several others; they are in the order of the ontology.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).with_name("audioset.csv")


@dataclass(frozen=True)
class Entry:
    id: str  # in the Knowledge Graph, such as /m/09x0r; empty for one that only groups others
    name: str
    yamnet: int | None  # index among the outputs of YAMNet
    parents: tuple[str, ...]  # names


@cache
def ontology() -> tuple[Entry, ...]:
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Entry(
                row["id"],
                row["name"],
                int(row["yamnet"]) if row["yamnet"] else None,
                tuple(filter(None, row["parents"].split("; "))),
            )
            for row in csv.DictReader(file)
        )


def audioset_classes() -> tuple[str, ...]:
    """The names of the 527 classes that have labels, in their order."""
    return tuple(entry.name for entry in ontology() if entry.id)


def yamnet_classes() -> tuple[str, ...]:
    """The names of the 521 outputs of YAMNet, in their order."""
    indices = {entry.yamnet: entry.name for entry in ontology() if entry.yamnet is not None}
    return tuple(indices[index] for index in range(len(indices)))


def parents(classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What each of these classes is a kind of, and what those are a kind of, up to the roots of the ontology."""
    known = {entry.name: entry.parents for entry in ontology()}
    found: dict[str, tuple[str, ...]] = {}
    queue = list(classes)
    while queue:
        name = queue.pop()
        if name not in found and known.get(name):
            found[name] = known[name]
            queue += known[name]
    return dict(sorted(found.items()))
