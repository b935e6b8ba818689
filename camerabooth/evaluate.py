"""How good the view-conditioned diffusion model is by itself: true poses, no tuning.

    python camerabooth/evaluate.py                                   # scans8, 1, 2, 3 and 5 sources
    python camerabooth/evaluate.py --list dataset/benchmarks/models12.txt
    python camerabooth/evaluate.py --type toy_demo --object toy_001 toy_002 --model FOLDER --sensitivity

Prints PSNRs over 24 test views an object, compared at 64×64 on white, of the conditional mean, of DDIM samples, and of
two baselines; how sharp they are; with --sensitivity, on how many pairs of neighbouring views the denoising loss is
lowest near the true azimuth. Writes results/camerabooth/{model.json,samples.png,sensitivity.png}.
"""

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from camerabooth.backbones.embedded.model import EMBEDDED_WEIGHTS
from camerabooth.backbones.interface import DiffusionModel, load_model
from camerabooth.sampling import sample
from sap3d import images as im
from sap3d.cameras import maths as cam
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_file, root_dir, write_json
from sap3d.names import read_object_list
from sap3d.runs.devices import choose_device, seed_everything
from sap3d.scene import Scene, image_paths
from sap3d.views import read_images, read_poses

SCANS8 = Path(__file__).parents[1] / "dataset/benchmarks/scans8.txt"
SOURCES = (1, 2, 3, 5)
TARGETS = 24  # test views an object …
AT_ONCE = 4  # … of which so many are made together
SIZE = 64  # pixels a side, at which views are compared
STEPS = 3  # of a DDIM sample
TEMPERATURES = (0.5,)  # of the initial noise
OFFSETS = torch.arange(-45, 45.1, 2.5)  # degrees of azimuth error
NEIGHBOURS = math.radians(60)
SENSITIVITY_TIMESTEPS = (300, 400, 500)  # sharpest on held-out toys
SENSITIVITY_DRAWS = 2  # of noise, at each


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """Of each image in dB, colour on white only, [M]; both [M, ≥ 3, S, S] in [0, 1]."""
    return -10 * (images - truth)[:, :3].square().mean((1, 2, 3)).clamp(min=1e-10).log10()


