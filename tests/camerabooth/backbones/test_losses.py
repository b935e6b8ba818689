"""What training minimises, against hand-made cases."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from camerabooth.backbones.embedded import losses
from camerabooth.backbones.embedded.rendering import View
from dataset.training_views import DEPTH_SIZE
from sap3d.cameras import maths as cam
from sap3d.cameras.maths import SCENE_BOUND


def test_rays_are_chosen_where_an_object_can_be():
    cameras = torch.tensor([[0.2, 0.3, 1.8, 0.2, -0.1, 0.1, 0.7], [0.0, 1.0, 2.2, 0, 0, 0, 0.9]])[None]
    choice = losses.object_rays(cameras, 500, torch.Generator().manual_seed(0))
    assert choice.shape == (1, 2, 500) and all(len(set(row.tolist())) == 500 for row in choice[0])
    pixels = cam.pixel_grid(DEPTH_SIZE)[choice]
    near, far = losses.ray_interval(*cam.rays(cameras, pixels))
    assert ((far - near) > 0.01 * SCENE_BOUND).float().mean() > 0.95


def test_depth_error_is_the_weighted_distance_where_depth_is_known():
    weights = torch.tensor([[0.5, 0.25, 0.0], [1.0, 0.0, 0.0]])[None, None]
    depths = torch.tensor([[-0.5, 0.0, 0.5], [0.3, 0.4, 0.5]])[None, None]
    view = View(torch.empty(0), torch.empty(0), torch.empty(0), weights, depths)
    error = losses.depth_error(view, torch.tensor([[[-0.25, 2.0]]]))
    assert error.item() == pytest.approx((0.5 * 0.25 + 0.25 * 0.25) / 2)


def test_an_objects_error_counts_relative_to_itself():
    config = OmegaConf.create({"mask_weight": 0.5, "depth_weight": 0.1, "denoising_weight": 2.0})
    errors = torch.tensor([0.4, 0.04], requires_grad=True)  # of two objects
    found = {"colour": errors, "mask": errors, "depth": errors, "denoising": torch.tensor(0.25)}
    loss = losses.total_loss(found, config)
    expected = [losses.TYPICAL * math.log(1.6 * error + losses.FLOOR) for error in (0.4, 0.04)]
    assert loss.item() == pytest.approx(sum(expected) / 2 + 0.5)
    loss.backward()
    by_share = errors.grad * errors.detach()  # what a change by one percent does
    assert by_share[1] == pytest.approx(by_share[0].item(), rel=0.05)
