"""A model of AudioSet's classes on a data set of other classes: which of its outputs stand for a class of the data set.

`esc50.csv` has the counterparts of the classes of ESC-50 among those of AudioSet, chosen by their meaning and not by
accuracy; a class without one is empty. A class of a data set that has the name of a class of the model is that class,
whatever the case of its letters.
"""

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from worker.model.base import ActivationHook, Network
from worker.model.checkpoint import Model

_TABLE = Path(__file__).with_name("esc50.csv")


@cache
def esc50_counterparts() -> dict[str, tuple[str, ...]]:
    """Class of ESC-50 -> its classes of AudioSet, none or several."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return {row["class"]: tuple(filter(None, row["audioset"].split("; "))) for row in csv.DictReader(file)}


def counterparts(classes: Sequence[str], known: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Those of `classes` that a model with the classes `known` can tell apart, and the classes that stand for each."""
    table, spelled = esc50_counterparts(), {_plain(name): (name,) for name in known}
    found = {
        name: (name,) if name in known else table[name] if name in table else spelled.get(_plain(name), ())
        for name in classes
    }
    return {name: own for name, own in found.items() if own and set(own) <= set(known)}


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()


def with_classes(model: Model, groups: Mapping[str, Sequence[str]]) -> Model:
    """The model with the classes `groups`, whose logits are the largest ones of the classes in each.

    Without its open-set scorer, which was fitted to its own logits.
    """
    indices = [[model.config.classes.index(name) for name in names] for names in groups.values()]
    config = model.config.model_copy(update={"classes": tuple(groups), "parents": {}})
    return replace(model, network=_Grouped(model.network, indices), config=config, open_set=None)


class _Grouped(Network):
    """A network whose logits are maxima over groups of those of another one: (batch, groups)."""

    def __init__(self, network: Network, groups: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.network = network
        self._groups = groups

    def forward(self, x: Tensor, hook: ActivationHook | None = None, expanded_blocks: Collection[str] = ()) -> Tensor:
        logits = self.network(x, hook, expanded_blocks)
        return torch.stack([logits[:, list(group)].amax(dim=1) for group in self._groups], dim=1)
