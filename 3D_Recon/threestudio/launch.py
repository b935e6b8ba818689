"""Stage 3: reconstruct an object from its photos, its refined poses and its tuned model.

    python 3D_Recon/threestudio/launch.py --config configs/sap3d.yaml --train \
        data.type=GSO_demo data.object=chefmate_8_frypan data.views=5 device=0

--train fits the field and writes everything; --export and --validate write the mesh and the pictures again from a
field that is there. A second --config changes the first, --preset both, and key=value any key of it. Results:
experiments_TYPE_view_N_nerf/OBJECT/.
"""

import argparse
import shutil
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors.torch import load_file
from yaml import YAMLError

from sap3d.cameras.maths import centred
from sap3d.cameras.placement import Placement
from sap3d.cameras.poses import LEFT_OUT, read_best_poses, read_kept, read_left_out, read_pose_hypotheses, write_poses
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_folder, save_tensors
from sap3d.meshes import Size
from sap3d.runs.devices import choose_device, halving, seed_everything
from sap3d.runs.options import (
    FLAGS,
    RECONSTRUCTION,
    add_shared_flags,
    check_types,
    preset_block,
    read_tree,
    shared_words,
    split_words,
)

HERE = Path(__file__).resolve().parent
DEFAULT = ["configs/sap3d.yaml"]
OmegaConf.register_resolver("up_to_two", lambda views, few, more: few if views <= 2 else more, replace=True)
SAMPLED = 512  # least side of the photos from which a texture is sampled: of small ones, bilinear sampling blurs print
# Keys in field.safetensors, beside the geometry's.
CORRECTIONS, SCALE, TURN, FLOOR = "corrections", "scale", "turn", "floor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    config_help = "absolute, or below the working or this folder; by default configs/sap3d.yaml"
    parser.add_argument("--config", action="append", metavar="PATH", help=config_help)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--train", action="store_true", help="fit the field, then export and validate")
    action.add_argument("--export", action="store_true", help="write the mesh of the field that is there")
    action.add_argument("--validate", action="store_true", help="render the field that is there")
    add_shared_flags(parser)
    arguments = parser.parse_intermixed_args()
    config = read_config(arguments.config or DEFAULT, *own_changes(arguments))
    seed_everything(config["seed"])
    if arguments.train:
        train(config)
    else:
        reexport(config, mesh=arguments.export)


def own_changes(arguments: argparse.Namespace) -> tuple[list[str], DictConfig]:
    """Of the options of all stages those of this one: its overrides, and what the preset changes."""
    words = shared_words(arguments)
    flags, overrides, rest = split_words(words, RECONSTRUCTION)
    device = next((word[7:] for word in arguments.overrides if word.startswith("device=")), "0")
    read_tree(
        [word for word in words if word not in rest], device, RECONSTRUCTION
    )  # other stages' keys are checked, too
    overrides = [f"{key}={value}" for flag, value in flags.items() for key in FLAGS[flag]] + overrides
    own = [word.removeprefix(f"{RECONSTRUCTION}.") for word in overrides if word.startswith(f"{RECONSTRUCTION}.")]
    return own + rest, preset_block(flags, device, RECONSTRUCTION)


def read_config(paths: list[str], overrides: list[str], preset: DictConfig | None = None) -> dict:
    """The YAML files, each changing those before it, with the preset's changes and overrides, resolved.

    Raises:
        UserError: no such file, an unknown block or key of `trainer`, or a key left open. Keys within other blocks are
            `build`'s to check.
    """
    config = OmegaConf.create()
    for path in paths:
        file = next((f for f in (Path(path), HERE / path) if f.is_file()), None)
        if file is None:
            raise UserError(f"{path}: no such config")
        try:
            changes = OmegaConf.load(file)
            if not isinstance(changes, DictConfig):
                raise UserError(f"{file}: not a config")
            config.merge_with(changes)
        except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
            raise UserError(f"{file}: {str(error).splitlines()[0]}") from error
    config.merge_with(preset or {})
    try:
        defaults = config.copy()
        config.merge_with_dotlist(overrides)
        check_types(defaults, config, overrides)
        for name, there, known in (("", config, defaults), ("trainer: ", config.trainer or {}, defaults.trainer or {})):
            if unknown := set(there) - set(known):
                raise UserError(f"config: {name}no '{min(unknown)}' (there are {', '.join(sorted(known))})")
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UserError(f"{file}: {str(error).splitlines()[0]}") from error


