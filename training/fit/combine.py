"""One model of several trained ones: the mean of their weights, or their networks side by side.

Mean of the weights: a model soup (Wortsman et al., 2022, arXiv:2203.05482). Fine-tunings that start from the same
weights stay close enough for their mean to be a good network. One that was trained on noisy sounds and one on clean
sounds give a network that is nearly as robust as the first and as accurate as the second.

Side by side: an ensemble as one network, whose logits are the mean of theirs. It costs as much as all of them, and is
worth it where they were trained on different recordings or see a sound differently, so that they make different errors.
"""

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from training.data.fingerprint import join_training_sounds
from training.errors import RunError
from training.fit.loop import RECIPE
from worker.model.answers import AnswerConfig
from worker.model.architectures import build_network
from worker.model.architectures.parallel import ParallelConfig, Rows
from worker.model.base import Network
from worker.model.checkpoint import Model, ModelConfig, ModelError, load_model, model_name, save_model
from worker.model.frontend import FrontendConfig

_OF_A_TRAINING = ("recipe", "started_from")
"""Entries of `training` in a config with which a model can be trained again."""


def average_models(directories: Sequence[Path], out: Path) -> ModelConfig:
    """Write to `out` a model with the mean of the weights; its architecture and front end are those of the first one.

    It has no scorer, thresholds, 8-bit ranges or accuracy: `otoscope evaluate --fit-answers --record` and `otoscope
    quantise` measure them. Raises RunError for models that cannot be averaged, and if `out` exists.
    """
    models = _load(directories, out)
    first = models[0]
    base = first.config.training.get("started_from")
    for other in models[1:]:
        if _unnormalised(first.config.frontend) != _unnormalised(other.config.frontend):
            raise RunError(f"{first.config.name} and {other.config.name} have different front ends")
        if base is None or base != other.config.training.get("started_from"):
            raise RunError(
                f"{first.config.name} and {other.config.name} do not start from the same pretrained weights: their mean"
                " is no network"
            )
    states = [model.network.state_dict() for model in models]
    first.network.load_state_dict({name: _mean(name, states) for name in states[0]})
    changes = {"training": {"averaged": _references(models)}}
    written = _write(models, first.network, changes, out)
    if (directories[0] / RECIPE).exists():
        shutil.copy(directories[0] / RECIPE, out / RECIPE)
    return written


def join_models(directories: Sequence[Path], out: Path, weights: Sequence[float] = ()) -> ModelConfig:
    """Write to `out` a model whose logits are the mean of those of the models, with `weights`; without, all weigh the
    same.

    As of `average_models`, everything that is measured is left out. Raises RunError for models that cannot be joined,
    and if `out` exists.
    """
    weights = weights or [1.0] * len(directories)
    if len(weights) != len(directories) or not all(0 < weight < math.inf for weight in weights):
        raise RunError(f"{len(directories)} models need as many weights above 0")
    models = _load(directories, out)
    heads = [_linear(model) for model in models]
    parts = dict(zip(_part_names(models), (model.config.architecture for model in models), strict=True))
    frontend, spectrograms = _stack([model.config for model in models])
    inputs = {
        name: renormalised
        for name, model, (_, given) in zip(parts, models, spectrograms, strict=True)
        if (renormalised := _renormalised(given, model.config.frontend)) != (1.0, 0.0)
    }
    rows = {name: rows for name, (rows, _) in zip(parts, spectrograms, strict=True)}
    config = ParallelConfig(
        classes=len(models[0].config.classes), dropout=(0.0,), parts=parts, inputs=inputs,
        spectrograms=rows if frontend.stacked else {},
    )  # fmt: skip
    network = build_network(config)
    state = {
        f"parts.{name}.{key}": value
        for name, model in zip(parts, models, strict=True)
        for key, value in model.network.state_dict().items()
        if not key.startswith("head.")
    }
    shares = [weight / sum(weights) for weight in weights]
    weight = torch.cat([share * head.weight for share, head in zip(shares, heads, strict=True)], dim=1)
    bias = torch.stack([share * head.bias for share, head in zip(shares, heads, strict=True)]).sum(dim=0)
    network.load_state_dict({**state, "head.1.weight": weight, "head.1.bias": bias})
    changes = {
        "architecture": config,
        "frontend": frontend,
        "description": f"{config.title} side by side for {config.classes} classes of sound",
        "training": {"joined": _references(models, weights)},
    }
    return _write(models, network, changes, out)


def _load(directories: Sequence[Path], out: Path) -> list[Model]:
    """Models for the same sounds and classes. Raises RunError."""
    if len(directories) < 2:
        raise RunError("at least two models are needed")
    if out.exists():
        raise RunError(f"{out} exists")
    try:
        models = [load_model(directory) for directory in directories]
    except ModelError as error:
        raise RunError(str(error)) from error
    for other in models[1:]:
        _check(models[0].config, other.config)
    return models


