"""Modelled objects: catalogues, 0 A.D.'s actors, what is left out, the compact cache. Nothing is downloaded."""

import hashlib
import io
import struct
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual.material import MultiMaterial

from dataset import modelled, packages, prepare, sweet_home, zero_ad
from dataset.scans import Y_UP_TO_Z_UP
from sap3d.errors import UserError

ENTRY = """name#{n}={name}
category#{n}={category}
model#{n}=/catalogue/{name}/{name}.obj
creator#{n}=Ann & Bob
tags#{n}={tags}
doorOrWindow#{n}={door}
"""
# Wide, deep and high: 4, 2, 3 (y up), with a texture, a plain colour, and one texture that is missing.
OBJ = """mtllib m.mtl
v -2 0 -1\nv 2 0 -1\nv 2 0 1\nv -2 0 1\nv 0 3 0
vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1
usemtl textured\nf 1/1 2/2 3/3 4/4
usemtl plain\nf 1/1 2/2 5/3\nf 2/1 3/2 5/3
usemtl lost\nf 3/1 4/2 5/3\nf 4/1 1/2 5/3
"""
MTL = "newmtl textured\nKd 1 1 1\nmap_Kd t.png\nnewmtl plain\nKd 1 0 0\nnewmtl lost\nKd 0 0 1\nmap_Kd lost.jpg\n"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(tmp_path / "root"))
    return tmp_path / "root"


def encoded(image: Image.Image, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def catalogue(path: Path, objects: dict[str, str], **changes: dict[str, str]) -> Path:
    """A .sh3f of objects by name and OBJ; `changes` are to their entries."""
    properties = ""
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, obj) in enumerate(objects.items(), 1):
            fields = {"name": name, "category": "Kitchen", "tags": "", "door": "false"} | changes.get(name, {})
            properties += ENTRY.format(n=number, **fields)
            properties += f"modelRotation#{number}={fields['rotation']}\n" if "rotation" in fields else ""
            archive.writestr(f"catalogue/{name}/{name}.obj", obj)
            archive.writestr(f"catalogue/{name}/m.mtl", MTL)
            archive.writestr(f"catalogue/{name}/t.png", encoded(Image.new("RGB", (8, 8), (0, 200, 0))))
        archive.writestr(sweet_home.CATALOGUE, properties)
    return path


def benchmark_lists(folder: Path, evaluation: str, reserved: str) -> None:
    """Lists of one evaluation object, "chosen", and of one reserved OBJ."""
    (folder / "models12.tsv").write_text(f"# comment\n{evaluation}\t/catalogue/chosen/chosen.obj\tChosen one\tAnn\n")
    (folder / "reserved12.sha256").write_text(sweet_home.geometry_hash(reserved.encode()) + "\n")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """One catalogue in place of the package's; "chosen" is an evaluation object, and "hidden" is reserved."""
    moved = [OBJ.replace("v 0 3 0", f"v 0 {height} 0") for height in (4, 5, 6)]
    objects = {"pot": OBJ, "chosen": moved[0], "copy": "# same\n" + moved[0], "hidden": moved[1], "door": moved[2]}
    path = catalogue(tmp_path / "Scopia.sh3f", objects, door={"door": "true"})
    benchmark_lists(tmp_path, path.name, moved[1])
    monkeypatch.setattr(modelled, "BENCHMARKS", tmp_path)
    monkeypatch.setattr(sweet_home, "catalogues", lambda: [path])
    modelled.benchmark_models.cache_clear()
    yield path
    modelled.benchmark_models.cache_clear()


def test_benchmarks_and_their_copies_are_left_out(shop):
    everything = modelled.furniture([shop])
    assert [model.name for model in everything] == [f"catalogue-{n}" for n in ("pot", "chosen", "copy", "hidden")]
    assert [model.name for model in modelled.without_benchmarks(everything, [shop])] == ["catalogue-pot"]
    assert modelled.load_benchmark("chosen_one").vertices[:, 2].argmax() == 4  # "Chosen one"


def test_prepare_knows_the_benchmark():
    with pytest.raises(UserError, match="unknown object 'rabbit' of type MODELS_demo; there are: teddy_bear, biplane"):
        prepare.load_object("MODELS_demo", "rabbit")


def test_repository_lists_twelve_objects_of_each_benchmark():
    assert len(modelled.benchmark_models()) == 12
    hashes = (modelled.BENCHMARKS / "reserved12.sha256").read_text().split()
    assert len(set(hashes)) == 12 and all(len(bytes.fromhex(line)) == 32 for line in hashes)


