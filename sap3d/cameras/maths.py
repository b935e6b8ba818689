"""Cameras: the one place where conventions live (see docs/CONVENTIONS.md).

A camera is a vector (elevation, azimuth, radius), angles in radians. It looks at the origin without roll, its vertical
field of view is 49.1°, its images are square. (elevation, azimuth, radius, x, y) is such a camera with the image's
principal point, where it shows the origin, at (x, y) in normalised image coordinates instead of in the middle.
(elevation, azimuth, radius, x, y, roll, field of view) has these two as well: a positive roll turns the camera
counter-clockwise about its viewing axis, as its holder sees it, and so the image clockwise.
World: z up, right-handed. Camera: OpenGL (x right, y up, looks along −z). Pixel centres are at half-integers; the
image's first row is the top. Functions take and return torch tensors, are differentiable, and broadcast over leading
dimensions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# The z-up world → glTF's y-up, homogeneous.
Y_UP = ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, -1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
FIELD_OF_VIEW = math.radians(49.1)  # vertical; Zero-1-to-3's renders (arXiv 2303.11328)
TAN_HALF_FOV = math.tan(FIELD_OF_VIEW / 2)
# Objects lie inside the unit cube and a sphere of radius 0.6; the margin leaves room for errors of the radii.
SCENE_BOUND = 0.65


def camera_axes(cameras: Tensor) -> Tensor:
    """Rotation of each camera, camera to world.

    The formula is analytic in the angles, so it stays smooth over the poles (elevation ±90° and beyond).

    Args:
        cameras: [..., 3], [..., 5] or [..., 7].

    Returns:
        Columns are the camera's right, up and backward axes in the world, [..., 3, 3].
    """
    elevation, azimuth = cameras[..., 0], cameras[..., 1]
    sin_e, cos_e, sin_a, cos_a = elevation.sin(), elevation.cos(), azimuth.sin(), azimuth.cos()
    right = torch.stack([-sin_a, cos_a, torch.zeros_like(sin_a)], -1)
    up = torch.stack([-sin_e * cos_a, -sin_e * sin_a, cos_e], -1)
    backward = torch.stack([cos_e * cos_a, cos_e * sin_a, sin_e], -1)
    if cameras.shape[-1] == 7:
        cos_r, sin_r = cameras[..., 5, None].cos(), cameras[..., 5, None].sin()
        right, up = cos_r * right + sin_r * up, cos_r * up - sin_r * right
    return torch.stack([right, up, backward], -1)


def camera_positions(cameras: Tensor) -> Tensor:
    """Where cameras [..., ≥ 3] stand in the world, [..., 3]."""
    return camera_axes(cameras)[..., 2] * cameras[..., 2:3]


def principal_points(cameras: Tensor) -> Tensor:
    """Normalised image coordinates of the origin, zero for cameras [..., 3]: [..., 2]."""
    return cameras[..., 3:5] if cameras.shape[-1] > 3 else torch.zeros_like(cameras[..., :2])


def half_fov_tangents(cameras: Tensor) -> Tensor | float:
    """tan of half the vertical field of view: [..., 1] of cameras [..., 7], one number for all others."""
    return (cameras[..., 6:7] / 2).tan() if cameras.shape[-1] == 7 else TAN_HALF_FOV


def full_cameras(cameras: Tensor) -> Tensor:
    """Cameras [..., 3], [..., 5] or [..., 7] with all seven numbers, [..., 7]."""
    if cameras.shape[-1] == 7:
        return cameras
    view = torch.tensor([0, FIELD_OF_VIEW], dtype=cameras.dtype, device=cameras.device)
    return torch.cat([cameras[..., :3], principal_points(cameras), view.expand(*cameras.shape[:-1], 2)], -1)


def centred(cameras: Tensor) -> Tensor:
    """Cameras of photos that were moved so that the origin came into the middle (`sap3d.cameras.framing.centre`).

    Of cameras [..., 3] or [..., 5] the first three numbers; [..., 7] stay seven.
    """
    if cameras.shape[-1] < 7:
        return cameras[..., :3]
    return torch.cat([cameras[..., :3], torch.zeros_like(cameras[..., 3:5]), cameras[..., 5:]], -1)


def with_principal_points(cameras: Tensor, of: Tensor) -> Tensor:
    """Inverse of `centred`: `cameras` as of it, with the principal points of cameras `of`, and as many numbers."""
    if of.shape[-1] < 7:
        return torch.cat([cameras, of[..., 3:]], -1)
    return torch.cat([cameras[..., :3], of[..., 3:5], cameras[..., 5:]], -1)


def plain(cameras: Tensor) -> Tensor:
    """Cameras (elevation, azimuth, radius) [..., 3] without roll and of the usual field of view in the place of others.

    They stand where the object looks as large.
    """
    radius = cameras[..., 2:3] * (half_fov_tangents(cameras) / TAN_HALF_FOV)
    return torch.cat([cameras[..., :2], radius], -1)


def upright(cameras: Tensor) -> Tensor:
    """The cameras without their roll, of as many numbers."""
    if cameras.shape[-1] < 7:
        return cameras
    return torch.cat([cameras[..., :5], torch.zeros_like(cameras[..., 5:6]), cameras[..., 6:]], -1)


def sight_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosines of the angles between lines of sight of cameras [..., M, 3] and [..., N, 3]: [..., M, N]."""
    return camera_axes(first)[..., 2] @ camera_axes(second)[..., 2].transpose(-1, -2)


