"""Global inference: camera azimuths of N views from the pairwise distributions.

RelPose++'s inference (arXiv 2305.04926, §3.2), for azimuths: a maximum spanning tree over the pairs starts a coordinate
ascent on the summed log-probabilities. Restarts from random trees, whose edges are sampled from the distributions, give
the further distinct configurations that verify.py chooses from.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sap3d.cameras.maths import camera_axes, rotation_angle, wrap_angle

SWEEPS = 20  # of coordinate ascent; it converges in three or four
MEAN_FIELD_STEPS = 20
EVIDENCE_WEIGHT = 1.0  # of the pairs against a view's own word on its elevation; chosen on held-out toys


def spanning_tree(weights: Tensor) -> list[tuple[int, int]]:
    """Maximum spanning tree by Prim's algorithm from view 0.

    Args:
        weights: symmetric, [N, N].

    Returns:
        N − 1 edges (known view, new view) in an order that always starts from a known view.
    """
    known, edges = [0], []
    while len(known) < len(weights):
        open_weights = weights[known].clone()
        open_weights[:, known] = -math.inf
        best = int(open_weights.argmax())
        edges.append((known[best // len(weights)], best % len(weights)))
        known.append(edges[-1][1])
    return edges


def tree_configuration(log_probabilities: Tensor, weights: Tensor, deltas: Tensor) -> Tensor:
    """Azimuth bins along the maximum spanning tree of `weights`, [N], view 0 at 0.

    Args:
        log_probabilities: [N, N, B] (only its size is used).
        weights: symmetric, [N, N].
        deltas: the difference in bins that each ordered pair takes, [N, N].
    """
    bins = torch.zeros(len(weights), dtype=torch.long)
    for known, new in spanning_tree(weights):
        bins[new] = (bins[known] + deltas[known, new]) % log_probabilities.shape[-1]
    return bins


def conditional_scores(log_probabilities: Tensor, bins: Tensor, view: int) -> Tensor:
    """Summed log-probability of each azimuth of one view, given the others.

    Args:
        log_probabilities: [i, j, k] of azimuth_j − azimuth_i = bin k; the diagonal is zero. [N, N, B].
        bins: [K, N].

    Returns:
        [K, B].
    """
    count = log_probabilities.shape[-1]
    differences = (torch.arange(count) - bins[..., None]) % count
    return log_probabilities[:, view].expand(len(bins), -1, -1).gather(2, differences).sum(1)


def coordinate_ascent(log_probabilities: Tensor, bins: Tensor) -> Tensor:
    """Move one view at a time to its best azimuth until nothing moves.

    Args:
        log_probabilities: [N, N, B].
        bins: starts, [K, N].

    Returns:
        Local maxima with view 0 at 0, [K, N].
    """
    bins = bins.clone()
    for _ in range(SWEEPS):
        before = bins.clone()
        for view in range(bins.shape[1]):
            bins[:, view] = conditional_scores(log_probabilities, bins, view).argmax(-1)
        bins = (bins - bins[:, :1]) % log_probabilities.shape[-1]
        if torch.equal(bins, before):
            break
    return bins


def configuration_scores(log_probabilities: Tensor, bins: Tensor) -> Tensor:
    """Summed log-probability over all unordered pairs of configurations [K, N]: [K]."""
    first, second = torch.triu_indices(bins.shape[1], bins.shape[1], 1)
    differences = (bins[:, second] - bins[:, first]) % log_probabilities.shape[-1]
    return log_probabilities[first, second].expand(len(bins), -1, -1).gather(2, differences[..., None]).sum((1, 2))


def to_bins(azimuths: Tensor, log_probabilities: Tensor) -> Tensor:
    """Nearest bins of azimuths in radians, for distributions [..., B]."""
    bins = log_probabilities.shape[-1]
    return (azimuths * bins / (2 * math.pi)).round().long() % bins


def joint_elevations(log_probabilities: Tensor, evidence: Tensor, weight: float = EVIDENCE_WEIGHT) -> Tensor:
    """Posteriors of N views' elevations given what each says of its own and every pair of theirs, by mean field.

    Args:
        log_probabilities: of each view's elevation bins, [N, E].
        evidence: log-evidence of pair (i, j) for elevation bins (a, b), [N, N, E, E], zero for i = j.
        weight: of a view's mean evidence over its pairs.

    Returns:
        Probabilities, [N, E].
    """
    belief = log_probabilities.exp()
    for _ in range(MEAN_FIELD_STEPS):
        message = torch.einsum("jb,ijab->ia", belief, evidence) / max(len(belief) - 1, 1)
        # Half a step: updates of all views at once may otherwise swing.
        belief = (belief + (log_probabilities + weight * message).softmax(-1)) / 2
    return belief


def azimuth_deviations(log_probabilities: Tensor, azimuths: Tensor) -> Tensor:
    """Circular standard deviation of each view's azimuth, the others given, [N] in radians.

    Args:
        log_probabilities: [N, N, B]; see `search`.
        azimuths: of the configuration, radians, [N].
    """
    views, bins = len(azimuths), log_probabilities.shape[-1]
    indices = to_bins(azimuths[None], log_probabilities)
    angles = torch.arange(bins) * (2 * math.pi / bins)
    resultants = []
    for view in range(views):
        # The pairs are not independent: their mean, not their sum, is what the view's distribution is made of.
        probability = (conditional_scores(log_probabilities, indices, view)[0] / (views - 1)).softmax(-1)
        resultants.append(torch.hypot((probability * angles.cos()).sum(), (probability * angles.sin()).sum()))
    return (-2 * torch.stack(resultants).clamp(1e-6, 1).log()).sqrt()


def agreement(cameras: Tensor, log_weights: Tensor, within: float = math.radians(15)) -> Tensor:
    """How probably each view's rotations relative to the others are within `within` of the first configuration's, [N].

    Args:
        cameras: configurations, best first, [K, N, ≥ 3].
        log_weights: of the configurations, unnormalised, [K].
    """
    axes = camera_axes(cameras)
    pairwise = axes[:, :, None].transpose(-1, -2) @ axes[:, None]
    agree = (rotation_angle(pairwise[0].transpose(-1, -2) @ pairwise) < within).float()
    others = (agree.sum(-1) - 1) / max(cameras.shape[1] - 1, 1)
    return log_weights.softmax(0) @ others


def distinct(azimuths: Tensor, keep: int, separation: float) -> list[int]:
    """Indices of up to `keep` configurations, first come first kept, that differ from all kept ones.

    Two configurations differ when some pair's azimuth difference differs by at least `separation`.

    Args:
        azimuths: radians, [K, N].
        separation: radians.
    """
    pairwise = azimuths[:, :, None] - azimuths[:, None]
    kept: list[int] = []
    for index in range(len(azimuths)):
        distance = wrap_angle(pairwise[index] - pairwise[kept])
        if not kept or distance.abs().flatten(1).amax(1).min() >= separation:
            kept.append(index)
        if len(kept) == keep:
            break
    return kept


def search(
    log_probabilities: Tensor,
    keep: int,
    restarts: int = 512,
    separation: float = math.radians(20),
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The best distinct configurations under the pairwise distributions.

    Args:
        log_probabilities: [i, j, k] of azimuth_j − azimuth_i = 2πk / B, consistent in both orders; [N, N, B], N ≥ 2.
        keep: at most so many configurations.
        restarts: random trees beside the maximum one.
        separation: radians, see `distinct`.

    Returns:
        Azimuths in radians [K, N], view 0 at 0, best first, and their summed log-probabilities [K].
    """
    log_probabilities = log_probabilities.float().cpu()
    count, bins = len(log_probabilities), log_probabilities.shape[-1]
    starts = [tree_configuration(log_probabilities, log_probabilities.amax(-1), log_probabilities.argmax(-1))]
    for _ in range(restarts):
        # Sampled differences; the sampled probability is the edge's weight, so sure edges enter the tree first.
        upper = torch.triu(torch.ones(count, count, dtype=torch.bool), 1)
        sampled = torch.multinomial(log_probabilities.exp().flatten(0, 1), 1, generator=generator).view(count, count)
        deltas = torch.where(upper, sampled, (-sampled.T) % bins)
        weights = log_probabilities.gather(2, deltas[..., None])[..., 0]
        starts.append(tree_configuration(log_probabilities, weights, deltas))
    candidates = torch.stack(starts)
    # Where the network is unsure, a start is a hypothesis of its own: ascent alone would fold all into few maxima.
    candidates = torch.cat([coordinate_ascent(log_probabilities, candidates), candidates])
    scores = configuration_scores(log_probabilities, candidates)
    order = scores.argsort(descending=True, stable=True)
    azimuths = candidates[order] * (2 * math.pi / bins)
    kept = distinct(azimuths, keep, separation)
    return azimuths[kept], scores[order][kept]


