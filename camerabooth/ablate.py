"""What each part of stage 2 is worth: variants of its config over a list of objects.

    python camerabooth/ablate.py --list dataset/benchmarks/scans8.txt --views 3 5 --device cpu

The variants are in configs/ablations.yaml. Objects must be prepared and have stage 1's poses. Models and novel views
go to ROOT_DIR/runs/ablations, the table to results/camerabooth/ablations.json; what is there is not done again.
"""

import json
import re
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from camerabooth import go_nvs, main
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import one_line_errors
from sap3d.files import root_dir, write_json
from sap3d.runs.devices import choose_device
from sap3d.runs.options import merge_overrides
from sap3d.runs.training import fingerprint
from sap3d.scene import Scene, image_paths
from sap3d.scores import metrics
from sap3d.scores.ablations import AblationTable, argument_parser, chosen_variants, read_sets
from sap3d.scores.evaluate import compare_folder, read_symmetry
from sap3d.views import read_poses

VARIANTS = Path(__file__).parent / "configs/ablations.yaml"
COLUMNS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "stage1": "stage 1 (°)",
    "stage2": "stage 2 (°)",
    "seconds": "tuning (s)",
}


def evaluate(
    scene: Scene,
    name: str,
    config: DictConfig,
    device: torch.device,
    seed: int,
    measures: Mapping[str, metrics.Measure],
) -> dict[str, float | None]:
    """One variant on one scene: picture metrics of the 84 novel views, rotation errors up to symmetry, seconds."""
    runs = root_dir() / "runs/ablations" / scene.type / scene.name
    tuning = OmegaConf.to_yaml(config.tuning), config.backbone, config.checkpoint
    tuned = runs / fingerprint(*tuning, seed)[:12]
    if not (tuned / "poses.json").exists():
        start = time.monotonic()
        main.run(scene, config, device, seed, tuned)
        write_json(tuned / "seconds.json", time.monotonic() - start)
    folder = runs / re.sub(r"\W+", "_", name)
    go_nvs.write_views(folder, *go_nvs.novel_views(scene, tuned, config, device, seed))
    pictures = compare_folder(folder / "preds", "camerabooth/go_nvs.py", image_paths(scene.test), measures)
    truth, symmetry = read_poses(scene.train, scene.views), read_symmetry(scene)
    poses = {"stage1": scene.initial_poses, "stage2": tuned / "poses.json"}
    errors = {
        stage: metrics.rotation_error(read_best_poses(path, scene.views), truth, symmetry)
        for stage, path in poses.items()
    }
    return pictures | errors | {"seconds": json.loads((tuned / "seconds.json").read_text())}


def run() -> None:
    parser = argument_parser(__doc__, views=["5"])
    arguments = parser.parse_intermixed_args()
    device, base = choose_device(arguments.device), merge_overrides(OmegaConf.load(main.CONFIG), arguments.overrides)
    variants = chosen_variants(arguments, OmegaConf.load(VARIANTS))
    measures = {name: measure for name, measure in metrics.picture_measures().items() if name in COLUMNS}
    table, sets = AblationTable(root_dir() / "results/camerabooth/ablations.json", COLUMNS), read_sets(arguments)
    titles = {views: f"{views} view{'s' * (views > 1)}, seed {arguments.seed}" for views in sets}
    for views, title in titles.items():
        for type_name, object_name in sets[views]:
            scene = Scene(type_name, object_name, views)
            for name, changes in variants.items():
                config = OmegaConf.merge(base, changes)
                table.fill(title, name, scene, partial(evaluate, scene, name, config, device, arguments.seed, measures))
        table.print(title)
    table.print(*titles.values())
    print(f"→ {table.path}")


if __name__ == "__main__":
    with one_line_errors():
        run()
