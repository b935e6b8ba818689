"""Volume rendering that evaluates the field only where there may be something (`sap3d.field`)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sap3d.field.occupancy import Occupancy
from sap3d.field.rendering import Rendering, render_image, render_rays


class CulledRenderer(nn.Module):
    """Renders a geometry on white, on which the photos are composited, too."""

    @dataclass
    class Config:
        samples: int = 48  # a ray in training, between the first and the last occupied place, and at most
        samples_per_node: float = 1.5  # as many for each node along the grid's side
        image_samples: int = 64  # samples a ray of an image, between the first and the last occupied place
        min_opacity: float = 1e-2  # opacity over one node's spacing from which a node counts as occupied
        margin: int = 2  # nodes by which occupied space is widened in training, so that surfaces may move
        smallest: float = 0.02  # pieces below this share of the largest one's volume are floaters

    def __init__(self, config: Config, geometry: nn.Module):
        super().__init__()
        self.config, self.geometry = config, geometry
        self.occupancy = Occupancy()

    @property
    def floor(self) -> float:
        """Height below which there is nothing."""
        return self.occupancy.floor

    @floor.setter
    def floor(self, height: float) -> None:
        self.occupancy = replace(self.occupancy, floor=height)

    def update_occupancy(self, margin: int | None = None) -> None:
        """Take the occupancy from the geometry as it is now; `margin` defaults to the one for training."""
        margin = self.config.margin if margin is None else margin
        self.occupancy = Occupancy.of(self.geometry.grid[0, 0].detach(), self.config.min_opacity, margin, self.floor)

    def drop_floaters(self) -> None:
        """Leave small pieces of matter that touch nothing else out of the occupancy, so that no image shows them."""
        self.occupancy = self.occupancy.without_floaters(self.config.smallest)

    def forward(
        self, origins: Tensor, directions: Tensor, generator: torch.Generator | None = None, samples: int | None = None
    ) -> Rendering:
        """Render rays, differentiably.

        Args:
            origins, directions: [P, 3] as of `sap3d.cameras.maths.rays`.
            generator: jitters the samples within their bins; None takes the bins' centres.
            samples: samples a ray; None: as the config says.
        """
        resolution = self.geometry.resolution
        samples = samples or min(round(self.config.samples_per_node * resolution), self.config.samples)
        space = self.occupancy, samples, resolution // 2
        return render_rays(self.geometry.field, origins, directions, *space, generator).on(1.0)

    def image(self, camera: Tensor, size: int) -> Rendering:
        """A whole image of a camera [≥ 3] on any device, without gradients: a Rendering of [size, size, …]."""
        space = self.occupancy, self.config.image_samples, self.geometry.resolution
        shown = render_image(self.geometry.field, camera.to(self.geometry.device), size, *space).on(1.0)
        return Rendering(
            *(part.view(size, size, *part.shape[1:]) for part in (shown.color, shown.opacity, shown.depth))
        )
