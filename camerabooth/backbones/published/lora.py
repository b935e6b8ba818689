"""Low-rank weights beside a frozen UNet's attention (arXiv 2106.09685): what tuning trains of a large model."""

from torch import Tensor, nn


class LoRA(nn.Module):
    """A frozen linear layer plus a trainable product of low rank that starts at zero (arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base.requires_grad_(False)
        # In fp32 whatever the base's type: an optimiser's small steps are lost in 16 bits.
        self.lora_down = nn.Linear(base.in_features, rank, bias=False, device=base.weight.device)
        self.lora_up = nn.Linear(rank, base.out_features, bias=False, device=base.weight.device)
        nn.init.zeros_(self.lora_up.weight)

    def forward(self, values: Tensor) -> Tensor:
        return self.base(values) + self.lora_up(self.lora_down(values))

    def merged(self) -> Tensor:
        """The one weight that does the same, fp32."""
        return self.base.weight.float() + self.lora_up.weight @ self.lora_down.weight


def add_lora(unet: nn.Module, rank: int) -> None:
    """Give the linear layers of a frozen UNet's attention such weights.

    Of the attention to the context only values and output: its one token gets all weight, whatever query and key say.
    """
    layers = {".attn1": ("to_q", "to_k", "to_v"), ".attn2": ("to_v",)}
    for name, module in list(unet.named_modules()):
        for layer in layers.get(name[-6:], ()):
            setattr(module, layer, LoRA(getattr(module, layer), rank))
        if name[-6:] in layers:
            module.to_out[0] = LoRA(module.to_out[0], rank)


def merged_state(unet: nn.Module) -> dict[str, Tensor]:
    """The UNet's weights under diffusers' own names, with every LoRA merged into its layer."""
    state = {
        name.replace(".base.", "."): value
        for name, value in unet.state_dict().items()
        if ".lora_up." not in name and ".lora_down." not in name
    }
    adapters = {name: module for name, module in unet.named_modules() if isinstance(module, LoRA)}
    return state | {f"{name}.weight": module.merged().detach() for name, module in adapters.items()}
