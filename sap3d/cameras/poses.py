"""The poses.json that stages hand on: one or several ranked camera configurations.

Its cameras have principal points (x, y) where photos show the object beside the middle: stages after the first move
such photos (`sap3d.cameras.framing.centre`), and their cameras look at the origin. They have roll and field of view
where these are not taken to be none and the usual one.
"""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from sap3d.cameras.maths import TAN_HALF_FOV, centred, half_fov_tangents, principal_points, wrap_angle
from sap3d.errors import UserError
from sap3d.files import write_json

COLUMNS = ["elevation_deg", "azimuth_deg", "radius", "x", "y", "roll_deg", "fov_deg"]
NUMBERS = (3, 5, 7)  # of the columns that a file may have
DOUBTFUL = 0.75  # of `confidence`: of views that are less sure, more than one in four is off by more than 15°
LEFT_OUT = "left_out"  # views that stages after the first leave out; their cameras stay in the file
SYMMETRY = "symmetry"  # of the object, as stage 1 takes it: {"order": n, …}
UNITS = torch.tensor(
    [180 / math.pi, 180 / math.pi, 1.0, 1.0, 1.0, 180 / math.pi, 180 / math.pi]
)  # in those of the code
MAX_ROLL = math.radians(60)
# Lower and upper bounds of cameras while they are refined; radii are those of `plain` cameras.
LOWEST = (math.radians(-30), -math.inf, 1.2, -math.inf, -math.inf, -MAX_ROLL, 0.0)
HIGHEST = (math.radians(88), math.inf, 2.6, math.inf, math.inf, MAX_ROLL, math.pi)


def write_poses(path: Path, configurations: Tensor, scores: list[float], **extra: object) -> None:
    """Write ranked camera configurations, best first; angles are written in degrees, azimuths from −180 to 180.

    Args:
        configurations: (elevation, azimuth, radius), [K, N, 3], each with view 0's azimuth 0; or [K, N, 5], [K, N, 7].
        scores: K scores, lower is better.
        extra: further JSON-serialisable evidence, written as it is.
    """
    columns = COLUMNS[: configurations.shape[-1]]
    configurations = configurations.detach().cpu().clone()
    configurations[..., 1] = wrap_angle(configurations[..., 1])
    hypotheses = [
        {"score": score, "cameras": (configuration * UNITS[: len(columns)]).double().tolist()}
        for configuration, score in zip(configurations, scores, strict=True)
    ]
    write_json(path, {"columns": columns, "hypotheses": hypotheses, **extra})


