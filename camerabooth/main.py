"""Stage 2: refine stage 1's poses and tune the diffusion model on one object's views.

    python camerabooth/main.py --type GSO_demo --object chefmate_8_frypan --views 5 --device 0 tuning.steps=120
    python camerabooth/main.py … --backbone published --checkpoint PATH

Reads the scene folder's images and stage 1's poses.json; writes Scene.diffusion with poses.json, model/,
before_after.png, trajectory.npy (the cameras before each step) and log/. A run that was killed goes on from its last
checkpoint.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from camerabooth.backbones.interface import DiffusionModel, load_model
from camerabooth.backbones.weights import model_folder
from camerabooth.judge import Judged, judge, seen_from_others
from sap3d import images as im
from sap3d.cameras.framing import centre, upright
from sap3d.cameras.maths import centred, principal_points, with_principal_points
from sap3d.cameras.poses import (
    LEFT_OUT,
    SYMMETRY,
    PoseTable,
    read_kept,
    read_left_out,
    read_pose_hypotheses,
    read_symmetry_order,
    write_poses,
)
from sap3d.cameras.symmetry import repeated
from sap3d.errors import one_line_errors
from sap3d.field.synthesis import HELD
from sap3d.files import atomic_file
from sap3d.runs.devices import choose_device, halving, seed_everything
from sap3d.runs.options import ROOT, filled, stage_options
from sap3d.scene import Scene
from sap3d.views import read_kept_images

CONFIG = Path(__file__).parent / "configs/sap3d.yaml"


def tune(
    model: DiffusionModel,
    images: Tensor,
    cameras: Tensor,
    prior: list[int],
    config: DictConfig,
    seed: int,
    folder: Path,
) -> tuple[Tensor, Tensor]:
    """Tune `model` in place on images [N, 4, S, S] at cameras [N, ≥ 3], and on the `prior` objects of the pool.

    Returns:
        The refined cameras, and the cameras before every step and after the last, [steps + 1, N, ≥ 3].
    """
    if not config.steps:
        return cameras, cameras[None].cpu()
    # Lightning takes seconds to import, and models whose networks stay need none of it.
    from pytorch_lightning.callbacks import EarlyStopping

    from camerabooth.regularisation import regularisation_views
    from camerabooth.tuning import TestTimeTraining
    from sap3d.runs.training import TrainedAverage, fingerprint, fit

    torch.manual_seed(seed)  # a run that goes on must start from the same new weights
    model.prepare_tuning()
    poses = PoseTable(cameras)
    run = fingerprint(OmegaConf.to_yaml(config), seed, images, cameras, prior, *model.state_dict().values())
    views = regularisation_views(prior, model.image_size, cache=folder.parent / ".regularisation")
    module = TestTimeTraining(model, poses, images, views, config, seed)
    callbacks = [EarlyStopping("held_out", patience=config.patience, check_on_train_epoch_end=False)]
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


def fit_object(
    model: DiffusionModel,
    images: Tensor,
    cameras: Tensor,
    order: int,
    options: DictConfig,
    seed: int,
    held: bool = False,
) -> Tensor:
    """Let `model` learn what belongs to the object alone; from a single view there is nothing that it could be told by.

    Args:
        held: whether the cameras stay.

    Returns:
        The cameras before every step and after the last, where they fit best, [steps + 1, N, ≥ 3].
    """
    if not model.remembers or not options.steps or len(images) * order == 1:
        return cameras[None]
    chosen = OmegaConf.to_container(options) | ({"pose_rate": 0.0} if held else {})
    return model.fit_instance(images, cameras, order, chosen, seed)


def before_after(inputs: Tensor, before: Tensor, after: Tensor) -> torch.Tensor:
    """Rows: inputs, and each as the model makes it of the others' colours before tuning, and after; uint8 [H, W, 3]."""
    rows = torch.cat([inputs, before, after])[:, :3].permute(0, 2, 3, 1)
    return im.sheet(im.to_uint8(rows), columns=len(inputs))


