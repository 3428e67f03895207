"""Whether a window holds a sound of one of the model's classes at all: its open-set score.

A softmax has to choose a class, and it is confident far from everything that it was trained on. The known score is the
product of two sigmoids, each of which is near 1 for sounds like the model's own:

- of a small detector on the embedding, trained on the model's sounds against background sounds (outlier exposure:
  Hendrycks et al., 2019, arXiv:1812.04606). The background is synthesised by `training/data/background.py`;
- of the largest logit, which is lower for sounds that look like several classes or like none (Vaze et al., 2022,
  arXiv:2110.06207).

Both are per clip: its neighbours in a batch do not change the score of a clip.
"""

import torch
from torch import Tensor, nn

OPEN_SET = "open_set.safetensors"
HIDDEN = 64
_CLAMP = 6.0  # standard deviations: an embedding far outside of all known ones is no stronger evidence


class OpenSetScorer(nn.Module):
    """(batch, features) embeddings and (batch, classes) logits -> (batch,) known scores, 0 to 1."""

    def __init__(self, features: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.offsets: Tensor
        self.scales: Tensor
        self.register_buffer("mean", torch.zeros(features))  # of the embeddings of the known sounds
        self.register_buffer("std", torch.ones(features))
        self.detector = nn.Sequential(
            nn.Dropout(0.3), nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, 1)
        )
        # Of the output of the detector and of the largest logit: where their sigmoid is one half, and its width.
        self.register_buffer("offsets", torch.zeros(2))
        self.register_buffer("scales", torch.ones(2))

    def detect(self, embedding: Tensor) -> Tensor:
        """(batch, features) -> (batch,): log-odds that a sound is no background, from the detector alone."""
        standard = ((embedding - self.mean) / self.std).clamp(-_CLAMP, _CLAMP)
        log_odds: Tensor = self.detector(standard)[:, 0]
        return log_odds

    def forward(self, embedding: Tensor, logits: Tensor) -> Tensor:
        """The known scores."""
        scores = torch.stack([self.detect(embedding), logits.amax(dim=1)], dim=1)  # (batch, 2)
        return ((scores - self.offsets) / self.scales).sigmoid().prod(dim=1)
