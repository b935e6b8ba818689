"""Speed of the embedded models on this machine: training and sampling, against its convolution peak.

    python benchmarks/diffusion.py --threads 1 --seconds 10

Prints samples a second, achieved GFLOP/s (multiply-adds count twice; convolutions and matrix products only, as torch's
flop counter has it) and where the time of a training step goes. Random images: the arithmetic does not depend on them.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from camerabooth.backbones.embedded.model import EMBEDDED_WEIGHTS
from camerabooth.backbones.interface import load_model
from camerabooth.go_nvs import VIEWS_AT_ONCE
from camerabooth.pretrain import DEFAULTS, Trainer
from camerabooth.sampling import sample
from dataset.training_views import Batch
from sap3d.cameras.maths import evaluation_grid
from sap3d.runs.cores import available_cores
from sap3d.runs.devices import has_fast_bf16

SOURCES = 3
# (channels, side, batch) of 3 × 3 convolutions with as many channels out as in: the UNet's, and larger ones.
SHAPES = ((64, 32, 16), (128, 16, 16), (256, 8, 16), (256, 32, 16), (512, 16, 16))
TRAINED_SIZE, DEPTH_SIZE = 128, 64  # sides of the training views and of their depths
KINDS = {  # of operators, by a part of their name; the first that fits counts
    "convolutions": ("convolution",),
    "matrix products": ("mm", "attention"),
    "sampling of maps": ("grid_sampler",),
    "copies and conversions": ("copy_", "clone", "cat", "index", "gather"),
    "normalisation": ("norm",),
    "optimiser": ("foreach", "lerp", "addcdiv", "addcmul", "sqrt"),
}


def rate(function: Callable[[], object], seconds: float) -> float:
    """Calls a second, after a first that is not counted."""
    function()
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < seconds:
        function()
        calls += 1
    return calls / (time.perf_counter() - start)


def convolution_peak(dtype: torch.dtype, seconds: float) -> float:
    """The most GFLOP/s that a forward 3 × 3 convolution of SHAPES reaches, channels last."""
    best = 0.0
    for channels, side, batch in SHAPES:
        image = torch.randn(batch, channels, side, side, dtype=dtype).to(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
        flops = 2 * 9 * channels * channels * side * side * batch
        with torch.no_grad():
            convolution = partial(F.conv2d, image, weight, padding=1)
            best = max(best, flops * rate(convolution, seconds / len(SHAPES)) / 1e9)
    return best


def count_flops(function: Callable[[], object]) -> float:
    """GFLOP of one call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 1e9


def report_kinds(function: Callable[[], object]) -> None:
    """Print each kind's share of the time of a call."""
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        function()
    times = dict.fromkeys([*KINDS, "all else"], 0.0)
    for event in measured.key_averages():
        kinds = (kind for kind, parts in KINDS.items() if any(part in event.key for part in parts))
        times[next(kinds, "all else")] += event.self_cpu_time_total
    for kind, spent in sorted(times.items(), key=lambda item: -item[1]):
        print(f"  {kind:24s} {spent / sum(times.values()):4.0%}")


def random_views(objects: int, views: int, size: int) -> tuple[Tensor, Tensor]:
    """Images [objects, views, 4, size, size] and cameras [objects, views, 3]."""
    low, high = torch.tensor([0.0, -math.pi, 1.4]), torch.tensor([0.8, math.pi, 2.2])
    return torch.rand(objects, views, 4, size, size), low + (high - low) * torch.rand(objects, views, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(available_cores()))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    bf16 = has_fast_bf16(torch.device("cpu"))
    peak = convolution_peak(torch.bfloat16 if bf16 else torch.float32, arguments.seconds)
    print(f"{arguments.threads} threads, {'bf16' if bf16 else 'fp32'}: convolution peak {peak:.0f} GFLOP/s")

    trainer = Trainer(OmegaConf.create(DEFAULTS))
    config, generator = trainer.config, torch.Generator().manual_seed(0)
    images, cameras = random_views(config.objects, SOURCES + config.targets, TRAINED_SIZE)
    depths = torch.zeros(config.objects, config.targets, DEPTH_SIZE, DEPTH_SIZE)
    step = partial(trainer.train_step, Batch(images, cameras, depths), generator)
    flops, steps = count_flops(step), rate(step, arguments.seconds)
    print(f"training: {config.objects * steps:.2f} objects/s ({SOURCES} sources), {flops * steps:.0f} GFLOP/s, "
          f"{flops * steps / peak:.0%} of the peak; of a step's time")  # fmt: skip
    report_kinds(step)

    model = load_model(EMBEDDED_WEIGHTS).requires_grad_(False)
    images, cameras = random_views(1, SOURCES, model.image_size)
    sources = model.embed_sources(images[0, :SOURCES], cameras[0, :SOURCES])
    grid = evaluation_grid(cameras[0, 0])
    for count in (0, 8):  # the conditional mean, and a sample
        draw = partial(sample, model, sources, grid, generator, steps=count, batch=VIEWS_AT_ONCE)
        flops, calls = count_flops(draw), rate(draw, arguments.seconds)
        print(f"sampling, {count:2d} steps: {len(grid) * calls:.1f} views/s, {flops * calls:.0f} GFLOP/s, "
              f"{flops * calls / peak:.0%} of the peak")  # fmt: skip


if __name__ == "__main__":
    main()
