"""What stage 2's tuning and each part of stage 3 are worth to the field: variants over a list of objects.

    python 3D_Recon/threestudio/ablate.py --list dataset/benchmarks/scans8.txt --views 1 2 3 5 --device cpu
    python 3D_Recon/threestudio/ablate.py --list dataset/benchmarks/real20.txt --in-turn --device cpu
    python 3D_Recon/threestudio/ablate.py --list dataset/benchmarks/scans8.txt --views 2 3 5 --device cpu --true_poses

Objects must have gone through stage 2. Without tuning, stage 3 begins at stage 1's poses. With --true_poses stage 2
tunes anew at the true cameras, and neither stage moves them. Everything goes to
ROOT_DIR/runs/reconstruction_ablations, the table to results/threestudio/ablations.json. unseen_N_POSES.png beside it
shows each object from the test view that is farthest from all photos, in truth and as each variant has it. What is
there is not done again.
"""

import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import imageio.v3 as imageio
import launch
import numpy as np
from omegaconf import OmegaConf

from camerabooth import main as camerabooth
from relposepp import infer
from relposepp.decide import symmetry_at, symmetry_bound
from sap3d import images as im
from sap3d.cameras.maths import anchored, sight_cosines
from sap3d.cameras.poses import SYMMETRY, read_best_poses, read_symmetry_order, write_poses
from sap3d.errors import one_line_errors
from sap3d.field import synthesis
from sap3d.files import atomic_file, root_dir
from sap3d.runs.devices import choose_device
from sap3d.scene import Scene, image_paths
from sap3d.scores import metrics
from sap3d.scores.ablations import AblationTable, argument_parser, chosen_variants, read_sets
from sap3d.scores.evaluate import compare_folder, evaluate_mesh, read_symmetry
from sap3d.views import read_images, read_poses

FULL = "full"
UNTUNED = "without tuning"
FAR_SIDE = "without the far side"
EXPECTED = "without expected views"
VARIANTS = {
    FULL: [],
    UNTUNED: [],  # it differs by `stage2`
    FAR_SIDE: ["data.symmetric=false"],
    EXPECTED: ["system.expected_weight=0"],
    "views in place of the field": ["system.field_from=0"],
    "photos alone": ["system.field_from=0", "system.expected_weight=0", "data.symmetric=false"],
}
HELD = ["system.pose_rate=0"]
HELD_TUNING = {"pose_learning_rate": 0.0, "instance": {"pose_rate": 0.0}}
NO_TUNING = {"steps": 0, "instance": {"steps": 0}}
TILE = 128  # pixels, of a picture of unseen sides
MEASURES = {"psnr": metrics.psnr, "ssim": metrics.ssim}
COLUMNS = {"psnr": "3D PSNR", "ssim": "3D SSIM", "IOU": "IoU", "CD": "Chamfer", "rotation": "rotation (°)"}


def below(scene: Scene, root: Path) -> Scene:
    """The same scene under another root, with links to its photos and its ground truth."""
    other = replace(scene, root=root)
    for name in ("train", "test", "mesh_folder"):
        link(getattr(scene, name), getattr(other, name))
    return other


def without_effect(scene: Scene) -> set[str]:
    """The variants that are the same as the full one for this scene's photos."""
    order = read_symmetry_order(scene.diffusion / "poses.json")
    same = {UNTUNED: scene.views * order == 1, FAR_SIDE: order == 1, EXPECTED: scene.views > 1}
    return {name for name, holds in same.items() if holds}


def link(source: Path, target: Path) -> None:
    """Let `target` be a link to `source`, unless something is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(source)


def stage2(scene: Scene, tuning: dict, device: str, seed: int) -> None:
    """Stage 2 of a scene with changes of its tuning, unless it is there."""
    if not (scene.diffusion / "poses.json").exists():
        config = OmegaConf.merge(OmegaConf.load(camerabooth.CONFIG), {"tuning": tuning})
        camerabooth.run(scene, config, choose_device(device), seed, scene.diffusion)


def at_truth(scene: Scene, root: Path, device: str) -> Scene:
    """The scene under another root, with the true cameras in stage 1's place."""
    other = below(scene, root)
    if not other.initial_poses.exists():
        cameras, chosen = anchored(read_poses(scene.train, scene.views)), choose_device(device)
        photos = im.to_tensor(read_images(scene), synthesis.HELD.size).to(chosen)
        cameras, bound = cameras.to(chosen), symmetry_bound(OmegaConf.load(infer.CONFIG).symmetry, scene.views)
        symmetry = symmetry_at(photos, cameras, synthesis.unexplained(photos, cameras), bound)
        write_poses(other.initial_poses, cameras[None], [0.0], **{SYMMETRY: symmetry})
    return other