def load_views(scene: Scene, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All train views and evenly spread test views: images [N, 4, S, S], cameras [N, 3], [24, 4, S, S], [24, 3]."""
    views = len(image_paths(scene.train))
    sources = im.to_tensor(read_images(Scene(scene.type, scene.object, views)), size)
    paths = image_paths(scene.test)
    if len(paths) < TARGETS:
        raise UserError(f"{scene.test / 'images'}: {len(paths)} test views; prepare the object first (docs/DATASET.md)")
    cameras, test_cameras = read_poses(scene.train, views), read_poses(scene.test)
    # The test grid is centred on view 0: what a source shows already is no test.
    cosines = cam.sight_cosines(test_cameras, cameras)
    unseen = torch.nonzero(cosines.amax(1) < math.cos(math.radians(1)))[:, 0]
    chosen = unseen[torch.linspace(0, len(unseen) - 1, TARGETS).round().long()]
    targets = im.to_tensor([im.read_rgba(paths[index]) for index in chosen], size)
    return sources, cameras, targets, test_cameras[chosen]


def sharpness(images: Tensor, masks: Tensor) -> float:
    """Mean gradient magnitude of colour inside masks: [M, ≥ 3, S, S] and [M, S, S], both in [0, 1]."""
    color, inside = images[:, :3], masks[:, 1:, 1:] > 0.5
    across, down = color[..., 1:, 1:] - color[..., 1:, :-1], color[..., 1:, 1:] - color[..., :-1, 1:]
    return (across.square() + down.square()).sqrt().mean(1)[inside].mean().item()


@torch.no_grad()
def evaluate_object(
    model: DiffusionModel, scene: Scene, temperatures: Sequence[float], **sampling: float
) -> tuple[dict[str, dict[int, tuple[float, float]]], np.ndarray]:
    """Mean PSNR, and sharpness as a share of the truth's, of each method and number of sources, and a picture.

    The picture's rows: the sources, the truth, and each method from most sources. `sampling` are options of
    `camerabooth.sampling.sample`.
    """
    images, cameras, truth, targets = load_views(scene, model.image_size)
    small_truth, masks = F.interpolate(truth, size=(SIZE, SIZE), mode="area"), truth[:, 3]
    whole, scores = sharpness(truth, masks), {}
    for count in SOURCES:
        generator, there = torch.Generator().manual_seed(0), targets.to(model.device)
        sources = model.embed_sources(images[:count].to(model.device), cameras[:count].to(model.device))
        views = {"conditional mean": sample(model, sources, there, generator, steps=0, batch=AT_ONCE)}
        for temperature in temperatures:
            options = {"temperature": temperature, "batch": AT_ONCE, **sampling}
            views[f"samples, temperature {temperature}"] = sample(model, sources, there, generator, **options)
        views["nearest source"] = images[cam.sight_cosines(targets, cameras[:count]).argmax(1)]
        views["white"] = torch.ones_like(truth)
        for name, result in views.items():
            small = F.interpolate(result.cpu(), size=(SIZE, SIZE), mode="area")
            score = psnr(small, small_truth).mean().item(), sharpness(result.cpu(), masks) / whole
            scores.setdefault(name, {})[count] = score
    shown = torch.linspace(0, TARGETS - 1, 8).round().long()
    made = [view.cpu()[shown] for name, view in views.items() if name not in ("nearest source", "white")]
    rows = torch.cat([images[torch.arange(8) % SOURCES[-1]], truth[shown], *made])
    return scores, im.to_uint8(rows[:, :3].permute(0, 2, 3, 1))


@torch.no_grad()
def azimuth_profiles(model: DiffusionModel, scene: Scene) -> Tensor:
    """Denoising loss of all pairs of views less than 60° apart against the target's azimuth error, [P, 2, offsets].

    The two directions of a pair of views, each as the other's only source, stand side by side: a relative azimuth that
    is off by an angle one way is off by its negative the other way.
    """
    images, cameras, _, _ = load_views(scene, model.image_size)
    images, cameras = images.to(model.device), cameras.to(model.device)
    rows = []
    for first, second in itertools.combinations(range(len(images)), 2):
        if 0 < cam.wrap_angle(cameras[first, 1] - cameras[second, 1]).abs() < NEIGHBOURS:
            there = _azimuth_profile(model, images, cameras, first, second, OFFSETS)
            back = _azimuth_profile(model, images, cameras, second, first, -OFFSETS)
            rows.append(torch.stack([there, back]))
    return torch.stack(rows) if rows else torch.empty(0, 2, len(OFFSETS))


def _azimuth_profile(
    model: DiffusionModel, images: Tensor, cameras: Tensor, source: int, target: int, offsets: Tensor
) -> Tensor:
    """Denoising loss of one view given one other, the target's azimuth wrong by `offsets` in degrees, [offsets]."""
    count = len(offsets)
    turned = cameras[target].repeat(count, 1)
    turned[:, 1] += torch.deg2rad(offsets).to(turned)
    condition = model.condition(model.embed_sources(images[source, None], cameras[source, None]), turned)
    latents = model.encode(images[target, None])
    generator = torch.Generator().manual_seed(0)  # the same noise for all offsets and pairs
    loss = torch.zeros(count)
    for step in SENSITIVITY_TIMESTEPS:
        for _ in range(SENSITIVITY_DRAWS):
            noise = torch.randn(latents.shape, generator=generator).to(latents.device)
            timesteps = torch.full((1,), step, device=latents.device)
            noisy = model.add_noise(latents, noise, timesteps).expand(count, -1, -1, -1)
            prediction = model.predict(noisy, timesteps.expand(count), condition)
            loss += (prediction - model.training_target(latents, noise, timesteps)).square().mean((1, 2, 3)).cpu()
    return loss / (len(SENSITIVITY_TIMESTEPS) * SENSITIVITY_DRAWS)


def share_near_zero(profiles: Tensor) -> float:
    """Share of the profiles [..., offsets] that are lowest within 5° of the true azimuth."""
    return (OFFSETS[profiles.argmin(-1)].abs() <= 5).float().mean().item()


def plot_sensitivity(path: Path, profiles: Tensor) -> None:
    """Every pair's profile, both directions together, over its minimum, and where the minima lie."""
    profiles = profiles.mean(1)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    relative = profiles / profiles.amin(1, keepdim=True)
    left.plot(OFFSETS, relative.T, color="tab:blue", alpha=0.15, linewidth=0.8)
    left.plot(OFFSETS, relative.median(0).values, color="tab:red", label="median")
    left.set(xlabel="azimuth error (°)", ylabel="denoising loss over its minimum", ylim=(0.99, 1.3))
    left.legend()
    half = (OFFSETS[1] - OFFSETS[0]) / 2
    right.hist(OFFSETS[profiles.argmin(1)].numpy(), bins=torch.cat([OFFSETS - half, OFFSETS[-1:] + half]).numpy())
    share = share_near_zero(profiles)
    right.set(xlabel="azimuth error of the minimum (°)", ylabel="pairs", title=f"within 5°: {share:.0%}")
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, default=SCANS8, help='of objects; lines of "TYPE OBJECT"')
    parser.add_argument("--type", help="of --object; both in the place of the list")
    parser.add_argument("--object", nargs="+")
    parser.add_argument("--model", type=Path, default=EMBEDDED_WEIGHTS, help="model folder")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a DDIM sample")
    parser.add_argument("--guidance_scale", type=float, default=1.0)
    parser.add_argument("--temperature", type=float, nargs="*", default=TEMPERATURES, help="of the initial noise")
    parser.add_argument("--sensitivity", action="store_true", help="of the denoising loss to azimuths: takes an hour")
    parser.add_argument("--device", default="cpu", help="a CUDA index, or cpu")
    arguments = parser.parse_args()
    if bool(arguments.type) != bool(arguments.object):
        raise UserError("--type and --object go together")
    seed_everything(0)
    model = load_model(arguments.model, choose_device(arguments.device))
    sampling = {name: getattr(arguments, name) for name in ("steps", "guidance_scale")}
    names = [(arguments.type, name) for name in arguments.object or []] or read_object_list(arguments.list)
    results, pictures, profiles = {}, [], []
    for scene in tqdm([Scene(*pair, SOURCES[-1]) for pair in names], desc="objects"):
        scores, picture = evaluate_object(model, scene, arguments.temperature, **sampling)
        results[f"{scene.type}/{scene.object}"] = scores
        pictures.append(picture)
        if arguments.sensitivity:
            profiles.append(azimuth_profiles(model, scene))
    report(results, np.concatenate(pictures), torch.cat(profiles) if profiles else None)


