"""RelPose++ as SAP3D published it: masked crops in; energies of pairs' rotations, and translations out.

The architecture of RelPose++ (arXiv 2305.04926, §3) under the parameter names of SAP3D's fine-tuned checkpoint
(arXiv 2404.03652; `ckpt_000105000.pth`). published_poses.py makes cameras of them.

A rotation R is world to camera (OpenGL axes, world z up), and a pair's rotation is R_iᵀ R_j: SAP3D fine-tuned on
Zero-1-to-3's world-to-camera matrices where RelPose++ has PyTorch3D's transposed ones. Translations are world to camera
and not normalised: (0, 0, −radius) is a camera that looks at an object that fills the unit cube.
"""

import pickle
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sap3d.errors import UserError

CROP_SIZE = 224
CROP_SCALE = 1.15  # side of the crop over that of the mask's square
MASK_THRESHOLD = 0.4  # of what counts as foreground, RelPose++'s
BASES = 8  # frequencies of the positional encodings
CROP_WIDTH = 2 * 3 * BASES
WIDTH = 2048 + CROP_WIDTH  # of a view's token: image feature, encoded crop parameters
NORM_GROUPS = {64: 8, 128: 8, 256: 16, 512: 32, 1024: 32, 2048: 32}  # by channels
QUERY_CHUNK = 65536  # rotations evaluated at once, for memory
SOURCE = "https://drive.google.com/file/d/1U7lULb2rzYnbm098hmF_kFJk3dTNJbOS (docs/INSTALL.md of github.com/sap3d/sap3d)"
RECOMPUTED = "feature_extractor.feature_positional_encoding.pos_table_1"
BLOCKS, DEPTH = (3, 4, 6, 3), 8  # of the ResNet's stages (ResNet-50) and of the transformer, as published


