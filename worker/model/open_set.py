"""Whether a window holds a sound of one of the model's classes at all: its open-set score.

A softmax has to choose a class, and it is confident far from everything that it was trained on. The known score is the
square of the geometric mean of three sigmoids, each of which is near 1 for sounds like the model's own:

- of a small detector on the embedding, trained on the model's sounds against background sounds (outlier exposure:
  Hendrycks et al., 2019, arXiv:1812.04606). The background is synthesised by `training/data/background.py`;
- of the largest logit, which is lower for sounds that look like several classes or like none (Vaze et al., 2022,
  arXiv:2110.06207);
- of the cosine similarity of the embedding to the nearest mean of a class (after Lee et al., 2018, arXiv:1807.03888,
  whose distance needs covariances besides). It finds sounds that resemble the known ones, such as other animals.

All are per clip: its neighbours in a batch do not change the score of a clip.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

OPEN_SET = "open_set.safetensors"
HIDDEN = 64
_CLAMP = 6.0  # standard deviations: an embedding far outside of all known ones is no stronger evidence

_POWER = 2.0  # of the geometric mean of the sigmoids. The score weighs the windows of a long sound and is part of the
# evidence of a detection, so its scale must not depend on the number of sigmoids; there were two when that was chosen.


class OpenSetScorer(nn.Module):
    """(batch, features) embeddings and (batch, classes) logits -> (batch,) known scores, 0 to 1."""

    def __init__(self, features: int, hidden: int = HIDDEN, classes: int = 0) -> None:
        """`classes` with a mean of their own; 0 for the scorer of an earlier version, which does without them."""
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.class_means: Tensor
        self.offsets: Tensor
        self.scales: Tensor
        self.register_buffer("mean", torch.zeros(features))  # of the embeddings of the known sounds
        self.register_buffer("std", torch.ones(features))
        self.detector = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, 1)
        )
        # Of the directions of the embeddings of each class, seen from `mean`; of length 1, as each direction is.
        self.register_buffer("class_means", torch.zeros(classes, features))
        # Of the output of the detector, the largest logit and the similarity: where its sigmoid is one half, and its
        # width.
        self.register_buffer("offsets", torch.zeros(3 if classes else 2))
        self.register_buffer("scales", torch.ones(3 if classes else 2))

    def detect(self, embedding: Tensor) -> Tensor:
        """(batch, features) -> (batch,): log-odds that a sound is no background, from the detector alone."""
        standard = ((embedding - self.mean) / self.std).clamp(-_CLAMP, _CLAMP)
        log_odds: Tensor = self.detector(standard)[:, 0]
        return log_odds

    def similarity(self, embedding: Tensor) -> Tensor:
        """(batch, features) -> (batch,): cosine similarity to the nearest mean of a class, seen from the mean of all
        known sounds."""
        directions = functional.normalize(embedding - self.mean, dim=1)
        return (directions @ self.class_means.T).amax(dim=1)

    def parts(self, embedding: Tensor, logits: Tensor) -> Tensor:
        """(batch, parts): what the sigmoids are of."""
        parts = [self.detect(embedding), logits.amax(dim=1)]
        if len(self.class_means):
            parts.append(self.similarity(embedding))
        return torch.stack(parts, dim=1)

    def forward(self, embedding: Tensor, logits: Tensor) -> Tensor:
        """The known scores."""
        sigmoids = ((self.parts(embedding, logits) - self.offsets) / self.scales).sigmoid()  # (batch, parts)
        return sigmoids.prod(dim=1) ** (_POWER / len(self.offsets))
