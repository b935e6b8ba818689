"""Renders of textured meshes on a card: what dataset/render.py draws, rasterised in plain torch.

Of every triangle in every view, each pixel of its bounding box is tested at once; of those inside, the nearest wins by
an atomic minimum. An object of a thousand faces in sixteen views takes a card two milliseconds.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset.render import SHADOW_OFFSET, Lighting, Surface
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND

CANDIDATES = 1 << 25  # pixels of bounding boxes that are tested at once
NOTHING = torch.iinfo(torch.int64).max
SHADOW_SIDE = 512  # of the first light's depth image, pixels
SHADOW_BIAS = 0.006  # world units that a surface lies behind itself at most in that image
FAR = 50.0  # where a light without a place stands


class Rasteriser:
    """One mesh's renders, on the device of `surface`'s arrays.

    Args:
        surface: `arrays` of a textured `dataset.render.Surface`, as tensors.
    """

    def __init__(self, surface: dict[str, Tensor]):
        self.surface = surface
        self.faces = surface["faces"].long()
        self.device = self.faces.device

    def render(self, cameras: Tensor, size: int, supersample: int, lighting: Lighting) -> Tensor:
        """As `Renderer.render`: uint8 RGBA with straight alpha, [V, size, size, 4], of cameras [V, 7]."""
        side = size * supersample
        index, face, depth, weights = self._hits(cameras, side)
        samples = torch.zeros(len(cameras) * side**2, 4, device=self.device)
        tangents = cam.half_fov_tangents(cameras)[index // side**2, 0]
        positions = cam.camera_positions(cameras)[index // side**2]
        footprint = depth * tangents * (2 / size)
        samples[index, :3] = self._shade(face, weights, positions, footprint, lighting)
        samples[index, 3] = 1
        premultiplied = samples.view(len(cameras), size, supersample, size, supersample, 4).mean((2, 4))
        alpha = premultiplied[..., 3:]
        straight = torch.cat([premultiplied[..., :3] / alpha.clamp(min=1e-6), alpha], -1)
        return (straight * 255 + 0.5).clamp(0, 255).byte()

    def depth(self, cameras: Tensor, size: int) -> Tensor:
        """As `Renderer.depth`: [V, size, size], infinite where nothing is hit."""
        index, _, depth, _ = self._hits(cameras, size)
        image = torch.full((len(cameras) * size**2,), torch.inf, device=self.device)
        image[index] = depth
        return image.view(len(cameras), size, size)

    def _hits(self, cameras: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What side² rays a camera hit first.

        Returns:
            index of the H rays that hit, their faces, depths [H], and weights of the faces' corners, [H, 3].
        """
        pixels, depths = cam.project(cameras, self.surface["vertices"])
        # In units of pixels, so that their centres lie at whole numbers.
        corners = ((pixels * pixels.new_tensor([1, -1]) + 1) * (side / 2) - 0.5)[:, self.faces]  # [V, F, 3, 2]
        depths = depths[:, self.faces]
        nearest = self._nearest(corners.flatten(0, 1), depths.flatten(0, 1), side, len(cameras))
        index = (nearest != NOTHING).nonzero()[:, 0]
        face = nearest[index] & 0xFFFFFFFF
        pair = index // side**2 * len(self.faces) + face
        x, y = index % side, index // side % side
        flat, inverse = _barycentric(corners.flatten(0, 1)[pair], x, y), 1 / depths.flatten(0, 1)[pair]
        depth = 1 / (flat * inverse).sum(-1)
        return index, face, depth, flat * inverse * depth[:, None]

    def _nearest(self, corners: Tensor, depths: Tensor, side: int, views: int) -> Tensor:
        """Each pixel's nearest triangle: bits of its depth, then its face's index, int64 [V · side²].

        Args:
            corners: [V · F, 3, 2], in pixels; depths: theirs, [V · F, 3].
        """
        nearest = torch.full((views * side**2,), NOTHING, device=self.device)
        low = corners.amin(1).ceil().clamp(min=0)
        extent = (corners.amax(1).floor().clamp(max=side - 1) - low + 1).clamp(min=0).long()
        shown = (extent.prod(-1) > 0).nonzero()[:, 0]
        low, extent = low.long()[shown], extent[shown]
        counts = extent.prod(-1)
        ends = counts.cumsum(0)
        total = int(ends[-1]) if len(ends) else 0
        steps = torch.arange(CANDIDATES, total + CANDIDATES, CANDIDATES, device=self.device)
        start = 0
        for end in (torch.searchsorted(ends, steps) + 1).clamp(max=len(ends)).tolist():
            chosen = torch.arange(start, end, device=self.device)
            which = chosen.repeat_interleave(counts[start:end])
            before = ends[start] - counts[start] if start < end else 0
            place = torch.arange(len(which), device=self.device) + before - (ends - counts)[which]
            x, y = low[which, 0] + place % extent[which, 0], low[which, 1] + place // extent[which, 0]
            pair = shown[which]
            flat = _barycentric(corners[pair], x, y)
            inside = (flat >= 0).all(-1).nonzero()[:, 0]
            pair, x, y = pair[inside], x[inside], y[inside]
            depth = 1 / (flat[inside] / depths[pair]).sum(-1)
            # A positive float's bits are ordered as it is.
            key = depth.view(torch.int32).long() << 32 | pair % len(self.faces)
            target = pair // len(self.faces) * side**2 + y * side + x
            nearest.scatter_reduce_(0, target, key, "amin")
            start = end
        return nearest

    def _interpolate(self, corners: Tensor, face: Tensor, weights: Tensor) -> Tensor:
        """Values [3, F, C] at H hits, [H, C]."""
        return sum(weights[:, i, None] * corners[i, face] for i in range(3))

    def _shade(self, face: Tensor, weights: Tensor, positions: Tensor, footprint: Tensor, lighting: Lighting) -> Tensor:
        """Colours in [0, 1] of H hits, [H, 3], as `Renderer` shades them."""
        surface = self.surface
        level = (surface["density"][face] * footprint).clamp(min=1).log2()
        albedo = self._texture(
            surface["face_texture"][face].long(), self._interpolate(surface["uv"], face, weights), level
        )
        normals = F.normalize(self._interpolate(surface["normals"], face, weights), dim=-1)
        points = self._interpolate(surface["vertices"][self.faces].movedim(1, 0), face, weights)
        view = F.normalize(points - positions, dim=-1)
        normals = torch.where((normals * view).sum(-1, keepdim=True) > 0, -normals, normals)
        directions = torch.as_tensor(lighting.directions, dtype=torch.float32, device=self.device).view(-1, 3)
        lights = F.normalize(directions, dim=-1).expand(len(points), -1, -1)
        if math.isfinite(lighting.distance):
            lights = F.normalize(lights * lighting.distance - points[:, None], dim=-1)
        intensities = torch.as_tensor(lighting.intensities, dtype=torch.float32, device=self.device)
        intensities = intensities.expand(len(points), -1)
        if lighting.shadow > 0:
            shaded = self._shaded(points + float(SHADOW_OFFSET) * normals, lighting)
            first = intensities[:, :1] * (1 - lighting.shadow * shaded[:, None])
            intensities = torch.cat([first, intensities[:, 1:]], 1)
        half_lambert = (((normals[:, None] * lights).sum(-1) + 1) / 2).square()
        colour = albedo * (lighting.ambient + (half_lambert * intensities).sum(1, keepdim=True))
        if lighting.specular > 0:
            mirrored = view - 2 * (view * normals).sum(-1, keepdim=True) * normals
            cosines = (mirrored[:, None] * lights).sum(-1).clamp(min=0)
            colour = colour + lighting.specular * (cosines**lighting.shininess * intensities).sum(1, keepdim=True)
        return colour.clamp(0, 1)

    def _shaded(self, points: Tensor, lighting: Lighting) -> Tensor:
        """Which points [H, 3] the object hides from the first light, by that light's depth image; 0 or 1, [H]."""
        light = _light_camera(lighting).to(self.device)
        image = self.depth(light, SHADOW_SIDE)[0]
        pixels, depth = cam.project(light, points[None])
        where = ((pixels[0] * pixels.new_tensor([1, -1]) + 1) * (SHADOW_SIDE / 2)).long().clamp(0, SHADOW_SIDE - 1)
        return (image[where[:, 1], where[:, 0]] < depth[0] - SHADOW_BIAS).float()

    def _texture(self, texture: Tensor, uv: Tensor, level: Tensor) -> Tensor:
        """As `Textures.sample`."""
        surface = self.surface
        first, last = surface["first"].long()[texture], surface["last"].long()[texture]
        offset, width, height = surface["sizes"].long()[torch.minimum(first + level.round().long(), last)].unbind(-1)
        x = (uv[:, 0] - uv[:, 0].floor()) * width - 0.5
        y = (1 - (uv[:, 1] - uv[:, 1].floor())) * height - 0.5
        left, top = x.floor(), y.floor()
        fx, fy = (x - left)[:, None], (y - top)[:, None]
        columns = (left.long() % width, (left.long() + 1) % width)
        rows = (offset + top.long() % height * width, offset + (top.long() + 1) % height * width)

        def texels(row: int, column: int) -> Tensor:
            return surface["texels"][rows[row] + columns[column]].float()

        upper = texels(0, 0) * (1 - fx) + texels(0, 1) * fx
        lower = texels(1, 0) * (1 - fx) + texels(1, 1) * fx
        return (upper * (1 - fy) + lower * fy) / 255


