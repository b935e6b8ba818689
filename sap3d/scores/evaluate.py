"""Compare an object's outputs with its ground truth.

    python -m sap3d.scores.evaluate --type TYPE --object OBJECT --views N [--device 0]

Writes results/TYPE/OBJECT/N/results.json and prints a summary. What has no ground truth (own photos) is null.

Outputs and truth differ by the gauge only: in the pipeline's world view 0 has azimuth 0, in the true one azimuth a0.
Both sets of 84 pictures follow `evaluation_grid` about their own view 0, so they are compared by index, at the size of
the test views (smaller pictures are enlarged by a Lanczos filter first). The true mesh is turned by −a0 about z; no
scale or other rotation is fitted, so errors of view 0's elevation and radius count.
"""

import argparse
import json
import math
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import torch
import trimesh
from PIL import Image
from torch import Tensor

from sap3d.cameras.maths import wrap_angle
from sap3d.cameras.poses import read_best_poses, read_kept
from sap3d.errors import UserError, one_line_errors
from sap3d.files import REPOSITORY, write_json
from sap3d.images import read_on_white
from sap3d.meshes import read_mesh, read_result
from sap3d.runs.cores import available_cores
from sap3d.scene import Scene, check_views, image_paths
from sap3d.scores import metrics
from sap3d.views import read_poses

PICTURE_METRICS = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "flip": "ꟻLIP"}
MESH_METRICS = {"CD": "Chamfer", "IOU": "IoU", "F1_01": "F@0.04", "F1_02": "F@0.05", "F1_03": "F@0.06"}
MESH_SUFFIXES = (".obj", ".glb", ".ply")
POSE_STAGES = {
    1: "relposepp/infer.py",
    2: "camerabooth/main.py",
    3: "3D_Recon/threestudio/launch.py",
}


def evaluate(scene: Scene, seed: int, device: str) -> dict:
    """All metrics of one object, keyed as in results.json (README.md).

    Args:
        seed: of the mesh samples; recorded as the run's.
        device: that the stages ran on, a CUDA index or cpu; recorded, too. What is computed here needs no GPU.

    Raises:
        UserError: an output is missing or unreadable; the line names the stage to run.
    """
    start = time.monotonic()
    poses = read_stage_poses(scene)
    has_poses, has_test = any((scene.train / "poses").glob("*.npy")), bool(image_paths(scene.test))
    truths = {"poses": has_poses, "test views": has_test, "mesh": true_mesh(scene)}
    absent = [name for name, has in truths.items() if not has]
    if absent:
        print(f"no ground-truth {', '.join(absent)} of {scene.type}/{scene.object}: their metrics are null", flush=True)

    kept = read_kept(scene.reconstruction / "poses.json", scene.views)
    has_test = has_test and 0 in kept  # the test views stand about view 0
    truth = read_poses(scene.train, scene.views)[kept] if has_poses else None
    results = {"NAME": scene.object}
    results |= evaluate_mesh(scene, truth, seed)
    results |= evaluate_poses(poses, truth, read_symmetry(scene))
    results |= evaluate_pictures(scene, has_test)
    seconds = read_seconds(scene.results / "stages.json") | {"evaluation": round(time.monotonic() - start, 1)}
    return results | {
        "type": scene.type,
        "object": scene.object,
        "views": scene.views,
        "seed": seed,
        "seconds": seconds,
        "machine": describe_machine(device),
        "commit": describe_commit(),
    }


def read_stage_poses(scene: Scene) -> dict[int, Tensor | None]:
    """The best cameras [N, 3] or [N, 7] of the kept views after each stage. One view needs no stage 1: without its
    file it is None."""
    folders = {1: scene.initial_poses.parent, 2: scene.diffusion, 3: scene.reconstruction}
    poses = {}
    for stage, folder in folders.items():
        path = folder / "poses.json"
        if stage == 1 and scene.views == 1 and not path.exists():
            poses[stage] = None
        else:
            poses[stage] = read_best_poses(_output(path, POSE_STAGES[stage]), scene.views)
    return poses


def _output(path: Path, stage: str) -> Path:
    if not path.exists():
        raise UserError(f"{path} is missing: run {stage} first")
    return path


def evaluate_poses(poses: dict[int, Tensor | None], truth: Tensor | None, symmetry: int | float) -> dict:
    """Pose errors: the final stage's under the original's keys, and the rotation error of every stage."""
    if truth is None:
        results = dict.fromkeys(["Rotation Error", "Elevation", "Azimuth", "Radius"])
    else:
        results = {"Rotation Error": metrics.rotation_error(poses[3], truth)}
        results |= metrics.camera_differences(poses[3], truth)
    for stage, estimate in poses.items():
        for suffix, order in (("", 1), ("_symmetric", symmetry)):
            known = truth is not None and estimate is not None
            results[f"rotation_error_stage{stage}{suffix}"] = (
                metrics.rotation_error(estimate, truth, order) if known else None
            )
    return results


def read_symmetry(scene: Scene) -> int | float:
    """Order of the object's rotational symmetry about z, from dataset/benchmarks/symmetries.json; 1 if not listed."""
    path = REPOSITORY / "dataset/benchmarks/symmetries.json"
    order = json.loads(path.read_text()).get(f"{scene.type}/{scene.object}", 1)
    return math.inf if order == "inf" else order


