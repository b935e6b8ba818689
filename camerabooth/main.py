"""Stage 2: choose among stage 1's poses, refine them and tune the diffusion model on one object's views.

    python camerabooth/main.py --type GSO_demo --object chefmate_8_frypan --views 5 --device 0 tuning.steps=120
    python camerabooth/main.py … --backbone published --checkpoint PATH

Reads the scene folder's images and stage 1's poses.json; writes Scene.diffusion with poses.json, model/,
before_after.png, trajectory.npy (the cameras before each step) and log/. A run that was killed goes on from its last
checkpoint.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch import Tensor
from tqdm import tqdm

from camerabooth.backbones.interface import DiffusionModel, load_model
from camerabooth.backbones.weights import model_folder
from camerabooth.instance_field import InstanceField, error_on_object
from camerabooth.regularisation import nearest_objects, regularisation_views
from camerabooth.tuning import TestTimeTraining, clearly_lower, leave_one_out, seen_from_others, synthesised_views
from sap3d import images as im
from sap3d.cameras.framing import centre
from sap3d.cameras.maths import anchored, principal_points
from sap3d.cameras.poses import HALF_TURN, PoseTable, read_pose_hypotheses, write_poses
from sap3d.cameras.symmetry import loss_from_both_sides, mean_of_sides, with_far_sides
from sap3d.errors import one_line_errors
from sap3d.field.synthesis import DESCENT, Level, coarse_to_fine, joint_fit
from sap3d.files import atomic_file
from sap3d.runs.devices import choose_device, halving, seed_everything
from sap3d.runs.options import ROOT, filled, stage_options
from sap3d.runs.training import TrainedAverage, fingerprint, fit
from sap3d.scene import Scene
from sap3d.views import read_images

CONFIG = Path(__file__).parent / "configs/sap3d.yaml"
ENERGY_DRAWS = 4  # of noise, at each of the time steps
# Of stage 1's configurations, the one of lowest score (a negative log-weight) plus these times the shares by which its
# energy and its synthesis loss are above the lowest is taken. Middle noise levels tell right from wrong more often than
# those near pure noise, but two views lack the sources for it, and agree in synthesis wherever they are
# (docs/CHOICES.md).
ENERGY_SHARPNESS, SYNTHESIS_SHARPNESS = 4.0, 2.0
CHOICE_TIMESTEPS, CHOICE_TIMESTEPS_OF_TWO, CHOICE_DRAWS = [400, 500, 600], [700, 850, 999], 2
MOST_LIKELY = 3.0  # configurations whose scores are within this of the best are compared
CARVED_SIZE = 128  # of the photos that their voxels start from: at 64 a basket's handle is carved away
# From fewer photos what the object's own volume and voxels learn is wrong between them (docs/CHOICES.md).
INSTANCE_VIEWS = 3
# Voxels are fitted to the views at held cameras: what is left of the loss judges the cameras.
SYNTHESIS = Level(resolution=32, size=64, steps=120, pixels=320, samples=32, pose_rate=0.0)
# Moved cameras must lower that loss by this share. Where they lower it by less they have moved within what the photos
# leave open, and mostly away from the truth (docs/CHOICES.md).
SYNTHESIS_DROP = 0.25
# The same of the loss from both sides, which holds the cameras better. But what the photos alone lose must not rise by
# more than this factor, as where a pan's views are turned until its handle is not in the way.
BOTH_SIDES_DROP, ALONE_RISE = 0.1, 1.5
# Where it is higher than the photos' own by so many times the bound no descent brings it below.
HOPELESS_EXCESS = 4.0
# At most, where the first convinces; toys' cameras 20° off gain most from the second, but two views drift apart.
DESCENTS, DESCENTS_OF_TWO = 3, 1


def tune(
    model: DiffusionModel,
    images: Tensor,
    cameras: Tensor,
    prior: list[int],
    field: InstanceField | None,
    config: DictConfig,
    seed: int,
    folder: Path,
) -> tuple[Tensor, Tensor]:
    """Tune `model` in place on images [N, 4, S, S] at cameras [N, 3], on views of their field, and on the `prior`
    objects of the pool.

    Returns:
        The refined cameras, and the cameras before every step and after the last, [steps + 1, N, 3].
    """
    if not config.steps:
        return cameras, cameras[None].cpu()
    torch.manual_seed(seed)  # a run that goes on must start from the same new weights
    model.prepare_tuning()
    poses = PoseTable(cameras)
    run = fingerprint(OmegaConf.to_yaml(config), seed, images, cameras, prior, *model.state_dict().values())
    views = regularisation_views(prior, model.image_size, cache=folder.parent / ".regularisation")
    synthesised = synthesised_views(model, images, cameras, field, 0 if config.poses_only else config.synthesised, seed)
    if config.instance_resolution and len(images) >= INSTANCE_VIEWS and not config.poses_only:
        model.add_instance_volume(config.instance_resolution)
    module = TestTimeTraining(model, poses, images, views, synthesised, config, seed)
    callbacks: list[Callback] = [EarlyStopping("held_out", patience=config.patience, check_on_train_epoch_end=False)]
    if config.ema:
        callbacks.append(TrainedAverage(config.ema))
    model.train()
    fit(
        module,
        config.steps,
        images.device,
        folder,
        run,
        tuple(callbacks),
        validate_every=config.validate_every,
        scaled=model.settings.dtype == "float16",
    )
    model.to(images.device).eval()  # Lightning leaves it on the CPU
    return poses.cameras().to(images.device), module.trajectory.cpu()


def before_after(inputs: Tensor, before: Tensor, after: Tensor) -> torch.Tensor:
    """Rows: inputs, each view predicted from the others before tuning, and after; uint8 [H, W, 3]."""
    rows = torch.cat([inputs, before, after])[:, :3].permute(0, 2, 3, 1)
    return im.sheet(im.to_uint8(rows), columns=len(inputs))


def choose(
    model: DiffusionModel,
    photos: list[np.ndarray],
    hypotheses: Tensor,
    scores: list[float],
    half_turn_excess: float | None,
) -> tuple[int, dict[str, list[float]]]:
    """Which of stage 1's configurations to start from, and why.

    Voxels explain photos that hardly overlap anywhere. If the configuration that is best from both sides leaves room
    for a half turn, all are compared from both sides, too, where views of opposite sides overlap.

    Args:
        photos: N, uint8 RGBA [S, S, 4].
        hypotheses: [K, N, 3] or [K, N, 5].
        scores: stage 1's, negative log-weights, [K].
        half_turn_excess: by less the loss must rise when the far side is to look like the photos; None: do not ask.

    Returns:
        An index, and the scores, energies and (from three views on) synthesis losses, of the photos alone and, where
        they were compared so, from both sides, of those that are likely; these come first.
    """
    likely = [score for score in scores if score <= scores[0] + MOST_LIKELY]
    several = len(photos) > 2
    timesteps = CHOICE_TIMESTEPS if several else CHOICE_TIMESTEPS_OF_TWO
    sharp, energies, alone = im.to_tensor(photos, CARVED_SIZE), [], []
    for cameras in tqdm(hypotheses[: len(likely)], desc="comparing the hypotheses", leave=False, mininterval=1):
        images = im.to_tensor(centre(photos, principal_points(cameras)), model.image_size).to(cameras.device)
        energies.append(leave_one_out(model, images, cameras[:, :3], timesteps, CHOICE_DRAWS).mean().item())
        if several:
            alone.append(joint_fit(sharp, cameras[None].cpu(), SYNTHESIS).losses.item())
    total = torch.tensor(likely) + ENERGY_SHARPNESS * excess(energies)
    evidence = {"stage1": likely, "energy": energies}
    if several:
        total = total + SYNTHESIS_SHARPNESS * excess(alone)
        evidence["synthesis"] = alone
    if several and half_turn_excess is not None and len(likely) > 1:
        hopeless = HOPELESS_EXCESS * half_turn_excess
        both = losses_from_both_sides(sharp, hypotheses[: len(likely)], alone, total.argmin().item(), hopeless)
        if both:
            evidence["both sides"], least = both, both.index(min(both))
            if both[least] - alone[least] < half_turn_excess:
                total = total + SYNTHESIS_SHARPNESS * excess(both)
    return total.argmin().item(), evidence


def losses_from_both_sides(
    photos: Tensor, hypotheses: Tensor, alone: list[float], best: int, hopeless: float
) -> list[float]:
    """Of each configuration [K, N, C]; none of them where the best's excess over the photos' own loss is hopeless."""
    loss = loss_from_both_sides(photos, hypotheses[best], SYNTHESIS)
    if loss - alone[best] >= hopeless:
        return []
    each = tqdm(hypotheses, desc="comparing them from both sides", leave=False, mininterval=1)
    return [loss if k == best else loss_from_both_sides(photos, cameras, SYNTHESIS) for k, cameras in enumerate(each)]


def excess(values: list[float]) -> Tensor:
    """The shares by which positive values are above the lowest."""
    return torch.tensor(values) / min(values) - 1


@dataclass
class Judged:
    """Poses, and what speaks for them."""

    cameras: Tensor  # [N, 3]
    errors: Tensor  # the pretrained model's when each view is denoised given the others, [T · draws, N]
    synthesis: float  # loss of voxels fitted at these cameras

    def better_than(self, other: "Judged") -> bool:
        """Both must say so, and clearly: near the optimum the energy is flat within a degree or two, where the images'
        own agreement is sharper."""
        agree = self.synthesis < (1 - SYNTHESIS_DROP) * other.synthesis
        return agree and clearly_lower(self.errors, than=other.errors)


def judge(model: DiffusionModel, cameras: Tensor, images: Tensor, photos: Tensor) -> Judged:
    """Examine cameras [N, 3]; the views are `images` at the model's size and `photos` at that of the synthesis."""
    errors = leave_one_out(model, images, cameras, draws=ENERGY_DRAWS)
    loss = joint_fit(photos, cameras[None].cpu(), SYNTHESIS).losses.item()
    return Judged(cameras, errors, loss)