def _read_content(path: Path) -> dict:
    """The file as it is.

    Raises:
        UserError: no such file, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no poses; run the stage before this one") from None
    except ValueError as error:
        raise UserError(f"{path}: not a pose file ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a pose file (no JSON object)")
    return content


def read_pose_hypotheses(path: Path, views: int) -> tuple[Tensor, list[float]]:
    """Read what `write_poses` wrote: cameras [K, N, 3], [K, N, 5] or [K, N, 7] in radians, and their scores.

    Raises:
        UserError: no such file, malformed, or another number of views.
    """
    content = _read_content(path)
    try:
        configurations = torch.tensor([h["cameras"] for h in content["hypotheses"]])
        scores = [float(h["score"]) for h in content["hypotheses"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a pose file ({error})") from error
    if configurations.ndim != 3 or configurations.shape[2] not in NUMBERS:
        raise UserError(f"{path}: not a pose file (no cameras)")
    if configurations.shape[1] != views:
        raise UserError(f"{path}: poses of {configurations.shape[1]} views, not {views}")
    if not configurations.isfinite().all() or (configurations[..., 2] <= 0).any():
        raise UserError(f"{path}: a camera is not finite, or its radius not above 0")
    return configurations / UNITS[: configurations.shape[2]], scores


def read_best_poses(path: Path, views: int) -> Tensor:
    """The best configuration of a poses.json, [N, 3] or [N, 7] in radians, of the kept photos, moved by
    `read_middles`."""
    return centred(read_pose_hypotheses(path, views)[0][0])[read_kept(path, views)]


def read_middles(path: Path, views: int) -> Tensor:
    """Where the best configuration's kept photos show the object's middle, normalised image coordinates, [N, 2]."""
    return principal_points(read_pose_hypotheses(path, views)[0][0])[read_kept(path, views)]


def read_kept(path: Path, views: int) -> list[int]:
    """The views that are not left out.

    Raises:
        UserError: no such file, or malformed.
    """
    left_out = read_left_out(path)
    kept = [view for view in range(views) if view not in left_out]
    if not kept:
        raise UserError(f"{path}: not a pose file ({LEFT_OUT} are all views)")
    return kept


def read_left_out(path: Path) -> list[int]:
    """The views that later stages leave out.

    Raises:
        UserError: no such file, or malformed.
    """
    left_out = _read_content(path).get(LEFT_OUT, [])
    if not isinstance(left_out, list) or not all(isinstance(view, int) for view in left_out):
        raise UserError(f"{path}: not a pose file ({LEFT_OUT} is {left_out})")
    return left_out


def read_symmetry_order(path: Path) -> int:
    """Order of the rotational symmetry that the object is taken to have (`sap3d.cameras.symmetry`); 1 if none is named.

    Raises:
        UserError: no such file, or malformed.
    """
    found = _read_content(path).get(SYMMETRY, {})
    order = found.get("order", 1) if isinstance(found, dict) else None
    if not isinstance(order, int) or order < 1:
        raise UserError(f"{path}: not a pose file ({SYMMETRY} is {found})")
    return order


class PoseTable(torch.nn.Module):
    """Cameras to be optimised: bounded elevations, radii and rolls, and a fixed azimuth (the gauge).

    Args:
        cameras: where they start, (elevation, azimuth, radius) in radians, [N, 3], or [N, 7]; fields of view and
            principal points stay as they are.
        anchored: whether view 0's azimuth is the fixed one, or else the views' mean. A field holds all views where they
            are, so beside one an anchored view 0 that is wrong stays wrong: all others would have to turn with it.
    """

    def __init__(self, cameras: Tensor, anchored: bool = True):
        super().__init__()
        self.anchored = anchored
        cameras = cameras.detach().clone()
        self.register_buffer("initial", cameras)
        bounds = (torch.tensor(bound)[: cameras.shape[1]].to(cameras) for bound in (LOWEST, HIGHEST))
        low, high = (bound.repeat(len(cameras), 1) for bound in bounds)
        for bound in (low, high):
            bound[:, 2:3] *= TAN_HALF_FOV / half_fov_tangents(cameras)
        # Cameras may start outside the bounds; these only hold back the refinement.
        self.register_buffer("low", torch.minimum(low, cameras))
        self.register_buffer("high", torch.maximum(high, cameras))
        free = torch.ones_like(cameras)
        free[0, 1] = not anchored
        free[:, 3:5] = free[:, 6:] = 0
        self.register_buffer("free", free)
        self.offsets = torch.nn.Parameter(torch.zeros_like(cameras))

    def forward(self) -> Tensor:
        """Current cameras, differentiable, as many numbers as at the start."""
        return self.initial + self.offsets * self.free

    @torch.no_grad()
    def project(self) -> None:
        """Bring the cameras back into the bounds, and their mean radius (and, where view 0 is not anchored, azimuth) to
        the initial one; call it after each step.

        The object's size and its distance are nearly the same thing in an image, so together they would drift.
        """
        self.offsets[:, 2] -= self.offsets[:, 2].mean()
        if not self.anchored:
            self.offsets[:, 1] -= self.offsets[:, 1].mean()
        self.offsets.copy_((self.initial + self.offsets).clamp(self.low, self.high) - self.initial)

    @torch.no_grad()
    def cameras(self) -> Tensor:
        """Cameras with azimuths in [−π, π), outside any graph, on the CPU."""
        cameras = self().detach().cpu().clone()
        cameras[:, 1] = wrap_angle(cameras[:, 1])
        return cameras