class BlurPool(nn.Module):
    """Anti-aliased subsampling by two (arXiv 1904.11486): binomial 4×4 filter, reflected borders."""

    def __init__(self, channels: int):
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("filt", (line[:, None] * line).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 2, 1, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


def antialiased_resnet(blocks: tuple[int, ...]) -> nn.Sequential:
    """ResNet with group norm, and blur pools for all strides but the first: images → [N, 2048, 1, 1]."""
    from torchvision.models.resnet import Bottleneck, ResNet  # takes seconds, which the embedded network need not wait

    net = ResNet(Bottleneck, blocks, norm_layer=lambda channels: nn.GroupNorm(NORM_GROUPS[channels], channels))
    for stage in (net.layer2, net.layer3, net.layer4):
        block = stage[0]
        block.conv2.stride = block.downsample[0].stride = (1, 1)
        block.conv3 = nn.Sequential(BlurPool(block.conv3.in_channels), block.conv3)
        block.downsample = nn.Sequential(BlurPool(block.downsample[0].in_channels), *block.downsample)
    pool = nn.Sequential(nn.MaxPool2d(2, stride=1), BlurPool(64))
    return nn.Sequential(
        net.conv1, net.bn1, net.relu, pool, net.layer1, net.layer2, net.layer3, net.layer4, net.avgpool
    )  # fmt: skip


class Attention(nn.Module):
    """Multi-head self-attention, [..., V, WIDTH] → the same."""

    def __init__(self, heads: int = 12, head_width: int = 64):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(WIDTH, 3 * heads * head_width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_width, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.to_qkv(x).chunk(3, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in parts)
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(-2, -3).flatten(-2))


class PreNorm(nn.Module):
    """Residual branch on the layer-normalised input."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(WIDTH), fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(self.norm(x))


def transformer(depth: int) -> nn.Sequential:
    """Pre-norm layers over the views of a set, and a last norm: [..., V, WIDTH] → the same."""

    def layer() -> nn.Sequential:
        # The identity stands where the original has dropout of rate 0: the numbers are parts of parameter names.
        perceptron = nn.Sequential(nn.Linear(WIDTH, 1536), nn.GELU(), nn.Identity(), nn.Linear(1536, WIDTH))
        return nn.Sequential(PreNorm(Attention()), PreNorm(nn.Sequential(OrderedDict(net=perceptron))))

    layers = nn.Sequential(*(layer() for _ in range(depth)))
    return nn.Sequential(nn.Sequential(OrderedDict(layers=layers)), nn.LayerNorm(WIDTH))


def sinusoids(count: int, width: int, device: torch.device) -> Tensor:
    """Sine (even columns) and cosine (odd columns) position encoding, base 10 000, [count, width]."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, device=device) / width)
    angles = torch.arange(count, device=device)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


class GlobalFeatures(nn.Module):
    """Tokens of views by the ResNet, and features that have seen the other views by the transformer."""

    def __init__(self, blocks: tuple[int, ...], depth: int):
        super().__init__()
        self.feature_extractor = antialiased_resnet(blocks)
        self.transformer = transformer(depth)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.transformer(tokens + sinusoids(tokens.shape[-2], WIDTH, tokens.device))


class TranslationRegressor(nn.Module):
    """Translation of each view from its feature and view 0's."""

    def __init__(self):
        super().__init__()
        self.embed_feature = nn.Linear(2 * WIDTH, 1024)
        self.block1 = nn.Sequential(nn.LeakyReLU(), nn.Linear(1024, 1024), nn.LeakyReLU(), nn.Linear(1024, 512))
        self.block2 = nn.Sequential(nn.LeakyReLU(), nn.Linear(512, 512), nn.LeakyReLU(), nn.Linear(512, 512))
        self.decode = nn.Sequential(nn.LeakyReLU(), nn.Linear(512, 3))

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.block1(self.embed_feature(torch.cat([features, features[:1].expand_as(features)], -1)))
        # RelPose++'s first camera, once normalised; kept in SAP3D's fine-tuning, whose own would be (0, 0, −radius).
        return self.decode(hidden + self.block2(hidden)) + hidden.new_tensor([0.0, 0.0, 1.0])


class PublishedRelPose(nn.Module):
    """RelPose++: an energy for every relative rotation of a pair of views, and a translation for every view."""

    def __init__(self, blocks: tuple[int, ...] = BLOCKS, depth: int = DEPTH):
        super().__init__()
        self.register_buffer("embedding", 2.0 ** torch.arange(BASES).reshape(1, 1, -1))
        self.feature_extractor = GlobalFeatures(blocks, depth)
        self.translation_regressor = TranslationRegressor()
        self.embed_feature = nn.Linear(2 * WIDTH, 256)
        self.embed_query = nn.Linear(2 * 9 * BASES, 256)
        self.layers = nn.Sequential(
            nn.LeakyReLU(), nn.Linear(256, 256), nn.LeakyReLU(), nn.Linear(256, 256), nn.Linear(256, 1)
        )  # fmt: skip

    def encode(self, numbers: Tensor) -> Tensor:
        """Sines of all numbers at all frequencies 2^0…2^7, then the cosines: [..., D] → [..., 2 · 8 · D]."""
        angles = (numbers[..., None] * self.embedding[0, 0]).flatten(-2)
        return torch.cat([angles.sin(), angles.cos()], -1)

    def tokens(self, images: Tensor, crops: Tensor) -> Tensor:
        """Tokens of single views, [N, 2096], from what `crop_views` gives: [N, 3, 224, 224] and [N, 3]."""
        pooled = self.feature_extractor.feature_extractor(images).flatten(1)
        return torch.cat([pooled, self.encode(crops)], -1)

    def attend(self, tokens: Tensor) -> Tensor:
        """Features of sets of V views that see each other, from their tokens: [..., V, 2096] → the same."""
        return self.feature_extractor(tokens)

    def pair_energies(self, first: Tensor, second: Tensor, rotations: Tensor) -> Tensor:
        """Unnormalised log-probabilities, RelPose++'s energies, of R_firstᵀ R_second.

        Args:
            first, second: features of the two views, [2096].
            rotations: [Q, 3, 3].

        Returns:
            [Q].
        """
        pair = self.embed_feature(torch.cat([first, second]))
        chunks = rotations.flatten(1).split(QUERY_CHUNK)
        return torch.cat([self.layers(pair + self.embed_query(self.encode(chunk)))[:, 0] for chunk in chunks])

    def translations(self, features: Tensor) -> Tensor:
        """World-to-camera translations [N, 3] from the features of all N views together, [N, 2096]."""
        return self.translation_regressor(features)


def first_difference(state: dict[str, Tensor], expected: dict[str, Tensor]) -> str | None:
    """What differs first between the names and shapes of two state dicts, in words."""
    for name, value in expected.items():
        if name not in state:
            return f"{name} is missing"
        if state[name].shape != value.shape:
            return f"{name} has shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
    return next((f"{name} is not of this model" for name in state if name not in expected), None)


def depths_of(state: dict[str, Tensor]) -> tuple[tuple[int, ...], int]:
    """How many blocks each stage of the ResNet has, and the transformer layers, by the names of a state dict."""

    def count(prefix: str) -> int:
        return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})

    inner = "feature_extractor."
    return tuple(count(f"{inner * 2}{stage}.") for stage in range(4, 8)), count(f"{inner}transformer.0.layers.")


