"""The picture of stage 1's answer: cameras in 3-D, pairwise azimuth distributions, silhouettes over the inputs."""

import math
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sap3d.cameras import maths as cam
from sap3d.field.rendering import render_views
from sap3d.field.synthesis import Fit
from sap3d.files import atomic_file

FRUSTUM = 0.35  # length of a drawn camera
SAMPLES = 48  # along a ray of a silhouette


def write_plot(
    path: Path, images: Tensor, cameras: Tensor, confidence: Tensor, azimuths: Tensor, fit: Fit | None = None
) -> None:
    """Draw a configuration.

    Args:
        path: of the PNG.
        images: what was posed, [N, 4, S, S] in [0, 1].
        cameras: [N, 3].
        confidence: that a view is within 15°, [N].
        azimuths: log-probabilities of the pairs' azimuth differences, [N, N, bins].
        fit: whose silhouettes are drawn over the images, K = 1.
    """
    views = len(images)
    figure = Figure(figsize=(max(9, 1.8 * views), 7.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(2.2, 1))
    left, right = top.subfigures(1, 2)
    draw_cameras(left, cameras, confidence)
    draw_distributions(right, cameras[:, 1], azimuths)
    outlines = [None] * views
    if fit is not None:
        outlines = render_views(fit.grid[0], fit.cameras[0], images.shape[-1], SAMPLES)[:, 3].numpy()
    for view, (axes, image, outline) in enumerate(zip(bottom.subplots(1, views, squeeze=False)[0], images, outlines)):
        axes.imshow(image[:3].permute(1, 2, 0).numpy())
        if outline is not None:
            axes.contour(outline, levels=[0.5], colors="tab:red", linewidths=1.2)
        axes.set_title(f"view {view}: {confidence[view]:.0%}", fontsize=9)
        axes.set_axis_off()
    bottom.supxlabel("inputs, silhouette of the fit in red, probability that the view is within 15°", fontsize=9)
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=110)


def draw_cameras(figure, cameras: Tensor, confidence: Tensor) -> None:
    """Camera pyramids about the unit cube, coloured by confidence from red to green."""
    axes = figure.add_subplot(projection="3d")
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    for view, (camera, sure) in enumerate(zip(cam.full_cameras(cameras), confidence.tolist())):
        rotation = cam.camera_axes(camera)  # columns: right, up, backward
        apex = rotation[:, 2] * camera[2]
        local = torch.cat([corners * cam.half_fov_tangents(camera), -torch.ones(4, 1)], 1)
        base = apex + FRUSTUM * local @ rotation.T
        color = matplotlib.colormaps["RdYlGn"](sure)
        for line in [torch.stack([apex, corner]) for corner in base] + [torch.cat([base, base[:1]])]:
            axes.plot(*line.T.numpy(), color=color, linewidth=1.3)
        axes.text(*(apex * 1.12).tolist(), str(view), fontsize=10)
    cube = np.array([[-0.5, 0.5]] * 3)
    for axis in range(3):
        for a in (0, 1):
            for b in (0, 1):
                ends = np.empty((3, 2))
                ends[axis], ends[axis - 1], ends[axis - 2] = cube[axis], cube[axis - 1][a], cube[axis - 2][b]
                axes.plot(*ends, color="0.7", linewidth=0.8)
    reach = float(cameras[:, 2].max())
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), zlim=(-reach / 2, reach), box_aspect=(2, 2, 1.5))
    axes.set_title("cameras", fontsize=9)


def draw_distributions(figure, azimuths: Tensor, log_probabilities: Tensor) -> None:
    """The network's distributions of azimuth_j − azimuth_i in row i and column j, the answer as a red line."""
    views, bins = log_probabilities.shape[1:]
    degrees = (np.arange(bins) * 360 / bins + 180) % 360 - 180
    order = np.argsort(degrees)
    for i, row in enumerate(figure.subplots(views, views, squeeze=False)):
        for j, axes in enumerate(row):
            axes.set(xticks=[], yticks=[])
            if i == j:
                axes.text(0.5, 0.5, str(i), ha="center", va="center", transform=axes.transAxes)
                continue
            axes.fill_between(degrees[order], log_probabilities[i, j].exp().numpy()[order], color="tab:blue")
            axes.axvline(math.degrees(cam.wrap_angle(azimuths[j] - azimuths[i])), color="tab:red", linewidth=1)
            axes.set(xlim=(-180, 180), ylim=(0, None))
    figure.suptitle("azimuth difference, −180…180°: network (blue), answer (red)", fontsize=9)