def spherical_to_w2c(cameras: Tensor) -> Tensor:
    """World-to-camera matrices, [..., 3, 4], of cameras (elevation, azimuth, radius, …), [..., ≥ 3]."""
    rotation = camera_axes(cameras).transpose(-1, -2)
    # The camera sits at radius · backward, so the origin lies at (0, 0, −radius) in its frame.
    translation = torch.zeros_like(rotation[..., :1])
    translation[..., 2, 0] = -cameras[..., 2]
    return torch.cat([rotation, translation], -1)


def w2c_to_spherical(w2c: Tensor) -> Tensor:
    """Inverse of `spherical_to_w2c`: [..., 3, 4] → (elevation, azimuth, radius), [..., 3].

    The angles come from the rotation's axes, so they are exact at and beyond the poles; a camera with roll or an
    off-centre view direction is not of this family, and what does not fit is dropped.
    """
    right, up, backward = w2c[..., 0, :3], w2c[..., 1, :3], w2c[..., 2, :3]
    position = -(w2c[..., :3].transpose(-1, -2) @ w2c[..., 3:])[..., 0]
    elevation = torch.atan2(backward[..., 2], up[..., 2])
    return torch.stack([elevation, torch.atan2(-right[..., 0], right[..., 1]), position.norm(dim=-1)], -1)


def w2c_to_rolled(w2c: Tensor, field_of_view: float = FIELD_OF_VIEW) -> Tensor:
    """Inverse of `spherical_to_w2c` for cameras with roll: [..., 3, 4] → [..., 7].

    Rolls are within ±90°, so that elevations may be beyond; at the poles roll and azimuth are one thing.
    """
    right, up, backward = w2c[..., 0, :3], w2c[..., 1, :3], w2c[..., 2, :3]
    position = -(w2c[..., :3].transpose(-1, -2) @ w2c[..., 3:])[..., 0]
    side = torch.where(up[..., 2] < 0, -1.0, 1.0)  # of the poles
    elevation = torch.atan2(backward[..., 2], side * torch.hypot(right[..., 2], up[..., 2]))
    roll = torch.atan2(side * right[..., 2], side * up[..., 2])
    flat = roll.cos()[..., None] * right - roll.sin()[..., None] * up
    azimuth, zero = torch.atan2(-flat[..., 0], flat[..., 1]), torch.zeros_like(roll)
    view = torch.full_like(roll, field_of_view)
    return torch.stack([elevation, azimuth, position.norm(dim=-1), zero, zero, roll, view], -1)


def anchored(cameras: Tensor) -> Tensor:
    """Configurations [..., N, 3] (or more) turned about z so that view 0 is at azimuth 0."""
    azimuths = cameras[..., 1] - cameras[..., :1, 1]
    return torch.cat([cameras[..., :1], azimuths[..., None], cameras[..., 2:]], -1)


def wrap_angle(angle: Tensor) -> Tensor:
    """The same angle in [−π, π]; one that lies there already is returned to the bit."""
    return angle - 2 * math.pi * torch.round(angle / (2 * math.pi))


def relative_pose(source: Tensor, target: Tensor) -> Tensor:
    """Zero-1-to-3's T = [Δpolar, sin Δazimuth, cos Δazimuth, Δradius] from source to target, [..., 4].

    The polar angle is measured from +z, so Δpolar = source elevation − target elevation (arXiv 2303.11328, §3.1). Of
    cameras with roll and field of view it is that of `plain` ones.
    """
    source, target = plain(source), plain(target)
    azimuth = target[..., 1] - source[..., 1]
    return torch.stack(
        [source[..., 0] - target[..., 0], azimuth.sin(), azimuth.cos(), target[..., 2] - source[..., 2]], -1
    )


