"""Verification by synthesis: a short joint fit of voxels and cameras tells good camera configurations from bad.

Many hypotheses are fitted in one batch, each to its own coarse grid; the worst are dropped as fits get longer
(successive halving). Cameras move with the fit, so a hypothesis that starts 10–20° off arrives much closer. Compare
ID-Pose (2306.17140), iFusion (2312.17250) and SparseAGS (arXiv 2412.03570), which do this with a diffusion model.
"""

import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from relposepp.search import distinct
from sap3d.cameras.maths import anchored
from sap3d.field.synthesis import DESCENT, Fit, Level, fit_all, in_threads, join, view_losses

RECONSIDERED_AZIMUTHS = 24
RECONSIDERED_ELEVATIONS = -10.0, 10.0, 30.0, 50.0, 70.0  # degrees
WORTHWHILE = 0.97  # a round that leaves more than this share of the lowest loss is the last


@dataclass
class Effort:
    """How long `verify` tries: successive halving, few steps for many hypotheses and many for few."""

    scout: Level = field(default_factory=lambda: Level(16, 32, steps=12, pixels=64, samples=16))
    coarse: Level = field(default_factory=lambda: Level(16, 32, steps=24, pixels=96, samples=16))
    middle: Level = field(default_factory=lambda: Level(16, 32, steps=36, pixels=96, samples=16))
    anneal: Level = field(default_factory=lambda: DESCENT[0])
    fine: Level = field(default_factory=lambda: replace(DESCENT[1], steps=100, pixels=192))
    beam: int = 16  # fits that survive the middle level
    rounds: int = 2  # at most, of search beyond the proposals: single views placed anew, and evolution
    children: int = 64  # by `mutate`, in each round
    proposed: int = 2  # of the best proposals that are finalists whatever their first fits say
    finalists: int = 6  # fits that are fitted anew, longer, and ranked

    def freed(self) -> "Effort":
        """The same with a field of view that the finalists' fits find."""
        return replace(self, **{name: replace(getattr(self, name), free_view=True) for name in ("anneal", "fine")})


def best(fit: Fit, keep: int, separation: float = math.radians(12)) -> Fit:
    """The `keep` distinct fits of lowest loss, best first (see `search.distinct`)."""
    fit = fit[fit.losses.argsort(stable=True)]
    return fit[distinct(fit.cameras[..., 1].cpu(), keep, separation)]


def mutate(parents: Tensor, children: int, generator: torch.Generator) -> Tensor:
    """Configurations like the parents', [children, N, C]: good parents have more children.

    A child takes each view from one of two parents, then some of its views are turned at random: each by itself, or all
    by one angle, which keeps what is right among them.

    Args:
        parents: best first, [K, N, C].
    """
    parents = anchored(parents)
    count, views = parents.shape[:2]
    weights = torch.linspace(1, 0.2, count).expand(children, -1)
    first, second = torch.multinomial(weights, 2, replacement=True, generator=generator).T
    other = torch.rand(children, views, generator=generator) < 0.25
    child = torch.where(other[..., None], parents[second], parents[first])
    turned = torch.rand(children, views, generator=generator) < 0.5
    # Small and large turns in one generation.
    single = math.radians(60) * torch.rand(children, 1, generator=generator)
    single = single * torch.randn(children, views, generator=generator)
    common = 2 * math.pi * torch.rand(children, 1, generator=generator)
    together = torch.rand(children, 1, generator=generator) < 0.5
    child[..., 1] += turned * torch.where(together, common, single)
    child[:, 0, 1] = 0
    return child


