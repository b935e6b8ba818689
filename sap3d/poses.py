"""The poses.json that stages hand on: one or several ranked camera configurations."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from sap3d.errors import UserError
from sap3d.files import write_json


def write_poses(path: Path, configurations: Tensor, scores: list[float], **extra: object) -> None:
    """Write ranked camera configurations, best first; angles are written in degrees.

    Args:
        configurations: (elevation, azimuth, radius), [K, N, 3], each with view 0's azimuth 0.
        scores: K scores, lower is better.
        extra: further JSON-serialisable evidence, written as it is.
    """
    unit = torch.tensor([180 / math.pi, 180 / math.pi, 1.0])
    hypotheses = [
        {"score": score, "cameras": (configuration.detach().cpu() * unit).double().tolist()}
        for configuration, score in zip(configurations, scores, strict=True)
    ]
    write_json(path, {"columns": ["elevation_deg", "azimuth_deg", "radius"], "hypotheses": hypotheses, **extra})


def read_pose_hypotheses(path: Path, views: int) -> tuple[Tensor, list[float]]:
    """Read what `write_poses` wrote: cameras [K, N, 3] in radians and their scores.

    Raises:
        UserError: no such file, malformed, or another number of views.
    """
    try:
        content = json.loads(path.read_text())
        configurations = torch.tensor([h["cameras"] for h in content["hypotheses"]])
        scores = [float(h["score"]) for h in content["hypotheses"]]
    except FileNotFoundError:
        raise UserError(f"{path}: no poses; run the stage before this one") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a pose file ({error})") from error
    if configurations.ndim != 3 or configurations.shape[2] != 3:
        raise UserError(f"{path}: not a pose file (no cameras)")
    if configurations.shape[1] != views:
        raise UserError(f"{path}: poses of {configurations.shape[1]} views, not {views}")
    return configurations * torch.tensor([math.pi / 180, math.pi / 180, 1.0]), scores


def read_best_poses(path: Path, views: int) -> Tensor:
    """The best configuration of a poses.json, [N, 3] in radians."""
    return read_pose_hypotheses(path, views)[0][0]


ELEVATION_BOUNDS = (math.radians(-30), math.radians(80))
RADIUS_BOUNDS = (1.2, 2.6)


class PoseTable(torch.nn.Module):
    """Cameras to be optimised: bounded elevations and radii, view 0's azimuth fixed (the gauge).

    Args:
        initial: cameras (elevation, azimuth, radius) in radians, [N, 3].
    """

    def __init__(self, initial: Tensor):
        super().__init__()
        self.register_buffer("initial", initial.detach().clone())
        free = torch.ones_like(initial)
        free[0, 1] = 0
        self.register_buffer("free", free)
        self.offsets = torch.nn.Parameter(torch.zeros_like(initial))

    def forward(self) -> Tensor:
        """Current cameras, [N, 3]."""
        return self.initial + self.offsets * self.free

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring elevations and radii back within their bounds; call it after each optimiser step."""
        cameras = self()
        cameras[:, 0].clamp_(*ELEVATION_BOUNDS)
        cameras[:, 2].clamp_(*RADIUS_BOUNDS)
        self.offsets.copy_(cameras - self.initial)
