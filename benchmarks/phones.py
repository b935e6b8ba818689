"""Stage 1 on photos as phones take them: other lenses, tilted, from above, near and far, blurred.

In one kind a photo shows another object, the stranger; in another the object was laid down for two photos.

    OMP_NUM_THREADS=1 nice python benchmarks/phones.py effort.rounds=0 --objects toy_301 model_128 --kinds plain roll

Five photos a set of toys and models that no training uses, framed as import does, beside plain ones of the same object
from the same places. Prints the rotation error of each set; for each kind the median, the share of sets within 15°, and
that of views that are called at least 75 % sure; and over all, how many of those are within 15° of the others, with the
likeliest constants of `relposepp.outliers.soundness`. What is done is kept in results/phones.json below ROOT_DIR.
"""

import argparse
import itertools
import json
import math
import time

import cv2
import numpy as np
import torch
from omegaconf import OmegaConf

from benchmarks.pose_choice import load_object
from dataset.photo_errors import motion_kernel
from dataset.render import Renderer
from relposepp.decide import decide
from relposepp.evaluate import FAILURE, placed
from relposepp.held import hold
from relposepp.infer import load_models, questioned
from relposepp.outliers import EVEN, STEEPNESS, soundness
from sap3d.cameras import maths as cam
from sap3d.cameras.poses import DOUBTFUL
from sap3d.errors import one_line_errors
from sap3d.files import root_dir, write_json
from sap3d.photos.import_photos import framed
from sap3d.runs.options import POSES, read_tree
from sap3d.scores.metrics import rotation_error

OBJECTS = (*(f"toy_{number}" for number in range(301, 307)), *(f"model_{number:03d}" for number in range(16, 176, 28)))
VIEWS, SIZE = 5, 512
ELEVATIONS, TOP, RADII, ROLL = (5.0, 45.0), (72.0, 82.0), (1.6, 1.9), 30.0  # degrees but for the radii
NEAR_FAR = (1.4, 2.2)  # distances that differ
LENSES = (25.0, 40.0, 60.0, 75.0)  # fields of view in degrees, with EXIF and without
LENS_KINDS = tuple(f"{name}{lens:g}" for lens in LENSES for name in ("exif", "lens"))
KINDS = ("plain", "roll", "top", "distances", "blurred", "stranger", "laid", *LENS_KINDS)
BLUR = 16, 32  # pixels that the picture moves during a photo
LAYING = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # turns the object onto its side
LAID = 0.1  # of a set's weight in calibration: most people let their objects stand
GRID = np.geomspace(1, 6, 37), np.arange(0.5, 16.5, 0.5)  # of EVEN and STEEPNESS


def set_cameras(kind: str, seed: int) -> torch.Tensor:
    """Cameras of a kind's set, [5, 7]; those of one seed stand on the same azimuths."""
    rng = np.random.default_rng(seed)
    azimuth = np.radians(np.arange(VIEWS) * 72 + rng.uniform(-20, 20, VIEWS))
    elevation, radius = np.radians(rng.uniform(*ELEVATIONS, VIEWS)), rng.uniform(*RADII, VIEWS)
    rolls, top, view = np.radians(rng.uniform(-ROLL, ROLL, VIEWS)), math.radians(rng.uniform(*TOP)), cam.FIELD_OF_VIEW
    if kind == "top":
        elevation[rng.integers(VIEWS)] = top
    if kind == "distances":
        radius = rng.uniform(*NEAR_FAR, VIEWS)
    if kind.startswith(("exif", "lens")):
        view = math.radians(float(kind[4:]))
    cameras = cam.full_cameras(torch.tensor(np.column_stack([elevation, azimuth, radius]), dtype=torch.float32))
    cameras[:, 5] = torch.tensor(rolls) * (kind == "roll")
    cameras[:, 6], cameras[:, 2] = view, cameras[:, 2] * cam.TAN_HALF_FOV / math.tan(view / 2)
    if kind == "laid":  # the camera turns about the object instead of the object
        lying, turn = rng.permutation(VIEWS)[:2], torch.block_diag(LAYING, torch.eye(1))
        cameras[lying] = cam.w2c_to_rolled(cam.spherical_to_w2c(cameras[lying]) @ turn)
    return cameras


