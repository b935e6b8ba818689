"""Stage 3's training: photos, score distillation, regularisers and poses in one objective."""

from dataclasses import dataclass

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sap3d.cameras import maths as cam
from sap3d.cameras.framing import upright
from sap3d.cameras.poses import PoseTable
from sap3d.cameras.symmetry import repeated, turned
from sap3d.field.occupancy import Occupancy
from sap3d.field.rendering import Rendering
from sap3d.runs.devices import step_generator
from threestudio.config import Schedule, build, ever, milestone, scheduled
from threestudio.data.views import RayBatch, RayBatches, Views
from threestudio.models.floor import find_floor
from threestudio.models.geometry.dense_grid import DenseGrid

OWN_EXPOSURE = 0.1  # expected deviation of the logarithm of own photos' gains


class SAP3D(pl.LightningModule):
    """A field and the inputs' cameras, optimised together, coarse to fine (SAP3D, arXiv 2404.03652, §3.3)."""

    @dataclass
    class Config:
        geometry: dict
        renderer: dict
        guidance: dict
        corrections: dict
        color_weight: Schedule = 1.0
        mask_weight: Schedule = 1.0
        expected_weight: Schedule = 0.0  # of views that the model expects
        expected_until: int = 150  # step; with two photos or more they start the shape, with one they stay
        expected_rays: int = 1024  # of them, a step
        symmetry_weight: Schedule = 0.0  # of the photos turned by the object's symmetry, where it has one
        symmetry_rays: int = 1024  # of them, a step
        guidance_weight: Schedule = 0.0  # of score distillation
        guidance_every: int = 4  # steps
        opacity_weight: Schedule = 0.0  # rays should be either opaque or transparent
        distortion_weight: Schedule = 0.0  # and dense in one place
        bending_weight: Schedule = 0.0  # bending energy of the raw density, which makes surfaces smooth
        variation_weight: Schedule = 0.0  # total variation of the raw colour
        roughness_every: int = 4  # steps, of these two
        correction_prior_weight: Schedule = 0.0
        field_rate: Schedule = 0.1  # learning rates
        pose_rate: Schedule = 0.0
        correction_rate: Schedule = 0.0
        field_from: int = 0  # step of the schedules at which a field that the model knows begins; 0: it is not asked
        occupancy_from: int = 100  # step from which empty space is skipped
        occupancy_every: int = 25
        floor_spare: float = 0.002  # of the silhouettes, what a flat base may cost with two photos or more; 0: no base

    def __init__(self, config: Config, data: Views, cameras: Tensor):
        """
        Args:
            data: the input photos.
            cameras: their cameras as stage 2 left them, [N, 3] or [N, 7].
        """
        super().__init__()
        self.automatic_optimization = False
        self.config, self.photos, self.scene, self.seed = config, data.images(256), data.scene, data.seed
        self.order = data.order
        self.batches = data.batches()
        self.geometry = build(config.geometry)
        self.renderer = build(config.renderer, self.geometry)
        self.poses = PoseTable(cameras, anchored=False)
        exposure = config.corrections.get("exposure")
        if exposure is None:
            exposure = OWN_EXPOSURE if data.scene.photo_record.exists() else 0.0
        self.corrections = build(config.corrections | {"exposure": exposure}, len(cameras))
        self.guidance = self.expected = None
        self.begun = 0  # steps of the schedules that are left out at the start
        self.made: list = []  # guidance that waits for training; a module here would be part of checkpoints

    @torch.no_grad()
    def begin(self, steps: int) -> int:
        """Take the field that the model knows of the object for what the first of `steps` lead to, if it knows one.

        Returns:
            How many steps are left out.
        """
        asked = 0 < self.config.field_from < steps and ever(self.config.expected_weight)
        if asked and isinstance(self.geometry, DenseGrid):
            guidance = build(self.config.guidance, self.scene)
            if guidance.knows_field:
                self._condition(guidance, self.poses.initial)
                resolution = milestone(self.geometry.config.resolution, self.config.field_from)
                self.geometry.load({"grid": guidance.raw_field(resolution)})
                self.begun = self.config.field_from
            else:
                self.made.append(guidance)  # a large model is not read twice
        return self.begun

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"params": list(self.geometry.parameters())}, {"params": [self.poses.offsets]}]
        groups.append({"params": list(self.corrections.parameters())})
        return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12, fused=True)

    def on_train_start(self) -> None:
        self.batches.to(self.device)
        self.renderer.occupancy = self.renderer.occupancy.to(self.device)  # of a checkpoint
        expects = ever(self.config.expected_weight) and self.expected_share(self.begun) > 0
        if expects or ever(self.config.guidance_weight):
            self.guidance = self.made.pop() if self.made else build(self.config.guidance, self.scene)
            self.guidance.to(self.device).forget_object()
        if expects:
            # From the cameras as they came, so that they are the same whether the run starts or goes on.
            self._condition(self.guidance, self.poses.initial)
            images, self.expected_cameras = self.guidance.expect(self.poses.initial, step_generator(self.seed, 0))
            if len(images):
                size = self.guidance.image_size
                self.expected = RayBatches({size: images}, [[0, size]], self.config.expected_rays, self.seed + 1)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if not name.startswith("guidance.")}
        checkpoint["geometry"], checkpoint["occupancy"] = self.geometry.state(), self.renderer.occupancy.nodes

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        # The grid has grown since the start; the parameter must have its size before the optimizer is made.
        self.geometry.load(checkpoint["geometry"])
        self.renderer.occupancy = Occupancy(checkpoint["occupancy"])

    def training_step(self, _, step: int) -> None:
        step += self.begun
        optimizer = self.optimizers()
        self._grow(optimizer.optimizer, step)
        rates = self.config.field_rate, self.config.pose_rate, self.config.correction_rate
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = scheduled(rate, step)
        generator = step_generator(self.seed, step, self.device)
        batch = self.batches.draw(step)
        losses = self.photo_losses(batch, generator, refine=optimizer.param_groups[1]["lr"] > 0)
        if step % self.config.roughness_every == 0:
            losses |= self.roughness(generator)
        if self.expected is not None and self.expected_share(step) * scheduled(self.config.expected_weight, step):
            losses["expected"] = self.expected_loss(step, generator)
        if self.order > 1 and scheduled(self.config.symmetry_weight, step):
            losses["symmetry"] = self.symmetry_loss(batch, step, generator)
        if scheduled(self.config.guidance_weight, step) and step % self.config.guidance_every == 0:
            losses["guidance"] = self.distill(step, step_generator(self.seed, step))
        weights = {name: scheduled(getattr(self.config, f"{name}_weight"), step) for name in losses}
        optimizer.zero_grad()
        self.manual_backward(sum(weights[name] * loss for name, loss in losses.items()))
        optimizer.step()
        self.poses.project()
        self.corrections.project()
        self.log_dict({name: loss.detach() for name, loss in losses.items()}, batch_size=1)

    def on_train_end(self) -> None:
        """Keep the refined cameras only if the photos agree better with the field there than at the initial ones.

        Then cut off what bulges where no photo sees the underside. With one photo most of the shape is the model's.
        """
        self.renderer.update_occupancy(margin=0)
        self.final_loss = self.reprojection_loss(self.poses.cameras())
        self.refined = self.final_loss < self.reprojection_loss(self.poses.initial)
        if not self.refined:
            self.poses.offsets.data.zero_()
            self.final_loss = self.reprojection_loss(self.poses.initial)
        if self.config.floor_spare and len(self.photos) > 1:
            masks = self._ideal_photos(128)[:, 3]
            self.renderer.floor = find_floor(self.renderer, self.poses.cameras(), masks, self.config.floor_spare)

    def _ideal_photos(self, size: int) -> Tensor:
        """The photos without their corrections, [N, 4, size, size]."""
        return self.corrections.undo(F.interpolate(self.photos, size=size, mode="area"))

    def reprojection_loss(self, cameras: Tensor, size: int = 128) -> float:
        """Mean squared error of colour and mask between the photos and the field at cameras [N, 3].

        At 64×64 what rays through the pixels' middles miss of fine print is more than cameras 2° off cost.
        """
        photos = self._ideal_photos(size).permute(0, 2, 3, 1)
        images = [self.renderer.image(camera, size) for camera in cameras]
        renders = torch.stack([torch.cat([image.color, image.opacity[..., None]], -1) for image in images])
        return F.mse_loss(renders.cpu(), photos).item()

    def _grow(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Follow the milestones of the resolution, and renew the occupancy when it is due."""
        resolution = milestone(self.geometry.config.resolution, step)
        resized = resolution != self.geometry.resolution
        if resized:
            before = optimizer.param_groups[0]["params"]
            self.geometry.resize(resolution)
            optimizer.param_groups[0]["params"] = list(self.geometry.parameters())
            for parameter in before:
                if all(parameter is not other for other in self.geometry.parameters()):
                    optimizer.state.pop(parameter, None)
        if step >= self.config.occupancy_from and (resized or step % self.config.occupancy_every == 0):
            self.renderer.update_occupancy()

    def photo_losses(self, batch: RayBatch, generator: torch.Generator, refine: bool) -> dict[str, Tensor]:
        """Losses on rays of the inputs; `refine` lets gradients reach the cameras."""
        cameras = self.poses() if refine else self.poses().detach()
        origins, directions = self._rays(batch, cameras)
        color, rendering = self._shown(batch, origins, directions, generator)
        opacity = rendering.opacity.clamp(1e-4, 1 - 1e-4)
        return {
            "color": F.mse_loss(color, batch.color),
            "mask": F.mse_loss(rendering.opacity, batch.alpha),
            "opacity": F.binary_cross_entropy(opacity, opacity),  # entropy: least at 0 and at 1
            "distortion": rendering.distortion.mean(),
            "correction_prior": self.corrections.prior(),
        }

    def symmetry_loss(self, batch: RayBatch, step: int, generator: torch.Generator) -> Tensor:
        """What `photo_losses` are of colour and mask, for some of the batch's rays from the other sides in turn."""
        batch = batch.some(self.config.symmetry_rays, generator)
        side = 1 + torch.arange(len(batch.view), device=self.device) % (self.order - 1)
        rays = self._rays(batch, turned(self.poses().detach(), self.order), side)
        color, rendering = self._shown(batch, *rays, generator)
        color_weight, mask_weight = scheduled(self.config.color_weight, step), scheduled(self.config.mask_weight, step)
        return color_weight * F.mse_loss(color, batch.color) + mask_weight * F.mse_loss(rendering.opacity, batch.alpha)

    def _rays(self, batch: RayBatch, cameras: Tensor, side: Tensor | int = 0) -> tuple[Tensor, Tensor]:
        """Origins and directions [R, 3] of a batch's rays from cameras [N, ≥ 3], or [order · N, ≥ 3] of which
        `side`."""
        origins, directions = cam.rays(cameras[batch.view + len(self.photos) * side], batch.pixel[:, None])
        return origins[:, 0], directions[:, 0]

    def _shown(
        self, batch: RayBatch, origins: Tensor, directions: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Rendering]:
        """The field on a batch's rays [R, 3]: colours [R, 3] as the photos expose them, and all the rest."""
        rendering = self.renderer(origins, directions, generator)
        return self.corrections.expose(batch.view, rendering.color, rendering.opacity), rendering

    def roughness(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The field's bending and variation, taken rarely and weighted up for it: they cost as much as many rays."""
        scale = self.config.roughness_every * self.geometry.resolution
        bending, variation = self.geometry.roughness(generator)
        return {"bending": scale * bending, "variation": scale * variation}

    def expected_share(self, step: int) -> float:
        """What is left of the expected views' weight at a step.

        With one photo nothing else says what it does not show. With more, a field that has its shape from the expected
        views keeps it where no photo says otherwise, and what is blurred in them no longer stands in the photos' way.
        """
        return 1.0 if len(self.photos) == 1 else max(0.0, 1 - step / self.config.expected_until)

    def expected_loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Squared errors of colour and opacity on rays of expected views."""
        batch = self.expected.draw(step)
        origins, directions = cam.rays(self.expected_cameras[batch.view], batch.pixel[:, None])
        rendering = self.renderer(origins[:, 0], directions[:, 0], generator)
        errors = (rendering.color - batch.color).square().mean(1) + (rendering.opacity - batch.alpha).square()
        return self.expected_share(step) * errors.mean()

    def _condition(self, guidance: nn.Module, cameras: Tensor) -> None:
        """Show guidance the photos at cameras [N, ≥ 3].

        As they came, and turned by the rolls that they came with, so that it has to read them only once.
        """
        views, _ = upright(self.photos.to(self.device), self.poses.initial, guidance.image_size)
        guidance.condition(*repeated(views, cam.upright(cameras), self.order))

    def distill(self, step: int, generator: torch.Generator) -> Tensor:
        """Score distillation at random cameras."""
        size, known = self.guidance.config.render_size, self.poses().detach()
        self._condition(self.guidance, known)
        cameras = self.guidance.draw_cameras(known, generator)
        origins, directions = cam.rays(cameras, cam.pixel_grid(size, self.device))
        rendering = self.renderer(
            origins.expand_as(directions).reshape(-1, 3), directions.reshape(-1, 3), generator, samples=size
        )
        images = torch.cat([rendering.color, rendering.opacity[:, None]], -1)
        images = images.view(len(cameras), size, size, 4).permute(0, 3, 1, 2)
        return self.guidance(images, cameras, step, generator)
