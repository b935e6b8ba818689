"""Metrics of poses, pictures and meshes: functions of an estimate and the truth."""

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import trimesh
from flip_evaluator import evaluate as evaluate_flip
from scipy.spatial import cKDTree
from skimage.metrics import structural_similarity
from torch import Tensor
from tqdm import tqdm

from sap3d.cameras.maths import SCENE_BOUND, pairwise_rotation_errors, plain, wrap_angle

MAX_PSNR = 100.0  # of equal images, whose PSNR is infinite: a mean stays finite, and JSON has no infinity
F_SCORE_THRESHOLDS = (0.04, 0.05, 0.06)
SURFACE_SAMPLES = 50_000  # two samplings of one surface of area 3 are 0.004 apart
OCCUPANCY_RESOLUTION = 64
ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's AlexNet_Weights.IMAGENET1K_V1
FLIP_MARGIN = 24  # pixels, twice as many as ꟻLIP's widest filter reaches, and some


# Poses ---------------------------------------------------------------------------------------------------------------


def rotation_error(estimate: Tensor, truth: Tensor, symmetry: int | float = 1) -> float | None:
    """Mean angle in degrees between estimated and true relative rotations over all ordered pairs of views.

    Args:
        estimate, truth: cameras (elevation, azimuth, radius, …), [N, ≥ 3].
        symmetry: order of the object's rotational symmetry about z; `math.inf` where azimuth means nothing. Views that
            differ by a symmetry look the same, so each view's azimuth is free up to it: the smallest error counts.

    Returns:
        The error, or None of a single view, which has no pair.
    """
    if len(truth) < 2:
        return None
    if symmetry == math.inf:
        candidates = [torch.cat([estimate[:, :1], truth[:, 1:2], estimate[:, 2:]], -1)]
    elif symmetry == 1:
        candidates = [estimate]
    else:
        candidates = [_snap_azimuths(estimate, truth, symmetry, view) for view in range(len(truth))]
    return min(pairwise_rotation_errors(cameras, truth).rad2deg().mean().item() for cameras in candidates)


def _snap_azimuths(estimate: Tensor, truth: Tensor, order: int | float, reference: int) -> Tensor:
    """Turn each view by the multiple of 2π / order that brings it nearest to the truth, relative to one view."""
    period = 2 * math.pi / order
    offset = truth[:, 1] - estimate[:, 1]
    turns = ((offset - offset[reference]) / period).round() * period
    return torch.cat([estimate[:, :1], estimate[:, 1:2] + turns[:, None], estimate[:, 2:]], -1)


def camera_differences(estimate: Tensor, truth: Tensor) -> dict[str, float | None]:
    """Mean absolute differences of elevation and azimuth in degrees and of the radius, of cameras [N, ≥ 3] each.

    Radii are those of `plain` cameras: how large the object looks. View 0's azimuth is the gauge: the azimuth
    difference is over the other views, relative to it, and None without any.
    """
    difference = (plain(estimate) - plain(truth)).double()
    azimuth = wrap_angle(difference[1:, 1] - difference[0, 1]).abs().rad2deg()
    return {
        "Elevation": difference[:, 0].abs().rad2deg().mean().item(),
        "Azimuth": azimuth.mean().item() if len(azimuth) else None,
        "Radius": difference[:, 2].abs().mean().item(),
    }


# Pictures: float32 RGB on white in [0, 1], [H, W, 3] -----------------------------------------------------------------


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, at most `MAX_PSNR`."""
    error = np.mean((image.astype(np.float64) - truth) ** 2)
    return min(-10 * math.log10(error), MAX_PSNR) if error > 0 else MAX_PSNR


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity with scikit-image's default 7 × 7 window, averaged over the channels."""
    return float(structural_similarity(truth, image, channel_axis=2, data_range=1.0))


