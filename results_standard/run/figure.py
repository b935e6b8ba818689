"""The figure "metric against number of views": mean over objects, quartiles, and every object as a thin line."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sap3d.files import atomic_file

METRICS = [
    ("rotation_error_stage3_symmetric", "rotation error up to symmetry (°), less is better"),
    ("2d_psnr_mean", "2D PSNR (dB)"),
    ("3d_psnr_mean", "3D PSNR (dB)"),
    ("3d_ssim_mean", "3D SSIM"),
    ("CD", "Chamfer distance, less is better"),
    ("IOU", "volume IoU"),
]


def draw(runs: dict[str, list[dict]], path: Path) -> None:
    """Write the figure.

    Args:
        runs: results by the name of the run; a second one is drawn beside the first.
    """
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for (key, title), axis in zip(METRICS, axes.flat):
        for color, (name, results) in zip(("tab:blue", "tab:orange"), runs.items()):
            draw_metric(axis, [r for r in results if r.get(key) is not None], key, name, color)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("views")
        axis.set_xticks(sorted({r["views"] for results in runs.values() for r in results}))
        axis.grid(alpha=0.3)
    if len(runs) > 1:
        axes[0, 0].legend()
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=110)
    plt.close(figure)


def draw_metric(axis: plt.Axes, results: list[dict], key: str, name: str, color: str) -> None:
    """One metric of one run."""
    for item in sorted({r["name"] for r in results}):
        own = sorted((r["views"], r[key]) for r in results if r["name"] == item)
        axis.plot(*zip(*own), color=color, alpha=0.25, linewidth=0.8)
    views = sorted({r["views"] for r in results})
    groups = [[r[key] for r in results if r["views"] == count] for count in views]
    means = [np.mean(group) for group in groups]
    quartiles = np.array([np.percentile(group, (25, 75)) for group in groups]).reshape(-1, 2).T
    axis.plot(views, means, "o-", color=color, label=name)
    axis.vlines(views, *quartiles, color=color, linewidth=4, alpha=0.35)