def descend(photos: Tensor, cameras: Tensor, symmetric: bool = False) -> Tensor:
    """Cameras [N, 3] after a joint fit of voxels and cameras to views [N, 4, S, S] from coarse to fine.

    If the object is `symmetric`, each has two, whose mean is taken: few photos then go once around it.
    """
    moved = coarse_to_fine(*with_far_sides(photos, cameras, symmetric), DESCENT).cameras[0]
    return anchored(mean_of_sides(moved) if symmetric else moved).to(cameras.device)


def descend_repeatedly(photos: Tensor, initial: Judged, examine: Callable[[Tensor], Judged]) -> Judged:
    """Poses after a descent and, where it convinces, after further ones as long as the synthesis loss falls.

    Each starts from new voxels: those of the descent before have learned the images where the cameras used to be.
    """
    found = examine(descend(photos, initial.cameras))
    most = DESCENTS if len(photos) > 2 else DESCENTS_OF_TWO
    for _ in range(most - 1 if found.better_than(initial) else 0):
        further = examine(descend(photos, found.cameras))
        if further.synthesis >= found.synthesis or not further.better_than(initial):
            break
        found = further
    return found


def half_turn_bound(config: DictConfig, views: int) -> float | None:
    """Below what excess of the loss from both sides so many photos show the far side, too; None if they never do."""
    if views > config.half_turn_views:
        return None
    bounds = config.half_turn_excess
    return bounds[min(views, len(bounds)) - 1]


