"""Measures the input ranges of the convolutions of a model: the calibration for 8-bit inference.

The ranges are measured on training clips: test clips must not influence the model. A range is the mean of the extremes
of small batches, as of PyTorch's MovingAverageMinMaxObserver: the extremes of all clips, which are those of a single
one, would leave few of the 256 levels to the others.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from training.data.base import Dataset
from training.errors import EvaluationError
from training.eval.evaluate import held_out_fold, split_changed
from training.eval.predict import predict
from worker.model.base import Network
from worker.model.checkpoint import Model, ModelConfig, ModelError, load_model, write_config
from worker.model.fake_quant import convolutions
from worker.model.precision import pick_device

CALIBRATION_CLIPS = 512  # more clips change the ranges by a negligible amount
_BATCH = 8  # clips


def quantise(directory: Path, dataset: Dataset, clips: int = CALIBRATION_CLIPS) -> ModelConfig:
    """Measure the ranges on clips spread evenly over the training folds, and write them to the config of the model. A
    model that `otoscope models add` wrote has no folds: any clips will do.

    Raises EvaluationError and DatasetError.
    """
    try:
        model = load_model(directory, pick_device())
    except ModelError as error:
        raise EvaluationError(str(error)) from error
    fold = held_out_fold(model.config)
    if fold is None and "source" in model.config.training:  # of another project: trained on none of these clips
        training = list(dataset.clips)
    elif fold is None:
        raise EvaluationError(f"{model.config.name} does not state which fold was held out")
    elif split_changed(model.config, dataset):
        raise EvaluationError(f"{model.config.name} was trained with another split of {dataset.info.name}")
    else:
        training, _ = dataset.split(fold)
    clips = min(clips, len(training))
    chosen = [training[number * len(training) // clips] for number in range(clips)]
    front = model.config.frontend
    waves, _ = dataset.load(chosen, front)
    config = model.config.model_copy(update={"int8_ranges": measure_ranges(model, waves)})
    write_config(directory, config)
    return config


def measure_ranges(model: Model, waves: Tensor) -> dict[str, tuple[float, float]]:
    """Waveforms (clips, samples) -> range of the input of each convolution that is quantised."""
    extremes: dict[str, list[Tensor]] = {}
    with _record_extremes(model.network, extremes):
        predict(model.frontend, model.network, waves, "float32", batch=_BATCH, title="ranges")
    means = {name: torch.stack(found).mean(dim=0).tolist() for name, found in extremes.items()}
    return {name: (round(low, 6), round(high, 6)) for name, (low, high) in means.items()}


@contextmanager
def _record_extremes(network: Network, extremes: dict[str, list[Tensor]]) -> Iterator[None]:
    """Append the minimum and the maximum (2,) of each batch."""
    with ExitStack() as hooks:
        for name, convolution in convolutions(network):

            def record(_module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                extremes.setdefault(name, []).append(torch.stack(torch.aminmax(inputs[0])).cpu())

            hooks.callback(convolution.register_forward_pre_hook(record).remove)
        yield
