"""Bad input at every door: one line that names the file, exit status 2, and results as they were.

Each case damages a small, whole scene and then runs one program on it, in this process.
"""

import hashlib
import io
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import launch
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import load_file, save_file

from camerabooth import go_nvs, main
from camerabooth.backbones.published import convert
from dataset import prepare
from relposepp import infer
from relposepp.model import ModelConfig, RelativePose, save_model
from sap3d.cameras import maths as cam
from sap3d.cameras.poses import write_poses
from sap3d.errors import one_line_errors
from sap3d.meshes import Size
from sap3d.photos import import_photos
from sap3d.scene import Scene
from sap3d.scores import evaluate, report
from sap3d.views import write_view
from tests.tiny import tiny_model

VIEWS, SIZE = 3, 32
CAMERAS = torch.tensor([[0.3, 0.0, 1.8], [0.1, 1.0, 1.7], [0.5, -2.0, 1.9]])


def picture(alpha: int = 255) -> np.ndarray:
    """A square on nothing, uint8 [SIZE, SIZE, 4]."""
    image = np.zeros((SIZE, SIZE, 4), np.uint8)
    image[8:24, 8:24] = (200, 80, 40, alpha)
    return image


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A ROOT_DIR with a scene that has gone through all stages, weights, and photos."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROOT_DIR", str(root))
        scene = Scene("T", "o", VIEWS)
        grid = cam.evaluation_grid(CAMERAS[0])
        for folder, cameras in ((scene.train, CAMERAS), (scene.test, grid)):
            for index, camera in enumerate(cameras):
                write_view(folder, index, picture(), camera)
        (scene.train / "masks").mkdir()
        for path in (scene.initial_poses, scene.diffusion / "poses.json", scene.reconstruction / "poses.json"):
            write_poses(path, CAMERAS[None], [0.0])
        for folder in (scene.diffusion / "preds", scene.reconstruction / "test"):
            folder.mkdir(parents=True)
            for index in range(len(grid)):
                imageio.imwrite(folder / f"{index:03d}.png", picture()[..., :3])
        scene.mesh_folder.mkdir(parents=True)
        for path in (scene.mesh_folder / "mesh.ply", scene.reconstruction / "mesh.obj"):
            trimesh.creation.box((0.5, 0.5, 0.5)).export(path)
        Size(1.0, None, (0.5, 0.5, 0.5)).write(scene.reconstruction)
        tiny_model().save_pretrained(root / "diffusion")
        tiny_model().save_pretrained(scene.diffusion / "model")
        save_model(RelativePose(ModelConfig(width=16, blocks=1)), root / "relposepp")
        (root / "photos").mkdir()
        for index in range(VIEWS):
            imageio.imwrite(root / f"photos/{index}.png", picture(255) - np.array([40 * index, 0, 0, 0], np.uint8))
    return root


def options(*more: str, views: object = VIEWS, kind: str = "T", name: str = "o") -> list[str]:
    return ["--type", kind, "--object", name, "--views", str(views), *more]


def poses(*more: str, **scene) -> tuple:
    network = ["weights=../relposepp", "verify=false"]
    judges = ["diffusion.checkpoint=diffusion", "descent=false", "symmetry.most=0", "rivals=false"]
    return infer, [*options("--device", "cpu", **scene), *network, *judges, *more]


def tuning(*more: str, **scene) -> tuple:
    tiny = ["tuning.steps=1", "tuning.batch=1", "tuning.prior_weight=0", "tuning.prior_objects=1"]
    return main, [
        *options("--device", "cpu", **scene),
        "checkpoint=diffusion",
        *tiny,
        "tuning.prior_nearest=false",
        *more,
    ]


def views(*more: str) -> tuple:
    return go_nvs, options("--device", "cpu", *more)


def field(*more: str) -> tuple:
    scene = ["data.type=T", "data.object=o", f"data.views={VIEWS}", "device=cpu", "trainer.max_steps=1"]
    return launch, ["--train", *scene, *more]


