"""What training minimises, against hand-made cases."""

import pytest
import torch

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
