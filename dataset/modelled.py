"""Modelled objects for training: furniture of Sweet Home 3D, models of 0 A.D., controllers of WebXR (docs/DATASET.md).

    python dataset/modelled.py                   fetch the packages, make the compact cache; goes on where it stopped
    python dataset/modelled.py --attribution     print who made the objects, under which licences

`list_models` and `load_model` read that cache. Objects of the benchmarks are never in it.
"""

import argparse
import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import trimesh
from tqdm import tqdm

from dataset import sweet_home, zero_ad
from dataset.compact import check_shape, check_single, read_compact, write_compact
from dataset.packages import WEBXR, fetch
from dataset.render import merge
from dataset.scans import Y_UP_TO_Z_UP
from sap3d.errors import UserError, one_line_errors
from sap3d.files import root_dir, write_json
from sap3d.meshes import normalise

BENCHMARKS = Path(__file__).parent / "benchmarks"
ATTRIBUTION = """# Who made the objects that the weights beside this file were trained on

Written by `python dataset/modelled.py --attribution`. The objects were turned, scaled, simplified and their textures
reduced; training also changed shapes and colours. Licences:
[CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/),
[CC BY 3.0](https://creativecommons.org/licenses/by/3.0/), [CC BY 3.0 US](https://creativecommons.org/licenses/by/3.0/us/),
[CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/), [MIT](https://opensource.org/license/mit)."""
SOURCES = {
    "sweethome3d": """Sweet Home 3D

Debian's sweethome3d-furniture 1.8-1, converted by Emmanuel Puybaret / eTeks. "Scopia" stands for Emmanuel Puybaret /
eTeks and Scopia Visual Interfaces Systems, s.l. (http://www.scopia.es), "Kator Legaz" for Andrew Kator & Jennifer
Legaz; the other authors' objects are from http://www.blendswap.com. The names are those of the objects' files.""",
    "0ad": """0 A.D.

Debian's 0ad-data 0.0.26-1, by Wildfire Games (http://www.wildfiregames.com/).""",
    "webxr": """WebXR Input Profiles

npm's @webxr-input-profiles/assets 1.0.20, Copyright (c) 2019 Amazon.""",
}
ZERO_AD_FACES = 150  # fewer are parts of things
ZERO_AD_TEXTURES = 8  # of one mesh: soldiers' bodies have hundreds


@dataclass(frozen=True)
class ModelledObject:
    """One object and where it comes from.

    Attributes:
        source: "sweethome3d", "0ad" or "webxr".
        name: unique within its source, fit for a file name.
        mesh: path of the mesh inside `archive`, or as 0 A.D.'s actors name it.
        texture: 0 A.D.: the base texture.
        cut_out: 0 A.D.: the texture's alpha is transparency.
        archive: Sweet Home 3D: the catalogue's file name.
        rotation: Sweet Home 3D: the catalogue's `modelRotation`.
    """

    source: str
    name: str
    category: str
    author: str
    licence: str
    mesh: str
    texture: str = ""
    archive: str = ""
    rotation: str = ""
    cut_out: bool = False

    @property
    def compact(self) -> Path:
        """Its file in the cache."""
        return _cache() / self.source / f"{self.name}.npz"


def _cache() -> Path:
    return root_dir() / "dataset/cache/models"


def list_models() -> list[ModelledObject]:
    """The objects for training, in an order that is the same everywhere.

    Raises:
        UserError: the cache is not made.
    """
    index = _cache() / "index.json"
    if not index.exists():
        raise UserError(f"{index}: missing; run python dataset/modelled.py, which makes the cache of modelled objects")
    return [ModelledObject(**entry) for entry in json.loads(index.read_text())["models"]]


def load_model(model: ModelledObject) -> trimesh.Trimesh:
    """An object from the cache: z up, normalised, with a `MultiMaterial` as `dataset.render.Renderer` takes it."""
    return read_compact(model.compact)


def load_source(model: ModelledObject) -> trimesh.Trimesh:
    """An object from its package, with all faces and whole textures: z up, normalised.

    Raises:
        UserError: an unreadable mesh, material or texture.
    """
    if model.source == "0ad":
        return zero_ad.load_actor(zero_ad.game_files(), model.mesh, model.texture, model.cut_out)
    if model.source == "webxr":
        return _load_controller(fetch(WEBXR) / model.mesh)
    (archive,) = [path for path in sweet_home.catalogues() if path.name == model.archive]
    return sweet_home.load_furniture(archive, model.mesh, model.rotation)


def _load_controller(path: Path) -> trimesh.Trimesh:
    try:
        mesh = merge(trimesh.load(path, force="scene", process=False))
    except (ValueError, IndexError, KeyError) as error:
        raise UserError(f"{path}: not a readable GLB ({error})") from error
    mesh.vertices = mesh.vertices @ Y_UP_TO_Z_UP.T
    return normalise(mesh)


# ---------------------------------------------------------------- what there is


def furniture(archives: list[Path]) -> list[ModelledObject]:
    """All objects of Sweet Home 3D's catalogues that are no parts of buildings and no people."""
    return [
        ModelledObject(
            source="sweethome3d",
            name=_file_name(str(Path(entry["model"]).parent)),
            category=entry["category"],
            author=entry["creator"],
            licence=sweet_home.LICENCES[archive.stem],
            mesh=entry["model"],
            archive=archive.name,
            rotation=entry.get("modelRotation", ""),
        )
        for archive in archives
        for entry in sweet_home.read_catalogue(archive)
        if sweet_home.is_object(entry)
    ]


