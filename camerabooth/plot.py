"""The picture of all that stage 2 did with an object."""

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from matplotlib.figure import Figure

from sap3d import images as im
from sap3d.files import atomic_file

ROWS = {"elevation (°)": 180 / np.pi, "azimuth (°)": 180 / np.pi, "radius": 1.0}
SHOWN = 12  # novel views: the grid's middle row


def write_page(folder: Path, views: np.ndarray) -> None:
    """Draw page.png: inputs with what is predicted of them, novel views, and where refinement took the cameras.

    Args:
        folder: of stage 2, with before_after.png and trajectory.npy.
        views: the grid's, uint8 [84, S, S, 3].
    """
    inputs = imageio.imread(folder / "before_after.png")
    trajectory = np.load(folder / "trajectory.npy")
    first = (len(views) - SHOWN) // 2
    figure = Figure(figsize=(10, 9), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(3.2, 2.6, 2.6))
    titles = {
        top: "photos; each as rendered from the others, before tuning and after",
        middle: "novel views, all around at the first view's elevation",
        bottom: f"how the {trajectory.shape[1]} cameras move away from stage 1's, step by step",
    }
    for part, title in titles.items():
        part.suptitle(title, fontsize="medium")
    for part, picture in ((top, inputs), (middle, im.sheet(views[first : first + SHOWN], SHOWN // 2))):
        axes = part.subplots()
        axes.imshow(picture)
        axes.set_axis_off()
    for axes, (name, unit), values in zip(bottom.subplots(1, len(ROWS)), ROWS.items(), np.moveaxis(trajectory, 2, 0)):
        offset = values - values[0]
        if "azimuth" in name:
            offset = (offset + np.pi) % (2 * np.pi) - np.pi
        axes.plot(offset * unit)
        axes.set(title=name, xlabel="step")
        axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    with atomic_file(folder / "page.png") as partial:
        figure.savefig(partial, dpi=100)
