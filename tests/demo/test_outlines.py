"""The photos as the page shows them."""

import numpy as np
import outlines
import pytest
from PIL import Image


@pytest.mark.parametrize("wide", [90, 600])
def test_what_is_cut_out_fills_its_card(tmp_path, wide):
    """A small object near a corner as well as one that reaches over the whole photo."""
    rgba = np.full((480, 640, 4), (10, 200, 30, 0), np.uint8)
    rgba[20 : 20 + wide // 3, 30 : 30 + wide, 3] = 255
    rgba[400, 600, 3] = 20  # a trace that nobody sees
    Image.fromarray(rgba).save(tmp_path / "cut.png")
    card = np.asarray(outlines.close_up(tmp_path / "cut.png"))
    assert card.shape == (outlines.CARD, outlines.CARD, 4)
    rows, columns = (np.flatnonzero((card[..., 3] > 127).any(axis)) for axis in (1, 0))
    free = outlines.MARGIN * outlines.CARD
    assert [columns[0], columns[-1]] == pytest.approx([free, outlines.CARD - free], abs=5)
    assert np.mean(rows) == pytest.approx(outlines.CARD / 2, abs=5)
    assert len(rows) == pytest.approx(len(columns) / 3, abs=5)
    assert abs(card[card[..., 3] > 200][:, :3].astype(int) - (10, 200, 30)).max() <= 3


def test_a_photo_without_an_object_is_a_white_card(tmp_path):
    Image.new("RGBA", (300, 200), (10, 200, 30, 0)).save(tmp_path / "cut.png")
    assert np.asarray(outlines.close_up(tmp_path / "cut.png"))[..., 3].max() == 0
