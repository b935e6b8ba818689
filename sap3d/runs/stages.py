"""Run state: which stages of a scene are up to date, and the lock that one run of the pipeline has on them.

    python -m sap3d.runs.stages run poses --type T --object O --views N [--force] [--dry-run] -- COMMAND…
    python -m sap3d.runs.stages lock --type T --object O --views N 9>>FILE

run_pipeline.sh runs each stage through here. A stage is up to date when its command, its options
(sap3d/runs/options.py), the bytes of all it reads (photos, weights, results of earlier stages) and of all it wrote are
those of its last successful run; the record is results/TYPE/OBJECT/N/stages.json. Programs are not among the inputs:
--force after they have changed.
"""

import argparse
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from sap3d.errors import UserError, one_line_errors
from sap3d.files import REPOSITORY, digest, find_below, write_json
from sap3d.runs.options import read_tree, split_words, stage_config, weights_path
from sap3d.scene import Scene, check_views, image_paths

LOCK_DESCRIPTOR = 9  # run_pipeline.sh's
NEVER = "has not run"
STALE = 3  # exit status of a dry run that would run the stage


@dataclass(frozen=True)
class Stage:
    """What a stage reads and writes: files, or folders with all that is in them."""

    inputs: list[Path]
    outputs: list[Path]


def declare(scene: Scene, tree: DictConfig) -> dict[str, Stage]:
    """The stages whose results are kept, in their order.

    Args:
        tree: their options (sap3d/runs/options.py), which name the weights; what each reads of it counts besides.
    """
    photos = image_paths(scene.train)[: scene.views]
    photos += [mask for photo in photos if (mask := scene.train / "masks" / f"{photo.stem}.png").exists()]
    tuned, field = scene.diffusion, scene.reconstruction
    pose_weights = model_files(find_below(tree.poses.weights))
    if tree.poses.backbone == "published":
        pose_weights.append(find_below(tree.poses.checkpoint))
    weights, judge = (
        model_files(weights_path(block.backbone, block.checkpoint)) for block in (tree, tree.poses.diffusion)
    )
    return {
        # Its programs find out by themselves whether there is anything to do, so it is never called up to date.
        "data": Stage([], [scene.train / "images"]),
        "poses": Stage(
            # Whether import has framed the photos decides where the object's middle may be.
            [*photos, scene.photo_record, *pose_weights, *judge],
            [scene.initial_poses],
        ),
        "tuning": Stage(
            [*photos, scene.initial_poses, *weights],
            [tuned / "poses.json", tuned / "model"],
        ),
        "novel_views": Stage(
            [*photos, tuned / "poses.json", tuned / "model"],
            [tuned / "preds", tuned / "sheet.png", tuned / "video.mp4", tuned / "page.png"],
        ),
        "reconstruction": Stage(
            # Imported photos may be unlike in exposure.
            [*photos, scene.photo_record, tuned / "poses.json", tuned / "model"],
            [field],
        ),
    }


def model_files(path: Path) -> list[Path]:
    """Files that a model is read from: of its folder, or an original .ckpt, or what tells of one that is gone."""
    if path.suffix == ".ckpt":
        return [path if path.exists() else path.with_suffix("") / "source.json"]
    found = [file for file in sorted(path.rglob("*")) if file.suffix in (".json", ".safetensors")]
    # Regularisation notes its neighbours there while it runs.
    return [file for file in found if file.name != "neighbours.safetensors"] or [path]


def digests(paths: list[Path], root: Path) -> dict[str, str | None]:
    """SHA-256 of files and of all files in folders, by their paths (below ROOT_DIR or the repository, if they are).

    None stands for what is not there.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    bases = {
        path: next((base for base in (root, REPOSITORY) if path.is_relative_to(base)), Path("/")) for path in files
    }
    return {str(path.relative_to(base)): digest(path) for path, base in bases.items()}


def without_device(command: list[str]) -> list[str]:
    """A command as it is compared: not by its interpreter, where it computes, or options, which the tree tells."""
    kept, words = [], iter(split_words(command[1:])[2])
    for word in words:
        if word == "--device":
            next(words, None)
        elif not word.startswith("device="):
            kept.append(word)
    return kept


class Record:
    """What is known of the stages of a scene's last runs."""

    def __init__(self, scene: Scene):
        self.path, self.root, self.stages = scene.results / "stages.json", scene.root, {}
        try:
            self.stages = dict(json.loads(self.path.read_text()))
        except (OSError, ValueError, TypeError):
            pass  # none, or damaged: all stages run

    def why_stale(
        self, name: str, stage: Stage, command: list[str], config: dict, inputs: dict | None = None
    ) -> str | None:
        """Why a stage must run, or None if it is up to date; `inputs` are its digests where they are known."""
        known = self.stages.get(name)
        if known is None:
            return NEVER
        if known["command"] != without_device(command):
            return "the command has changed"
        if different := differing(known.get("config", {}), config):
            return f"{different} has changed"
        inputs = digests(stage.inputs, self.root) if inputs is None else inputs
        return changed(known["inputs"], inputs) or changed(known["outputs"], digests(stage.outputs, self.root))

    def made_by_hand(self, name: str, stage: Stage, reason: str | None) -> bool:
        """Whether a stage is stale only because its results, all there, are not those of its last run."""
        known = self.stages.get(name, {}).get("outputs", {})
        others = changed(known, digests(stage.outputs, self.root))
        return reason in (NEVER, others) and all(path.exists() for path in stage.outputs)

    def note(self, name: str, stage: Stage, command: list[str], config: dict, inputs: dict, seconds: float) -> None:
        """Note that a stage has succeeded."""
        self.stages[name] = {"command": without_device(command), "seconds": round(seconds, 1), "config": config,
                             "inputs": inputs, "outputs": digests(stage.outputs, self.root)}  # fmt: skip
        write_json(self.path, self.stages)


