"""The classes of AudioSet (Gemmeke et al., 2017, https://research.google.com/audioset/): their identifiers and names.

`audioset.csv` has the 527 classes that have labels, in the order of most networks that were trained on them; `yamnet`
is the index among the 521 outputs of YAMNet, which leaves six out.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).with_name("audioset.csv")


@dataclass(frozen=True)
class AudioSetClass:
    id: str  # in the Knowledge Graph, such as /m/09x0r
    name: str
    yamnet: int | None  # index among the outputs of YAMNet


@cache
def audioset_classes() -> tuple[AudioSetClass, ...]:
    """All 527, in their order."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(
            AudioSetClass(row["id"], row["name"], int(row["yamnet"]) if row["yamnet"] else None)
            for row in csv.DictReader(file)
        )


def yamnet_classes() -> tuple[str, ...]:
    """The names of the 521 outputs of YAMNet, in their order."""
    own = [one for one in audioset_classes() if one.yamnet is not None]
    return tuple(one.name for one in sorted(own, key=lambda one: one.yamnet or 0))
