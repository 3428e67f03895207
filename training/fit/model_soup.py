"""Model soup: one network with the mean of the weights of several fine-tunings of one pretrained model (Wortsman et
al., 2022, arXiv:2203.05482).

Fine-tunings that start from the same weights stay close enough for their mean to be a good network. One that was
trained on noisy sounds and one on clean sounds give a network that is nearly as robust as the first and as accurate as
the second.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.fingerprint import TRAINING_FINGERPRINTS, TRAINING_SOUNDS
from training.errors import RunError
from training.fit.loop import RECIPE
from worker.model.answers import AnswerConfig
from worker.model.checkpoint import Model, ModelConfig, ModelError, load_model, model_name, save_model


def average_models(directories: Sequence[Path], out: Path) -> ModelConfig:
    """Write to `out` a model with the mean of the weights; its architecture and front end are those of the first one.

    It has no scorer, thresholds, 8-bit ranges or accuracy: `otoscope evaluate --fit-answers --record` and `otoscope
    quantise` measure them. Raises RunError for models that cannot be averaged, and if `out` exists.
    """
    if len(directories) < 2:
        raise RunError("at least two models are needed for a mean")
    if out.exists():
        raise RunError(f"{out} exists")
    try:
        models = [load_model(directory) for directory in directories]
    except ModelError as error:
        raise RunError(str(error)) from error
    first = models[0]
    for other in models[1:]:
        _check(first.config, other.config)
    states = [model.network.state_dict() for model in models]
    first.network.load_state_dict({name: _mean(name, states) for name in states[0]})
    training = {key: value for key, value in first.config.training.items() if key not in ("answers", "note")}
    config = first.config.model_copy(
        update={
            "name": model_name(out),
            "temperature": 1.0,
            "answers": AnswerConfig(),
            "open_set_sha256": "",
            "int8_ranges": {},
            "accuracy": (),
            "training": {**training, "averaged": [_reference(model) for model in models]},
        }
    )
    written = save_model(out, first.network, config)
    for name in (RECIPE, TRAINING_SOUNDS, TRAINING_FINGERPRINTS):
        if (directories[0] / name).exists():
            shutil.copy(directories[0] / name, out / name)
    return written


def _check(first: ModelConfig, other: ModelConfig) -> None:
    """Raise RunError unless the two are fine-tunings of one model for one split of one data set."""
    trained, also = first.training, other.training
    base = trained.get("started_from")
    if base is None or base != also.get("started_from"):
        raise RunError(
            f"{first.name} and {other.name} do not start from the same pretrained weights: their mean is no network"
        )
    for what, ours, theirs in (
        ("classes", first.classes, other.classes),
        ("front ends", first.frontend, other.frontend),
        ("held-out folds", trained.get("test_fold"), also.get("test_fold")),
        ("training clips", trained.get("data", {}).get("digest"), also.get("data", {}).get("digest")),
    ):
        if ours != theirs:
            raise RunError(f"{first.name} and {other.name} have different {what}")


def _mean(name: str, states: Sequence[dict[str, Tensor]]) -> Tensor:
    tensors = [state.get(name) for state in states]
    shapes = {None if tensor is None else tensor.shape for tensor in tensors}
    if len(shapes) > 1:
        raise RunError(f"the networks differ: {name} has the shapes {sorted(map(str, shapes))}")
    stacked = torch.stack([tensor.float() for tensor in tensors if tensor is not None])
    return stacked.mean(dim=0)


def _reference(model: Model) -> dict[str, Any]:
    config = model.config
    return {"name": config.name, "weights": config.weights_sha256, "recipe": config.training["recipe"]}
