"""Other programs read stage 3's files, and benchmarks/readers.py sees it when they do not."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from sap3d.cameras.maths import Y_UP
from sap3d.cameras.placement import Placement
from sap3d.files import REPOSITORY
from sap3d.meshes import Size
from tests.threestudio.fields import nodes, renderer
from threestudio.models.exporters.interchange import InterchangeExporter
from threestudio.models.exporters.mesh import MeshExporter

sys.path.append(str(REPOSITORY / "benchmarks"))
import readers  # noqa: E402

CELLS = [("mesh.glb", "Blender"), ("mesh.glb", "trimesh"), ("mesh.glb", "pygltflib"), ("mesh.glb", "Khronos"),
         ("mesh.obj", "Blender"), ("mesh.obj", "trimesh"), ("mesh.stl", "Blender"), ("mesh.stl", "trimesh"),
         ("mesh.stl", "Manifold"), ("splat.ply", "plyfile"), ("sparse/0, binary", "pycolmap"),
         ("sparse/0, text", "pycolmap"), ("sparse/0, text", "gsplat")]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Of an egg-like field, its point up, 120 mm long."""
    folder = tmp_path_factory.mktemp("results")
    x, y, z = nodes(32)
    width = 0.25 - 0.3 * z  # at the top there is least
    density = ((0.3 - (x**2 + y**2).sqrt() / width.clamp(min=0.02) * 0.3 - z.abs() * 0.3) * 100).clamp(-20, 20)
    meshes = MeshExporter(MeshExporter.Config(64, faces=2000, texture_size=64),
                          renderer(torch.stack([density, x, y, z])))  # fmt: skip
    photos, cameras = torch.rand(2, 4, 32, 32), torch.tensor([[0.3, 0.0, 1.8], [0.2, 2.0, 1.7]])
    surface = meshes.extract()
    size = Size.of(surface.vertices, 120)
    atlas = meshes.texture(surface, photos, cameras, order=1)
    textured = meshes.write(folder, surface, atlas, Placement(), size)
    InterchangeExporter(InterchangeExporter.Config(32, 2000)).write(
        folder, photos, size.placed(Placement()).cameras(cameras), textured
    )
    size.write(folder)
    return folder


@pytest.mark.parametrize(("file", "program"), CELLS)
def test_all_is_read(results, file, program):
    places = readers.Places(modules=REPOSITORY)
    said = readers.answer(*readers.cells(results, places)[file][program], places)
    if said == "not installed":
        pytest.skip(f"{program} is not installed: benchmarks/readers.txt")
    assert said == "ok"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda mesh: mesh.apply_transform(np.array(Y_UP).T), "not where the object is"),  # lies on its side
        (lambda mesh: mesh.apply_transform(np.diag([1, -1, -1, 1])), "not where the object is"),  # upside down
        (lambda mesh: mesh.apply_scale(1.1), "not where the object is"),
        (lambda mesh: mesh.update_faces(np.arange(len(mesh.faces)) > 0), "not closed"),
        (lambda mesh: mesh.invert(), "not closed"),
        (lambda mesh: setattr(mesh.visual, "material", trimesh.visual.material.SimpleMaterial()), "no texture"),
    ],
)
def test_what_is_wrong_is_seen(results, change, said):
    checked, mesh = readers.Results(results), trimesh.load_mesh(results / "mesh.obj")
    change(mesh)
    image = mesh.visual.material.image
    mesh.apply_transform(np.array(Y_UP).T).merge_vertices(merge_tex=True, merge_norm=True)
    with pytest.raises(readers.Wrong, match=said):
        checked.check(readers.Shape(mesh.vertices, mesh.faces, image and image.width), textured=True)