def test_geometry_hash_is_of_the_vertices_alone():
    ours = sweet_home.geometry_hash(OBJ.encode())
    same = OBJ.replace("\n", "\r\n").replace("v ", "v  ").replace("plain", "simple")
    assert sweet_home.geometry_hash(same.encode()) == ours
    assert sweet_home.geometry_hash(OBJ.replace("v 0 3 0", "v 0 3.1 0").encode()) != ours


@pytest.mark.parametrize("changes", [{"category": "Staircases"}, {"tags": "Human, People"}, {"door": "true"}])
def test_parts_of_buildings_and_people_are_no_objects(tmp_path, changes):
    path = catalogue(tmp_path / "c.sh3f", {"pot": OBJ, "other": OBJ}, other=changes)
    assert [sweet_home.is_object(entry) for entry in sweet_home.read_catalogue(path)] == [True, False]


def test_furniture_stands_upright_and_keeps_plain_colours(tmp_path):
    path = catalogue(tmp_path / "c.sh3f", {"pot": OBJ})
    mesh = sweet_home.load_furniture(path, "catalogue/pot/pot.obj")
    np.testing.assert_allclose(mesh.extents, np.array([4, 2, 3]) / 4 * mesh.extents[0], rtol=1e-6)
    assert mesh.vertices[np.abs(mesh.vertices[:, :2]).max(1) < 1e-6, 2] == pytest.approx(mesh.bounds[1, 2])
    colours = [tuple(material.main_color[:3]) for material in mesh.visual.material.materials]
    assert (255, 0, 0) in colours and (0, 0, 255) in colours


def test_catalogues_rotation_is_in_the_objs_frame(tmp_path):
    quarter = "1 0 0 0 0 -1 0 1 0"  # about x, the top towards the viewer: +y to +z, which is -y where z is up
    path = catalogue(tmp_path / "c.sh3f", {"pot": OBJ}, pot={"rotation": quarter})
    (entry,) = sweet_home.read_catalogue(path)
    plain = sweet_home.load_furniture(path, entry["model"])
    turned = sweet_home.load_furniture(path, entry["model"], entry["modelRotation"])
    apex = np.abs(plain.vertices[:, :2]).max(1).argmin()
    assert turned.vertices[apex, 1] == pytest.approx(turned.bounds[0, 1])
    turn = np.array(quarter.split(), float).reshape(3, 3)
    assert np.allclose(Y_UP_TO_Z_UP @ turn @ [0, 1, 0], [0, -1, 0])


# ---------------------------------------------------------------- 0 A.D.


def pmd(vertices: np.ndarray, faces: np.ndarray, version: int = 4, sets: int = 2) -> bytes:
    """A PMD whose first texture coordinates are x and y, and whose others are 9."""
    content = struct.pack("<4sIII", b"PSMD", version, 0, len(vertices))
    content += struct.pack("<I", sets) if version >= 4 else b""
    for vertex in vertices:
        uv = [*vertex[:2], *[9.0] * 2 * (sets - 1)]
        content += struct.pack(f"<6f{len(uv)}f4B4f", *vertex, 0, 0, 1, *uv, *[0] * 4, *[0] * 4)
    return content + struct.pack(f"<I{faces.size}H", len(faces), *faces.reshape(-1)) + b"bones"


BOX = trimesh.creation.box((1, 2, 3))
ACTOR = """<actor version="1"><group>
<variant><mesh>box.dae</mesh></variant><variant><mesh>other.dae</mesh>{own}</variant></group>
<group><variant><textures><texture file="a.png" name="baseTex"/><texture file="n.png" name="normTex"/></textures>
</variant><variant><textures><texture file="b.dds" name="baseTex"/></textures></variant></group>
<material>{material}</material></actor>"""
OWN = '<textures><texture file="own.png" name="baseTex"/></textures>'


@pytest.fixture
def game(tmp_path):
    image = Image.new("RGBA", (8, 8), (200, 100, 0, 0))
    image.paste((0, 0, 255, 255), (0, 4, 8, 8))  # the lower half
    with zipfile.ZipFile(tmp_path / "public.zip", "w") as archive:
        archive.writestr("art/actors/fauna/cat.xml", ACTOR.format(own=OWN, material="player_trans.xml"))
        archive.writestr("art/actors/props/flag.xml", ACTOR.format(own="", material="basic_trans.xml"))
        archive.writestr("art/actors/flora/tree.xml", ACTOR.format(own=OWN, material="basic_trans.xml"))
        for name in ("box.dae", "other.dae"):
            archive.writestr(f"art/meshes/{name}.cached.pmd", pmd(BOX.vertices, BOX.faces))
        for name in ("a.png", "b.dds", "own.png"):
            archive.writestr(f"art/textures/skins/{name}.cached.dds", encoded(image, "dds"))
    return zero_ad.art_files(tmp_path / "public.zip")


