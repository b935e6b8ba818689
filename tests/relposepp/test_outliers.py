"""Photos that do not fit the rest."""

import torch

from relposepp.outliers import EVEN, leave_each_out, outliers, soundness
from sap3d.field.rendering import render_views
from tests.renders import BOX_CAMERAS, coloured_box


def other_object(cameras: torch.Tensor) -> torch.Tensor:
    """A tall thin thing of other colours."""
    axis = torch.linspace(-1, 1, 24)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    inside = ((x + 0.2).abs() < 0.15) & ((y - 0.1).abs() < 0.2) & (z.abs() < 0.9)
    return render_views(torch.stack([torch.where(inside, 12.0, -5.0), -6 * y, 0 * x - 3, 6 * x]), cameras, 32, 48)


def test_a_photo_of_something_else_is_named_and_no_other():
    images = coloured_box(BOX_CAMERAS)
    fall, unseen, together = leave_each_out(images, BOX_CAMERAS)
    assert outliers(fall, unseen) == []
    images[2] = other_object(BOX_CAMERAS[2:3])[0]
    fall, unseen, contradicted = leave_each_out(images, BOX_CAMERAS)
    assert contradicted > 2 * together
    assert outliers(fall, unseen) == [2]
    assert fall.argmax() == 2 and fall[2] > 2 * fall[[0, 1, 3]].max() and unseen.argmax() == 2


def test_at_most_one_in_four_is_named():
    fall, unseen = torch.tensor([0.9, 0.8, 0.7, 0.1]), torch.ones(4)
    assert outliers(fall, unseen) == [0] and outliers(fall[:3], unseen[:3]) == []
    assert outliers(fall.repeat(2), unseen.repeat(2)) == [0, 4]


def test_cameras_that_photos_contradict_are_not_sound():
    images, wrong = coloured_box(BOX_CAMERAS), BOX_CAMERAS.clone()
    wrong[:2, 1] = BOX_CAMERAS[:2, 1].flip(0)  # two have changed places
    right, contradicted = (soundness(leave_each_out(images, cameras)[2]) for cameras in (BOX_CAMERAS, wrong))
    assert right > 0.85 and contradicted < 0.05
    assert soundness(EVEN) == 0.5 and soundness(0.0) == 1.0
