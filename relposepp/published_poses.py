"""Cameras by RelPose++ (published.py), SAP3D's way, and how likely RelPose++ takes any cameras to be.

Global inference (RelPose++, arXiv 2305.04926, §3.2) finds rotations that all pairs agree with; `to_spherical` makes
cameras about an object of them (SAP3D, arXiv 2404.03652). `predict_published` says the same of N views as the embedded
network's `predict`, so that what follows, proposals, verification and choice, does not ask who said it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from relposepp.model import Prediction
from relposepp.published import PublishedRelPose
from relposepp.search import spanning_tree
from sap3d.cameras.maths import camera_axes, spherical_to_w2c, wrap_angle
from sap3d.errors import UserError

Energies = Callable[[int, int, Tensor], Tensor]  # (i, j, rotations R_iᵀ R_j [Q, 3, 3]) → [Q], for i < j
FRONT = -math.pi / 2  # view 0's azimuth in the training data's world, as SAP3D takes it
BINS = 72  # of a pair's azimuth differences


@dataclass
class Effort:
    """How long to search; the defaults are the original's, made for a GPU."""

    tree_samples: int = 500_000
    ascent_samples: int = 250_000
    ascent_steps: int = 50
    runs: int = 25


def random_rotations(count: int, generator: torch.Generator, spread: float | None = None) -> Tensor:
    """Rotations [count, 3, 3] on the generator's device, uniform or (angles of order `spread`) about the identity."""
    quaternions = torch.randn(count, 4, generator=generator, device=generator.device)
    if spread is not None:
        scale = torch.rand(count, 1, generator=generator, device=generator.device) * spread / 2
        quaternions = torch.cat([torch.ones_like(scale), quaternions[:, 1:] * scale], -1)
    w, x, y, z = F.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def best_pairs(energies: Energies, count: int, proposals: Tensor) -> tuple[Tensor, Tensor]:
    """Each pair's most probable proposal.

    Returns:
        Rotations R_iᵀ R_j [N, N, 3, 3], and their log-probabilities among the proposals, symmetric, [N, N].
    """
    rotations = torch.eye(3, device=proposals.device).repeat(count, count, 1, 1)
    scores = torch.full((count, count), -math.inf).fill_diagonal_(0)
    for i, j in combinations(range(count), 2):
        score, best = energies(i, j, proposals).log_softmax(0).max(0)
        scores[i, j] = scores[j, i] = score.item()
        rotations[i, j], rotations[j, i] = proposals[best], proposals[best].T
    return rotations, scores


def proposal_scores(energies: Energies, rotations: Tensor, view: int, proposals: Tensor) -> Tensor:
    """Summed energies of all pairs with `view`, both orders, were it rotated as proposed: [Q, 3, 3] → [Q]."""
    total = torch.zeros(len(proposals), device=proposals.device)
    for other in (other for other in range(len(rotations)) if other != view):
        relative = rotations[other].T @ proposals
        first, second = min(other, view), max(other, view)
        total += 2 * energies(first, second, relative if other < view else relative.transpose(-1, -2))
    return total


def ascend(energies: Energies, rotations: Tensor, generator: torch.Generator, effort: Effort) -> Tensor:
    """Coordinate ascent: view after view moves to the best of many proposals; [N, 3, 3] → the same, view 0 at I.

    The energies see only R_iᵀ R_j, so turning all views to bring view 0 to I costs nothing.
    Half of the proposals lie near the present rotation, where the original's are all uniform: finer for the same cost.
    """
    rotations, half = rotations.clone(), effort.ascent_samples // 2
    for step in range(effort.ascent_steps):
        view = step % len(rotations)
        present = rotations[view]
        near = present @ random_rotations(half, generator, spread=0.4)
        proposals = torch.cat([present[None], near, random_rotations(half, generator)])
        rotations[view] = proposals[proposal_scores(energies, rotations, view, proposals).argmax()]
    return rotations[0].T @ rotations


def global_rotations(energies: Energies, count: int, generator: torch.Generator, effort: Effort) -> tuple[Tensor, ...]:
    """Rotations of N views from pairwise energies: maximum spanning tree, then coordinate ascent.

    Returns:
        Rotations [N, 3, 3] with view 0 at I, the summed energy of all ordered pairs [], and what `best_pairs` returns.
    """
    pairs, scores = best_pairs(energies, count, random_rotations(effort.tree_samples, generator))
    rotations = torch.eye(3, device=pairs.device).repeat(count, 1, 1)
    for known, new in spanning_tree(scores):
        rotations[new] = rotations[known] @ pairs[known, new]
    rotations = ascend(energies, rotations, generator, effort)
    total = sum(proposal_scores(energies, rotations, view, rotations[view, None])[0] for view in range(count)) / 2
    return rotations, total, pairs, scores