def evaluate_pictures(scene: Scene, has_test: bool) -> dict:
    """Means of the picture metrics of the diffusion model's novel views (2d_*) and the field's renders (3d_*)."""
    folders = {
        "2d": (scene.diffusion / "preds", "camerabooth/go_nvs.py"),
        "3d": (scene.reconstruction / "test", "3D_Recon/threestudio/launch.py"),
    }
    measures = metrics.picture_measures() if has_test else {}
    results = {}
    for prefix, (folder, stage) in folders.items():
        names = dict.fromkeys(PICTURE_METRICS)
        if has_test:
            names = compare_folder(folder, stage, image_paths(scene.test), measures)
        results |= {f"{prefix}_{name}_mean": value for name, value in names.items()}
    return results


def compare_folder(folder: Path, stage: str, truths: list[Path], measures: Mapping[str, metrics.Measure]) -> dict:
    """Means of measures of 000.png … in a folder against the true pictures.

    Raises:
        UserError: a picture is missing; the line names the `stage` that writes it.
    """
    paths = [_output(folder / f"{index:03d}.png", stage) for index in range(len(truths))]
    with Image.open(truths[0]) as image:
        size = image.height
    pictures, references = ([read_on_white(path, size) for path in group] for group in (paths, truths))
    return metrics.picture_metrics(pictures, references, measures, title=f"comparing {folder.name}")


def true_mesh(scene: Scene) -> Path | None:
    """The file of the ground-truth mesh, if there is one."""
    return min((path for path in scene.mesh_folder.glob("*") if path.suffix in MESH_SUFFIXES), default=None)


def evaluate_mesh(scene: Scene, truth: Tensor | None, seed: int) -> dict:
    """Mesh metrics, with the true mesh turned into the world of the true cameras [N, 3] with view 0's azimuth 0."""
    path = true_mesh(scene)
    if path is None or truth is None:
        return dict.fromkeys(MESH_METRICS)
    _output(scene.reconstruction / "mesh.obj", POSE_STAGES[3])
    mesh, reference = read_result(scene.reconstruction), read_mesh(path)
    reference.apply_transform(trimesh.transformations.rotation_matrix(-truth[0, 1].item(), [0, 0, 1]))
    return metrics.mesh_metrics(mesh, reference, seed)


def read_seconds(path: Path) -> dict[str, float]:
    """Seconds that each stage took when it was last run by the launcher; empty if the stages were run by hand."""
    try:
        return {name: stage["seconds"] for name, stage in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a record of stages ({error}); remove it") from error


def describe_machine(device: str) -> dict:
    """Processor, cores this process may use, and the GPU that `device` is, if it is one."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    there = device.isdigit() and int(device) < torch.cuda.device_count()  # else the stages have run on the CPU
    gpu = torch.cuda.get_device_name(int(device)) if there else None
    return {"cpu": model, "cores": len(available_cores()), "gpu": gpu, "python": platform.python_version()}


def describe_commit() -> str | None:
    """The repository's commit, marked where files differ from it; None outside git."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# The summary that ends a run ------------------------------------------------------------------------------------------


def print_summary(scene: Scene, results: dict) -> None:
    """Print the refined poses, their errors, the metrics, the seconds and where the video and the mesh are."""

    def values(names: dict[str, str], digits: int) -> str:
        return ", ".join(f"{title} {format_number(results[key], digits)}" for key, title in names.items())

    print(f"\n{scene.type}/{scene.object}, {scene.views} view{'s' * (scene.views > 1)}")
    poses = read_best_poses(scene.reconstruction / "poses.json", scene.views)
    held = poses.shape[1] == 7
    print("  view   elevation°    azimuth°     radius" + "      roll°  field of view°" * held)
    for index, (elevation, azimuth, radius, *_) in enumerate(poses):
        line = f"  {index:4d} {elevation.rad2deg():12.1f} {wrap_angle(azimuth).rad2deg():11.1f} {radius:10.3f}"
        print(line + (f" {poses[index, 5].rad2deg():10.1f} {poses[index, 6].rad2deg():15.1f}" if held else ""))
    errors = " → ".join(format_number(results[f"rotation_error_stage{stage}"], 1) for stage in POSE_STAGES)
    lines = {
        "rotation error": f"{errors}° after stages 1 → 2 → 3",
        "mean difference": values({"Elevation": "elevation°", "Azimuth": "azimuth°", "Radius": "radius"}, 2),
        "novel views": values({f"2d_{key}_mean": title for key, title in PICTURE_METRICS.items()}, 3),
        "field": values({f"3d_{key}_mean": title for key, title in PICTURE_METRICS.items()}, 3),
        "mesh": values(MESH_METRICS, 3),
        "seconds": ", ".join(f"{stage} {seconds:g}" for stage, seconds in results["seconds"].items()),
        "results": scene.results / "results.json",
        "video": scene.reconstruction / "turntable.mp4",
        "mesh file": scene.reconstruction / "mesh.obj",
    }
    for title, line in lines.items():
        print(f"  {title:16} {line}", flush=True)


def format_number(value: float | None, digits: int) -> str:
    """Fixed digits, or n/a."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def main() -> Scene:
    """Evaluate the scene that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--type", required=True)
    parser.add_argument("--object", required=True)
    parser.add_argument("--views", required=True)
    parser.add_argument("--device", default="0", help="what the stages ran on: CUDA index, or cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", help="after --: those of the stages, which are recorded")
    arguments = parser.parse_args()
    scene = Scene(arguments.type, arguments.object, check_views(arguments.views))
    results = evaluate(scene, arguments.seed, arguments.device) | {"options": arguments.options}
    write_json(scene.results / "results.json", results)
    print_summary(scene, results)
    return scene


if __name__ == "__main__":
    with one_line_errors():
        main()