def flip(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean of NVIDIA's LDR-ꟻLIP error map at its default viewing distance (Andersson et al. 2020); 0 is equal.

    The map is zero farther than a filter reaches from where the pictures differ, so it is computed around there alone.
    """
    differing = (image != truth).any(-1)
    rows, columns = (np.flatnonzero(differing.any(axis)) for axis in (1, 0))
    if not len(rows):
        return 0.0
    around = tuple(slice(max(0, each[0] - FLIP_MARGIN), each[-1] + FLIP_MARGIN + 1) for each in (rows, columns))
    pair = (np.ascontiguousarray(picture[around]) for picture in (truth, image))
    error_map = evaluate_flip(*pair, "LDR", applyMagma=False, computeMeanError=False)[0]
    return float(error_map.sum(dtype=np.float64) / differing.size)


class Lpips:
    """LPIPS with its AlexNet (arXiv 1801.03924), or None for every picture where the backbone's weights are missing.

    The weights are torchvision's file in torch's hub cache; they are never downloaded here (docs/INSTALL.md).
    """

    def __init__(self):
        self.network = None
        weights = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
        if not weights.is_file():
            print(f"LPIPS is n/a: no AlexNet weights at {weights} (docs/INSTALL.md)", flush=True)
            return
        import lpips  # seconds, for torchvision

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # lpips calls torchvision by deprecated names
                self.network = lpips.LPIPS(net="alex", verbose=False)
        except Exception as error:  # a damaged file fails in as many ways as there are unpicklers
            print(f"LPIPS is n/a: {weights} cannot be loaded ({type(error).__name__})", flush=True)

    def __call__(self, image: np.ndarray, truth: np.ndarray) -> float | None:
        if self.network is None:
            return None
        with torch.inference_mode():
            inputs = [torch.from_numpy(x).permute(2, 0, 1)[None] * 2 - 1 for x in (image, truth)]
            return self.network(*inputs).item()


Measure = Callable[[np.ndarray, np.ndarray], float | None]


def picture_measures() -> dict[str, Measure]:
    """All of them by the names of the results' columns."""
    return {"psnr": psnr, "ssim": ssim, "lpips": Lpips(), "flip": flip}


def picture_metrics(
    images: list[np.ndarray], truths: list[np.ndarray], measures: Mapping[str, Measure], title: str = ""
) -> dict:
    """Means of measures over pairs of pictures; None where one is not available.

    Args:
        images, truths: equally many float32 arrays [H, W, 3] in [0, 1].
        title: of the progress bar.
    """
    values: dict[str, list] = {name: [] for name in measures}
    for image, truth in tqdm(list(zip(images, truths, strict=True)), desc=title):
        for name, measure in measures.items():
            values[name].append(measure(image, truth))
    return {name: None if None in column else float(np.mean(column)) for name, column in values.items()}


# Meshes --------------------------------------------------------------------------------------------------------------


def mesh_metrics(mesh: trimesh.Trimesh, truth: trimesh.Trimesh, seed: int = 0) -> dict[str, float]:
    """Chamfer distance, volume IoU and F-scores of a mesh, in the unit of the scene (the object's cube has side 1).

    CD is the mean of two means: over points sampled uniformly on each surface, the distance to the nearest sample of
    the other. F1_01, F1_02, F1_03 are the harmonic means of precision and recall of the same samples at distances
    0.04, 0.05 and 0.06. IOU compares `occupancy`.
    """
    points, true_points = (
        trimesh.sample.sample_surface(m, SURFACE_SAMPLES, seed=seed + index)[0] for index, m in enumerate((mesh, truth))
    )
    to_truth = cKDTree(true_points).query(points)[0]
    to_mesh = cKDTree(points).query(true_points)[0]
    inside, true_inside = occupancy(mesh), occupancy(truth)
    union = (inside | true_inside).sum()
    return {
        "CD": float(to_truth.mean() + to_mesh.mean()) / 2,
        "IOU": float((inside & true_inside).sum() / union) if union else 0.0,
        **{f"F1_0{i}": f_score(to_truth, to_mesh, distance) for i, distance in enumerate(F_SCORE_THRESHOLDS, 1)},
    }


def f_score(to_truth: np.ndarray, to_estimate: np.ndarray, distance: float) -> float:
    """Harmonic mean of the shares of nearest-neighbour distances below `distance`, in [0, 1]."""
    precision, recall = (to_truth < distance).mean(), (to_estimate < distance).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def occupancy(mesh: trimesh.Trimesh, resolution: int = OCCUPANCY_RESOLUTION, bound: float = SCENE_BOUND) -> np.ndarray:
    """Which voxel centres of the cube [−bound, bound]³ lie inside a mesh, bool [R, R, R].

    A ray from the centre that crosses the surface an odd number of times says inside. Scans have holes, so rays go both
    ways along the three axes and the majority of six decides; on a watertight mesh they agree.
    """
    votes = np.zeros((resolution,) * 3, np.int8)
    triangles = (np.asarray(mesh.triangles) / bound + 1) / 2 * resolution - 0.5  # voxel centres at whole numbers
    for axis in range(3):
        # Cyclic order (axis + 1, axis + 2, axis) brings the ray's axis last.
        below, above = _crossing_parity(np.roll(triangles, -axis - 1, -1), resolution)
        votes += np.moveaxis(below.astype(np.int8) + above, (0, 1, 2), ((axis + 1) % 3, (axis + 2) % 3, axis))
    return votes > 3


def _crossing_parity(triangles: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether the surface below, and the surface above, each grid point is crossed oddly often, bool [R, R, R] twice.

    Args:
        triangles: [F, 3 corners, 3], in voxels.
    """
    # An odd shift of the rays keeps them off edges and corners that lie on the grid.
    corners = triangles - np.array([1.234e-5, 2.345e-5, 0])
    plane = corners[..., :2]
    low = np.ceil(plane.min(1)).clip(0).astype(int)
    high = np.floor(plane.max(1)).clip(max=resolution - 1).astype(int)
    extent = (high - low + 1).clip(0)  # columns in the triangle's bounding rectangle
    counts = extent.prod(-1)
    face = np.repeat(np.arange(len(triangles)), counts)
    local = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    column = low[face] + np.stack([local // extent[face, 1], local % extent[face, 1]], -1)

    # Twice the areas that the column spans with each edge: its barycentric coordinates, up to their sum.
    start, end = plane[face] - column[:, None], np.roll(plane, -1, 1)[face] - column[:, None]
    areas = start[..., 0] * end[..., 1] - start[..., 1] * end[..., 0]
    hit = (areas > 0).all(-1) | (areas < 0).all(-1)
    weights = np.roll(areas[hit], -1, -1)  # the edge opposite corner i starts at corner i + 1
    height = (weights * corners[face[hit], :, 2]).sum(-1) / weights.sum(-1)

    crossings = np.zeros((resolution, resolution, resolution + 1), np.int32)
    first_above = np.ceil(height).clip(0, resolution).astype(int)
    np.add.at(crossings, (*column[hit].T, first_above), 1)
    below = crossings.cumsum(-1)
    total = below[..., -1:]
    return below[..., :-1] % 2 == 1, (total - below[..., :-1]) % 2 == 1