def command_tree(command: list[str]) -> DictConfig:
    """The options that a stage's command gives."""
    flags, overrides, rest = split_words(command)
    device = next((value for word, value in zip(rest, rest[1:]) if word == "--device"), "cpu")
    device = next((word[7:] for word in rest if word.startswith("device=")), device)
    return read_tree([word for flag in flags.items() for word in flag] + overrides, device)


def differing(before: object, now: object, name: str = "") -> str | None:
    """The name of the first option that differs, or None."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return None if before == now else name
    keys = [*before, *(key for key in now if key not in before)]
    found = (differing(before.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
    return next((different for different in found if different), None)


def changed(before: dict[str, str | None], now: dict[str, str | None]) -> str | None:
    """A sentence on the first file that differs, or None."""
    for path in [*before, *(path for path in now if path not in before)]:
        if before.get(path) != now.get(path):
            how = "is gone" if now.get(path) is None else "is new" if before.get(path) is None else "has changed"
            return f"{path} {how}"
    return None


def run(arguments: argparse.Namespace, scene: Scene) -> int:
    """Run a stage's command unless the stage is up to date; returns its exit status."""
    record, tree = Record(scene), command_tree(arguments.command)
    stage = declare(scene, tree)[arguments.stage]
    config = {} if arguments.stage == "data" else stage_config(arguments.stage, tree)
    # Inputs are read before the stage: what changes while it runs makes it stale.
    inputs = digests(stage.inputs, scene.root)
    reason = record.why_stale(arguments.stage, stage, arguments.command, config, inputs)
    if arguments.stage == "data" and not arguments.dry_run:
        reason = NEVER
    if arguments.leave and arguments.stage != "data" and record.made_by_hand(arguments.stage, stage, reason):
        print(f"      left as it is: {reason}", flush=True)
        return 0
    if arguments.after:
        reason = f"after {arguments.after}"
    if arguments.force:
        reason = "--force or --from"
    if reason is None:
        print("      up to date", flush=True)
        return 0
    if arguments.dry_run:
        print(f"      would run: {reason}", flush=True)
        return STALE
    if reason != NEVER:
        print(f"      runs: {reason}", flush=True)
    start = time.monotonic()
    # The stage inherits the descriptors that hold the run's lock and the launcher's: it may outlive this process, the
    # shell and the launcher.
    status = subprocess.run(arguments.command, close_fds=False).returncode
    if status == 0:
        record.note(arguments.stage, stage, arguments.command, config, inputs, time.monotonic() - start)
    return status if status >= 0 else 128 - status


def lock(scene: Scene) -> None:
    """Take the run's lock on a descriptor that the shell keeps open, so that it lasts as long as the run.

    Raises:
        UserError: another run has it.
    """
    path = lock_path(scene)
    try:
        fcntl.flock(LOCK_DESCRIPTOR, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = path.read_text().strip() or "another run"
        raise UserError(f"{scene.type}/{scene.object}, {scene.views} views: {holder} works on it") from error
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    path.write_text(f"process {os.getppid()} on {socket.gethostname()}, since {since},\n")


def lock_path(scene: Scene) -> Path:
    return scene.results / ".run"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "lock"))
    parser.add_argument("stage", nargs="?", choices=("data", "poses", "tuning", "novel_views", "reconstruction"))
    parser.add_argument("--type", required=True)
    parser.add_argument("--object", required=True)
    parser.add_argument("--views", required=True)
    parser.add_argument("--force", action="store_true", help="run it even if it is up to date")
    parser.add_argument("--leave", action="store_true", help="leave results that were made by hand")
    parser.add_argument("--dry-run", action="store_true", help="only say whether it would run, and why")
    parser.add_argument("--after", metavar="STAGE", help="in a dry run: an earlier stage that would run")
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:split])
    arguments.command = words[split + 1 :]
    if arguments.action == "run" and not (arguments.stage and arguments.command):
        parser.error("run wants a stage and, after --, its command")
    scene = Scene(arguments.type, arguments.object, check_views(arguments.views))
    if arguments.action == "lock":
        lock(scene)
        return 0
    return run(arguments, scene)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
