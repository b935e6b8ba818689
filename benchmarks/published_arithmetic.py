"""What the published networks take, from their sizes alone: no weight is made, nothing is run.

    python benchmarks/published_arithmetic.py

Prints parameters, the multiplications of a forward pass (counted on the meta device; a training pass takes three times
as many, two with frozen weights and gradient checkpointing one more), bytes of weights and of an optimiser's state, and
seconds at a given arithmetic speed; and what tuning the whole UNet takes, with what its backward pass keeps.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

from camerabooth.backbones.published.lora import LoRA, add_lora
from camerabooth.backbones.published.networks import build_networks

SPEEDS = {"24 GB card, 60 TFLOP/s": 60e12, "H100, 400 TFLOP/s": 400e12}  # assumed to be reached, bf16
GB = 1e9
# Bytes of a trained parameter in tuning: weight, gradient and Adam's two moments in fp32, the average that is kept
# (`tuning.ema`), and autocast's copy in 16 bits. Torch's fused step needs no more, its usual one on GPUs 4 for a while.
TRAINED = {"weight": 4, "gradient": 4, "moments": 8, "average": 4, "autocast": 2}


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def work(call) -> float:
    """Floating-point operations of a call, a multiplication and an addition being two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def kept_for_backward(unet: torch.nn.Module, batch: int) -> int:
    """Bytes of what a forward pass of a UNet on the meta device keeps beside its weights, in 16 bits."""
    own = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), tensor)  # held, so that no number is used twice
        return tensor

    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        half = {"dtype": torch.bfloat16}
        unet(torch.empty(batch, 8, 32, 32, **half), torch.empty(batch), torch.empty(batch, 1, 768, **half))
    return sum(size for size, _ in kept.values())


def full_tuning_bytes(networks: dict[str, torch.nn.Module], views: int) -> dict[str, float]:
    """What tuning the whole UNet takes at `views` denoised views a step, by kind.

    Args:
        networks: full-size, on the meta device; the UNet becomes bfloat16, with gradient checkpointing.
    """
    unet = networks["unet"].to(torch.bfloat16).train()
    every = kept_for_backward(unet, views)
    unet.enable_gradient_checkpointing()
    kinds = {name: size * parameters(unet) for name, size in TRAINED.items()}
    frozen = 2 * sum(parameters(network) for name, network in networks.items() if name != "unet")
    return kinds | {"frozen": frozen, "kept": kept_for_backward(unet, views), "kept without checkpointing": every}


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
        full = full_tuning_bytes(networks, 12)
        add_lora(networks["unet"], 16)
        adapters = [module for module in networks["unet"].modules() if isinstance(module, LoRA)]
        lora = sum(parameters(module) - parameters(module.base) for module in adapters)
    for name, count in counts.items():
        print(f"{name:24s} {count / 1e6:8.1f} M parameters, {2 * count / GB:5.2f} GB in 16 bits")
    for name, count in flops.items():
        print(f"{name:24s} {count / 1e12:8.2f} TFLOP")
    total = sum(counts.values())
    frozen = 2 * total / GB
    print(f"weights alone            {frozen:8.2f} GB")
    print(
        f"LoRA of rank 16          {lora / 1e6:8.1f} M parameters; with Adam in fp32 {frozen + 16 * lora / GB:.2f} GB"
    )
    print("whole UNet, 8 + 4 views a step, GB")
    for name, size in full.items():
        print(f"  {name:34s} {size / GB:8.2f}")
    print(f"  {'all, with checkpointing':34s} {(sum(full.values()) - full['kept without checkpointing']) / GB:8.2f}")
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
