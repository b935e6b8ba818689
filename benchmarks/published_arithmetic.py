"""What the published networks take, from their sizes alone: no weight is made, nothing is run.

    python benchmarks/published_arithmetic.py

Prints parameters, the multiplications of a forward pass (counted on the meta device; a training pass takes three times
as many, two with frozen weights and gradient checkpointing one more), bytes of weights and of an optimiser's state, and
seconds at a given arithmetic speed. Activations are not counted.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from camerabooth.backbones.published.lora import LoRA, add_lora
from camerabooth.backbones.published.networks import build_networks

SPEEDS = {"24 GB card, 60 TFLOP/s": 60e12, "H100, 400 TFLOP/s": 400e12}  # assumed to be reached, bf16
GB = 1e9


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def work(call) -> float:
    """Floating-point operations of a call, a multiplication and an addition being two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def main() -> None:
    with torch.device("meta"):
        networks = build_networks()
        image, latent = torch.empty(1, 3, 256, 256), torch.empty(1, 8, 32, 32)
        calls = {
            "UNet, a step": lambda: networks["unet"](latent, torch.empty(1), torch.empty(1, 1, 768)),
            "autoencoder, encode": lambda: networks["vae"].encode(image),
            "autoencoder, decode": lambda: networks["vae"].decode(latent[:, :4]),
            "CLIP, an image": lambda: networks["image_encoder"](pixel_values=torch.empty(1, 3, 224, 224)),
        }
        flops = {name: work(call) for name, call in calls.items()}
        counts = {name: parameters(network) for name, network in networks.items()}
        add_lora(networks["unet"], 16)
        adapters = [module for module in networks["unet"].modules() if isinstance(module, LoRA)]
        adapters = [module for module in networks["unet"].modules() if isinstance(module, LoRA)]
        lora = sum(parameters(module) - parameters(module.base) for module in adapters)
    for name, count in counts.items():
        print(f"{name:24s} {count / 1e6:8.1f} M parameters, {2 * count / GB:5.2f} GB in 16 bits")
    for name, count in flops.items():
        print(f"{name:24s} {count / 1e12:8.2f} TFLOP")
    total, unet = sum(counts.values()), counts["unet"]
    frozen = 2 * total / GB
    print(f"weights alone            {frozen:8.2f} GB")
    rest = 2 * (total - unet) / GB
    print(
        f"LoRA of rank 16          {lora / 1e6:8.1f} M parameters; with Adam in fp32 {frozen + 16 * lora / GB:.2f} GB"
    )
    print(f"full UNet, Adam in fp32  {rest + 16 * unet / GB:8.2f} GB; bf16, Adam in 8 bits {rest + 6 * unet / GB:.2f}")
    step, encode, decode = flops["UNet, a step"], flops["autoencoder, encode"], flops["autoencoder, decode"]
    stages = {
        "tuning, 400 steps, 8 + 4 views": 400 * 12 * 4 * step,
        "84 views, 49 steps, guidance": 84 * (49 * 2 * step + decode),
        "distilling, 1000 × 2 views": 2000 * (2 * step + 3 * encode),
        "expected views, 40, 49 steps": 40 * (49 * 2 * step + decode),
    }
    for title, speed in SPEEDS.items():
        print(title)
        for name, operations in stages.items():
            print(f"  {name:34s} {operations / speed:8.0f} s")


if __name__ == "__main__":
    main()