def reconsider(images: Tensor, fit: Fit, level: Level, progress: tqdm, alternatives: int = 2) -> Tensor:
    """New hypotheses: each view but the first is left out, and placed anew where the rest's fit looks like it.

    SparseAGS's outlier test and discrete re-search (arXiv 2412.03570, §3.3), on voxels. Where cameras roll, the first
    view is placed anew, too, and all are at other elevations besides their own: single tilted views tell theirs badly.

    Args:
        fit: K fits of N ≥ 3 views.
        alternatives: places a view.

    Returns:
        [K · (N − 1) · alternatives, N, 3], or [K · N · alternatives, N, 7].
    """
    count, views = fit.cameras.shape[:2]
    rolled = fit.cameras.shape[-1] > 5
    left_out = torch.arange(0 if rolled else 1, views)
    base, left_out = fit.cameras.repeat_interleave(len(left_out), 0), left_out.repeat(count)
    weights = images.new_ones(len(base), views)
    weights[torch.arange(len(base)), left_out] = 0
    rest = fit_all(images, base, replace(level, pose_rate=0.0), progress, view_weights=weights)
    turns = torch.arange(RECONSIDERED_AZIMUTHS, device=images.device) * (2 * math.pi / RECONSIDERED_AZIMUTHS)
    elevations = torch.tensor(RECONSIDERED_ELEVATIONS if rolled else [], device=images.device).deg2rad()
    target = F.interpolate(images, size=(level.size,) * 2, mode="area").flatten(2).transpose(1, 2)

    def place(index: int) -> list[Tensor]:
        cameras, view = base[index], int(left_out[index])
        placed = cameras[view].repeat(1 + len(elevations), len(turns), 1)
        placed[..., 1] += turns
        placed[1:, :, 0] = elevations[:, None]
        grid, seen = rest.grid[index : index + 1], target[view : view + 1]
        losses = view_losses(grid, placed.flatten(0, 1)[None], seen, level)[0].view(placed.shape[:2])
        losses[0, 0] = math.inf  # where it stands already
        losses, rows = losses.min(0)
        minima = (losses <= losses.roll(1)) & (losses <= losses.roll(-1))
        last = losses + losses[losses.isfinite()].max()
        order = torch.where(minima, losses, last).argsort(stable=True)[:alternatives]
        return [torch.cat([cameras[:view], placed[rows[i], i][None], cameras[view + 1 :]]) for i in order]

    return torch.stack(sum(in_threads(place, range(len(base))), []))


def verify(
    images: Tensor,
    hypotheses: Tensor,
    estimates: Tensor,
    effort: Effort,
    seed: int = 0,
) -> Fit:
    """Rank and refine camera configurations by synthesis.

    Args:
        images: white-composited RGB + mask, [N, 4, S, S], N ≥ 2; fits are computed where they are.
        hypotheses: [K, N, 3], view 0 at azimuth 0; or [K, N, 7] with free principal points and rolls.
        estimates: to stay near but for the azimuths, [N, 3] (or [N, 7]).
        seed: of the turns of `mutate`.

    Returns:
        The distinct finalists, the search's and the best proposals, on the CPU, lowest loss first. Azimuths of
        different fits do not compare; `sap3d.cameras.maths.anchored` makes them.
    """
    hypotheses, estimates = hypotheses.to(images.device), estimates.to(images.device)

    def climb(scouted: Fit) -> Fit:
        fit = refit(best(scouted, 4 * effort.beam), effort.coarse)
        return best(refit(best(fit, 2 * effort.beam), effort.middle), effort.beam)

    def scout(hypotheses: Tensor) -> Fit:
        return fit_all(images, hypotheses, effort.scout, progress, estimates=estimates)

    def refit(fit: Fit, level: Level) -> Fit:
        return fit_all(images, fit.cameras, level, progress, start=fit.grid, estimates=estimates)

    generator = torch.Generator().manual_seed(seed)
    with tqdm(desc="verifying poses", unit="step", mininterval=1) as progress:
        fit = climb(scout(hypotheses))
        for _ in range(effort.rounds if len(images) > 2 else 0):
            lowest = fit.losses[0]
            proposals = [reconsider(images, fit[: max(1, effort.beam // 2)], effort.coarse, progress)]
            proposals.append(mutate(fit.cameras.cpu(), effort.children, generator).to(images.device))
            fit = best(join([fit, climb(scout(torch.cat(proposals)))]), effort.beam)
            if fit.losses[0] > WORTHWHILE * lowest:
                break
        finalists = torch.cat([fit.cameras[: effort.finalists], hypotheses[: effort.proposed]])
        annealed = fit_all(images, finalists, effort.anneal, progress, estimates=estimates)
        return best(refit(annealed, effort.fine), len(finalists)).cpu()