def test_actors_pair_meshes_with_their_own_or_the_other_groups_textures(game):
    pairs = zero_ad.mesh_textures(game)
    cat, flag = ("fauna/cat", False), ("props/flag", True)
    assert pairs == {
        ("box.dae", "a.png"): cat,
        ("box.dae", "b.dds"): cat,
        ("other.dae", "own.png"): cat,
        ("other.dae", "a.png"): flag,
        ("other.dae", "b.dds"): flag,
    }


@pytest.mark.parametrize("version, sets", [(3, 1), (4, 1), (4, 2)])
def test_pmd_round_trip(version, sets):
    vertices, uv, faces = zero_ad.read_pmd(pmd(BOX.vertices, BOX.faces, version, sets), "box")
    np.testing.assert_allclose(vertices, BOX.vertices)
    np.testing.assert_allclose(uv, BOX.vertices[:, :2])
    assert (faces == BOX.faces).all()


@pytest.mark.parametrize("content", [b"", b"PSMD", b"JUNK" * 9, pmd(BOX.vertices, BOX.faces)[:-60]])
def test_broken_pmd_is_refused(content):
    with pytest.raises(UserError, match="box: not a readable PMD"):
        zero_ad.read_pmd(content, "box")


def test_pmd_with_faces_of_missing_vertices_is_refused():
    with pytest.raises(UserError, match="no triangles"):
        zero_ad.read_pmd(pmd(BOX.vertices, BOX.faces + 1), "box")


def test_actor_is_z_up_and_ignores_the_players_colour(game):
    mesh = zero_ad.load_actor(game, "box.dae", "a.png", cut_out=False)
    np.testing.assert_allclose(mesh.extents / mesh.extents[0], [1, 3, 2])  # game: x, y up, z
    pixels = np.asarray(mesh.visual.material.image)
    assert pixels.shape == (8, 8, 3) and (pixels[0, 0] == [200, 100, 0]).all() and (pixels[7, 0] == [0, 0, 255]).all()
    assert zero_ad.load_actor(game, "box.dae", "a.png", cut_out=True).visual.material.image.mode == "RGBA"


# ---------------------------------------------------------------- the cache and the packages


def test_build_lists_what_loads_and_goes_on_where_it_stopped(shop, root):
    with pytest.raises(UserError, match="run python dataset/modelled.py"):
        modelled.list_models()
    (pot,) = modelled.without_benchmarks(modelled.furniture([shop]), [shop])
    broken = replace(pot, name="broken", mesh="catalogue/pot/t.png")
    left_out = modelled.build([broken, pot])
    assert sum(left_out.values()) == 1 and modelled.list_models() == [pot]
    mesh = modelled.load_model(pot)
    assert len(mesh.faces) == 6 and isinstance(mesh.visual.material, MultiMaterial)
    before = pot.compact.stat().st_mtime_ns
    modelled.build([pot])
    assert pot.compact.stat().st_mtime_ns == before
    text = modelled.attribution(modelled.list_models())
    assert "* Ann & Bob, CC BY 3.0: pot\n" in text


def test_packages_are_checked_unpacked_once_and_asked_for_in_one_line(tmp_path, root):
    cache = root / "dataset/cache"
    package = packages.Package("p.tgz", ("no-such-command", "p"), "0" * 64, "*.glb", "1 KB")
    with pytest.raises(UserError, match=r"no-such-command p is not installed: put p.tgz into .*/dataset/cache"):
        packages.fetch(package)
    with tarfile.open(cache / "p.tgz", "w:gz") as archive:
        for name in ("package/a/left.glb", "package/other.txt"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match="SHA-256"):
        packages.fetch(package)
    package = replace(package, sha256=hashlib.sha256((cache / "p.tgz").read_bytes()).hexdigest())
    folder = packages.fetch(package)
    assert [path.name for path in folder.rglob("*.*")] == ["left.glb"]
    (cache / "p.tgz").unlink()
    assert packages.fetch(package) == folder