def _file_name(path: str) -> str:
    return path.replace("/", "-").replace(" ", "_")


def without_benchmarks(models: list[ModelledObject], archives: list[Path]) -> list[ModelledObject]:
    """The furniture whose geometry is none of the evaluation objects' or the reserved objects'."""
    by_name = {archive.name: sweet_home.archive_files(archive) for archive in archives}

    def geometry(archive: str, mesh: str) -> str:
        return sweet_home.geometry_hash(by_name[archive][mesh]())

    excluded = set((BENCHMARKS / "reserved12.sha256").read_text().split())
    excluded |= {geometry(*place) for place in benchmark_models().values()}
    return [model for model in models if geometry(model.archive, model.mesh) not in excluded]


@lru_cache(maxsize=1)
def benchmark_models() -> dict[str, tuple[str, str]]:
    """The objects of type MODELS_demo: each one's catalogue file and OBJ inside it."""
    lines = (BENCHMARKS / "models12.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return {name.lower().replace(" ", "_"): (archive, mesh.lstrip("/")) for archive, mesh, name, _ in rows}


def load_benchmark(object_name: str) -> trimesh.Trimesh:
    """An object of type MODELS_demo, with whole textures: z up, normalised."""
    wanted = benchmark_models()[object_name]
    (model,) = [model for model in furniture(sweet_home.catalogues()) if (model.archive, model.mesh) == wanted]
    return load_source(model)


def actors() -> list[ModelledObject]:
    """0 A.D.'s pairs of mesh and texture, without plants; at most eight textures a mesh."""
    models, textures = [], Counter()
    for pair, (actor, cut_out) in sorted(zero_ad.mesh_textures(zero_ad.game_files()).items()):
        textures[pair[0]] += 1
        if textures[pair[0]] > ZERO_AD_TEXTURES:
            continue
        mesh, texture = (_file_name(str(Path(path).with_suffix(""))) for path in pair)
        category = actor.split("/")[0]
        origin = ("Wildfire Games", "CC BY-SA 3.0")
        models.append(ModelledObject("0ad", f"{mesh}+{texture}", category, *origin, *pair, cut_out=cut_out))
    return models


def controllers() -> list[ModelledObject]:
    """WebXR's controllers: of those for the left and the right hand, the left."""
    folder = fetch(WEBXR)
    profiles = sorted({path.parent for path in folder.rglob("*.glb")})
    files = [next(p / f"{hand}.glb" for hand in ("left", "none") if (p / f"{hand}.glb").exists()) for p in profiles]
    return [
        ModelledObject("webxr", path.parent.name, "controllers", "Amazon", "MIT", path.relative_to(folder).as_posix())
        for path in files
    ]


def candidates() -> list[ModelledObject]:
    """All objects of all packages but the benchmarks'; the packages are fetched."""
    archives = sweet_home.catalogues()
    return without_benchmarks(furniture(archives), archives) + actors() + controllers()


# ---------------------------------------------------------------- the cache


def build(models: list[ModelledObject]) -> Counter:
    """Make the compact file of every object that has none, and the index.

    Returns:
        how many objects were left out, by source and reason.
    """
    reasons = {model: _make(model) for model in tqdm(models, desc="modelled objects", mininterval=1)}
    kept = [asdict(model) for model, reason in reasons.items() if not reason]
    skipped = {f"{model.source}/{model.name}": reason for model, reason in reasons.items() if reason}
    write_json(_cache() / "index.json", {"models": kept, "skipped": skipped})
    return Counter((name.partition("/")[0], reason) for name, reason in skipped.items())


def _make(model: ModelledObject) -> str:
    """Make an object's compact file unless there is one; the reason if it cannot be made."""
    if model.compact.exists():
        return ""
    try:
        mesh = load_source(model)
        check_shape(mesh)
        if model.source == "0ad":
            check_single(mesh, ZERO_AD_FACES)
        write_compact(mesh, model.compact)
    except UserError as error:
        return str(error)
    return ""


def attribution(models: list[ModelledObject]) -> str:
    """Who made the objects, under which licences, as Markdown."""
    lines = [ATTRIBUTION]
    for source, origin in SOURCES.items():
        lines += ["", f"## {origin}", ""]
        groups: dict[str, list[str]] = {}
        for model in models:
            if model.source == source:
                groups.setdefault(f"{model.author}, {model.licence}", []).append(Path(model.mesh).parent.name)
        for author, names in sorted(groups.items()):
            lines.append(f"* {author}: " + (f"{len(names)} objects" if source == "0ad" else ", ".join(sorted(names))))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attribution", action="store_true", help="print authors and licences of the cached objects")
    if parser.parse_args().attribution:
        print(attribution(list_models()))
        return
    for (source, reason), count in sorted(build(candidates()).items()):
        print(f"left out: {count:5d} of {source}: {reason}")
    print(f"{dict(Counter(model.source for model in list_models()))} in {_cache()}")


if __name__ == "__main__":
    with one_line_errors():
        main()