def evaluate(scene: Scene, overrides: list[str], device: str, seed: int) -> dict:
    """Stage 3 of one variant: metrics of its test views and of its mesh, and its rotation error up to symmetry."""
    os.environ["ROOT_DIR"] = str(scene.root)  # where launch.py looks
    names = [f"data.type={scene.type}", f"data.object={scene.object}", f"data.views={scene.views}"]
    config = launch.read_config(launch.DEFAULT, [*names, f"device={device}", f"seed={seed}", *overrides])
    done = scene.reconstruction / "config.yaml"
    if not done.exists() or OmegaConf.load(done) != OmegaConf.create(config):
        launch.train(config)
    truth = read_poses(scene.train, scene.views)
    pictures = compare_folder(scene.reconstruction / "test", "launch.py", image_paths(scene.test), MEASURES)
    rotation = metrics.rotation_error(
        read_best_poses(scene.reconstruction / "poses.json", scene.views), truth, read_symmetry(scene)
    )
    return pictures | evaluate_mesh(scene, truth, seed) | {"rotation": rotation}


def unseen_sides(scene: Scene, variants: list[Scene]) -> list[np.ndarray]:
    """The test view whose line of sight is farthest from the photos': in truth, and of each variant's field."""
    seen = sight_cosines(read_poses(scene.test), read_poses(scene.train, scene.views)).amax(1)
    view = seen.argmin().item()
    paths = [image_paths(scene.test)[view], *(each.reconstruction / f"test/{view:03d}.png" for each in variants)]
    return [im.to_uint8(im.read_on_white(path, TILE)) for path in paths]


def run() -> None:
    parser = argument_parser(__doc__, views=["1", "2", "3", "5"])
    parser.add_argument("--true_poses", action="store_true", help="give both stages the true cameras")
    arguments = parser.parse_intermixed_args()
    root, poses = root_dir(), "true" if arguments.true_poses else "estimated"
    folder, held = root / "runs/reconstruction_ablations" / poses, HELD * arguments.true_poses
    table = AblationTable(root / "results/threestudio/ablations.json", COLUMNS)
    sets = read_sets(arguments)
    titles = {views: f"{views} view{'s' * (views > 1)}, {poses} poses, seed {arguments.seed}" for views in sets}
    chosen = chosen_variants(arguments, VARIANTS)
    for views, title in titles.items():
        pictures = []
        for type_name, object_name in sets[views]:
            scene = Scene(type_name, object_name, views, root)
            if arguments.true_poses:
                scene = at_truth(scene, folder, arguments.device)
                stage2(scene, HELD_TUNING, arguments.device, arguments.seed)
            same = without_effect(scene)
            alike = {name: FULL if name in same else name for name in chosen}
            variants = {name: below(scene, folder / re.sub(r"\W+", "_", alike[name])) for name in chosen}
            for name, variant in variants.items():
                if alike[name] == UNTUNED:
                    link(scene.initial_poses.parent, variant.initial_poses.parent)
                    stage2(variant, NO_TUNING, arguments.device, arguments.seed)
                else:
                    link(scene.diffusion, variant.diffusion)
                changes = [*VARIANTS[alike[name]], *held, *arguments.overrides]
                table.fill(title, name, variant, partial(evaluate, variant, changes, arguments.device, arguments.seed))
            pictures += unseen_sides(scene, list(variants.values()))
        with atomic_file(table.path.with_name(f"unseen_{views}_{poses}.png")) as path:
            imageio.imwrite(path, im.sheet(np.stack(pictures), columns=1 + len(chosen)))
        table.print(title)
    table.print(*titles.values())
    print(f"→ {table.path}")


if __name__ == "__main__":
    with one_line_errors():
        run()
