"""Variants of meshes: what changes and what stays."""

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import SimpleMaterial

from dataset import variation
from sap3d.meshes import normalise


def textured_box(colour: tuple[int, int, int], size=(1.0, 0.5, 0.25)) -> trimesh.Trimesh:
    mesh = trimesh.creation.box(size)
    image = Image.new("RGB", (4, 4), colour)
    visual = TextureVisuals(uv=np.zeros((len(mesh.vertices), 2)), material=SimpleMaterial(image=image))
    return normalise(trimesh.Trimesh(mesh.vertices, mesh.faces, visual=visual, process=False))


def first_colour(mesh: trimesh.Trimesh, which: int = 0) -> tuple[int, int, int]:
    return variation._picture(variation.materials(mesh)[which]).getpixel((0, 0))


def test_a_seed_makes_the_same_normalised_variant():
    def variant(seed):
        return variation.vary(np.random.default_rng(seed), textured_box((200, 40, 40)), lambda: textured_box((0, 0, 9)))

    for seed in range(12):
        mesh = variant(seed)
        np.testing.assert_allclose(mesh.vertices, variant(seed).vertices)
        assert np.ptp(mesh.vertices, axis=0).max() <= 1 + 1e-6
        np.testing.assert_allclose(mesh.vertices.min(0), -mesh.vertices.max(0), atol=1e-6)
    extents = {tuple(variant(seed).extents.round(3)) for seed in range(12)}
    assert len(extents) == 12


def test_recolouring_turns_hues_and_keeps_greys():
    rng = np.random.default_rng(3)
    red, green, blue = first_colour(variation.recoloured(rng, textured_box((200, 40, 40))))
    assert not red > green == blue
    grey = first_colour(variation.recoloured(rng, textured_box((90, 90, 90))))
    assert max(grey) - min(grey) <= 2


def test_textures_are_exchanged_face_by_face():
    taken = variation.with_textures(np.random.default_rng(0), textured_box((200, 0, 0)), textured_box((0, 0, 200)))
    assert first_colour(taken) == (0, 0, 200) and len(taken.faces) == 12


def test_joined_meshes_keep_their_materials_and_touch():
    for seed in range(6):
        both = variation.joined(np.random.default_rng(seed), textured_box((200, 0, 0)), textured_box((0, 0, 200)))
        assert len(both.faces) == 24
        assert {first_colour(both, 0), first_colour(both, 1)} == {(200, 0, 0), (0, 0, 200)}
        assert np.bincount(both.visual.face_materials).tolist() == [12, 12]
        gap = np.maximum(both.vertices[:8].min(0) - both.vertices[8:].max(0),
                         both.vertices[8:].min(0) - both.vertices[:8].max(0))  # fmt: skip
        assert gap.max() < 1e-6