def blurred(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photo, uint8 RGBA, blurred by a movement along a line."""
    kernel = motion_kernel(rng.uniform(*BLUR), rng.uniform(0, np.pi))
    opacity = photo[..., 3:] / 255
    moved = cv2.filter2D(np.dstack([photo[..., :3] * opacity, opacity]), -1, kernel)
    colors = moved[..., :3] / moved[..., 3:].clip(1e-6)
    return np.dstack([colors, 255 * moved[..., 3]]).round().clip(0, 255).astype(np.uint8)


def imported(photos: list[np.ndarray], view: float, known: bool) -> tuple[list[np.ndarray], torch.Tensor]:
    """Photos of this field of view as import frames them, and what it takes for the squares' own, [N]; radians."""
    photos, shares = framed(photos, [view if known else None] * len(photos))
    shares = torch.tensor(shares)
    tangents = shares * math.tan(view / 2) if known else shares * cam.TAN_HALF_FOV / shares.quantile(0.5)
    return photos, 2 * tangents.atan()


def run(name: str, kind: str, seed: int, config, models) -> dict:
    """Stage 1 of one set."""
    truth = set_cameras(kind, seed)
    photos = list(Renderer(load_object(name)).render(truth, SIZE))
    stranger = seed % VIEWS
    if kind == "stranger":
        photos[stranger] = Renderer(load_object(f"toy_{900 + seed:03d}")).render(truth[:1], SIZE)[0]
    if kind == "blurred":
        rng = np.random.default_rng(seed)
        photos = [blurred(photo, rng) for photo in photos]
    known = not kind.startswith("lens")
    photos, fields_of_view = imported(photos, truth[0, 6].item(), known)
    start = time.monotonic()
    poses = decide(*models, photos, config, seed, held=hold(models[0], photos, fields_of_view, known))
    seconds = time.monotonic() - start
    cameras, inliers = poses.cameras[0], [view for view in range(VIEWS) if kind != "stranger" or view != stranger]
    said = questioned(poses, photos, torch.device("cpu"))[1]["outliers"]
    return {
        "kind": kind,
        "error": rotation_error(cameras[inliers], truth[inliers]),
        "confidence": poses.confidence[inliers].tolist(),
        "placed": placed(cameras[inliers], truth[inliers]).tolist(),
        "rolls": (cameras[:, 5] - truth[:, 5]).rad2deg().tolist(),
        "field_of_view": cameras[:, 6].rad2deg().mean().item(),
        "scores": poses.scores, "cameras": poses.cameras.tolist(), "truth": truth.tolist(),
        "considered": poses.considered,
        **said,
        "stranger": stranger if kind == "stranger" else None, "seconds": seconds,
    }  # fmt: skip


def told(row: dict, even: float = EVEN, steepness: float = STEEPNESS) -> np.ndarray:
    """Each view's confidence with these constants of `outliers.soundness`."""
    return np.array(row["confidence"]) * soundness(row["contradiction"], even, steepness)


def likelihood(rows: list[dict], even: float, steepness: float) -> float:
    """Mean negative log-likelihood of a view; every set counts as one, laid ones less."""
    losses, weights = [], [LAID if row["kind"] == "laid" else 1.0 for row in rows]
    for row in rows:
        share, right = told(row, even, steepness).clip(0.02, 0.98), np.array(row["placed"])
        losses.append(-(right * np.log(share) + (1 - right) * np.log(1 - share)).mean())
    return float(np.average(losses, weights=weights))


def calibrate(rows: list[dict]) -> None:
    """Print the likeliest constants of `outliers.soundness`, and what confidences say without it and with ours."""
    likeliest = min(itertools.product(*GRID), key=lambda each: likelihood(rows, *each))
    for name, constants in (("likeliest", likeliest), ("without", (math.inf, 1.0)), ("ours", (EVEN, STEEPNESS))):
        sure = [ok for row in rows for ok, share in zip(row["placed"], told(row, *constants)) if share >= DOUBTFUL]
        near, loss = np.mean(sure) if sure else math.nan, likelihood(rows, *constants)
        print(f"{name:9s} even {constants[0]:.2f}  steepness {constants[1]:4.1f}  NLL {loss:.3f}  "
              f"called {DOUBTFUL:.0%} sure: {len(sure)} views, of which {near:.0%} within 15°")  # fmt: skip


def report(rows: dict[str, dict[str, dict]]) -> None:
    """A line for each kind, then the calibration."""
    for kind, sets in rows.items():
        errors = np.array([row["error"] for row in sets.values()])
        median, near = np.median(errors), (errors < FAILURE).mean()
        sure = np.concatenate([told(row) for row in sets.values()]) >= DOUBTFUL
        print(f"{kind:10s} {len(errors)} sets  median {median:5.1f}°  within 15° {near:4.0%}  sure {sure.mean():4.0%}")
    every = [row for sets in rows.values() for row in sets.values()]
    calibrate(every)
    wrong = sum(bool(row["named"]) for row in every if row["stranger"] is None)
    right = [row["stranger"] in row["named"] for row in every if row["stranger"] is not None]
    print(f"strangers named: {sum(right)} of {len(right)}; sets in which another photo is: {wrong} of {len(every)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", nargs="+", default=OBJECTS)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--seeds", type=int, default=1, help="sets an object and kind")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of relposepp/configs/infer.yaml")
    arguments = parser.parse_intermixed_args()
    config = OmegaConf.to_container(read_tree(arguments.overrides, "cpu", POSES)[POSES], resolve=True)
    path = root_dir() / "results/phones.json"
    done = json.loads(path.read_text()) if path.exists() else {}
    rows = done["rows"] if done.get("overrides") == arguments.overrides else {}
    config, device = OmegaConf.create(config), torch.device("cpu")
    models = load_models(config, device)
    for each in arguments.objects:
        for kind in arguments.kinds:
            for seed in range(arguments.seeds):
                sets, name = rows.setdefault(kind, {}), f"{each} {seed}"
                if name in sets:
                    continue
                row = sets[name] = run(each, kind, seed, config, models)
                write_json(path, {"overrides": arguments.overrides, "rows": rows})
                print(f"{kind:10s} {name:14s} {row['error']:6.1f}°  fov {row['field_of_view']:4.1f}°  "
                      f"roll {np.abs(row['rolls']).mean():4.1f}°  named {row['named']}  {row['seconds']:4.0f} s",
                      flush=True)  # fmt: skip
    report(rows)


if __name__ == "__main__":
    with one_line_errors():
        main()
