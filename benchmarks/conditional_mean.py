"""What the embedded models expect to see, against the truth: true poses, 24 unseen views at 64×64, white background.

    python benchmarks/conditional_mean.py                                    # the committed model, scans8
    python benchmarks/conditional_mean.py --type MODELS_demo
    python benchmarks/conditional_mean.py --checkpoint runs/camerabooth/checkpoint.pt --picture means.png

Prints the mean PSNR in dB from 1, 2, 3 and 5 sources of each object. A checkpoint is one of camerabooth/pretrain.py,
below ROOT_DIR. The picture shows eight views an object from one, two and five sources below the truth.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import imageio.v3 as imageio
import torch
import torch.nn.functional as F
from torch import Tensor

from camerabooth.backbones.embedded.model import EmbeddedConfig, Reconstructor
from camerabooth.backbones.embedded.rendering import render
from camerabooth.backbones.interface import load_model
from camerabooth.diffusion import EMBEDDED_WEIGHTS
from camerabooth.evaluate import SCANS8, SOURCES, load_views, psnr
from camerabooth.sampling import conditional_mean
from dataset.modelled import benchmark_models
from sap3d import images as im
from sap3d.cameras import maths as cam
from sap3d.errors import one_line_errors
from sap3d.files import atomic_file, root_dir
from sap3d.names import read_object_list
from sap3d.scene import Scene

SIZE = 64
Means = Callable[[Tensor, Tensor, Tensor], Tensor]  # sources, their cameras, targets → views [M, ≥ 3, 64, 64]


def committed() -> tuple[int, Means]:
    """Side of the sources and conditional means of the committed model."""
    model = load_model(EMBEDDED_WEIGHTS)

    def means(images: Tensor, cameras: Tensor, targets: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return conditional_mean(model, model.embed_sources(images, cameras), targets, generator)

    return model.image_size, means


def of_checkpoint(path: Path) -> tuple[int, Means]:
    """The same of a training checkpoint's average."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = Reconstructor(EmbeddedConfig()).eval()
    model.load_state_dict(state["average"])
    print(f"{path}: {state['step']} steps, {state['objects']} objects, {state['minutes']:.0f} minutes")

    def means(images: Tensor, cameras: Tensor, targets: Tensor) -> Tensor:
        field = model(images[None], cameras[None], with_features=False)
        view = render(field, targets[None], cam.pixel_grid(SIZE), model.config.samples)
        return view.image[0].transpose(1, 2).unflatten(-1, (SIZE, SIZE))

    return model.config.image_size, means


def picture(truth: Tensor, means: dict[int, Tensor]) -> Tensor:
    """Eight views: the truth, and the means from one, two and five sources, [3, 4 · 64, 8 · 64]."""
    shown = torch.linspace(0, len(truth) - 1, 8).round().long()
    rows = [truth, means[1], means[2], means[5]]
    return torch.cat([torch.cat(list(row[shown, :3]), -1) for row in rows], -2)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", choices=("scans8", "MODELS_demo"), default="scans8")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    if arguments.type == "scans8":
        scenes = [Scene(*pair, 5) for pair in read_object_list(SCANS8)]
    else:
        scenes = [Scene("MODELS_demo", name, 5) for name in benchmark_models()]
    size, means = of_checkpoint(root_dir() / arguments.checkpoint) if arguments.checkpoint else committed()
    rows, pictures = [], []
    for scene in scenes:
        images, cameras, truth, targets = load_views(scene, size)
        truth = F.interpolate(truth, size=(SIZE, SIZE), mode="area")
        views = {count: means(images[:count], cameras[:count], targets) for count in SOURCES}
        rows.append([psnr(view, truth).mean().item() for view in views.values()])
        pictures.append(picture(truth, views))
        print(f"{scene.object:24}" + "".join(f"{value:8.2f}" for value in rows[-1]), flush=True)
    print(f"{'mean':24}" + "".join(f"{sum(column) / len(rows):8.2f}" for column in zip(*rows, strict=True)))
    if arguments.picture:
        with atomic_file(arguments.picture) as partial:
            imageio.imwrite(partial, im.to_uint8(torch.cat(pictures, -2).permute(1, 2, 0)))


if __name__ == "__main__":
    with one_line_errors():
        main()