def pixel_grid(size: int, device=None) -> Tensor:
    """Normalised image coordinates (x right, y up, both in (−1, 1)) of all pixel centres, row by row, [size², 2]."""
    centre = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(-centre, centre, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def rays(cameras: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Rays through image points.

    Args:
        cameras: [..., 3], [..., 5] or [..., 7].
        pixels: normalised image coordinates as of `pixel_grid`, [..., P, 2] (leading dimensions broadcast).

    Returns:
        Origins [..., 1, 3] and directions [..., P, 3]. A direction's component along the viewing axis is 1, so a
        distance along the ray is a depth.
    """
    axes = camera_axes(cameras)
    if cameras.shape[-1] > 3:
        pixels = (pixels - principal_points(cameras)[..., None, :]) * _along_points(half_fov_tangents(cameras))
    else:
        pixels = pixels * TAN_HALF_FOV
    local = torch.cat([pixels, -torch.ones_like(pixels[..., :1])], -1)
    directions = local @ axes.transpose(-1, -2)
    return (axes[..., 2] * cameras[..., 2:3])[..., None, :], directions


def project(cameras: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Project world points.

    Args:
        cameras: [..., 3], [..., 5] or [..., 7].
        points: [..., P, 3].

    Returns:
        Normalised image coordinates (x right, y up; (−1, 1) is inside the image) [..., P, 2] and depths [..., P].
    """
    local = points @ camera_axes(cameras)
    depth = cameras[..., 2:3] - local[..., 2]
    pixels = local[..., :2] / (depth[..., None].clamp(min=1e-3) * _along_points(half_fov_tangents(cameras)))
    return pixels + principal_points(cameras)[..., None, :], depth


def _along_points(tangents: Tensor | float) -> Tensor | float:
    return tangents[..., None, :] if isinstance(tangents, Tensor) else tangents


def sample_images(images: Tensor, cameras: Tensor, points: Tensor) -> Tensor:
    """What images show where world points project to; zero outside.

    Args:
        images: [V, C, S, S], rows from the top.
        cameras: of the images, [V, 3].
        points: [V, ..., 3], or [1, ..., 3] for all.

    Returns:
        [V, C, ...].
    """
    pixels, _ = project(cameras, points.reshape(len(points), -1, 3))
    coordinates = torch.stack([pixels[..., 0], -pixels[..., 1]], -1)[:, None]
    samples = F.grid_sample(images, coordinates, align_corners=False)
    return samples.view(*images.shape[:2], *points.shape[1:-1])


def rotation_angle(rotation: Tensor) -> Tensor:
    """Angle in radians of rotation matrices [..., 3, 3]."""
    skew = torch.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        -1,
    )
    trace = rotation.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.atan2(skew.norm(dim=-1), trace - 1)  # atan2 keeps its accuracy near 0, where acos does not


def pairwise_rotation_errors(estimate: Tensor, truth: Tensor) -> Tensor:
    """Angles in radians between estimated and true relative rotations of all ordered pairs of N ≥ 2 cameras.

    The original's "Rotation Error" is their mean; it does not depend on the azimuth gauge.

    Args:
        estimate, truth: [N, ≥ 3].

    Returns:
        [N · (N − 1)].
    """

    def relative(cameras: Tensor) -> Tensor:
        axes = camera_axes(cameras)
        return axes.transpose(-1, -2)[:, None] @ axes[None]

    angles = rotation_angle(relative(estimate).transpose(-1, -2) @ relative(truth))
    return angles[~torch.eye(len(estimate), dtype=torch.bool)]


def evaluation_grid(reference: Tensor) -> Tensor:
    """The 84 evaluation cameras about a reference camera [≥ 3]: 7 elevation offsets (−45…45°) × 12 azimuths, [84, 3].

    They are `plain`. Row-major in elevation; the radius is the reference's. Elevations may pass the poles:
    `camera_axes` is smooth there.
    """
    reference = plain(reference)
    offsets = torch.deg2rad(torch.arange(-45.0, 46.0, 15.0))
    turns = torch.deg2rad(torch.arange(0.0, 360.0, 30.0))
    elevation, azimuth = torch.meshgrid(reference[0].cpu() + offsets, reference[1].cpu() + turns, indexing="ij")
    return torch.stack([elevation, azimuth, torch.full_like(azimuth, reference[2].item())], -1).reshape(-1, 3)