def arrays(surface: Surface) -> dict[str, np.ndarray]:
    """What `Rasteriser` needs of a textured surface."""
    textures = surface.textures
    return {
        "vertices": surface.vertices,
        "faces": surface.faces,
        "normals": surface.normals,
        "uv": surface.uv,
        "face_texture": surface.face_texture,
        "density": surface.texel_density,
        "texels": textures.flat,
        "sizes": textures.sizes,
        "first": textures.first,
        "last": textures.last,
    }


def _barycentric(corners: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Weights of the corners [K, 3, 2] of K triangles at pixels [K], [K, 3]; nowhere inside of one without area."""
    dx, dy = (corners[..., 0] - x[:, None]).unbind(-1), (corners[..., 1] - y[:, None]).unbind(-1)
    areas = torch.stack([dx[(i + 1) % 3] * dy[(i + 2) % 3] - dx[(i + 2) % 3] * dy[(i + 1) % 3] for i in range(3)], -1)
    whole = areas.sum(-1, keepdim=True)
    return torch.where(whole == 0, -1.0, areas / whole)


def _light_camera(lighting: Lighting) -> Tensor:
    """A camera at the first light that sees the whole scene, [1, 7]."""
    x, y, z = (lighting.directions[0] / np.linalg.norm(lighting.directions[0])).tolist()
    distance = lighting.distance if math.isfinite(lighting.distance) else FAR
    view = 2 * math.asin(min(1.0, SCENE_BOUND / distance))
    return torch.tensor([[math.asin(z), math.atan2(y, x), distance, 0, 0, 0, view]])
