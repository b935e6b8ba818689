"""Draw what every further photo brings: the field's renders of the same test views, a row a number of photos.

.venv/bin/python docs/figures/more_views.py --type GSO_demo --object basket --views 1 2 3 5

Writes docs/figures/OBJECT_views.png. Above is the truth; the test views go once around, at view 0's elevation.
"""

import argparse
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sap3d import images as im
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_file
from sap3d.scene import Scene, check_views, image_paths

SIZE, COLUMNS = 176, 6
ROW = 3 * 12  # first test view at view 0's elevation (sap3d.cameras.evaluation_grid)
FONT_SIZE = 16


def labelled(image: np.ndarray, label: str) -> np.ndarray:
    """The image with words in its corner."""
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text((6, 4), label, fill="black", font=ImageFont.load_default(FONT_SIZE))
    return np.asarray(picture)


def row(paths: list[Path], label: str) -> list[np.ndarray]:
    """COLUMNS test views of 84, the first with a label.

    Raises:
        UserError: the pictures are not there.
    """
    chosen = paths[ROW : ROW + 12 : 12 // COLUMNS]
    missing = [path for path in chosen if not path.exists()]
    if missing or not chosen:
        raise UserError(f"{missing[0] if missing else label}: missing; run run_pipeline.sh first")
    pictures = [im.to_uint8(im.read_on_white(path, SIZE)) for path in chosen]
    return [labelled(pictures[0], label), *pictures[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", required=True)
    parser.add_argument("--object", required=True)
    parser.add_argument("--views", nargs="+", default=["1", "2", "3", "5"])
    arguments = parser.parse_args()
    scenes = [Scene(arguments.type, arguments.object, check_views(views)) for views in arguments.views]
    pictures = row(image_paths(scenes[0].test), "truth")
    for scene in scenes:
        paths = [scene.reconstruction / f"test/{index:03d}.png" for index in range(84)]
        pictures += row(paths, f"{scene.views} photo{'s' * (scene.views > 1)}")
    with atomic_file(Path(__file__).with_name(f"{arguments.object}_views.png")) as partial:
        imageio.imwrite(partial, im.sheet(np.stack(pictures), COLUMNS))


if __name__ == "__main__":
    with one_line_errors():
        main()