def quarter_turns(log_probabilities: Tensor, azimuths: Tensor, keep: int) -> Tensor:
    """Configurations with views turned by multiples of 90°, those of highest summed log-probability first.

    Args:
        log_probabilities: [N, N, B], B divisible by 4.
        azimuths: radians, [K, N].
        keep: at most so many.

    Returns:
        [M, N]; the given configurations are not among them.
    """
    bins, views = log_probabilities.shape[-1], azimuths.shape[1]
    # Beyond six views, only up to two views turn: 4^(N − 1) would explode.
    turns = torch.cartesian_prod(*[torch.arange(4)] * (views - 1)) if views <= 6 else _two_turns(views)
    turns = F.pad(turns.view(-1, views - 1), (1, 0))
    turns = turns[turns.any(1)] * (bins // 4)
    indices = to_bins(azimuths, log_probabilities)
    candidates = ((indices[:, None] + turns) % bins).flatten(0, 1)
    order = configuration_scores(log_probabilities, candidates).argsort(descending=True, stable=True)
    return candidates[order[:keep]] * (2 * math.pi / bins)


def _two_turns(views: int) -> Tensor:
    """Quarter turns of one or two of the views after the first, [M, views − 1]."""
    one = torch.cat([turn * torch.eye(views - 1, dtype=torch.long) for turn in (1, 2, 3)])
    two = (one[:, None] + one[None]).flatten(0, 1)
    return torch.cat([one, two[(two <= 3).all(1) & ((two > 0).sum(1) == 2)]]).unique(dim=0)
