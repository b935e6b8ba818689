"""Draw what the embedded model makes of one photo of each object of MODELS_demo: docs/figures/samples.png.

    .venv/bin/python docs/figures/samples.py

Of an object, from left to right: the photo, a view that was not given, its conditional mean, and two samples of it of
three steps. Two objects lie side by side.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from camerabooth.backbones.embedded.model import EMBEDDED_WEIGHTS
from camerabooth.backbones.interface import DiffusionModel, load_model
from camerabooth.evaluate import STEPS, TEMPERATURES, load_views
from camerabooth.sampling import sample
from dataset.modelled import benchmark_models
from sap3d.files import atomic_file
from sap3d.images import sheet, to_uint8
from sap3d.scene import Scene

VIEW = 5  # of the 24 test views


@torch.no_grad()
def row(model: DiffusionModel, scene: Scene) -> np.ndarray:
    """Five pictures, uint8 [5, S, S, 3]."""
    images, cameras, truth, targets = load_views(scene, model.image_size)
    sources, target = model.embed_sources(images[:1], cameras[:1]), targets[VIEW : VIEW + 1]
    made = [sample(model, sources, target, torch.Generator(), steps=0)]
    for seed in range(2):
        noise = torch.Generator().manual_seed(seed)
        made.append(sample(model, sources, target, noise, steps=STEPS, temperature=TEMPERATURES[0]))
    return to_uint8(torch.cat([images[:1], truth[VIEW : VIEW + 1], *made])[:, :3].permute(0, 2, 3, 1))


def main() -> None:
    model = load_model(EMBEDDED_WEIGHTS, torch.device("cpu"))
    scenes = [Scene("MODELS_demo", name, 5) for name in benchmark_models()]
    rows = [row(model, scene) for scene in tqdm(scenes, desc="objects")]
    picture = Image.fromarray(sheet(np.concatenate(rows), 10))
    with atomic_file(Path(__file__).with_suffix(".png")) as partial:
        picture.quantize(256).save(partial, "PNG", optimize=True)


if __name__ == "__main__":
    main()
