"""Tiny networks, and the shapes of the full-size ones."""

import pytest
import torch
from torch import nn

from camerabooth.backbones.published import convert
from camerabooth.backbones.published.networks import build_networks
from tests.camerabooth.backbones.published.tiny import FLAT, TINY, make_model


@pytest.fixture(scope="module")
def networks():
    """Tiny networks in which nothing is zero, one or repeated, so that no exchange of weights goes unnoticed."""
    torch.manual_seed(0)
    networks = build_networks(TINY)
    for module in networks.values():
        for parameter in module.parameters():
            nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.2)
    return networks


@pytest.fixture
def checkpoint(networks):
    """The tiny networks as an original checkpoint's state dict."""
    return convert.to_original({name: module.state_dict() for name, module in networks.items()}, networks)


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def flat_model():
    return make_model(FLAT, image_size=16)


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return build_networks()