def train(config: dict) -> None:
    """Fit field and poses; the results' folder is replaced as a whole at the end.

    A run that was killed goes on from its last checkpoint, in a hidden folder beside the results.
    """
    from sap3d.runs.training import fingerprint, fit
    from threestudio.config import build
    from threestudio.models.exporters.pictures import PREVIEW, Preview

    device = choose_device(str(config["device"]))
    steps = config["trainer"]["max_steps"]
    data = build(config["data"], config["seed"])
    scene = data.scene
    cameras = read_best_poses(scene.diffusion / "poses.json", scene.views)
    tuned = sorted((scene.diffusion / "model").rglob("*.safetensors"))
    work = scene.reconstruction.with_name(f".{scene.object}.training")

    def fitted(rays: int):
        config["data"]["rays"] = data.config.rays = rays
        system = build(config["system"], data, cameras)
        left_out = system.begin(steps)
        run = fingerprint(config, cameras, system.photos, *tuned)
        callbacks = (Preview(work / PREVIEW),)
        fit(system, steps - left_out, device, work, run, callbacks, log_every=config["trainer"]["log_every"])
        return system

    system = halving(fitted, data.config.rays, "reconstruction.data.rays", device)
    system.to(device)  # Lightning leaves it on the CPU, where 204 renders take minutes and some grids do not run
    with atomic_folder(scene.reconstruction) as folder:
        (work / "log").rename(folder / "log")
        shutil.rmtree(work)  # with the last preview, and what a kill has left of an earlier one
        OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
        # With one photo most of the shape is the model's guess, and its size says nothing.
        scale = build(config["mesh"], system.renderer).scale() if len(cameras) > 1 else 1.0
        refined = system.poses.cameras()
        placement = Placement(scale, turn=-refined[0, 1].item())  # the results' world has view 0 at azimuth 0
        numbers = {SCALE: placement.scale, TURN: placement.turn, FLOOR: system.renderer.floor}
        state = system.geometry.state() | {CORRECTIONS: system.corrections.values}
        state |= {name: torch.tensor(value) for name, value in numbers.items()}
        save_tensors({name: value.detach().cpu() for name, value in state.items()}, folder / "field.safetensors")
        poses = scene.diffusion / "poses.json"
        every, kept = centred(read_pose_hypotheses(poses, scene.views)[0][0]), read_kept(poses, scene.views)
        every[kept] = refined
        said = {"refined": system.refined, LEFT_OUT: read_left_out(poses)}
        write_poses(folder / "poses.json", placement.cameras(every)[None], [system.final_loss], **said)
        export(config, system, data, folder, placement)
    print(f"reconstruction: {scene.reconstruction}")


def reexport(config: dict, mesh: bool) -> None:
    """Write the mesh or the pictures from the field and the poses in the results' folder."""
    system, data, placement = restore(config)
    system.to(choose_device(str(config["device"])))
    export(config, system, data, data.scene.reconstruction, placement, mesh=mesh, pictures=not mesh)


def restore(config: dict) -> tuple:
    """What is in the results' folder: the system, with field and poses of its own world, its data, and the `Placement`
    of that world.

    Raises:
        UserError: there is no field, or it is not one of this geometry.
    """
    from threestudio.config import build

    data = build(config["data"], config["seed"])
    folder = data.scene.reconstruction
    cameras = read_best_poses(folder / "poses.json", data.scene.views)
    try:
        state = load_file(folder / "field.safetensors")
        corrections = state.pop(CORRECTIONS)
        placement, floor = Placement(state.pop(SCALE).item(), state.pop(TURN).item()), state.pop(FLOOR).item()
        system = build(config["system"], data, placement.inverse().cameras(cameras))
        system.renderer.floor = floor
        system.corrections.values.data = corrections[:, :3]  # earlier files had more
        system.geometry.load(state)
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{folder / 'field.safetensors'}: not a field of this geometry; run --train ({error})"
        ) from error
    return system, data, placement


def export(
    config: dict, system, data, folder: Path, placement: Placement, mesh: bool = True, pictures: bool = True
) -> None:
    """Write the mesh (with what other tools read) and the pictures of a system into a folder.

    The placement makes no difference to pictures: what is shown and where it is seen from grow and turn alike.
    """
    from threestudio.config import build

    cameras = system.poses.cameras()

    def photos(size: int) -> torch.Tensor:
        return system.corrections.undo(data.images(size).to(cameras.device))

    if mesh:
        interchange, exporter = build(config["interchange"]), build(config["mesh"], system.renderer)
        own = photos(max(data.resolution, SAMPLED))
        surface = exporter.refine(exporter.extract(), own, cameras)
        size = Size.of(placement.scale * surface.vertices, config["size_mm"])
        atlas = exporter.texture(surface, own, cameras, data.order)
        mesh = exporter.write(folder, surface, atlas, placement, size)
        views = photos(interchange.config.size or data.resolution).cpu()
        interchange.write(folder, views, size.placed(placement).cameras(cameras).cpu(), mesh)
        size.write(folder)
    if pictures:
        build(config["pictures"], system.renderer).write(folder, photos(256), cameras)


if __name__ == "__main__":
    with one_line_errors("reconstruction", "reconstruction.data.rays or reconstruction.system.guidance.cameras"):
        main()
