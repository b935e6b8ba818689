"""A mesh as other programs open it: OBJ and GLB with its texture, STL to print, Gaussian splats."""

from pathlib import Path

import manifold3d
import numpy as np
import trimesh

from sap3d.cameras.maths import Y_UP
from sap3d.files import atomic_file
from threestudio.models.exporters.texture import Atlas, sample

MATERIAL = "newmtl mesh\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd mesh.png\n"
TRIMMED = 0.01  # of a body's height, taken off a print's base: marching cubes round its edge
CRUMB = 0.02  # of the largest body's volume: what has less is not printed
SPLATS = 100_000
OVERLAP, THICKNESS = 0.7, 0.1  # a splat's standard deviations along the surface and across, in distances of splats
OPACITY = 0.99
SH_0 = 0.5 / np.sqrt(np.pi)  # the spherical harmonic of degree 0
SPLAT_FIELDS = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()


def write_obj(folder: Path, atlas: Atlas) -> None:
    """mesh.obj with mesh.mtl and mesh.png, y up.

    A position is one `v`, however many charts meet there: so programs see that the surface is closed.

    Args:
        atlas: textured, z up; an empty one has no texture.
    """
    _, first, position = np.unique(atlas.source, return_index=True, return_inverse=True)
    vertices, normals = (values[first] @ np.array(Y_UP)[:3, :3].T for values in
                         (atlas.mesh.vertices, atlas.mesh.vertex_normals))  # fmt: skip
    faces = np.asarray(atlas.mesh.faces)
    corners = np.stack([position[faces], faces, position[faces]], -1).reshape(-1, 9) + 1
    blocks = (("v %.7g %.7g %.7g", vertices), ("vt %.7g %.7g", atlas.uv), ("vn %.5g %.5g %.5g", normals),
              ("f %d/%d/%d %d/%d/%d %d/%d/%d", corners))  # fmt: skip
    lines = ["mtllib mesh.mtl", *(form % tuple(row) for form, rows in blocks for row in rows.tolist())]
    lines.insert(len(lines) - len(corners), "usemtl mesh")
    if len(faces):
        with atomic_file(folder / "mesh.png") as partial:
            atlas.mesh.visual.material.baseColorTexture.save(partial, "PNG")
    # The file that names the others comes last.
    for name, text in (("mesh.mtl", MATERIAL), ("mesh.obj", "\n".join(lines) + "\n")):
        with atomic_file(folder / name) as partial:
            partial.write_text(text)


def write_glb(path: Path, mesh: trimesh.Trimesh) -> None:
    """Args: mesh: z up; glTF's y is up. Its normals are written: without them viewers shade every face by itself."""
    turned = mesh.copy().apply_transform(np.array(Y_UP))
    if len(mesh.faces):
        turned.vertex_normals = mesh.vertex_normals @ np.array(Y_UP)[:3, :3].T
    with atomic_file(path) as partial:
        turned.export(partial, include_normals=True)


def write_stl(path: Path, mesh: trimesh.Trimesh) -> None:
    """Args: mesh: what `printable` takes; z stays up, the base lies at z = 0."""
    with atomic_file(path) as partial:
        printable(mesh).export(partial, file_type="stl")


def printable(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The bodies of a closed mesh, z up, each cut flat a little above its lowest point, which comes to z = 0.

    Two shoes are two bodies. One that would sink into another stays as high above it as it is. Crumbs are left out, and
    hollows are filled.
    """
    if not len(mesh.faces):
        return mesh
    printed, drop = manifold3d.Manifold(), None
    for body in sorted(bodies(solid_of(mesh)), key=lambda body: body.bounding_box()[2]):
        _, _, low, _, _, high = body.bounding_box()
        base = low + TRIMMED * (high - low)
        drop = base if drop is None else drop
        standing = body.trim_by_plane((0, 0, 1), base).translate((0, 0, -base))
        if not (printed ^ standing).is_empty():
            standing = body.translate((0, 0, -drop))
        printed += standing
    # Above a cut there may be more pieces than below.
    return mesh_of(manifold3d.Manifold.compose(bodies(printed)))


def bodies(solid: manifold3d.Manifold) -> list[manifold3d.Manifold]:
    """The connected pieces of a solid that are not small beside the largest."""
    pieces = solid.decompose()
    largest = max((piece.volume() for piece in pieces), default=0.0)
    return [piece for piece in pieces if piece.volume() >= CRUMB * largest]


def solid_of(mesh: trimesh.Trimesh) -> manifold3d.Manifold:
    """What a mesh encloses; its `status` says whether the mesh is closed."""
    return manifold3d.Manifold(
        manifold3d.Mesh(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32))
    )


def mesh_of(solid: manifold3d.Manifold) -> trimesh.Trimesh:
    """The surface of a solid."""
    surface = solid.to_mesh()
    return trimesh.Trimesh(surface.vert_properties[:, :3], surface.tri_verts, process=False)


def write_splats(path: Path, mesh: trimesh.Trimesh) -> None:
    """Flat Gaussians on the surface, in the layout of 3D Gaussian Splatting (arXiv 2308.04079) without its view-
    dependent colours; y is down there, as in COLMAP's cameras' world, and viewers turn it upright.

    Args:
        mesh: textured, z up.
    """
    points, normals, colors = sample(mesh, SPLATS, even=True)
    spacing = np.sqrt(mesh.area / len(points)) if len(points) else 1.0
    to_y_down = np.diag([1.0, -1.0, -1.0]) @ np.array(Y_UP)[:3, :3]
    points, normals = points @ to_y_down.T, normals @ to_y_down.T
    rows = np.zeros((len(points), len(SPLAT_FIELDS)), "<f4")
    rows[:, :3], rows[:, 3:6] = points, normals
    rows[:, 6:9] = (colors / 255 - 0.5) / SH_0
    rows[:, 9] = np.log(OPACITY / (1 - OPACITY))
    rows[:, 10:13] = np.log(spacing * np.array([OVERLAP, OVERLAP, THICKNESS]))
    rows[:, 13:] = facing(normals)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}"]
    header += [*(f"property float {name}" for name in SPLAT_FIELDS), "end_header"]
    with atomic_file(path) as partial:
        partial.write_bytes("".join(line + "\n" for line in header).encode() + rows.tobytes())


def facing(normals: np.ndarray) -> np.ndarray:
    """Quaternions (w, x, y, z) of rotations that bring the z axis to unit normals [P, 3], [P, 4]."""
    # Half way: the rotation from a to b is (1 + a · b, a × b), normalised. Opposite ones turn about x.
    x, y, z = normals.T
    turn = np.column_stack([1 + z, -y, x, np.zeros_like(z)])
    turn[z < -1 + 1e-9] = (0, 1, 0, 0)
    return turn / np.linalg.norm(turn, axis=1, keepdims=True).clip(1e-12)
