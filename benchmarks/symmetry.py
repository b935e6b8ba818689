"""What tells objects that look the same half a turn on: held-out toys at true cameras.

    python benchmarks/symmetry.py --toys 40 41 42 43 44 --views 1 2 3

Prints a line a toy and number of views: by how much the loss of new voxels at held cameras rises when they are to look
like the photos from both sides, too; the same as a share of an empty field's loss, which stage 1 decides by
(`relposepp.decide.symmetry_at`); by what factor; and the PSNR between eight views and those half a turn on.
"""

import argparse
import math

import numpy as np
import torch
from torch import Tensor

from dataset.render import Renderer
from dataset.toys import make_toy, toy_seed
from dataset.training_views import white_composite
from relposepp.decide import SYMMETRY, symmetric_loss
from sap3d.cameras.maths import anchored
from sap3d.cameras.symmetry import turned
from sap3d.field.synthesis import empty_loss, unexplained

PHOTO, AROUND = 128, 64  # pixels


def photo_cameras(toy: int) -> Tensor:
    """Five cameras around a toy, [5, 3]."""
    rng = np.random.default_rng(toy)
    ranges = ((0, math.radians(45)), (-math.pi, math.pi), (1.6, 2.0))
    return anchored(torch.tensor(np.stack([rng.uniform(*each, 5) for each in ranges], -1), dtype=torch.float32))


def turn_psnr(renderer: Renderer) -> float:
    """Mean PSNR between views all around and those half a turn on, colour on white."""
    azimuths = torch.arange(4) * (math.pi / 4)
    around = torch.cartesian_prod(torch.tensor([0.0, 0.5]), azimuths, torch.tensor([1.8]))
    views = white_composite(torch.from_numpy(renderer.render(turned(around, SYMMETRY), AROUND)))[:, :3]
    here, there = views.chunk(2)
    return (-10 * (here - there).square().mean((1, 2, 3)).clamp(min=1e-6).log10()).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, nargs="+", default=list(range(40, 64)))
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 3, 5])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for toy in arguments.toys:
        renderer, cameras = Renderer(make_toy(toy_seed(f"toy_{toy:03d}"))), photo_cameras(toy)
        photos, alike = white_composite(torch.from_numpy(renderer.render(cameras, PHOTO))), turn_psnr(renderer)
        for views in arguments.views:
            shown, shown_from = photos[:views], cameras[:views]
            alone, both = unexplained(shown, shown_from), symmetric_loss(shown, shown_from)
            excess = 1e3 * (both - alone) * empty_loss(shown).item()
            print(f"toy_{toy:03d} {views} views: excess {excess:6.2f}e-3, share {both - alone:7.2%}, "
                  f"factor {both / alone:5.1f}, turned {alike:4.1f} dB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
