"""The input photos as batches of random rays, coarse to fine."""

from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from sap3d import images
from sap3d.cameras import maths as cam
from sap3d.cameras.framing import centre
from sap3d.cameras.poses import read_middles, read_symmetry_order
from sap3d.runs.devices import step_generator
from sap3d.scene import Scene, check_views
from sap3d.views import read_kept_images
from threestudio.config import Milestones, milestone


@dataclass
class RayBatch:
    """Pixels of the inputs."""

    view: Tensor  # index of the photo, [P]
    pixel: Tensor  # normalised image coordinates as of `sap3d.cameras.maths.pixel_grid`, [P, 2]
    color: Tensor  # on white, [P, 3]
    alpha: Tensor  # [P]

    def some(self, count: int, generator: torch.Generator) -> "RayBatch":
        """At most `count` of them, at random."""
        chosen = torch.randperm(len(self.view), generator=generator, device=generator.device)[:count]
        return RayBatch(*(getattr(self, field.name)[chosen] for field in fields(self)))


BLANK = 1e-6  # density of drawing background


class RayBatches:
    """A batch for every training step; the seed and the step alone decide what is drawn."""

    def __init__(self, pyramid: dict[int, Tensor], sizes: Milestones, rays: int, seed: int):
        """Args: pyramid: image size → images [N, 4, S, S] of colour on white and alpha."""
        self.pyramid, self.sizes, self.rays, self.seed = pyramid, sizes, rays, seed
        # Half of the rays are drawn near the object, where there is something to learn: by its mask, widened. Of a
        # thin object every pixel may be background for the most part, so it is drawn from as from a density; of views
        # that show nothing, from everywhere.
        self.near = {
            size: (F.max_pool2d(views[:, 3:4], 2 * (size // 32) + 1, 1, size // 32).flatten().double() + BLANK).cumsum(
                0
            )
            for size, views in pyramid.items()
        }

    def to(self, device: torch.device) -> None:
        """Draw from now on where `device` is, so that no batch has to be copied there."""
        self.pyramid, self.near = ({k: v.to(device) for k, v in each.items()} for each in (self.pyramid, self.near))

    def draw(self, step: int) -> RayBatch:
        """The batch of a step."""
        size = milestone(self.sizes, step)
        views, near = self.pyramid[size], self.near[size]
        generator = step_generator(self.seed, step, views.device)
        options = {"generator": generator, "device": views.device}
        anywhere = torch.randint(len(views) * size * size, (self.rays // 2,), **options)
        drawn = torch.rand(self.rays - self.rays // 2, dtype=torch.float64, **options)
        flat = torch.cat([anywhere, torch.searchsorted(near, drawn * near[-1], right=True)])
        view, position = flat // (size * size), flat % (size * size)
        values = views.flatten(2)[view, :, position]
        return RayBatch(view, cam.pixel_grid(size, views.device)[position], values[:, :3], values[:, 3])


class Views:
    """The first `views` photos of an object, with its middle, as stage 2 passes it on, in theirs."""

    @dataclass
    class Config:
        type: str  # object type, e.g. GSO_demo
        object: str
        views: int = 5
        rays: int = 4096  # a step
        image_size: Milestones = field(default_factory=lambda: [[0, 64]])
        symmetric: bool = True  # the photos stand for all sides that look alike to stage 1

    def __init__(self, config: Config, seed: int):
        """
        Raises:
            UserError: see `sap3d.views.read_images` and `sap3d.cameras.poses.read_middles`.
        """
        self.config, self.seed = config, seed
        self.scene = Scene(config.type, config.object, check_views(config.views))
        poses = self.scene.diffusion / "poses.json"
        self.photos = centre(read_kept_images(self.scene, poses), read_middles(poses, self.scene.views))
        self.order = read_symmetry_order(poses) if config.symmetric else 1

    @property
    def resolution(self) -> int:
        """Of the largest photo, pixels of its side."""
        return max(len(photo) for photo in self.photos)

    def images(self, size: int) -> Tensor:
        """Colour on white and alpha, [N, 4, size, size]."""
        return images.to_tensor(self.photos, size)

    def batches(self) -> RayBatches:
        """What training draws from."""
        pyramid = {size: self.images(size) for _, size in self.config.image_size}
        return RayBatches(pyramid, self.config.image_size, self.config.rays, self.seed)
