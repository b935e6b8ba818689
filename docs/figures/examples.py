"""Draw README's first picture: the photos of the demo's examples, and their meshes from all round.

python docs/figures/examples.py                      # docs/figures/examples.png
python docs/figures/examples.py pan bear             # these alone
"""

import argparse
import math
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
import trimesh
from PIL import Image

from dataset.render import Renderer
from sap3d import images as im
from sap3d.cameras.maths import Y_UP
from sap3d.errors import one_line_errors
from sap3d.files import REPOSITORY, atomic_file

EXAMPLES = REPOSITORY / "demo/sap3d/examples"
SIZE, SHOWN, GAP = 144, 4, 24  # pixels a side, photos and views of an example, pixels between them
ELEVATION, FIRST, RADIUS = 20, 30, 1.55  # degrees, degrees from the first photo's azimuth, and the camera's distance


def photo(path: Path) -> np.ndarray:
    """The middle square of a photo, uint8 [S, S, 3]."""
    with Image.open(path) as picture:
        side = min(picture.size)
        left, top = ((length - side) // 2 for length in picture.size)
        whole = picture.convert("RGBA")
        square = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
        square = square.crop((left, top, left + side, top + side))
        return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def mesh_views(path: Path) -> np.ndarray:
    """A mesh.glb from all round, on white, uint8 [SHOWN, S, S, 3]."""
    mesh = trimesh.load_mesh(path).apply_transform(np.linalg.inv(Y_UP))
    degrees = torch.tensor([[ELEVATION, FIRST + 360 * view / SHOWN] for view in range(SHOWN)])
    cameras = torch.cat([degrees * (math.pi / 180), torch.full((SHOWN, 1), RADIUS)], 1)
    views = Renderer(mesh).render(cameras, SIZE, supersample=4) / np.float32(255)
    return im.to_uint8(views[..., :3] * views[..., 3:] + 1 - views[..., 3:])


def row(folder: Path) -> np.ndarray:
    """An example's photos and mesh side by side, uint8 [S, W, 3]."""
    photos = [photo(path) for path in sorted((folder / "photos").iterdir())[:SHOWN]]
    photos += [np.full((SIZE, SIZE, 3), 255, np.uint8)] * (SHOWN - len(photos))
    gap = np.full((SIZE, GAP, 3), 255, np.uint8)
    (mesh,) = (folder / "root/3D_Recon").rglob("mesh.glb")
    return np.concatenate([*photos, gap, *mesh_views(mesh)], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", nargs="*", help="by default all of them")
    names = parser.parse_args().examples or sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
    with atomic_file(Path(__file__).with_suffix(".png")) as partial:
        imageio.imwrite(partial, np.concatenate([row(EXAMPLES / name) for name in names]))


if __name__ == "__main__":
    with one_line_errors():
        main()
