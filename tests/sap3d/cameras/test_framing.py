"""Framing: boxes, common scales and moves by hand-computed values."""

import numpy as np
import torch

from sap3d.cameras import maths as cam
from sap3d.cameras.framing import MARGIN, bounding_boxes, centre, reframe, square_sides, upright
from tests.renders import BOX_CAMERAS, coloured_box


def views(*boxes: tuple[int, int, int, int], size: int = 64) -> torch.Tensor:
    """Black boxes (top, bottom, left, right) on white, [N, 4, size, size]."""
    images = torch.ones(len(boxes), 4, size, size)
    images[:, 3] = 0
    for image, (top, bottom, left, right) in zip(images, boxes):
        image[:3, top:bottom, left:right], image[3, top:bottom, left:right] = 0, 1
    return images


def test_boxes():
    middles, longer = bounding_boxes(views((0, 16, 32, 64), (10, 54, 30, 34))[:, 3])
    torch.testing.assert_close(middles, torch.tensor([[0.5, -0.75], [0.0, 0.0]]))
    torch.testing.assert_close(longer, torch.tensor([0.5, 44 / 64]))


def test_scales_are_common_unless_photos_were_taken_from_elsewhere():
    sides = square_sides(torch.tensor([0.4, 0.5, 0.6]))
    torch.testing.assert_close(sides, torch.full((3,), MARGIN * 0.5))
    sides = square_sides(torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(sides, MARGIN * torch.tensor([0.14, 0.5, 0.9 / 1.4]))


def test_reframed_views_have_boxes_in_the_middle_at_one_scale():
    images, scale = reframe(views((4, 28, 8, 24), (30, 50, 20, 60), (16, 48, 16, 48)))
    middles, longer = bounding_boxes(images[:, 3])
    assert middles.abs().max() < 1.5 / 64
    torch.testing.assert_close(scale, torch.full((3,), MARGIN * 32 / 64))
    torch.testing.assert_close(longer * scale, torch.tensor([24, 40, 32]) / 64, atol=1.5 / 64, rtol=0)
    assert images[:, :3, 0, 0].min() == 1 and images[:, 3, 0, 0].max() == 0, "white and empty beyond the photo"


def test_photos_move_by_whole_pixels():
    photo = np.zeros((8, 8, 4), np.uint8)
    photo[2, 5] = (10, 20, 30, 255)  # its corner to the lower left is at x = 2/8, y = 2/8
    same, moved = centre([photo, photo], torch.tensor([[0.0, 0.0], [0.25, 0.25]]))
    assert same is photo
    assert moved[3, 4].tolist() == [10, 20, 30, 255] and (moved[..., 3] > 0).sum() == 1


def test_networks_get_rolled_views_upright():
    cameras = cam.full_cameras(BOX_CAMERAS)
    rolled = cameras.clone()
    rolled[:, 5] = torch.tensor([0.4, -0.6, 0.0, 0.2])
    images, seen_from = upright(coloured_box(rolled, 64), rolled, 32)
    torch.testing.assert_close(seen_from, cameras)
    expected, _ = upright(coloured_box(cameras, 64), cameras, 32)
    wrong, _ = upright(coloured_box(rolled, 64), cameras, 32)
    assert (images - expected).abs().mean() < 0.2 * (wrong - expected).abs().mean()
