"""Draw one object's result: inputs, novel views of the tuned model, and the turntable's colours and normals.

python docs/figures/result.py --type GSO_demo --object basket --views 5     # docs/figures/OBJECT.png
"""

import argparse
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from PIL import Image

from sap3d import images as im
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_file
from sap3d.scene import Scene, check_views
from sap3d.views import read_images

SIZE = 192
COLUMNS = 6
NOVEL_ROW = 3 * 12  # of the evaluation grid: view 0's elevation


def tile(image: np.ndarray) -> np.ndarray:
    """uint8 [S, S, 3] at the figure's size."""
    return np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def rows(scene: Scene) -> list[np.ndarray]:
    """Four rows of COLUMNS pictures, padded with white.

    Raises:
        UserError: the pipeline has not been run.
    """
    novel = [scene.diffusion / f"preds/{NOVEL_ROW + 2 * column:03d}.png" for column in range(COLUMNS)]
    turntable = scene.reconstruction / "turntable.mp4"
    for path in (*novel, turntable):
        if not path.exists():
            raise UserError(f"{path}: missing; run run_pipeline.sh first")
    inputs = [im.to_uint8(im.resize(image, SIZE)[..., :3]) for image in read_images(scene)][:COLUMNS]
    frames = imageio.imread(turntable)
    chosen = frames[np.arange(COLUMNS) * len(frames) // COLUMNS]
    panels = np.split(chosen, 4, axis=2)  # colour, normals, depth, opacity side by side
    blank = [np.full((SIZE, SIZE, 3), 255, np.uint8)] * (COLUMNS - len(inputs))
    return [
        *inputs,
        *blank,
        *(tile(imageio.imread(path)[..., :3]) for path in novel),
        *(tile(frame) for panel in panels[:2] for frame in panel),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", required=True)
    parser.add_argument("--object", required=True)
    parser.add_argument("--views", default="5")
    arguments = parser.parse_args()
    scene = Scene(arguments.type, arguments.object, check_views(arguments.views))
    with atomic_file(Path(__file__).with_name(f"{arguments.object}.png")) as partial:
        imageio.imwrite(partial, im.sheet(np.stack(rows(scene)), COLUMNS))


if __name__ == "__main__":
    with one_line_errors():
        main()
