"""ImageNet's features: padding and folding against their definitions, names against the published state dict's."""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from camerabooth.backbones.embedded.volume import SourceEncoder
from dataset.imagenet_weights import BATCH_NORM_EPSILON, converted, folded
from relposepp.lifting import ImageEncoder
from sap3d.imagenet import CHANNELS, STAGES, WEIGHTS, ImageNetFeatures, SamePadded, imagenet_features


def normalised(state: dict[str, Tensor], prefix: str, channels: int) -> nn.BatchNorm2d:
    """A batch normalisation with some statistics, which are put into `state`."""
    norm = nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON).eval()
    for values in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    state |= {f"{prefix}.{name}": value.detach() for name, value in norm.state_dict().items()}
    return norm


def test_odd_pads_are_larger_at_the_end():
    layer = SamePadded(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(layer.weight)
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, 0] = 1
    assert layer(image)[0, 0].tolist() == [[1, 0], [0, 0]]
    image = image.flip(-1, -2)
    assert layer(image)[0, 0].tolist() == [[0, 0], [0, 1]]
    assert SamePadded(1, 1, 5, stride=1)(image).shape == image.shape


def test_a_folded_convolution_is_the_convolution_and_its_normalisation():
    torch.manual_seed(0)
    convolution, state = nn.Conv2d(3, 5, 3, bias=False), {}
    state["c.weight"] = convolution.weight.detach()
    norm = normalised(state, "n", 5)
    images = torch.randn(2, 3, 8, 8)
    weight, bias = folded(state, "c", "n")
    torch.testing.assert_close(F.conv2d(images, weight, bias), norm(convolution(images)), atol=1e-5, rtol=1e-5)


def test_the_published_names_fill_the_network():
    torch.manual_seed(0)
    model, state = ImageNetFeatures(), {}

    def put(convolution: str, norm: str, layer: nn.Conv2d) -> None:
        state[f"{convolution}.weight"] = layer.weight.detach().clone()
        normalised(state, norm, layer.out_channels)

    put("_conv_stem", "_bn0", model.stem)
    for number, block in enumerate(block for stage in model.stages for block in stage):
        name = f"_blocks.{number}"
        if block.expand is not None:
            put(f"{name}._expand_conv", f"{name}._bn0", block.expand)
        put(f"{name}._depthwise_conv", f"{name}._bn1", block.filter)
        put(f"{name}._project_conv", f"{name}._bn2", block.project)
    model.load_state_dict(converted(state))
    weight, bias = folded(state, "_blocks.15._project_conv", "_blocks.15._bn2")
    assert torch.equal(model.stages[6][0].project.weight, weight)
    assert torch.equal(model.stages[6][0].project.bias, bias)


def test_features_come_at_three_scales_and_are_not_trained():
    model = ImageNetFeatures()
    found = model(torch.rand(2, 3, 64, 64))
    assert [tuple(each.shape) for each in found] == [(2, 40, 8, 8), (2, 112, 4, 4), (2, 320, 2, 2)]
    assert CHANNELS == (40, 112, 320) and len(STAGES) == 7
    assert not any(each.requires_grad for each in [*found, *model.parameters()])


def test_the_repository_has_weights_of_this_network_that_no_user_of_it_saves():
    images = torch.rand(2, 3, 64, 64)
    model = ImageNetFeatures()
    model.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    for found, expected in zip(imagenet_features(images), model(images), strict=True):
        assert found.std() > 0.1 and torch.allclose(found, expected, atol=1e-4)
    for user in (ImageEncoder(4, 4), SourceEncoder(8, (8, 8, 16))):
        assert not any("filter" in name for name in user.state_dict())
