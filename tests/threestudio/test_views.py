import torch

from sap3d.cameras import maths as cam
from threestudio.data.views import RayBatches

SIZES = [[0, 8], [5, 16]]


def pyramid():
    """Images whose colour says which view and which pixel it is; the object is the middle."""
    images = {}
    for size in (8, 16):
        x, y = cam.pixel_grid(size).T.reshape(2, size, size)
        middle = ((x.abs() < 0.5) & (y.abs() < 0.5)).float()
        views = [torch.stack([x, y, torch.full_like(x, view), middle]) for view in (0, 1)]
        images[size] = torch.stack(views)
    return images


def test_rays_carry_their_own_pixels():
    for step in (0, 5):
        batch = RayBatches(pyramid(), SIZES, 200, seed=0).draw(step)
        torch.testing.assert_close(batch.color[:, :2], batch.pixel)
        torch.testing.assert_close(batch.color[:, 2], batch.view.float())
        torch.testing.assert_close(batch.alpha, (batch.pixel.abs() < 0.5).all(-1).float())
        assert len(batch.alpha) == 200 and batch.view.unique().tolist() == [0, 1]
        assert batch.alpha.mean() > 0.35  # a quarter of the pixels, but more of the rays


def test_a_thin_object_is_drawn_as_often():
    """A wire whose pixels are background for the most part, in one photo of two."""
    images = torch.ones(2, 4, 32, 32)
    images[:, 3] = 0.0
    images[1, 3, :, 7] = 0.2
    batch = RayBatches({32: images}, [[0, 32]], 400, seed=0).draw(0)
    column = ((batch.pixel[:, 0] + 1) * 16 - 0.5).round()
    assert ((batch.view == 1) & (column >= 6) & (column <= 8)).float().mean() > 0.5  # the wire, widened


def test_some_rays_keep_their_pixels():
    batch = RayBatches(pyramid(), SIZES, 200, seed=0).draw(0)
    some = batch.some(30, torch.Generator().manual_seed(0))
    assert some.view.shape == (30,) and some.pixel.shape == (30, 2)
    torch.testing.assert_close(some.color[:, :2], some.pixel)
    torch.testing.assert_close(some.color[:, 2], some.view.float())
    assert len(batch.some(500, torch.Generator()).alpha) == 200


def test_milestones_and_seed_decide_the_batches():
    batches = RayBatches(pyramid(), SIZES, 50, seed=3)
    assert torch.equal(batches.draw(4).pixel, RayBatches(pyramid(), SIZES, 50, seed=3).draw(4).pixel)
    assert not torch.equal(batches.draw(4).pixel, batches.draw(3).pixel)
    assert not torch.equal(batches.draw(4).pixel, RayBatches(pyramid(), SIZES, 50, seed=4).draw(4).pixel)
    fine = (batches.draw(5).pixel + 1) * 8 - 0.5  # whole numbers on a 16×16 image
    torch.testing.assert_close(fine, fine.round(), atol=1e-4, rtol=0)