def _stack(configs: Sequence[ModelConfig]) -> tuple[FrontendConfig, list[tuple[Rows, FrontendConfig]]]:
    """One front end for all models, and for each of them the rows of its spectrogram and the front end of these rows.

    Raises RunError for front ends that cannot be stacked.
    """
    first = configs[0].frontend
    found: dict[FrontendConfig, tuple[Rows, FrontendConfig]] = {}
    for config in configs:
        own = config.frontend
        if own.stacked:
            raise RunError(f"{config.name} has several spectrograms: join the models that it was made of")
        if _unnormalised(own) not in found:
            stacked = own.model_copy(update={"repeat_pause": None})  # the window is filled once, as for the first
            rows = Rows(
                first=sum(each.n_mels for _, each in found.values()),
                count=own.n_mels,
                every=max(own.hop // first.hop, 1),
            )
            found[_unnormalised(own)] = rows, stacked if found else own
    try:
        frontend = FrontendConfig.model_validate(
            {**first.model_dump(), "stacked": [each.model_dump() for _, each in found.values()][1:]}
        )
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RunError(
            f"the front ends cannot be stacked: {reason} (the model with the smallest hop comes first)"
        ) from error
    return frontend, [found[_unnormalised(config.frontend)] for config in configs]


def _check(first: ModelConfig, other: ModelConfig) -> None:
    """Raise RunError unless the two are for the same classes and were trained on one split of one data set."""
    trained, also = first.training, other.training
    for what, ours, theirs in (
        ("classes", first.classes, other.classes),
        ("kinds of answers", first.multi_label, other.multi_label),
        ("held-out folds", trained.get("test_fold"), also.get("test_fold")),
        ("training clips", trained.get("data", {}).get("digest"), also.get("data", {}).get("digest")),
    ):
        if ours != theirs:
            raise RunError(f"{first.name} and {other.name} have different {what}")


def _unnormalised(frontend: FrontendConfig) -> FrontendConfig:
    return frontend.model_copy(update={"mean": 0.0, "std": 1.0, "repeat_pause": None})


def _renormalised(given: FrontendConfig, wanted: FrontendConfig) -> tuple[float, float]:
    """(a, b): a · x + b of a log-mel x that is normalised as `given` states is normalised as `wanted` states."""
    return given.std / wanted.std, (given.mean - wanted.mean) / wanted.std


def _write(models: Sequence[Model], network: Network, changes: dict[str, Any], out: Path) -> ModelConfig:
    """Write the model without what is measured of one, and with what its training data is recognised by. Of `changes`
    to the config of the first model, `training` is added to its own."""
    first = models[0]
    dropped = ("answers", "note", "averaged", "joined")  # the last two: of a model that was combined itself
    training = {key: value for key, value in first.config.training.items() if key not in dropped}
    licences = (licence for model in models for licence in model.config.licence.split("; "))
    config = first.config.model_copy(
        update={
            **changes,
            "name": model_name(out),
            "temperature": 1.0,
            "answers": AnswerConfig(),
            "open_set_sha256": "",
            "int8_ranges": {},
            "accuracy": (),
            "licence": "; ".join(dict.fromkeys(licence for licence in licences if licence)),
            "training": {**training, **changes["training"]},
        }
    )
    written = save_model(out, network, config)
    join_training_sounds(out, [model.directory for model in models if model.directory])
    return written


def _mean(name: str, states: Sequence[dict[str, Tensor]]) -> Tensor:
    tensors = [state.get(name) for state in states]
    shapes = {"absent" if tensor is None else "×".join(map(str, tensor.shape)) for tensor in tensors}
    if len(shapes) > 1:
        raise RunError(f"the networks differ: {name} is {' and '.join(sorted(shapes))}")
    stacked = torch.stack([tensor.float() for tensor in tensors if tensor is not None])
    return stacked.mean(dim=0)


def _part_names(models: Sequence[Model]) -> list[str]:
    """The type of each network, with a number where there are several of a type."""
    types = [model.config.architecture.type for model in models]
    seen: Counter[str] = Counter()
    names = []
    for kind in types:
        seen[kind] += 1
        names.append(kind if types.count(kind) == 1 else f"{kind}-{seen[kind]}")
    return names


def _linear(model: Model) -> nn.Linear:
    """The only layer of the head. Raises RunError."""
    linear = [each for each in model.network.head if isinstance(each, nn.Linear)]
    if len(linear) != 1:
        raise RunError(
            f"the head of {model.config.name} has {len(linear)} linear layers; it must have one to be joined"
        )
    return linear[0]


def _references(models: Sequence[Model], weights: Sequence[float] = ()) -> list[dict[str, Any]]:
    """What the model card needs to have each of them trained again."""
    references: list[dict[str, Any]] = []
    for number, model in enumerate(models):
        config = model.config
        kept: dict[str, Any] = {key: config.training[key] for key in _OF_A_TRAINING if key in config.training}
        share: dict[str, Any] = {"weight": weights[number]} if weights else {}
        references.append({"name": config.name, "weights": config.weights_sha256, **share, **kept})
    return references
