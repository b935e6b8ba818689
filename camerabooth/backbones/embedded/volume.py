"""A volume in the world: sources lifted once into a grid about the object, completed, and rendered to any target.

Source features are looked up at every node of a coarse grid and fused over any number of sources; a 3-D U-Net fills in
what no source saw and says density, colour and features on a finer grid, and how much each source's own colours count
at a point: `blended`.
After GeNVS (arXiv 2304.02602), with the fusion of sources by mean and variance as in multi-view stereo.

The grid's frame is the first source's: its azimuth is 0 there. Geometry is computed in float32, and only what
convolutions and linear layers do under autocast: bf16 would lose half a pixel.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camerabooth.backbones.embedded.layers import ChannelNorm, Residual
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND
from sap3d.field import grid as grids
from sap3d.imagenet import CHANNELS as IMAGENET_CHANNELS
from sap3d.imagenet import imagenet_features
from sap3d.runs.devices import autocast

VARIANCES = 16  # feature channels whose variance over the sources enters the volume
GEOMETRY = 8  # numbers that describe how a source sees a point, see `_sight`
KEYS = 16  # channels in which a point's wish for a source and the source's view of it are compared
SATURATED = 0.02  # how near to 0 and 1 colours of a raw grid come
BORDER = 0.1  # width of the ramp at a source image's border, in normalised image coordinates


@dataclass
class Lifted:
    """Sources of B objects, fused and completed."""

    volume: Tensor  # what the U-Net says at the nodes of the coarse grid, [B, C, G, G, G]
    keys: Tensor  # how each source sees these, to be compared with what is wished for there, [B, N, G, G, G, KEYS]
    azimuth: Tensor  # of the first source, by which the grid's frame is turned against the world, [B]
    images: Tensor  # sources in [−1, 1], [B, N, 4, S, S]
    cameras: Tensor  # theirs, in the grid's frame, [B, N, ≥ 3]


@dataclass
class Field:
    """What is known of B objects: grids over the cube of half side SCENE_BOUND, cell-centred, indexed z, y, x."""

    density: Tensor  # before activation, [B, 1, R, R, R]
    values: Tensor  # own colour in [0, 1], its logit beside the sources', features, [B, 3 + 1 + C, R, R, R]
    azimuth: Tensor  # of the first source, by which the grid's frame is turned against the world, [B]
    wish: Tensor  # how much each source is wished for at the nodes of the coarse grid, logits [B, N, G, G, G]
    images: Tensor  # sources in [−1, 1], [B, N, 4, S, S]
    cameras: Tensor  # theirs, in the grid's frame, [B, N, ≥ 3]


class SourceEncoder(nn.Module):
    """Images [B, 4, S, S] in [−1, 1] → features [B, channels, S/4, S/4].

    ImageNet's features are added at its coarsest scale: they say what kind of thing an image shows.
    """

    def __init__(self, channels: int, widths: tuple[int, int, int]):
        super().__init__()
        fine, middle, coarse = widths
        self.stem = nn.Conv2d(16, fine, 3, padding=1)
        self.fine = Residual(2, fine, fine)
        self.to_middle = nn.Conv2d(fine, middle, 2, stride=2)
        self.middle = nn.Sequential(Residual(2, middle, middle), Residual(2, middle, middle))
        self.to_coarse = nn.Conv2d(middle, coarse, 2, stride=2)
        self.known = nn.ModuleList(
            nn.Sequential(ChannelNorm(known), nn.Conv2d(known, coarse, 1)) for known in IMAGENET_CHANNELS
        )
        for _, layer in self.known:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.coarse = nn.Sequential(Residual(2, coarse, coarse), Residual(2, coarse, coarse))
        self.from_coarse = nn.Conv2d(coarse, middle, 1)
        self.merge = Residual(2, 2 * middle, middle)
        self.out = nn.Sequential(ChannelNorm(middle), nn.SiLU(), nn.Conv2d(middle, channels, 1))

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(self.stem(F.pixel_unshuffle(images, 2).contiguous(memory_format=torch.channels_last)))
        middle = self.middle(self.to_middle(fine))
        coarse = self.to_coarse(middle)
        for add, found in zip(self.known, imagenet_features(images[:, :3] / 2 + 0.5), strict=True):
            coarse = coarse + F.interpolate(add(found), size=coarse.shape[-2:], mode="bilinear")
        coarse = self.from_coarse(self.coarse(coarse))
        return self.out(self.merge(torch.cat([F.interpolate(coarse, scale_factor=2), middle], 1)))


class VolumeUNet(nn.Module):
    """[B, C, G, G, G] → [B, widths[0], G, G, G]; each width but the first halves G, down to 3 or more.

    (oneDNN's bf16 weight gradients of convolutions over 2³ voxels are wrong.)
    """

    def __init__(self, channels_in: int, widths: tuple[int, ...]):
        super().__init__()
        self.stem = nn.Conv3d(channels_in, widths[0], 3, padding=1)
        pairs = list(zip(widths, widths[1:]))
        self.down = nn.ModuleList(Residual(3, width, width) for width in widths[:-1])
        self.shrink = nn.ModuleList(nn.Conv3d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.bottom = nn.Sequential(Residual(3, widths[-1], widths[-1]), Residual(3, widths[-1], widths[-1]))
        self.grow = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairs)
        self.up = nn.ModuleList(Residual(3, 2 * width, width) for width in widths[:-1])

    def forward(self, volume: Tensor) -> Tensor:
        x, skips = self.stem(volume), []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x)
            skips.append(x)
            x = shrink(x)
        x = self.bottom(x)
        for block, grow, skip in zip(reversed(self.up), reversed(self.grow), reversed(skips), strict=True):
            x = block(torch.cat([F.interpolate(grow(x), scale_factor=2), skip], 1))
        return x


class Volume(nn.Module):
    """Sources and their features → Field.

    Args:
        channels: of the source features.
        widths: of the U-Net, from fine to coarse.
        resolution: nodes a side of the coarse grid; the field has twice as many.
        features: channels that the field has beside density and colour.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], resolution: int, features: int):
        super().__init__()
        self.resolution = resolution
        self.geometry = nn.Linear(GEOMETRY, channels)
        self.score = nn.Linear(channels, 1)
        self.unet = VolumeUNet(channels + VARIANCES + 6 + 4, widths)
        self.query = nn.Conv3d(widths[0], KEYS, 1)
        self.key = nn.Sequential(nn.Linear(GEOMETRY, 2 * KEYS), nn.SiLU(), nn.Linear(2 * KEYS, KEYS))
        self.head_norm = ChannelNorm(widths[0])
        self.head = nn.Conv3d(widths[0], 8 * (1 + 3 + 1), 3, padding=1)
        self.feature_head = nn.Conv3d(widths[0], 8 * features, 3, padding=1)

    def forward(
        self,
        images: Tensor,
        cameras: Tensor,
        features: Tensor,
        with_features: bool = True,
        instance: Tensor | None = None,
    ) -> Field:
        """Fuse, complete and say what is there: `lift`, then `field`.

        Args:
            images: sources in [−1, 1], [B, N, 4, S, S]; cameras: theirs, [B, N, ≥ 3].
            features: of the sources, [B, N, C, s, s].
        """
        return self.field(self.lift(images, cameras, features), with_features, instance)

    def lift(self, images: Tensor, cameras: Tensor, features: Tensor) -> Lifted:
        """Fuse what the sources show at each node, and complete it."""
        azimuth = cameras[:, 0, 1]
        cameras = turned(cameras, azimuth)
        pixels, sight = _sight(cameras, grid_points(self.resolution, cameras))
        looked_up, colours = look_up(features, pixels), look_up(images, pixels)  # [B, N, C | 4, P]
        with autocast(images.device):
            hidden = F.silu(looked_up + self.geometry(sight).transpose(-1, -2))
            volume = self.unet(self._fuse(hidden, colours, sight))
            keys = self.key(sight).unflatten(2, (self.resolution,) * 3)
        return Lifted(volume, keys, azimuth, images, cameras)

    def field(self, lifted: Lifted, with_features: bool = True, instance: Tensor | None = None) -> Field:
        """What is where.

        Args:
            with_features: whether the field has more than density and colour.
            instance: what else is known of the object, in the world's frame, [widths[0], R, R, R]; it is added to what
                the U-Net says.
        """
        volume = lifted.volume
        with autocast(volume.device):
            if instance is not None:
                volume = volume + self._in_grid_frame(instance, lifted.azimuth)
            heads = F.silu(self.head_norm(volume))
            raw = _shuffle(self.head(heads))
            extra = _shuffle(self.feature_head(heads)) if with_features else raw[:, :0]
            wish = torch.einsum("bkzyx,bnzyxk->bnzyx", self.query(volume), lifted.keys)
        density, own, own_logit = raw.float().split([1, 3, 1], 1)
        values = torch.cat([own.sigmoid(), own_logit, extra.float()], 1)
        values = values.contiguous(memory_format=torch.channels_last_3d)
        return Field(density, values, lifted.azimuth, wish.float(), lifted.images, lifted.cameras)

    def _fuse(self, hidden: Tensor, colours: Tensor, sight: Tensor) -> Tensor:
        """Score-weighted mean and variance over the sources, what all silhouettes say, and where each point lies."""
        batch, views = hidden.shape[:2]
        points = grid_points(self.resolution, colours)
        # A point outside a source's image is unlikely to be its business.
        scores = torch.einsum("bncp,oc->bnp", hidden, self.score.weight.to(hidden.dtype)).float()
        within = sight[..., 0]
        weights = (scores + (within - 1) * 4).softmax(1)[:, :, None].to(hidden.dtype)
        mean = (weights * hidden).sum(1)
        variance = (weights * (hidden[:, :, :VARIANCES] - mean[:, None, :VARIANCES]).square()).sum(1)
        alpha = (colours[:, :, 3] / 2 + 0.5) * within + (1 - within)
        common = torch.cat(
            [
                (weights * colours).sum(1),
                alpha.amin(1)[:, None],
                torch.full_like(alpha[:, :1], math.log(views)),
                points.T[None].expand(batch, -1, -1) / SCENE_BOUND,
                points[:, :2].norm(dim=-1).expand(batch, 1, -1) / SCENE_BOUND,
            ],
            1,
        )
        fused = torch.cat([mean, variance, common.to(mean.dtype)], 1)
        fused = fused.unflatten(-1, (self.resolution,) * 3)
        return fused.contiguous(memory_format=torch.channels_last_3d)

    def _in_grid_frame(self, instance: Tensor, azimuth: Tensor) -> Tensor:
        """A volume of the world in the grid's frames, which are turned by azimuths [B], [B, C, G, G, G]."""
        points = grid_points(self.resolution, azimuth)
        cos, sin = azimuth.cos()[:, None], azimuth.sin()[:, None]
        x, y, z = points.T
        world = torch.stack([cos * x - sin * y, sin * x + cos * y, z.expand(len(azimuth), -1)], -1)
        values = sample_grid(instance[None].expand(len(azimuth), -1, -1, -1, -1), world)
        return values.transpose(1, 2).unflatten(-1, (self.resolution,) * 3)


