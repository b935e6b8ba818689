"""Checkpoints in the published layouts with random weights: what tests and benchmarks take in place of the real ones.

    python benchmarks/published_weights.py --output runs/weights            # tiny Zero-1-to-3: a UNet of 32/64 channels
    python benchmarks/published_weights.py --output runs/weights --full     # of the published size, 3.4 GB in fp16

Writes zero123.ckpt (CompVis layout) and relposepp.pth, shallow, or with --full of 133 M parameters in fp16; the same
seed gives the same files. Then, in a minute or two:

    sh run_pipeline.sh toy_demo toy_000 3 cpu $(python benchmarks/published_weights.py --output runs/weights --options)
"""

import argparse
from pathlib import Path

import torch

from camerabooth.backbones.published.convert import to_original
from camerabooth.backbones.published.networks import Architecture, build_networks, make_scheduler
from relposepp.published import BLOCKS, DEPTH, PublishedRelPose
from sap3d.errors import one_line_errors
from sap3d.files import atomic_file

# Of images of 32×32 pixels; heads and groups are the published ones, which no weight's shape tells.
TINY = Architecture(
    unet_channels=(32, 64),
    vae_channels=(32, 64),
    context=32,
    clip_width=64,
    clip_layers=2,
    clip_heads=1,
    clip_patch=8,
    clip_image_size=32,
)
# Every stage in seconds.
OPTIONS = """--preset fast
    poses.hypotheses=2 poses.verify=false poses.symmetry.most=0 poses.rivals=false
    poses.published.runs=2 poses.published.tree_samples=200 poses.published.ascent_samples=100
    poses.published.ascent_steps=3
    model.image_size=32 model.dtype=float32 model.gradient_checkpointing=false model.sampling.steps=2
    tuning.steps=30 tuning.batch=2 tuning.prior_batch=1 tuning.prior_objects=1 tuning.prior_nearest=false
    tuning.warmup_steps=2 tuning.validate_every=100
    reconstruction.data.image_size=[[0,32]] reconstruction.data.rays=256
    reconstruction.system.geometry.resolution=[[0,16]] reconstruction.system.guidance.expected_views=4
    reconstruction.system.guidance.render_size=32 reconstruction.system.guidance_every=4
    reconstruction.trainer.max_steps=12 reconstruction.pictures.size=32 reconstruction.pictures.frames=8
    reconstruction.mesh.resolution=32 reconstruction.mesh.density=0.1 reconstruction.mesh.texture_size=64
    reconstruction.mesh.faces=500
    reconstruction.interchange.size=32 reconstruction.system.floor_spare=0""".split()


def write_zero123(path: Path, architecture: Architecture = TINY, seed: int = 0) -> None:
    """A Zero-1-to-3 checkpoint of random weights; the projection is the identity, as where its training began."""
    torch.manual_seed(seed)
    networks = build_networks(architecture)
    projection = networks["cc_projection"].projection
    with torch.no_grad():
        projection.weight.copy_(torch.eye(*projection.weight.shape))
        projection.bias.zero_()
    states = {
        name: {key: value.half() for key, value in module.state_dict().items()} for name, module in networks.items()
    }
    state = to_original(states, networks) | {"betas": make_scheduler().betas}
    with atomic_file(path) as partial:
        torch.save({"state_dict": {name: value.contiguous() for name, value in state.items()}, "epoch": 0}, partial)


def write_relposepp(path: Path, seed: int = 0, blocks: tuple[int, ...] = (1, 1, 1, 1), depth: int = 1) -> None:
    """A RelPose++ checkpoint of random weights, named as in training on several GPUs; as shallow as it can be."""
    torch.manual_seed(seed)
    network = PublishedRelPose(blocks, depth)
    state = {f"module.{name}": value.half() for name, value in network.state_dict().items()}
    with atomic_file(path) as partial:
        torch.save({"state_dict": state}, partial)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--options", action="store_true", help="print run_pipeline.sh's for these weights")
    arguments = parser.parse_args()
    paths = [arguments.output.resolve() / name for name in ("zero123.ckpt", "relposepp.pth")]
    if not paths[0].exists():
        write_zero123(paths[0], Architecture() if arguments.full else TINY, arguments.seed)
    if not paths[1].exists():
        write_relposepp(paths[1], arguments.seed, *((BLOCKS, DEPTH) if arguments.full else ()))
    flags = ["--backbone", "published", "--checkpoint", str(paths[0]), "--pose-checkpoint", str(paths[1])]
    print(*(flags + (OPTIONS if not arguments.full else [])) if arguments.options else paths)


if __name__ == "__main__":
    with one_line_errors():
        main()