def find_half_turn(
    photos: Tensor, judged: Judged, examine: Callable[[Tensor], Judged], bound: float | None, descent: bool
) -> tuple[dict, Judged]:
    """Whether photos [N, 4, S, S] are taken to show the object's far side, too, and why; and the poses then.

    Cameras some degrees off contradict a half turn that there is. So from three photos on it is asked after a descent
    from both sides, too, whose cameras are kept where they are clearly better or the half turn is met there alone; but
    not where it is out of the question.
    """
    if bound is None:
        return {"taken": False}, judged
    loss = loss_from_both_sides(photos, judged.cameras, SYNTHESIS)
    excess = loss - judged.synthesis
    if descent and len(photos) > 2 and excess < HOPELESS_EXCESS * bound:
        moved = examine(descend(photos, judged.cameras, symmetric=True))
        moved_loss = loss_from_both_sides(photos, moved.cameras, SYNTHESIS)
        moved_excess = moved_loss - moved.synthesis
        better = moved_loss < (1 - BOTH_SIDES_DROP) * loss or excess >= bound
        if better and moved_excess < bound and moved.synthesis < ALONE_RISE * judged.synthesis:
            excess, judged = moved_excess, moved
    return {"taken": excess < bound, "excess": excess}, judged


def poses_before_tuning(
    photos: Tensor, start: Tensor, examine: Callable[[Tensor], Judged], bound: float | None, descent: bool
) -> tuple[dict[str, Judged], str, dict]:
    """Stage 1's poses [N, 3] and those that descents lead to, under their names, the name of what is kept, and what is
    said of the far side."""
    judged = {"initial": examine(start)}
    kept = "initial"
    if descent and len(photos) > 1:
        judged["descended"] = descend_repeatedly(photos, judged["initial"], examine)
        kept = "descended" if judged["descended"].better_than(judged["initial"]) else kept
    half_turn, best = find_half_turn(photos, judged[kept], examine, bound, descent)
    if best is not judged[kept]:
        kept, judged["both sides"] = "both sides", best
    return judged, kept, half_turn


