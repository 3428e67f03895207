"""Fits the open-set scorer of a model (`worker.model.open_set`) on its own sounds and on synthesised background.

The detector and the means of the classes come from training windows. Where the three sigmoids of the score are centred
is measured on held-out windows, since a network is surer of the sounds that it was trained on. No sound of another data
set is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from training.data.background import background
from training.data.windows import Windows
from training.eval.answers import FIT_SEED, REFUSED_SHARE, Recording
from training.eval.predict import predict_with_embeddings
from training.progress import progress_bar
from worker.model.checkpoint import Model
from worker.model.open_set import OpenSetScorer

KNOWN_WINDOWS = 2_000  # more change the detector by a negligible amount

_BATCH = 256  # of known windows and as many background sounds
_LEARNING_RATE, _WEIGHT_DECAY = 1e-3, 1e-2
_WIDTH = 1.5  # the distance from the 5 % quantile of the largest logit, or similarity, to its median, in widths of its
# sigmoid
_PART = 50  # background sounds in memory at a time


@dataclass(frozen=True)
class Outputs:
    """What a network gives for windows of sound."""

    logits: Tensor  # (windows, classes)
    embeddings: Tensor  # (windows, features)


def fit_open_set(
    model: Model, known: Windows, targets: Tensor, held_out: Sequence[Recording], *, sounds: int, steps: int,
    seed: int = 0,
) -> OpenSetScorer:  # fmt: skip
    """`known` (windows, samples) are training windows of the model, `targets` (windows, classes) their classes, and
    `held_out` recordings of its classes on which it was not trained, where there are such; `sounds` of background are
    synthesised for it.

    The same arguments give the same scorer. Takes about `sounds` / 50 s on a core for windows of 5 s at 16 kHz, besides
    a forward pass for each window.
    """
    own = outputs_of(model, spread_windows(known, KNOWN_WINDOWS), "known sounds")
    others = background_outputs(model, sounds)
    scorer = fit_scorer(own.embeddings, spread(targets, KNOWN_WINDOWS).cpu(), others.embeddings, steps, seed)
    heard = [one.heard for one in held_out]
    logits = torch.cat([one.logits[torch.from_numpy(rows)] for one, rows in zip(held_out, heard, strict=True)])
    embeddings = torch.cat([one.embeddings[torch.from_numpy(rows)] for one, rows in zip(held_out, heard, strict=True)])
    centre_scores(scorer, Outputs(logits, embeddings))
    return scorer


def outputs_of(model: Model, waves: Windows, title: str = "embeddings") -> Outputs:
    """Waveforms (windows, samples) -> logits and embeddings in float32 on the CPU."""
    logits, embeddings = predict_with_embeddings(model.frontend, model.network, waves, title=title)
    return Outputs(logits[0], embeddings)


def background_outputs(model: Model, sounds: int) -> Outputs:
    """The outputs for that many synthesised sounds of one window each."""
    front = model.config.frontend
    parts = [
        outputs_of(
            model,
            torch.from_numpy(
                background(min(_PART, sounds - first), front.window_samples, front.sample_rate, FIT_SEED, first)
            ),
        )
        for first in progress_bar(range(0, sounds, _PART), desc="background", unit="batch")
    ]
    return Outputs(torch.cat([part.logits for part in parts]), torch.cat([part.embeddings for part in parts]))


def fit_scorer(known: Tensor, targets: Tensor, others: Tensor, steps: int, seed: int = 0) -> OpenSetScorer:
    """Embeddings (windows, features) of known sounds, their targets (windows, classes), 1 for each class of a window,
    and embeddings of background -> a scorer with a trained detector and with the means of the classes.

    The random state of the caller is left as it is.
    """
    present = targets.T[targets.any(dim=0)] > 0  # (classes, windows)
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        scorer = OpenSetScorer(known.shape[1], classes=len(present))
        scorer.mean.copy_(known.mean(dim=0))
        directions = functional.normalize(known - scorer.mean, dim=1)
        means = torch.stack([directions[own].mean(dim=0) for own in present])  # (classes, features)
        scorer.class_means.copy_(functional.normalize(means, dim=1))
        scorer.std.copy_(known.std(dim=0, unbiased=False).clamp_min(1e-4))
        optimizer = torch.optim.AdamW(scorer.detector.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        labels = torch.cat([torch.ones(_BATCH), torch.zeros(_BATCH)])
        scorer.train()
        for _ in range(steps):
            rows = [torch.randint(len(side), (_BATCH,), generator=generator) for side in (known, others)]
            log_odds = scorer.detect(torch.cat([known[rows[0]], others[rows[1]]]))
            loss = functional.binary_cross_entropy_with_logits(log_odds, labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return scorer.eval().requires_grad_(False)


def centre_scores(scorer: OpenSetScorer, held_out: Outputs) -> None:
    """Set the offsets and widths of the sigmoids from known sounds: each is one half at the 5 % quantile.

    The detector keeps a width of 1: its log-odds then also weigh the windows of a long sound well.
    """
    for index, values in enumerate(scorer.parts(held_out.embeddings, held_out.logits).T):
        low, median = (float(torch.quantile(values, quantile)) for quantile in (REFUSED_SHARE, 0.5))
        scorer.offsets[index] = low
        scorer.scales[index] = 1.0 if index == 0 else max((median - low) / _WIDTH, 1e-3)


def spread(values: Tensor, count: int) -> Tensor:
    """At most `count` of the values, such as windows or their labels, spread evenly."""
    return values if len(values) <= count else values[_evenly(len(values), count)]


def spread_windows(windows: Windows, count: int) -> Windows:
    """At most `count` of the windows, spread evenly; those in a file stay there."""
    if isinstance(windows, Tensor):
        return spread(windows, count)
    return windows if len(windows) <= count else windows.take(_evenly(len(windows), count))


def _evenly(length: int, count: int) -> Tensor:
    return torch.arange(count) * length // count