def turned(cameras: Tensor, azimuth: Tensor) -> Tensor:
    """Cameras [B, N, ≥ 3] in a frame that is turned by azimuths [B] about z."""
    return torch.cat([cameras[..., :1], cameras[..., 1:2] - azimuth[:, None, None], cameras[..., 2:]], -1)


def grid_points(resolution: int, like: Tensor) -> Tensor:
    """Centres of a grid's cells, x fastest, [R³, 3]."""
    counted = torch.arange(resolution, device=like.device, dtype=like.dtype)
    centres = ((counted + 0.5) / resolution * 2 - 1) * SCENE_BOUND
    z, y, x = torch.meshgrid(centres, centres, centres, indexing="ij")
    return torch.stack([x, y, z], -1).reshape(-1, 3)


def sample_grid(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear values of a cell-centred grid [B, C, R, R, R] at points [B, P, 3] of its frame, [B, P, C]."""
    resolution = grid.shape[-1]
    # `grids.sample` counts from the centres of the outermost nodes.
    return grids.sample(grid, points * (resolution / (resolution - 1)))


def blended(field: Field, points: Tensor, own: Tensor, own_logit: Tensor) -> Tensor:
    """Colours at points of the grid's frame: the sources' and the network's own, weighted by a softmax over them.

    Args:
        points: [B, P, 3]; own: the network's colours there in [0, 1], [B, P, 3]; own_logit: [B, P, 1].

    Returns:
        [B, P, 3] in [0, 1].
    """
    pixels, logits = source_logits(field, points)
    colours = look_up(field.images[:, :, :3], pixels) / 2 + 0.5
    weights = torch.cat([logits, own_logit.transpose(1, 2)], 1).softmax(1)
    return (weights[:, :-1, None] * colours).sum(1).transpose(1, 2) + weights[:, -1, :, None] * own


def raw_grid(field: Field, resolution: int) -> Tensor:
    """One object's field as `sap3d.field.grid` has it, in the world's frame: [4, R, R, R], corner-aligned nodes."""
    axis = torch.linspace(-SCENE_BOUND, SCENE_BOUND, resolution, device=field.density.device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    cos, sin = field.azimuth.cos(), field.azimuth.sin()
    points = torch.stack([cos * x + sin * y, cos * y - sin * x, z], -1).view(1, -1, 3)
    values = sample_grid(field.values, points)
    colour = blended(field, points, values[..., :3], values[..., 3:4])[0]
    raw = torch.cat([sample_grid(field.density, points)[0], colour.logit(SATURATED)], -1)
    return raw.T.unflatten(-1, (resolution,) * 3)


def source_logits(field: Field, points: Tensor) -> tuple[Tensor, Tensor]:
    """Where each source sees points [B, P, 3] of the grid's frame, and how much it is wished for there.

    Returns:
        Normalised image coordinates [B, N, P, 2], and logits [B, N, P], lower where a point is outside the image.
    """
    pixels, _ = cam.project(field.cameras, points[:, None].expand(-1, field.cameras.shape[1], -1, -1))
    return pixels, sample_grid(field.wish, points).transpose(1, 2) + (inside(pixels) - 1) * 4


def inside(pixels: Tensor) -> Tensor:
    """1 within an image, 0 outside; a ramp, not a step: a point that leaves it must not make a loss jump."""
    return ((1 - pixels.abs().amax(-1)) / BORDER).clamp(0, 1)


def _sight(cameras: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """How each source sees points [P, 3].

    Returns:
        Normalised image coordinates [B, N, P, 2], and [B, N, P, 8]: whether the image contains the point, its depth
        relative to the camera's distance, the direction to the camera, and the camera's height and nearness.
    """
    pixels, depth = cam.project(cameras, points.expand(*cameras.shape[:2], -1, -1))
    towards = F.normalize(cam.camera_positions(cameras)[:, :, None] - points, dim=-1)
    relative = (depth - cameras[..., 2:3]) / SCENE_BOUND
    size = 1 / (cameras[..., 2:3] * cam.half_fov_tangents(cam.full_cameras(cameras)))  # half images a world unit
    whole = torch.cat([cameras[..., :1].sin(), cameras[..., :1].cos(), size - 1.2], -1)[:, :, None]
    parts = [inside(pixels)[..., None], relative[..., None], towards, whole.expand(-1, -1, len(points), -1)]
    return pixels, torch.cat(parts, -1)


def look_up(maps: Tensor, pixels: Tensor) -> Tensor:
    """Maps [B, N, C, s, s] at normalised image coordinates [B, N, P, 2]: [B, N, C, P]."""
    where = (pixels * pixels.new_tensor([1.0, -1.0]))[:, :, None].flatten(0, 1)
    values = F.grid_sample(maps.flatten(0, 1).float(), where, align_corners=False, padding_mode="border")
    return values[:, :, 0].unflatten(0, maps.shape[:2])


def _shuffle(x: Tensor) -> Tensor:
    """[B, 8 · C, G, G, G] → [B, C, 2G, 2G, 2G]."""
    x = x.unflatten(1, (-1, 2, 2, 2)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)