def report(results: dict, pictures: np.ndarray, profiles: Tensor | None) -> None:
    """Print the means and write the files."""
    methods = next(iter(results.values()))
    table = {m: {n: np.mean([r[m][n] for r in results.values()], 0).tolist() for n in SOURCES} for m in methods}
    for column, title in enumerate(("PSNR (dB)", "sharpness")):
        print(f"{title + ' from … sources':28s}" + "".join(f"{count:8d}" for count in SOURCES))
        for name, scores in table.items():
            print(f"{name:28s}" + "".join(f"{scores[count][column]:8.2f}" for count in SOURCES))
    folder, content = root_dir() / "results/camerabooth", {"mean": table, "objects": results}
    if profiles is not None:
        pairs, directed = share_near_zero(profiles.mean(1)), share_near_zero(profiles)
        print(f"denoising loss lowest within 5° of the true azimuth: {pairs:.0%} of {len(profiles)} pairs of views, "
              f"{directed:.0%} of their directions")  # fmt: skip
        shares = {"pairs": len(profiles), "within_5_degrees": pairs, "directed_within_5_degrees": directed}
        content["sensitivity"] = shares
        plot_sensitivity(folder / "sensitivity.png", profiles)
    write_json(folder / "model.json", content)
    with atomic_file(folder / "samples.png") as partial:
        imageio.imwrite(partial, im.sheet(pictures, columns=8))
    print(f"→ {folder}")


if __name__ == "__main__":
    with one_line_errors():
        main()
