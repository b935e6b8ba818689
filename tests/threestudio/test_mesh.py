import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from sap3d.cameras.placement import Placement
from sap3d.field.grid import DENSITY_SCALE
from sap3d.meshes import Size
from tests.threestudio.fields import ball, nodes, renderer
from threestudio.models.exporters.mesh import MeshExporter, simplified

CENTRE = np.array([0.1, -0.05, 0.0])


def exporter(grid, **options) -> MeshExporter:
    return MeshExporter(MeshExporter.Config(**{"resolution": 64, **options}), renderer(grid))


def write(meshes: MeshExporter, folder: Path, placement: Placement, size_mm: float | None = None) -> trimesh.Trimesh:
    """All files, textured from a white photo."""
    photos, cameras = torch.ones(1, 4, 32, 32), torch.tensor([[0.0, 0.0, 1.8]])
    surface = meshes.extract()
    size = Size.of(placement.scale * surface.vertices, size_mm)
    return meshes.write(folder, surface, meshes.texture(surface, photos, cameras, 1), placement, size)


def depth(density: float) -> float:
    """How far below a `ball`'s radius it has a density: the raw one rises by 400 a unit of length, from 0 there."""
    return np.log(np.expm1(density / DENSITY_SCALE)) / 400


def test_ball_is_a_coloured_watertight_sphere():
    mesh = exporter(ball(48, 0.4, CENTRE)).extract()
    distance = np.linalg.norm(mesh.vertices - CENTRE, axis=1)
    assert abs(distance.mean() - 0.4) < 0.01 and np.ptp(distance) < 0.02
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    outward = (mesh.vertex_normals * (mesh.vertices - CENTRE)).sum(1) / distance
    assert outward.min() > 0.9
    colors, z = np.asarray(mesh.visual.vertex_colors), mesh.vertices[:, 2]
    assert (colors[z > 0.08, 0] > 230).all() and (colors[z > 0.08, 1] < 25).all()
    assert (colors[z < -0.08, 1] > 230).all() and (colors[z < -0.08, 0] < 25).all()


def test_ball_cut_by_the_volume_is_closed():
    mesh = exporter(ball(32, 0.5, (0.4, 0.0, 0.0))).extract()
    assert mesh.is_watertight and mesh.volume > 0


def test_hollow_ball_is_filled_and_floaters_go():
    grid = ball(48, 0.4)
    x, y, z = nodes(48)
    hollow = grid.clone()
    hollow[0][(x**2 + y**2 + z**2).sqrt() < 0.25] = -10  # a cavity
    hollow[0][((x - 0.6).square() + (y - 0.6).square() + (z - 0.6).square()).sqrt() < 0.06] = 10  # a floater
    solid, filled = exporter(grid).extract(), exporter(hollow).extract()
    assert len(filled.split()) == 1
    assert filled.volume == pytest.approx(solid.volume, rel=0.01)


def test_open_bowl_stays_open():
    grid = ball(48, 0.4)
    x, y, z = nodes(48)
    grid[0][((x**2 + y**2 + z**2).sqrt() < 0.25) | ((z > 0) & ((x**2 + y**2).sqrt() < 0.25))] = -10
    mesh = exporter(grid).extract()
    assert mesh.volume < 0.9 * 4 / 3 * np.pi * 0.4**3