def to_spherical(rotations: Tensor, translations: Tensor, elevation: float) -> Tensor:
    """Cameras from rotations relative to view 0, SAP3D's way: take view 0 for level, then shift the elevations.

    View 0 is put at azimuth −90° of the training data's world (where Objaverse's objects show their front) and
    elevation 0; each view stands at −Rᵀ t. That is exact if view 0 did stand at that azimuth, or if all elevations are
    equal: R_0ᵀ R_j depends on view 0's azimuth otherwise. Two gauges remain: view 0's azimuth becomes 0, and all
    elevations are shifted by one angle so that view 0's is the given one (the original asks a One-2-3-45 service).

    Args:
        rotations: R_0ᵀ R_j up to a common rotation from the left, [N, 3, 3].
        translations: world to camera, [N, 3].
        elevation: of view 0, radians.

    Returns:
        (elevation, azimuth, radius), radians, [N, 3].
    """
    level = camera_axes(rotations.new_tensor([0.0, FRONT, 1.0])).T
    w2c = level @ rotations[0].T @ rotations
    x, y, z = (-w2c.transpose(-1, -2) @ translations[..., None])[..., 0].unbind(-1)
    elevations, azimuths = torch.atan2(z, torch.hypot(x, y)), torch.atan2(y, x)
    elevations, azimuths = elevations - elevations[0] + elevation, wrap_angle(azimuths - azimuths[0])
    return torch.stack([elevations, azimuths, translations.norm(dim=-1)], -1)


def median_cameras(runs: Tensor) -> Tensor:
    """Medians over K runs of cameras [K, N, 3]: [N, 3]. Azimuths are taken about the first run's: no cut at ±π."""
    offsets = runs - runs[0]
    offsets[..., 1] = wrap_angle(offsets[..., 1])
    cameras = runs[0] + offsets.median(0).values
    cameras[:, 1] = wrap_angle(cameras[:, 1])
    return cameras


@dataclass
class PublishedPoses:
    """Cameras (elevation, azimuth, radius) in radians, and the evidence for them; all on the CPU."""

    cameras: Tensor  # median over the runs, as SAP3D takes it, [N, 3]
    runs: Tensor  # each run's own cameras, best first, [K, N, 3]
    scores: Tensor  # summed energies of the runs' ordered pairs, higher is better, [K]
    rotations: Tensor  # R_0ᵀ R_j of the best run, [N, 3, 3]
    translations: Tensor  # world to camera, [N, 3]
    pair_rotations: Tensor  # R_iᵀ R_j that the best run's pairs prefer on their own, [N, N, 3, 3]
    pair_scores: Tensor  # log-probabilities of those among the proposals, [N, N]


@dataclass
class Pairs:
    """RelPose++'s energies of N views' pairs, i < j, and their logarithmic means over all rotations."""

    energies: Energies
    means: Tensor  # log of the mean of exp(energy), [N, N]
    translations: Tensor  # world to camera, [N, 3]

    @torch.no_grad()
    def log_densities(self, cameras: Tensor) -> Tensor:
        """Summed log-densities of configurations over all pairs, against that of all rotations alike, [K] on the CPU.

        A common shift of the elevations makes no difference, as R → E R leaves all R_iᵀ R_j.

        Args:
            cameras: (elevation, azimuth, …), [K, N, 3] or more.
        """
        rotations, total = world_rotations(cameras).to(self.means), self.means.new_zeros(len(cameras))
        for i, j in combinations(range(cameras.shape[1]), 2):
            relative = rotations[:, i].transpose(-1, -2) @ rotations[:, j]
            total += self.energies(i, j, relative) - self.means[i, j]
        return total.cpu()

    @torch.no_grad()
    def azimuths(self, cameras: Tensor) -> Tensor:
        """Log-probabilities of each pair's azimuth difference, as of `Prediction.azimuths`, where all else is as in one
        configuration [N, 3]."""
        count, steps = len(cameras), torch.arange(BINS) * (2 * math.pi / BINS)
        table = torch.zeros(count, count, BINS)
        for i, j in combinations(range(count), 2):
            turned = cameras.repeat(BINS, 1, 1)
            turned[:, j, 1] = cameras[i, 1] + steps
            rotations = world_rotations(turned).to(self.means)
            relative = rotations[:, i].transpose(-1, -2) @ rotations[:, j]
            table[i, j] = self.energies(i, j, relative).log_softmax(0).cpu()
            table[j, i] = table[i, j].flip(0).roll(1)
        return table