def photos(**scene) -> tuple:
    return import_photos, options("--input", "photos", **scene | {"name": scene.get("name", "new")})


def scores() -> tuple:
    return evaluate, options()


IMAGE, POSES = "dataset/data/train/T/o/images/001.png", "relposepp/experiments/T/o_view_3/poses.json"
TUNED = "camerabooth/experiments_nvs/T/o_view_3"
FIELD = "3D_Recon/threestudio/experiments_T_view_3_nerf/o"


def put(path: str, content: bytes | str) -> Callable[[Path], None]:
    """Overwrite a file."""

    def damage(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def encoded(image: Image.Image, kind: str = "PNG", **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def gone(path: str) -> Callable[[Path], None]:
    """Remove a file or a folder."""

    def damage(root: Path) -> None:
        target = root / path
        for inner in sorted(target.rglob("*"), reverse=True) if target.is_dir() else ():
            inner.unlink() if inner.is_file() else inner.rmdir()
        target.rmdir() if target.is_dir() else target.unlink()

    return damage


def cut(path: str, keep: float = 0.5) -> Callable[[Path], None]:
    """Keep only the beginning of a file."""

    def damage(root: Path) -> None:
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[: int(keep * len(content))])

    return damage


def loop(path: str) -> Callable[[Path], None]:
    """A symbolic link to itself."""

    def damage(root: Path) -> None:
        (root / path).unlink(missing_ok=True)
        (root / path).symlink_to(root / path)

    return damage


def folder(path: str) -> Callable[[Path], None]:
    """A folder in a file's place."""

    def damage(root: Path) -> None:
        (root / path).unlink(missing_ok=True)
        (root / path).mkdir()

    return damage


def hypotheses(value: object, path: str = POSES) -> Callable[[Path], None]:
    """A poses.json with this in the place of one camera's elevation."""
    cameras = [[10.0, 0.0, 1.8], [value, 50.0, 1.7], [20.0, -100.0, 1.9]]
    return put(path, json.dumps({"hypotheses": [{"score": 0.0, "cameras": cameras}]}))


def other_weights(path: str) -> Callable[[Path], None]:
    """Weights of another architecture."""

    def damage(root: Path) -> None:
        state = load_file(root / path)
        name = max(state, key=lambda name: state[name].numel())
        save_file(state | {name: torch.zeros(3, 3)}, root / path)

    return damage


def matrix(value: float) -> Callable[[Path], None]:
    return lambda root: np.save(root / "dataset/data/train/T/o/poses/001.npy", np.full((3, 4), value, np.float32))


def many(root: Path) -> None:
    for index in range(500):
        imageio.imwrite(root / f"photos/{index:03d}.png", picture())


def nothing(root: Path) -> None:
    """The command line alone is bad."""


class Evil:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return print, ("the pickle ran",)


BLANK = Image.new("RGBA", (SIZE, SIZE))
GREY = Image.fromarray(picture()[..., 0])
BOMB = encoded(Image.new("1", (20000, 20000)))
ANIMATION = encoded(Image.fromarray(picture()), "GIF", save_all=True, append_images=[BLANK])
ANIMATED_PNG = encoded(Image.fromarray(picture()), save_all=True, append_images=[BLANK])
JPEG = encoded(Image.fromarray(picture()[..., :3]), "JPEG")
FRAME = {"transform_matrix": torch.eye(4).tolist()}

CASES: dict[str, tuple[Callable[[Path], None], tuple, str]] = {
    # Pictures of a scene.
    "empty picture": (put(IMAGE, b""), poses(), "001.png"),
    "truncated picture": (cut(IMAGE), poses(), "001.png"),
    "text as a picture": (put(IMAGE, "hello"), poses(), "001.png"),
    "HTML as a picture": (put(IMAGE, "<html><script>alert(1)</script></html>"), poses(), "001.png"),
    "SVG as a picture": (put(IMAGE, '<svg xmlns="http://www.w3.org/2000/svg"/>'), poses(), "001.png"),
    "one pixel": (put(IMAGE, encoded(BLANK.resize((1, 1)))), poses(), "001.png"),
    "400 megapixels": (put(IMAGE, BOMB), poses(), "001.png"),
    "100 megapixels and more": (put(IMAGE, encoded(Image.new("1", (11000, 10000)))), poses(), "11000×10000"),
    "all transparent": (put(IMAGE, encoded(BLANK)), poses(), "001.png"),
    "no alpha and no mask": (put(IMAGE, encoded(Image.fromarray(picture()[..., :3]))), poses(), "001.png"),
    "16 bits, no alpha": (put(IMAGE, encoded(Image.fromarray(np.zeros((9, 9), np.uint16)))), poses(), "001.png"),
    "CMYK": (put(IMAGE, encoded(BLANK.convert("CMYK"), "JPEG")), poses(), "001.png"),
    "palette without transparency": (put(IMAGE, encoded(GREY.convert("P"))), poses(), "001.png"),
    "animated GIF": (put(IMAGE, ANIMATION), poses(), "not a readable image"),
    "animated PNG": (put(IMAGE, ANIMATED_PNG), poses(), "an animation"),
    "picture that is a loop": (loop(IMAGE), poses(), "001.png"),
    "picture that is a folder": (folder(IMAGE), poses(), "001.png"),
    "one picture too few": (gone(IMAGE), poses(), "2 images, but VIEWS is 3"),
    "no pictures": (gone("dataset/data/train/T/o/images"), poses(), "no images in"),
    "no object": (nothing, poses(name="nobody"), "nobody"),
    "broken picture in stage 2": (cut(IMAGE), tuning(), "001.png"),
    "broken picture in stage 3": (cut(IMAGE), field(), "001.png"),
    # What stages hand on.
    "poses missing": (gone(POSES), tuning(), POSES),
    "poses empty": (put(POSES, ""), tuning(), POSES),
    "poses truncated": (cut(POSES), tuning(), POSES),
    "poses of another kind": (put(POSES, "[1, 2, 3]"), tuning(), POSES),
    "poses without cameras": (put(POSES, '{"hypotheses": []}'), tuning(), POSES),
    "poses in words": (hypotheses("high"), tuning(), POSES),
    "poses NaN": (hypotheses(float("nan")), tuning(), POSES),
    "poses infinite": (hypotheses(float("inf")), tuning(), POSES),
    "poses beyond single precision": (hypotheses(1e60), tuning(), POSES),
    "poses of other views": (nothing, tuning(views=2), "o_view_2/poses.json"),
    "a radius of zero": (
        put(POSES, json.dumps({"hypotheses": [{"score": 0, "cameras": [[0, 0, 0]] * 3}]})), tuning(), POSES),
    "refined poses NaN": (hypotheses(float("nan"), f"{TUNED}/poses.json"), field(), f"{TUNED}/poses.json"),
    "refined poses missing": (gone(f"{TUNED}/poses.json"), views(), f"{TUNED}/poses.json"),
    "tuned model missing": (gone(f"{TUNED}/model/model.safetensors"), views(), "model.safetensors"),
    "tuned model truncated": (cut(f"{TUNED}/model/model.safetensors"), views(), f"{TUNED}/model"),
    # Weights.
    "stage 1's weights missing": (gone("relposepp/model.safetensors"), poses(), "model.safetensors"),
    "stage 1's weights truncated": (cut("relposepp/model.safetensors"), poses(), "relposepp"),
    "stage 1's weights another's": (other_weights("relposepp/model.safetensors"), poses(), "relposepp"),
    "stage 1's sizes absurd": (put("relposepp/config.json", '{"width": "wide"}'), poses(), "relposepp"),
    "stage 1's sizes unknown": (put("relposepp/config.json", '{"colour": 3}'), poses(), "relposepp"),
    "stage 2's weights missing": (gone("diffusion/model.safetensors"), tuning(), "diffusion"),
    "stage 2's weights text": (put("diffusion/model.safetensors", "weights"), tuning(), "diffusion"),
    "stage 2's weights another's": (other_weights("diffusion/model.safetensors"), tuning(), "diffusion"),
    "stage 2's config broken": (put("diffusion/config.json", "{"), tuning(), "diffusion"),
    "a pickle with a command": (
        put("evil.ckpt", pickle.dumps(Evil())), tuning("checkpoint=evil.ckpt"), "evil.ckpt"),
    "a checkpoint with a command": (
        lambda root: torch.save({"state_dict": Evil()}, root / "evil.ckpt"),
        tuning("checkpoint=evil.ckpt"), "evil.ckpt"),
    "a pickle for RelPose++": (
        put("evil.pth", pickle.dumps(Evil())),
        poses("--backbone", "published", "--pose-checkpoint", "evil.pth"), "evil.pth"),
    "RelPose++ missing": (nothing, poses("--backbone", "published"), "ckpt_000105000.pth"),
    "Zero-1-to-3 missing": (
        nothing, (convert, ["--checkpoint", "none.ckpt", "--output", "converted"]), "none.ckpt"),
    # Command lines and configs.
    "no views": (nothing, poses(views=0), "VIEWS"),
    "half a view": (nothing, poses(views=2.5), "VIEWS"),
    "views in words": (nothing, tuning(views="five"), "VIEWS"),
    "a type above ROOT_DIR": (nothing, poses(kind="../../etc"), "../../etc"),
    "an absolute object": (nothing, poses(name="/etc/passwd"), "/etc/passwd"),
    "a hidden object": (nothing, poses(name=".hidden"), ".hidden"),
    "an object with spaces": (nothing, photos(name="my mug"), "my mug"),
    "an object in Cyrillic": (nothing, photos(name="кружка"), "кружка"),
    "an object with a line break": (nothing, photos(name="a\nb"), "cannot be a type or an object"),
    "a device that is none": (nothing, poses("--device", "tpu"), "tpu"),
    "an unknown key": (nothing, tuning("tuning.stesp=3"), "stesp"),
    "a value of the wrong type": (nothing, tuning("tuning.steps=many"), "tuning.steps=many"),
    "no value": (nothing, tuning("tuning.steps"), "tuning.steps"),
    "an unknown type to prepare": (nothing, (prepare, options(kind="Q")), "unknown type 'Q'"),
    "no such config": (nothing, field("--config", "nowhere.yaml"), "nowhere.yaml"),
    "a config that is no YAML": (put("bad.yaml", "a: [1, 2"), field("--config", "bad.yaml"), "bad.yaml"),
    "a config that runs a command": (
        put("bad.yaml", "seed: !!python/object/apply:os.system ['echo ran']"),
        field("--config", "bad.yaml"), "bad.yaml"),
    "a config that is a list": (put("bad.yaml", "- 1\n- 2\n"), field("--config", "bad.yaml"), "bad.yaml"),
    "a component that is none": (nothing, field("system.geometry.target=os.path"), "os.path"),
    # Cameras of novel views.
    "cameras missing": (nothing, views("--cameras", "none.json"), "none.json"),
    "cameras without frames": (put("t.json", "{}"), views("--cameras", "t.json"), "t.json"),
    "cameras elsewhere": (
        put("t.json", json.dumps({"h": 9, "fl_y": 2, "frames": [FRAME]})), views("--cameras", "t.json"), "t.json"),
    # Photos to import.
    "no photos' folder": (gone("photos"), photos(), "photos"),
    "photos' folder empty": (lambda root: [p.unlink() for p in (root / "photos").iterdir()], photos(), "photos"),
    "photos' folder a file": (lambda root: [gone("photos")(root), put("photos", "x")(root)], photos(), "photos"),
    "500 photos": (many, photos(), "503 files"),
    "a photo truncated": (put("photos/1.png", JPEG[: len(JPEG) // 2]), photos(), "1.png"),
    "a photo that is SVG": (put("photos/1.png", "<svg/>"), photos(), "1.png"),
    "a photo of 400 megapixels": (put("photos/1.png", BOMB), photos(), "1.png"),
    "a photo that moves": (put("photos/1.png", ANIMATED_PNG), photos(), "1.png"),
    "a photo twice": (
        lambda root: put("photos/3.png", (root / "photos/1.png").read_bytes())(root), photos(views=4),
        "3.png: the same picture as 1.png"),
    "a photo of nothing": (
        put("photos/1.jpg", encoded(Image.new("RGB", (64, 64), "white"), "JPEG")), photos(views=4), "1.jpg"),
    "photos fewer than views": (nothing, photos(views=4), "3 photos, but VIEWS is 4"),
    "photos of another's name": (nothing, photos(name="o"), "take another name"),
    # Evaluation and report.
    "results missing": (gone(f"{FIELD}/test/005.png"), scores(), "test/005.png is missing"),
    "result truncated": (cut(f"{FIELD}/test/005.png"), scores(), "test/005.png"),
    "mesh missing": (gone(f"{FIELD}/mesh.obj"), scores(), "mesh.obj is missing"),
    "mesh without faces": (put(f"{FIELD}/mesh.obj", "v 0 0 0\n"), scores(), "mesh.obj"),
    "mesh of an unknown size": (gone(f"{FIELD}/size.json"), scores(), "size.json"),
    "true poses NaN": (matrix(float("nan")), scores(), "001.npy"),
    "seconds broken": (put("results/T/o/3/stages.json", "{"), scores(), "stages.json"),
    "report without results": (nothing, (report, options()), "results.json"),
}  # fmt: skip


def tree(root: Path) -> dict[str, str]:
    """Every file's hash, and where links lead, but for locks (`sap3d.files.exclusive`), which stay."""
    return {
        str(path.relative_to(root)): "link" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if (path.is_symlink() or path.is_file()) and path.suffix != ".lock"
    }


def copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_and_changes_nothing(case, whole, tmp_path, monkeypatch, capsys):
    damage, (program, arguments), named = CASES[case]
    copy(whole, tmp_path)
    damage(tmp_path)
    before = tree(tmp_path)
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [program.__name__, *(a.replace("../", f"{tmp_path}/") if "weights=" in a else a
                                                          for a in arguments)])  # fmt: skip
    with pytest.raises(SystemExit) as exit, one_line_errors():
        program.main()
    errors = capsys.readouterr().err
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line.startswith("error:")]
    assert exit.value.code == 2
    assert len(lines) == 1 and errors.rstrip().endswith(lines[0]), errors
    assert named in lines[0] and "Traceback" not in errors, lines[0]
    assert "ran" not in lines[0].split()
    assert tree(tmp_path) == before


def test_debug_shows_the_traceback(whole, monkeypatch):
    monkeypatch.setenv("ROOT_DIR", str(whole))
    program, arguments = poses(name="nobody")
    monkeypatch.setattr(sys, "argv", [program.__name__, *arguments, "--debug"])
    with pytest.raises(Exception, match="nobody"), one_line_errors():
        program.main()


def test_a_full_disk_is_one_line(whole, monkeypatch, capsys, tmp_path):
    copy(whole, tmp_path)
    monkeypatch.setenv("ROOT_DIR", str(tmp_path))
    before = tree(tmp_path)
    program, arguments = poses(f"weights={tmp_path / 'relposepp'}")

    def full(*_, **__):
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(sys, "argv", [program.__name__, *(a for a in arguments if a != "weights=../relposepp")])
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(SystemExit) as exit, one_line_errors():
        program.main()
    assert exit.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {tmp_path / 'x'}: No space left on device\n")
    assert tree(tmp_path) == before