@pytest.mark.filterwarnings("error::RuntimeWarning")  # slivers must not divide by zero
def test_files_load_and_are_y_up(tmp_path):
    grid = ball(32, 0.3, (0.0, 0.0, 0.2))
    write(exporter(grid, faces=1000, texture_size=64), tmp_path, Placement())
    obj, glb = trimesh.load_mesh(tmp_path / "mesh.obj"), trimesh.load_mesh(tmp_path / "mesh.glb")
    for mesh in (obj, glb):
        np.testing.assert_allclose(mesh.centroid, [0, 0.2, 0], atol=0.01)
        assert mesh.volume > 0
    assert len(obj.faces) == len(glb.faces) <= 1000
    for mesh in (obj, glb):
        material = mesh.visual.material
        picture = material.image if hasattr(material, "image") else material.baseColorTexture
        assert picture.size == (64, 64) and len(mesh.visual.uv) == len(mesh.vertices)
    names = ["mesh.glb", "mesh.mtl", "mesh.obj", "mesh.png", "mesh.stl", "splat.ply"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_simplified_surface_stays_closed():
    radius = 0.4 - depth(MeshExporter.Config.density)
    mesh = exporter(ball(48, 0.4, CENTRE), faces=2000).extract()
    assert len(mesh.faces) <= 2000 and mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    assert len(mesh.visual.vertex_colors) == len(mesh.vertices)


def test_empty_field_has_an_empty_mesh(tmp_path):
    grid = torch.zeros(4, 8, 8, 8)
    assert len(exporter(grid).extract().faces) == 0
    assert exporter(grid).scale() == 1
    write(exporter(grid), tmp_path, Placement(), size_mm=120)
    assert {"mesh.glb", "mesh.obj", "mesh.stl", "splat.ply"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("radius, scale", [(0.4, 1.0), (0.52, 0.5 / 0.52), (0.57, 0.92)])
def test_what_stands_out_of_the_unit_cube_is_shrunk(radius, scale):
    grid = ball(48, radius + depth(MeshExporter.Config.scale_density))
    assert exporter(grid).scale() == pytest.approx(scale, abs=0.005)


@pytest.mark.parametrize("floor", [-0.2, -0.013])
def test_what_is_below_the_floor_is_cut_off_flat(floor):
    radius = 0.4 - depth(MeshExporter.Config.density)
    cut = exporter(ball(48, 0.4))
    cut.renderer.floor = floor
    mesh = cut.extract()
    assert mesh.is_watertight and mesh.bounds[0, 2] == pytest.approx(floor, abs=1e-3)
    height = radius + floor  # of the cap that is missing
    volume = 4 / 3 * np.pi * radius**3 - np.pi * height**2 * (radius - height / 3)
    assert mesh.volume == pytest.approx(volume, rel=0.02)


def test_placed_mesh_is_the_mesh_scaled_and_turned(tmp_path):
    (tmp_path / "half").mkdir()
    whole = write(exporter(ball(32, 0.3, CENTRE), faces=1000, texture_size=64), tmp_path, Placement())
    placement = Placement(0.5, math.pi / 2)
    half = write(exporter(ball(32, 0.3, CENTRE), faces=1000, texture_size=64), tmp_path / "half", placement)
    x, y, z = whole.vertices.T
    np.testing.assert_allclose(half.vertices, 0.5 * np.column_stack([-y, x, z]), atol=1e-9)
    np.testing.assert_array_equal(half.visual.uv, whole.visual.uv)
    assert (tmp_path / "half/mesh.png").read_bytes() == (tmp_path / "mesh.png").read_bytes()


def test_files_are_as_large_as_the_object(tmp_path):
    write(exporter(ball(32, 0.3, CENTRE), faces=1000, texture_size=64), tmp_path, Placement(0.9), size_mm=120)
    for name in ("mesh.obj", "mesh.glb", "splat.ply"):
        assert np.ptp(trimesh.load(tmp_path / name).bounds, axis=0).max() == pytest.approx(0.12, rel=0.02)
    assert trimesh.load(tmp_path / "mesh.stl").extents.max() == pytest.approx(120, rel=0.02)


def test_a_surface_that_decimation_would_open_is_simplified_all_the_same(monkeypatch):
    whole = trimesh.creation.icosphere(5, 0.4)

    def opened(mesh: trimesh.Trimesh, face_count: int) -> trimesh.Trimesh:
        return trimesh.Trimesh(mesh.vertices, mesh.faces[1 : face_count + 1], process=False)

    monkeypatch.setattr(trimesh.Trimesh, "simplify_quadric_decimation", opened)
    found = simplified(whole, 3000)
    assert 500 < len(found.faces) <= 3000 and found.is_watertight
    assert found.volume == pytest.approx(whole.volume, rel=0.02)
