"""A linear probe: the head of a pretrained network as a logistic regression on its embeddings (Alain & Bengio, 2016,
arXiv:1610.01644).

Fine-tuning that starts from a random head first pulls the trunk towards that head; from this one it
starts at the accuracy of the probe (Kumar et al., 2022, arXiv:2202.10054).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data.windows import Windows
from training.errors import RunError
from training.eval.predict import predict_with_embeddings
from worker.model.base import Network
from worker.model.frontend import LogMel

_WEIGHT_DECAY = 1e-2
_ITERATIONS = 100
_LEAST_DEVIATION = 1e-3  # of a frozen feature, relative to the average: one that is constant


def fit_probe(
    frontend: LogMel, network: Network, waves: Windows, labels: Tensor, weights: Tensor | None, *, frozen: bool = False
) -> None:
    """Set the head from windows (windows, samples), labels (windows,) and class weights (classes,) or None; labels are
    (windows, classes) where a window has several, and are not weighted. `frozen`: only the head is trained afterwards.

    The same arguments give the same head. Raises RunError for a head of several layers.
    """
    linear = [each for each in network.head if isinstance(each, nn.Linear)]
    if len(linear) != 1:
        raise RunError("start.probe needs a head of one linear layer: set network.head to []")
    (head,) = linear
    _, embeddings = predict_with_embeddings(frontend, network, waves, title="probe")  # (windows, features)
    weight, bias = logistic_regression(embeddings, labels.cpu(), head.out_features, weights, frozen=frozen)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)


def logistic_regression(
    x: Tensor, labels: Tensor, classes: int, weights: Tensor | None, *, frozen: bool = False
) -> tuple[Tensor, Tensor]:
    """Features (rows, features) and labels (rows,) -> weight (classes, features) and bias (classes,) for features as
    they are; the regression itself is on standardised ones. Labels (rows, classes) may be several of a row.

    A feature that varies less than the average is not standardised but divided by the average deviation, unless the
    features are `frozen`. Otherwise its weights would be so large that the first steps of the fine-tuning, which move
    all features, destroy the head.
    """
    mean, std = x.mean(dim=0), x.std(dim=0, unbiased=False)
    least = float(std.mean())
    std = std.clamp_min(_LEAST_DEVIATION * least if frozen else least)
    standard = (x - mean) / std
    with torch.enable_grad():
        weight = torch.zeros(classes, x.shape[1], requires_grad=True)
        bias = torch.zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=_ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            logits = functional.linear(standard, weight, bias)  # (rows, classes)
            if labels.ndim == 2:
                loss = functional.binary_cross_entropy_with_logits(logits, labels)
            else:
                loss = functional.cross_entropy(logits, labels, None if weights is None else weights.cpu())
            loss = loss + _WEIGHT_DECAY * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    scaled = (weight / std).detach()
    return scaled, (bias - scaled @ mean).detach()
