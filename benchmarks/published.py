"""One step of everything that the published backbone does, with random weights: seconds and memory.

    python benchmarks/published.py                      # full size, bf16: encode, tune, sample, distil
    python benchmarks/published.py --device 0 --trainable full --batch 8
    python benchmarks/published.py --tiny               # the tests' size, to try the script

On a GPU the memory is torch's peak of each step, on the CPU the process's peak so far.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch
from omegaconf import OmegaConf

from benchmarks.published_weights import TINY
from camerabooth.backbones.published.model import PublishedDiffusion, PublishedSettings
from camerabooth.backbones.published.networks import Architecture, build_networks
from camerabooth.judge import leave_one_out
from camerabooth.main import CONFIG
from camerabooth.sampling import sample
from camerabooth.tuning import TestTimeTraining
from sap3d.cameras.poses import PoseTable
from sap3d.errors import one_line_errors
from sap3d.runs.devices import choose_device
from sap3d.runs.options import filled

CAMERAS = torch.tensor([[0.3, 0.0, 1.8], [0.2, 1.2, 1.7], [0.4, 2.5, 1.9]])


def make_model(arguments: argparse.Namespace, device: torch.device) -> PublishedDiffusion:
    """Random weights, made in the type that they are used in: in fp32 they would take 5 GB more for a moment."""
    torch.manual_seed(0)
    settings = PublishedSettings(
        image_size=32 if arguments.tiny else 256, dtype=arguments.dtype, trainable=arguments.trainable
    )
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    networks = build_networks(TINY if arguments.tiny else Architecture())
    torch.set_default_dtype(torch.float32)
    return PublishedDiffusion(networks, settings).to(device).eval()


def measure(name: str, device: torch.device, work: Callable[[], object], repeats: int) -> float:
    """Print the quickest of some repeats after one that is not counted, and the memory; returns its seconds."""
    seconds = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 1024**3
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    quickest = min(seconds[1:] or seconds)
    print(f"{name:40s} {quickest:9.3f} s {memory:7.2f} GB", flush=True)
    return quickest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="CUDA index, or cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--trainable", default="lora", choices=("lora", "full"))
    parser.add_argument("--batch", type=int, default=1, help="views denoised a tuning step, and sampled at once")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    model = make_model(arguments, device)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count / 1e6:.0f} M parameters, {arguments.dtype}, {device}")

    def run(name: str, work: Callable[[], object]) -> None:
        measure(name, device, work, arguments.repeats)

    images, cameras = torch.rand(3, 4, model.image_size, model.image_size).to(device), CAMERAS.to(device)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        run("encode a view (autoencoder, CLIP)", lambda: model.prepare(images[:1]))
        sources = model.embed_sources(images, cameras)
    targets = cameras[:1].expand(arguments.batch, 3) + 0.2
    options = model.sampling | {"steps": 1, "skipped": 0}
    run(
        f"sample a step and decode, {arguments.batch} view(s)",
        lambda: sample(model, sources, targets, generator, **options),
    )
    run("energy of a view, a time step", lambda: leave_one_out(model, images[:1], cameras[:1], [350]))
    level, scale = torch.full((1,), 0.5, device=device), model.settings.guidance_scale
    run("distil a view", lambda: model.sds_gradient(images[:1], cameras[:1], sources, level, scale, generator))

    model.prepare_tuning()
    config = OmegaConf.merge(filled(OmegaConf.load(CONFIG), "tuning", model.tuning).tuning, {"batch": arguments.batch})
    prior = images[None], cameras[None]
    module = TestTimeTraining(model.train(), PoseTable(cameras), images, prior, config, 0).to(device)
    optimizer = module.configure_optimizers()["optimizer"]

    def tune() -> None:
        optimizer.zero_grad()
        module._instance_loss().backward()
        optimizer.step()

    run(f"tune a step, {arguments.batch} view(s), {arguments.trainable}", tune)


if __name__ == "__main__":
    with one_line_errors():
        main()
