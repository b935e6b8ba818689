"""How well one photo tells its camera's roll and elevation: toys that no training uses, from five sides each.

    OMP_NUM_THREADS=1 nice python benchmarks/attitude.py --toys 12

Errors of the rolls that stage 1 starts from (relposepp/held.py), where photos are tilted by up to 30° and where they
are not.
"""

import argparse

import torch

from benchmarks.phones import set_cameras
from dataset.prepare import load_object
from dataset.render import Renderer
from relposepp.held import hold
from relposepp.model import load_model
from sap3d.files import REPOSITORY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toys", type=int, default=12)
    count = parser.parse_args().toys
    names = [f"toy_{number}" for number in range(301, 301 + count)] + [f"{kind}_000" for kind in ("round", "flat")]
    network = load_model(REPOSITORY / "relposepp/weights", torch.device("cpu"))
    for kind in ("roll", "plain", "top"):
        rolls, elevations, tilts = [], [], []
        for seed, name in enumerate(names):
            cameras = set_cameras(kind, seed)
            photos = list(Renderer(load_object("toy_demo", name)).render(cameras, 128))
            held = hold(network, photos, cameras[:, 6], known=True)
            told = held.elevations.probabilities @ held.elevations.bins
            rolls.append((held.likeliest_rolls - cameras[:, 5]).abs())
            elevations.append((told - cameras[:, 0]).abs())
            tilts.append(cameras[:, 5].abs())
        rolls, elevations, tilts = (torch.cat(values).rad2deg() for values in (rolls, elevations, tilts))
        print(f"{kind:6s} {len(rolls)} photos  tilted by {tilts.mean():.1f}° in the mean  roll error: median "
              f"{rolls.median():.1f}°, mean {rolls.mean():.1f}°, below 10° {(rolls < 10).float().mean():.0%}  "
              f"elevation error: mean {elevations.mean():.1f}°", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