def run(scene: Scene, config: DictConfig, device: torch.device, seed: int, folder: Path) -> None:
    """Stage 2 of one scene, files to files in `folder`."""
    seed_everything(seed)
    pretrained = model_folder(config.backbone, config.checkpoint)
    model = load_model(pretrained, device, **config.model)
    config = filled(config, "tuning", model.tuning)
    kept_views = read_kept(scene.initial_poses, scene.views)
    every = read_pose_hypotheses(scene.initial_poses, scene.views)[0][0]
    start = every[kept_views]
    order = read_symmetry_order(scene.initial_poses)
    photos = centre(read_kept_images(scene, scene.initial_poses), principal_points(start))
    examine = partial(judge, photos=photos, sharp=im.to_tensor(photos, HELD.size).to(device))
    judged, kept = {"initial": examine(model, centred(start).to(device))}, "initial"
    best = judged[kept]
    images, cameras = upright(photos, best.cameras, model.image_size)
    prior = list(range(config.tuning.prior_objects))
    if config.tuning.steps and config.tuning.prior_nearest:
        from camerabooth.regularisation import nearest_objects

        prior = nearest_objects(model, pretrained, images, config.tuning.prior_objects)

    before = seen_from_others(model, images, cameras)
    shown, shown_from = repeated(images, cameras, order)

    def tuned(batch: int) -> tuple[Tensor, Tensor]:
        nonlocal model
        changes = {"batch": batch}
        if batch < config.tuning.batch:
            changes["prior_batch"] = max(1, config.tuning.prior_batch // 2)
            model = load_model(pretrained, device, **config.model)  # the first attempt may have changed it
        settings = OmegaConf.merge(config.tuning, changes)
        return tune(model, shown, shown_from, prior, settings, seed, folder)

    moved = halving(tuned, config.tuning.batch, "tuning.batch", device)
    refined, trajectory = (cameras[..., : len(images), :] for cameras in moved)  # other sides come last
    remember = partial(fit_object, model, images, order=order, options=config.tuning.instance, seed=seed)
    way = remember(refined)
    refined, trajectory = way[-1], torch.cat([trajectory, way[1:].cpu()])

    # The tuned model has adapted to the refined poses; the pretrained one is an impartial judge of both.
    held = refined + (best.cameras - cameras)  # with the roll that was turned away
    judged["refined"] = examine(load_model(pretrained, device, **config.model), held)
    if judged["refined"].better_than(best):
        kept = "refined"
    else:
        remember(cameras, held=True)
    after = seen_from_others(model, images, refined if kept == "refined" else cameras)
    model.save_pretrained(folder / "model")
    with atomic_file(folder / "before_after.png") as path:
        imageio.imwrite(path, before_after(images, before, after))
    with atomic_file(folder / "trajectory.npy") as path:
        np.save(path, trajectory.numpy())
    every[kept_views] = with_principal_points(judged[kept].cameras.cpu(), start)
    left_out = read_left_out(scene.initial_poses)
    write_judged(folder / "poses.json", every, judged, kept, order, left_out)


def write_judged(
    path: Path, cameras: Tensor, judged: dict[str, Judged], kept: str, order: int, left_out: Sequence[int] = ()
) -> None:
    """Write the poses that are kept, of all views, [N, 3], [N, 5] or [N, 7], with what speaks for them and for the
    others.

    It is said, too.
    """
    energies = {name: each.errors.mean().item() for name, each in judged.items()}
    synthesis = {name: each.synthesis for name, each in judged.items()}
    evidence = {"energy": energies, "synthesis": synthesis, "kept": kept, SYMMETRY: {"order": order}}
    evidence[LEFT_OUT] = list(left_out)
    write_poses(path, cameras[None], [energies[kept]], **evidence)
    for name, energy in energies.items():
        print(f"{name} poses: energy {energy:.4f}, unexplained {synthesis[name]:.2%}{', kept' * (name == kept)}")


def main() -> None:
    arguments, config = stage_options(__doc__, ROOT)
    start = time.monotonic()
    run(arguments.scene, config, choose_device(arguments.device), arguments.seed, arguments.scene.diffusion)
    print(f"tuned in {time.monotonic() - start:.0f} s: {arguments.scene.diffusion}")


if __name__ == "__main__":
    with one_line_errors("tuning", "tuning.batch or tuning.prior_objects"):
        main()