def run(scene: Scene, config: DictConfig, device: torch.device, seed: int, folder: Path) -> None:
    """Stage 2 of one scene, files to files in `folder`."""
    seed_everything(seed)
    pretrained = model_folder(config)
    model = load_model(pretrained, device, **config.model)
    config = OmegaConf.merge(config, {"tuning": filled(config.tuning, model.tuning)})
    hypotheses, scores = read_pose_hypotheses(scene.initial_poses, scene.views)
    pictures = read_images(scene)
    bound = half_turn_bound(config, scene.views)
    first, choice = choose(model, pictures, hypotheses.to(device), scores, bound)
    start, middles = hypotheses[first, :, :3], hypotheses[first, :, 3:]
    pictures = centre(pictures, principal_points(hypotheses[first]))
    images = im.to_tensor(pictures, model.image_size).to(device)
    photos = im.to_tensor(pictures, SYNTHESIS.size)
    examine = partial(judge, images=images, photos=photos)
    judged, kept, half_turn = poses_before_tuning(
        photos, start.to(device), partial(examine, model), bound, config.descent
    )
    best = judged[kept]
    prior = list(range(config.tuning.prior_objects))
    if config.tuning.prior_nearest:
        prior = nearest_objects(model, pretrained, images, config.tuning.prior_objects)

    # The far sides of one or two photos count as photos. More are tuned to as they are, and what leaves one out of
    # their field leaves it out from both sides.
    counted = half_turn["taken"] and scene.views < INSTANCE_VIEWS
    both_sides = half_turn["taken"] and not counted
    shown, shown_from = with_far_sides(images, best.cameras, counted)
    field, before = None, seen_from_others(model, images, best.cameras)
    if len(shown) >= INSTANCE_VIEWS:
        error = error_on_object(before, images)
        field = InstanceField.fit(shown, shown_from, error, seed, both_sides)

    def tuned(batch: int) -> tuple[Tensor, Tensor]:
        nonlocal model
        changes = {"batch": batch}
        if batch < config.tuning.batch:
            changes["prior_batch"] = max(1, config.tuning.prior_batch // 2)
            model = load_model(pretrained, device, **config.model)  # the first attempt may have changed it
        settings = OmegaConf.merge(config.tuning, changes)
        return tune(model, shown, shown_from, prior, field, settings, seed, folder)

    moved = halving(tuned, config.tuning.batch, "tuning.batch", device)
    refined, trajectory = (cameras[..., : len(images), :] for cameras in moved)  # far sides come last
    after = seen_from_others(model, images, refined)

    # The tuned model has adapted to the refined poses; the pretrained one is an impartial judge of both.
    judged["refined"] = examine(load_model(pretrained, device, **config.model), refined)
    kept = "refined" if judged["refined"].better_than(best) else kept
    if field is not None and config.tuning.field:
        if kept == "refined":
            field = InstanceField.fit(*with_far_sides(images, refined, counted), field.error, seed, both_sides)
        model.add_field(field)
    model.save_pretrained(folder / "model")
    with atomic_file(folder / "before_after.png") as path:
        imageio.imwrite(path, before_after(images, before, after))
    with atomic_file(folder / "trajectory.npy") as path:
        np.save(path, trajectory.numpy())
    cameras = torch.cat([judged[kept].cameras.cpu(), middles], -1)
    write_judged(folder / "poses.json", cameras, judged, kept, half_turn, choice)


def write_judged(
    path: Path, cameras: Tensor, judged: dict[str, Judged], kept: str, half_turn: dict, choice: dict[str, list[float]]
) -> None:
    """Write the poses that are kept, [N, 3] or [N, 5], with what speaks for them and for the others, and say it."""
    energies = {name: each.errors.mean().item() for name, each in judged.items()}
    synthesis = {name: each.synthesis for name, each in judged.items()}
    evidence = {"energy": energies, "synthesis": synthesis, "kept": kept, "choice": choice, HALF_TURN: half_turn}
    write_poses(path, cameras[None], [energies[kept]], **evidence)
    if "excess" in half_turn:
        print(f"the same from behind: {'yes' if half_turn['taken'] else 'no'} (excess {half_turn['excess']:.2e})")
    for name, energy in energies.items():
        print(f"{name} poses: energy {energy:.4f}, synthesis loss {synthesis[name]:.2e}{', kept' * (name == kept)}")


def main() -> None:
    arguments, config = stage_options(__doc__, ROOT)
    start = time.monotonic()
    run(arguments.scene, config, choose_device(arguments.device), arguments.seed, arguments.scene.diffusion)
    print(f"tuned in {time.monotonic() - start:.0f} s: {arguments.scene.diffusion}")


if __name__ == "__main__":
    with one_line_errors():
        main()
