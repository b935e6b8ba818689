"""Properties that hold whatever comes in, over thousands of drawn cases (the same ones on every run).

The scene folder's readers answer with what they promise or with a UserError; the camera maths keeps its closed forms
over all angles, poles and many turns included.
"""

import io
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from sap3d.cameras import maths as cam
from sap3d.errors import UserError
from sap3d.names import check_name
from sap3d.scene import Scene, check_views
from sap3d.views import read_images, read_poses

repeatable = settings(derandomize=True, deadline=None, database=None)
few, many = settings(repeatable, max_examples=200), settings(repeatable, max_examples=500)

# Scene folder ---------------------------------------------------------------------------------------------------------

MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr", "LAB"),
    "GIF": ("L", "P"),
}


def written(kind: str, mode: str, size: tuple[int, int], transparency: bool) -> bytes:
    """A picture file as PIL writes it; bright in one half, so that as a mask it has a foreground."""
    base = np.zeros(size[::-1], np.uint8)
    base[:, size[0] // 2 :] = 255
    if mode in ("I", "I;16", "F"):
        image = Image.fromarray(base.astype({"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]) * 257)
    elif mode in ("LA", "PA", "RGBA"):
        image = Image.fromarray(base).convert("RGBA")
        image.putalpha(Image.fromarray(base))
        image = image.convert(mode)
    elif mode == "LAB":
        image = Image.merge("LAB", [Image.fromarray(base)] * 3)
    else:
        image = Image.fromarray(base).convert("RGB").convert(mode)
    extra = {"transparency": 0} if kind == "PNG" and mode in ("L", "P", "I;16") and transparency else {}
    stream = io.BytesIO()
    image.save(stream, kind, **extra)
    return stream.getvalue()


def pictures(kinds: list[str], *sizes: tuple[int, int]) -> st.SearchStrategy[bytes]:
    modes = st.sampled_from([(kind, mode) for kind in kinds for mode in MODES[kind]])
    return st.tuples(modes, st.sampled_from(sizes), st.booleans()).map(lambda x: written(*x[0], *x[1:]))


DTYPES = "f4 f4 f4 f4 f8 f8 f8 f8 f2 >f4 g i1 <u2 >i4 u8 ? c16 M8[s] m8[ns] S3 U2 f4,i2 O".split()
VALUES = [0, 1, -1, 0.6, 0.8, 2, 1e6, 1e25, 1e300, math.inf, -math.inf, math.nan]


@st.composite
def matrices(draw) -> bytes:
    """A file that numpy wrote, .npy or .npz: of numbers, times, texts, records or objects."""
    shape = draw(st.sampled_from([*[(3, 4)] * 9, (), (0,), (12,), (4, 4), (3, 4, 1)]))
    values = draw(st.lists(st.sampled_from(VALUES[: draw(st.sampled_from([6, 6, 8, 12]))]), min_size=12, max_size=12))
    kind, stream = np.dtype(draw(st.sampled_from(DTYPES))), io.BytesIO()
    with np.errstate(all="ignore"):
        numbers = np.resize(np.array(values), shape)
        array = numbers.astype("i8").astype(kind) if kind.kind in "Mm" else numbers.astype(kind)
    (np.savez if draw(st.integers(0, 19)) == 19 else np.save)(stream, array)
    return stream.getvalue()


@st.composite
def damaged(draw, files: st.SearchStrategy[bytes]) -> bytes:
    """A file that is whole, cut short, or has some bytes changed; or plain noise."""
    if draw(st.integers(0, 19)) == 19:
        return draw(st.binary(max_size=200))
    content = bytearray(draw(files))
    how = draw(st.sampled_from(["whole"] * 6 + ["cut", "changed"]))
    if how == "cut":
        del content[draw(st.integers(0, len(content))) :]
    elif how == "changed":
        for _ in range(draw(st.integers(1, 8))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


odd_names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=30)
names = st.one_of(st.sampled_from(["000", "001", "002"]), odd_names)


def entries(suffixes: list[str], files: st.SearchStrategy[bytes], at_least: int = 0) -> st.SearchStrategy[dict]:
    """Names in one folder with their content; None is a folder."""
    name = st.tuples(names, st.sampled_from(suffixes)).map("".join).filter(lambda name: name not in (".", ".."))
    content = st.integers(0, 19).flatmap(lambda draw: st.none() if draw == 19 else damaged(files))
    return st.dictionaries(name, content, min_size=at_least, max_size=4)


@contextmanager
def scene_of(**folders: dict[str, bytes | None]) -> Iterator[Scene]:
    """The scene T/o with these folders, below a ROOT_DIR of its own."""
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROOT_DIR", root)
        scene = Scene("T", "o", 2)
        for folder, contents in folders.items():
            (scene.train / folder).mkdir(parents=True)
            for name, content in contents.items():
                path = scene.train / folder / name
                path.mkdir() if content is None else path.write_bytes(content)
        yield scene


KINDS = ["PNG", "JPEG", "WEBP"]  # that are read
SIZES = [(32, 32), (32, 32), (32, 24), (1, 1), (1, 40), (7, 200)]
ANY_PICTURE = st.one_of(pictures(KINDS, (32, 32)), pictures(KINDS, *SIZES), pictures(list(MODES), *SIZES))
PICTURE_SUFFIXES = [".png", ".png", ".PNG", ".jpg", ".jpeg", ".webp", ".txt", ""]


@settings(many)
@given(entries(PICTURE_SUFFIXES, ANY_PICTURE, at_least=2), entries([".png", ".jpg"], ANY_PICTURE))
def test_images_are_square_rgba_or_refused(images, masks):
    with scene_of(images=images, masks=masks) as scene:
        try:
            found = read_images(scene)
        except UserError:
            return
    assert len(found) == 2
    for image in found:
        assert image.dtype == np.uint8 and image.shape == (image.shape[0], image.shape[0], 4)
        assert (image[..., 3] > 127).any()


@settings(few)
@given(st.sampled_from([(32, 32), (32, 24), (7, 200)]).flatmap(lambda size: st.tuples(*[pictures(KINDS, size)] * 2)))
def test_whole_pictures_with_masks_are_read_whatever_their_modes(files):
    picture, mask = files
    with scene_of(images={"0.png": picture, "1.png": picture}, masks={"0.png": mask, "1.png": mask}) as scene:
        assert len(read_images(scene)) == 2


@settings(many)
@given(entries([".npy", ".npy", ".npy", ".NPY", ".txt"], matrices()), st.sampled_from([None, 1, 2]))
def test_poses_are_finite_cameras_or_refused(poses, views):
    with scene_of(poses=poses) as scene:
        try:
            found = read_poses(scene.train, views)
        except UserError:
            return
    assert found.dtype == torch.float32 and found.shape[1:] in ((3,), (7,)) and found.isfinite().all()
    assert len(found) == (views or len([name for name in poses if name.endswith(".npy")]))


@settings(many)
@given(
    st.one_of(st.text(max_size=8), st.text("0123456789²٣", max_size=6), st.integers(-10, 10**8), st.just("9" * 5000))
)
def test_view_counts_are_whole_numbers_or_refused(views):
    try:
        number = check_views(views)
    except UserError:
        assert not (isinstance(views, int) and views >= 1)
    else:
        assert number >= 1 and number == int(views)


@settings(many)
@given(st.one_of(st.text(max_size=20), st.text("aZ09_-./\\ \n", max_size=12), st.integers(1, 400).map("a".__mul__)))
def test_names_make_a_folder_inside_the_root_or_are_refused(name):
    try:
        check_name(name)
    except UserError:
        return
    with tempfile.TemporaryDirectory() as root:
        made = Path(root, f".experiments_{name}_view_100_nerf.4194304.partial")  # the longest that is made of it
        made.mkdir()
        assert made.resolve().parent == Path(root).resolve()


# Cameras: float64, angles in radians ----------------------------------------------------------------------------------

POLES = [0.0, math.pi / 2, -math.pi / 2, math.pi, -math.pi, math.pi / 2 - 1e-9, 3 * math.pi]
angles = st.one_of(st.sampled_from(POLES), st.floats(-math.pi, math.pi), st.floats(-1e4, 1e4))
camera = st.tuples(angles, angles, st.floats(0.1, 100)).map(lambda values: torch.tensor(values, dtype=torch.float64))
sets = st.lists(camera, min_size=2, max_size=4).map(torch.stack)
points = st.lists(st.tuples(*[st.floats(-1, 1)] * 3), min_size=1, max_size=5).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@settings(many)
@given(camera)
def test_cameras_survive_the_way_to_matrices_and_back(camera):
    found = cam.w2c_to_spherical(cam.spherical_to_w2c(camera))
    close(cam.wrap_angle(found[:2] - camera[:2]), torch.zeros(2).double(), 1e-9)
    close(found[2], camera[2], 1e-12)


@settings(many)
@given(camera, points)
def test_projection_is_the_matrix_and_a_division(camera, points):
    w2c = cam.spherical_to_w2c(camera)
    local = points @ w2c[:, :3].T + w2c[:, 3]
    assume((local[:, 2] < -1e-3).all())  # in front, where `project` does not clamp
    pixels, depth = cam.project(camera, points)
    close(depth, -local[:, 2], 1e-9)
    close(pixels, local[:, :2] / -local[:, 2:] / math.tan(math.radians(49.1 / 2)), 1e-9)
    origins, directions = cam.rays(camera, pixels)
    close(origins + directions * depth[:, None], points, 1e-9)


@settings(many)
@given(sets, st.data())
def test_rotation_errors_are_a_metric(first, data):
    same_number = st.lists(camera, min_size=len(first), max_size=len(first)).map(torch.stack)
    second, third = data.draw(same_number), data.draw(same_number)
    forth, back = cam.pairwise_rotation_errors(first, second), cam.pairwise_rotation_errors(second, first)
    assert (forth >= 0).all() and (forth <= math.pi + 1e-9).all()
    close(forth, back, 1e-9)
    around = cam.pairwise_rotation_errors(first, third) + cam.pairwise_rotation_errors(third, second)
    assert (forth <= around + 1e-7).all()
    turned = first + torch.tensor([0, data.draw(st.floats(-10, 10)), 0], dtype=torch.float64)
    close(cam.pairwise_rotation_errors(turned, first), torch.zeros_like(forth), 1e-7)


@settings(many)
@given(st.one_of(angles, st.floats(-1e6, 1e6)))
def test_wrapped_angles_are_the_same_angles_of_least_size(angle):
    angle = torch.tensor(angle, dtype=torch.float64)
    wrapped = cam.wrap_angle(angle)
    assert wrapped.abs() <= math.pi + 1e-9
    close(torch.stack([wrapped.sin(), wrapped.cos()]), torch.stack([angle.sin(), angle.cos()]), 1e-8)
    if angle.abs() <= math.pi:
        assert wrapped == angle


@settings(many)
@given(camera, camera, st.integers(-5, 5))
def test_relative_poses_turn_round_and_count_no_turns(source, target, turns):
    there, back = cam.relative_pose(source, target), cam.relative_pose(target, source)
    close(back, there * torch.tensor([-1, -1, 1, -1]), 1e-12)
    close(there[1:3].norm(), torch.ones(()).double(), 1e-12)
    turned = target + torch.tensor([0, 2 * math.pi * turns, 0], dtype=torch.float64)
    close(cam.relative_pose(source, turned), there, 1e-8)
    close(target[0], source[0] - there[0], 1e-8)
