"""What the diffusion model says of pairs: one view's volume, rendered all around, beside the other view.

The model makes of a single view what the object likely is from all sides. Where another view looks like that, it was
probably taken there (ID-Pose's probe, arXiv 2306.17140, §3.2, with renders in the place of noise).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import trange

from camerabooth.backbones.interface import DiffusionModel
from camerabooth.judge import angles, errors_on_object, unexpected

TURNS = 36  # renders all around
SIZE = 32  # of the images that are compared
# Of the unexpected logarithmic errors beside the pair network's log-probabilities: the likeliest on held-out toys and
# modelled objects (benchmarks/rendered_pairs.py).
SHARPNESS = 5.0


@torch.no_grad()
def azimuth_evidence(model: DiffusionModel, images: Tensor, cameras: Tensor, bins: int) -> Tensor:
    """Unnormalised log-likelihoods of azimuth_j − azimuth_i = 2πk / bins, [i, j, k], zero on the diagonal; on the CPU.

    Args:
        images: upright views, colour on white and alpha in [0, 1], [N, 4, S, S].
        cameras: their elevations and radii at azimuth 0 (`relposepp.lifting.facing`), [N, ≥ 3].
    """
    size, count = (model.image_size,) * 2, len(images)
    views, small = (F.interpolate(images, size=each, mode="area") for each in (size, (SIZE, SIZE)))
    turned = cameras[:, None].repeat(1, TURNS, 1)
    turned[..., 1] += torch.arange(TURNS, device=cameras.device) * (2 * math.pi / TURNS)
    surprise = torch.zeros(count, count, TURNS)
    for i in trange(count, desc="comparing every two photos", leave=False, mininterval=1):
        source, generator = model.embed_sources(views[i : i + 1], cameras[i : i + 1]), torch.Generator().manual_seed(0)
        for j in range(count):
            if i != j:
                means = model.conditional_mean(source, turned[j], generator, SIZE)
                errors = torch.cat([errors_on_object(mean[None], small[j : j + 1]) for mean in means])
                surprise[i, j] = unexpected(model, errors, angles(turned[j], cameras[i : i + 1])[:, 0]).cpu()
    both = (surprise + surprise.transpose(0, 1).flip(-1).roll(1, -1)) / 2
    return -SHARPNESS * finer(both, bins)


def finer(values: Tensor, bins: int) -> Tensor:
    """Values at evenly spaced angles [..., B], the first at 0, at `bins` angles, linearly between them: [..., bins]."""
    position = torch.arange(bins) * values.shape[-1] / bins
    low = position.long()
    share = (position - low).to(values)
    return values[..., low] * (1 - share) + values[..., (low + 1) % values.shape[-1]] * share
