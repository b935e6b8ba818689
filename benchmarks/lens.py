"""Whether voxels tell an unknown lens: losses of short fits at several fields of view, and what a fit finds by itself.

    OMP_NUM_THREADS=1 nice python benchmarks/lens.py

Five views of a toy at 64×64, of 30° and of 68°; cameras start at the true poses, where the object looks as large.
"""

import math
from dataclasses import replace

import torch

from dataset.prepare import load_object
from dataset.render import Renderer
from sap3d.cameras import maths as cam
from sap3d.field.synthesis import Level, joint_fit
from sap3d.images import to_tensor

PLAIN = torch.tensor([[0.3, 0, 1.8], [0.5, 1.3, 1.9], [0.2, 2.6, 1.75], [0.4, -1.2, 1.8], [0.6, -2.2, 1.9]])
TRIED = (30.0, 40.0, 49.1, 58.0, 68.0)
LEVEL = Level(resolution=24, size=48, steps=160, pixels=256, samples=24, pose_rate=0.03)


def with_lens(degrees: float) -> torch.Tensor:
    cameras = cam.full_cameras(PLAIN)
    cameras[:, 6] = math.radians(degrees)
    cameras[:, 2] *= cam.TAN_HALF_FOV / math.tan(cameras[0, 6] / 2)
    return cameras


def main() -> None:
    renderer = Renderer(load_object("toy_demo", "toy_003"))
    for degrees in (30.0, 68.0):
        images = to_tensor(list(renderer.render(with_lens(degrees), 64)), 64)
        tried = torch.stack([with_lens(each) for each in TRIED])
        for name, level in (("held", replace(LEVEL, pose_rate=0.0)), ("free", LEVEL)):
            losses = joint_fit(images, tried, level).losses.tolist()
            print(f"{degrees:g}°, poses {name}: loss at "
                  + ", ".join(f"{each:g}° {loss:.5f}" for each, loss in zip(TRIED, losses)), flush=True)  # fmt: skip
        found = joint_fit(images, with_lens(49.1)[None], replace(LEVEL, free_view=True)).cameras[0, 0, 6]
        print(f"{degrees:g}°: found from 49.1° on {found.rad2deg():.1f}°", flush=True)


if __name__ == "__main__":
    main()
