"""Configurations of cameras: those worth verification, by what the network says of pairs, and those of the answer."""

import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from relposepp.model import Prediction
from relposepp.search import agreement, distinct, quarter_turns, search
from sap3d.field.synthesis import Fit


@dataclass
class Poses:
    """Ranked configurations of N views and the evidence for them."""

    cameras: Tensor  # [K, N, 3], view 0's azimuth 0, best first; [K, N, 7] of own photos
    scores: list[float]  # negative log-weights, lower is better
    confidence: Tensor  # probability that a view is placed within 15° relative to the others, [N]
    network: Tensor  # the network's own best configuration, [N, 3]
    prediction: Prediction
    evidence: dict[str, Tensor] = field(default_factory=dict)  # what the scores are made of, each [K]
    fit: Fit | None = None  # the best configuration's, K = 1, with cameras of its own world, if voxels were kept
    considered: dict = field(default_factory=dict)  # what was compared and judged after the search
    symmetry: dict = field(default_factory=lambda: {"order": 1})  # of the object, and the excess that decided

    def reordered(self, scores: Tensor) -> "Poses":
        """The same configurations by other scores [K], lowest first."""
        order = scores.argsort(stable=True)
        cameras, scores = self.cameras[order], scores[order]
        return replace(
            self,
            cameras=cameras,
            scores=scores.tolist(),
            confidence=agreement(cameras, -scores),
            evidence={name: values[order] for name, values in self.evidence.items()},
            fit=self.fit if order[0] == 0 else None,
        )

    def first(self, count: int) -> "Poses":
        """At most so many configurations; the confidence stays that among all."""
        evidence = {name: values[:count] for name, values in self.evidence.items()}
        return replace(self, cameras=self.cameras[:count], scores=self.scores[:count], evidence=evidence)

    def led_by(self, index: int) -> "Poses":
        """The same configurations with another one first, of whose symmetry nothing is known."""
        order = torch.tensor([index, *(k for k in range(len(self.scores)) if k != index)])
        return replace(
            self,
            cameras=self.cameras[order],
            scores=[self.scores[k] for k in order],
            confidence=agreement(self.cameras[order], -torch.tensor(self.scores)[order]),
            evidence={name: values[order] for name, values in self.evidence.items()},
            fit=None,
            symmetry={"order": 1},
        )


def uninformed(views: int, bins: int = 72) -> Prediction:
    """What one knows of photos without a network: they are taken from somewhat above, from any side."""
    azimuths = torch.full((views, views, bins), -math.log(bins)) * (1 - torch.eye(views))[..., None]
    elevation, radius = torch.full((views,), math.radians(20)), torch.full((views,), 1.8)
    return Prediction(elevation, torch.full((views,), math.radians(15)), radius, azimuths, azimuths)


def propose(prediction: Prediction, count: int, generator: torch.Generator) -> Tensor:
    """Configurations for verification, [K, N, 3], K ≤ count.

    First whole ones, where the network says any; then its best distinct ones of pairs; then those of the colours alone,
    which know cans and bottles better; then quarter turns of views of the network's very best: what people photograph
    often has sides that look alike, where the network sees which way a side faces, not which side.
    Two and three views are few enough to try azimuths all around besides.
    """
    views = len(prediction.elevation)
    azimuths, _ = search(prediction.azimuths, 2 * count // 5, generator=generator)
    colors, _ = search(prediction.photometric, count // 5, generator=generator)
    azimuths = torch.cat([azimuths, colors, quarter_turns(prediction.azimuths, azimuths[:8], 8 * count)])
    if views <= 3:
        grid = torch.cartesian_prod(*[torch.arange(0, 360, 15 * (views - 1)).deg2rad()] * (views - 1))
        azimuths = torch.cat([azimuths, F.pad(grid.view(-1, views - 1), (1, 0))])
    shape = (len(azimuths), views)
    found = torch.stack([prediction.elevation.expand(shape), azimuths, prediction.radius.expand(shape)], -1)
    found = torch.cat([prediction.whole(), found])
    return found[distinct(found[..., 1], count, math.radians(12))]
