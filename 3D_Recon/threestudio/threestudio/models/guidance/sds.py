"""What the model that stage 2 tuned knows, conditioned on all input views: views it expects, and score distillation."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sap3d.cameras.maths import plain, sight_cosines
from sap3d.field.grid import DENSITY_SHIFT
from sap3d.scene import Scene
from threestudio.config import Schedule, scheduled

GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))  # spreads points on a sphere evenly


class MultiViewSDS(nn.Module):
    """DreamFusion's gradient (arXiv 2209.14988) at random cameras, with time-step annealing.

    At noise level 1 the model sees nothing of the render and its estimate is the mean of all views that agree with the
    inputs: a blurred but safe target. Lower levels sharpen what the field already shows.
    """

    shown = prepared = sources = None  # the inputs, what the model makes of them, and that at cameras

    @dataclass
    class Config:
        model: str | None = None  # folder of a diffusion model; null: the one that stage 2 tuned
        expected_views: int = 48  # all round, that the model expects and the field is fitted to …
        unseen_from: float = 40.0  # … but for those within so many degrees of an input, which knows better
        contrast: float | None = None  # of their masks; null: the model's own
        cameras: int = 2  # random views a step
        render_size: int = 64  # the views' side; enlarged to the model's
        elevation_range: list[float] = field(default_factory=lambda: [-10.0, 80.0])  # degrees
        noise_level: Schedule = field(default_factory=lambda: [0, 1.0, 0.5, 600])
        noise_spread: float = 0.1  # levels are drawn within ± this
        guidance_scale: float | None = None  # classifier-free; null: the model's own

    def __init__(self, config: Config, scene: Scene):
        """
        Raises:
            UserError: there is no such model.
        """
        super().__init__()
        # Stage 2's public class; imported here so that the stage runs without guidance when stage 2 is absent.
        from camerabooth.backbones.interface import load_model

        self.config = config
        self.model = load_model(Path(config.model or scene.diffusion / "model")).requires_grad_(False)

    @property
    def image_size(self) -> int:
        return self.model.image_size

    @property
    def knows_field(self) -> bool:
        """Whether there is a `raw_field`."""
        return self.model.knows_field

    def forget_object(self) -> None:
        """Leave out what stage 2 has learned of the object beside the weights: it repeats what a field is fitted to."""
        self.model.forget_object()

    def _setting(self, name: str) -> float:
        """The config's, or else the model's own."""
        chosen = getattr(self.config, name)
        return getattr(self.model.settings, name) if chosen is None else chosen

    @torch.no_grad()
    def condition(self, images: Tensor, cameras: Tensor) -> None:
        """Take the inputs [N, 4, S, S] (colour on white and alpha in [0, 1]) and their cameras [N, ≥ 3].

        The same inputs are not encoded again: by a large model that takes longer than to denoise.
        """
        if self.shown is None or not torch.equal(images, self.shown):
            self.shown, self.prepared = images, self.model.prepare(images)
        self.sources = self.model.embed(self.prepared, cameras)

    @torch.no_grad()
    def raw_field(self, resolution: int) -> Tensor:
        """The field that the model knows of the inputs, [4, R, R, R] (`sap3d.field.grid`).

        As masks of expected views do, its density gets more contrast: fog about an uncertain surface goes, and what is
        likely becomes solid.
        """
        field = self.model.raw_field(self.sources, resolution)
        field[0] = (field[0] + DENSITY_SHIFT) * self._setting("contrast") - DENSITY_SHIFT
        return field

    @torch.no_grad()
    def expect(self, inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The model's views from all round, at the mean radius of the inputs [N, ≥ 3].

        A mean is blurred where the inputs leave much open, but a field fitted to many of them has a whole shape. Of a
        model that is sampled they are made in turn, so that they agree.

        Returns:
            Colour on white and alpha in [0, 1], [M, 4, S, S], and cameras [M, 3]; M is 0 when inputs are everywhere.
        """
        from camerabooth.sampling import sample, sample_in_turn

        count = self.config.expected_views
        order = torch.arange(count, device=inputs.device)
        elevation = self._elevations((order + 0.5) / count)
        cameras = torch.stack([elevation, order * GOLDEN_ANGLE, plain(inputs)[:, 2].mean().expand(count)], -1)
        nearest = sight_cosines(cameras, inputs).amax(1)
        cameras = cameras[nearest < math.cos(math.radians(self.config.unseen_from))]
        if not len(cameras):
            return inputs.new_zeros(0, 4, self.image_size, self.image_size), cameras
        known, options = (self.model, self.sources, cameras, generator), self.model.sampling
        stochastic = options.get("conditioning") == "stochastic"
        views = sample_in_turn(*known, **options) if stochastic else sample(*known, **options, batch=8)
        return sharpen(views, self._setting("contrast")), cameras

    def draw_cameras(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Random cameras about the inputs' radii [N, ≥ 3] → [B, 3]: azimuths all round, elevations uniform by area."""
        count = self.config.cameras
        uniform = torch.rand(3, count, generator=generator).to(inputs.device)
        elevation = self._elevations(uniform[0])
        radii = plain(inputs)[:, 2]
        radius = radii.min() + (radii.max() - radii.min()) * uniform[2]
        return torch.stack([elevation, 2 * math.pi * uniform[1], radius], -1)

    def _elevations(self, shares: Tensor) -> Tensor:
        """Elevations below which these shares of the sphere's area within the range lie."""
        low, high = (math.sin(math.radians(angle)) for angle in self.config.elevation_range)
        return torch.asin(low + (high - low) * shares)

    def forward(self, rendered: Tensor, cameras: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """A loss whose gradient is that of score distillation, averaged over images.

        Args:
            rendered: colour on white and opacity in [0, 1], [B, 4, S, S].
            cameras: [B, 3].
        """
        config = self.config
        if rendered.shape[-1] != self.image_size:
            rendered = F.interpolate(rendered, size=self.image_size, mode="bilinear", antialias=True)
        jitter = (2 * torch.rand(len(cameras), generator=generator) - 1) * config.noise_spread
        level = (scheduled(config.noise_level, step) + jitter).clamp(0.02, 1.0).to(cameras.device)
        gradient = self.model.sds_gradient(
            rendered.detach(), cameras, self.sources, level, self._setting("guidance_scale"), generator
        )
        return (gradient * rendered).mean()


def sharpen(views: Tensor, contrast: float) -> Tensor:
    """Views [M, 4, S, S], colour on white and alpha, with masks of higher contrast about a half."""
    color, alpha = views.split((3, 1), 1)
    sharper = ((alpha - 0.5) * contrast + 0.5).clamp(0, 1)
    own = ((color - 1 + alpha) / alpha.clamp(min=0.05)).clamp(0, 1)
    return torch.cat([own * sharper + 1 - sharper, sharper], 1)