def load_published(path: Path, device: torch.device) -> PublishedRelPose:
    """Read the published checkpoint (weights under `state_dict`, names behind `module.`), ready for inference.

    Raises:
        UserError: missing, unreadable or other weights.
    """
    if not path.exists():
        raise UserError(f"{path}: no RelPose++ weights; put ckpt_000105000.pth there, from {SOURCE}")
    try:
        # Mapped into memory: the file also holds the optimiser's state, twice the size of the weights.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state = {name.removeprefix("module."): value for name, value in checkpoint["state_dict"].items()}
        state.pop(RECOMPUTED, None)
        with torch.device("meta"):
            model = PublishedRelPose(*depths_of(state))
        difference = first_difference(state, model.state_dict())
    except (OSError, EOFError, pickle.UnpicklingError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a RelPose++ checkpoint ({reason})") from error
    if difference:
        raise UserError(f"{path}: not SAP3D's RelPose++ checkpoint ({difference})")
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False).float().to(device)


def crop_views(views: Tensor) -> tuple[Tensor, Tensor]:
    """What the model looks at: squares about the masks, 1.15 times their size, and where they lie.

    Args:
        views: RGB composited on white + mask, in [0, 1], [N, 4, S, S].

    Returns:
        ImageNet-normalised crops [N, 3, 224, 224], white beyond the image as RelPose++'s masked ones; crop parameters
        [N, 3]: centre (x left, y up) and width, in halves of the image's side. The whole image is (0, 0, 2).

    Raises:
        UserError: a view without foreground.
    """
    size = views.shape[-1]
    mean, deviation = views.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    crops, parameters = [], []
    for index, view in enumerate(views):
        ys, xs = torch.nonzero(view[3] > MASK_THRESHOLD, as_tuple=True)
        if len(ys) == 0:
            raise UserError(f"view {index}: no foreground in its mask")
        low = torch.stack([xs.min(), ys.min()]).double()
        high = torch.stack([xs.max(), ys.max()]).double() + 1
        side = (high - low).max() * CROP_SCALE
        left, top = ((low + high - side) / 2).round().int().tolist()
        side = round(side.item())
        padding = (-left, left + side - size, -top, top + side - size)  # negative ones crop
        crop = F.interpolate(F.pad(view[None, :3], padding, value=1.0), CROP_SIZE, mode="bilinear", align_corners=False)
        crops.append((crop[0] - mean) / deviation)
        centre_x, centre_y = ((2 * corner + side) / size - 1 for corner in (left, top))
        parameters.append([-centre_x, -centre_y, 2 * side / size])
    return torch.stack(crops), views.new_tensor(parameters)