def world_rotations(cameras: Tensor) -> Tensor:
    """World to camera in the training data's world, where view 0 is at FRONT: [..., N, 3] or more → [..., N, 3, 3]."""
    turned = cameras[..., :3].clone()
    turned[..., 1] += FRONT - cameras[..., :1, 1]
    return spherical_to_w2c(turned)[..., :3]


@torch.no_grad()
def compare_pairs(
    model: PublishedRelPose, images: Tensor, crops: Tensor, generator: torch.Generator, samples: int
) -> Pairs:
    """What RelPose++ says of N views (2…10; trained on 2…8) that see each other.

    Args:
        model: as `load_published` gives it.
        images, crops: as `crop_views` gives them, [N, 3, 224, 224] and [N, 3].
        generator: on the model's device.
        samples: rotations over which energies are averaged.

    Raises:
        UserError: fewer than 2 or more than 10 views.
    """
    count = len(images)
    if not 2 <= count <= 10:
        raise UserError(f"RelPose++ takes 2 to 10 views, not {count}")
    tokens = model.tokens(images.to(generator.device), crops.to(generator.device))
    features = model.attend(tokens)  # all views see each other, for rotations and for translations

    def energies(i: int, j: int, rotations: Tensor) -> Tensor:
        return model.pair_energies(features[i], features[j], rotations)

    uniform, means = random_rotations(samples, generator), features.new_zeros(count, count)
    for i, j in combinations(range(count), 2):
        means[i, j] = energies(i, j, uniform).logsumexp(0) - math.log(samples)
    return Pairs(energies, means, model.translations(features))


@torch.no_grad()
def estimate_published(pairs: Pairs, generator: torch.Generator, elevation: float, effort: Effort) -> PublishedPoses:
    """Poses of N views of one object, by SAP3D's protocol.

    Args:
        generator: on the model's device.
        elevation: of view 0, radians; see `to_spherical`.
    """
    translations = pairs.translations
    runs = [global_rotations(pairs.energies, len(translations), generator, effort) for _ in range(effort.runs)]
    runs.sort(key=lambda run: run[1].item(), reverse=True)
    cameras = torch.stack([to_spherical(run[0], translations, elevation) for run in runs])
    scores = torch.stack([run[1] for run in runs])
    results = (median_cameras(cameras), cameras, scores, runs[0][0], translations, *runs[0][2:])
    return PublishedPoses(*(result.cpu() for result in results))


@dataclass(kw_only=True)
class PublishedPrediction(Prediction):
    """RelPose++'s word in the place of the embedded network's."""

    configurations: Tensor  # SAP3D's median over the runs, then the runs, best first, [K, N, 3]
    pairs: Pairs

    def whole(self) -> Tensor:
        return self.configurations

    def log_probabilities(self, cameras: Tensor) -> Tensor:
        """Log-densities of whole configurations, not of bins: a pair's rotation is more than its azimuths."""
        return self.pairs.log_densities(cameras)


def predict_published(
    model: PublishedRelPose, images: Tensor, crops: Tensor, embedded: Prediction, effort: Effort, seed: int
) -> PublishedPrediction:
    """What RelPose++ says of N views.

    Args:
        images, crops: as `crop_views` gives them.
        embedded: the embedded network's, which knows view 0's elevation (the original asks a One-2-3-45 service) and
            what colours alone say.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    pairs = compare_pairs(model, images, crops, generator, effort.tree_samples)
    found = estimate_published(pairs, generator, embedded.elevation[0].item(), effort)
    spread = found.runs[..., 0].std(0, correction=0)  # beside what view 0's own elevation leaves open for all
    return PublishedPrediction(
        elevation=found.cameras[:, 0],
        elevation_deviation=torch.hypot(spread, embedded.elevation_deviation[0]),
        radius=found.cameras[:, 2],
        azimuths=pairs.azimuths(found.cameras),
        photometric=embedded.photometric,
        configurations=torch.cat([found.cameras[None], found.runs]),
        pairs=pairs,
    )
