"""Edits of an outline: each changes what it was put on."""

import numpy as np
import pytest

from sap3d.errors import UserError
from sap3d.photos.mending import check_edit, mend

SIZE = 400
Y, X = np.mgrid[:SIZE, :SIZE]
BODY = (abs(X - 150) < 70) & (abs(Y - 200) < 90)
HANDLE = (abs(X - 270) < 50) & (abs(Y - 200) < 14)
RNG = np.random.default_rng(0)
PHOTO = np.where(BODY[..., None], (190, 70, 40), np.where(HANDLE[..., None], (60, 120, 60), (215, 210, 200)))
PHOTO = (PHOTO + RNG.normal(0, 3, PHOTO.shape)).clip(0, 255).astype(np.uint8)


def mask_of(part: np.ndarray) -> np.ndarray:
    return (part * 255).astype(np.uint8)


def edit(kind: str, tool: str, *points, radius: float = 0.02) -> dict:
    return {"kind": kind, "tool": tool, "points": [[x / SIZE, y / SIZE] for x, y in points], "radius": radius}


def overlap(mask: np.ndarray, part: np.ndarray) -> float:
    found = mask > 127
    return (found & part).sum() / (found | part).sum()


def test_a_point_takes_along_what_looks_alike_nearby_and_nothing_else():
    kept = mend(PHOTO, mask_of(BODY), edit("keep", "point", (270, 200)))
    assert overlap(kept, BODY | HANDLE) > 0.97
    removed = mend(PHOTO, mask_of(BODY | HANDLE), edit("remove", "point", (270, 200)))
    assert overlap(removed, BODY) > 0.97


def test_a_point_changes_its_place_even_where_all_looks_alike():
    """Two clicks that change nothing are what a person gives up at."""
    grey = np.full((SIZE, SIZE, 3), 128, np.uint8)
    assert mend(grey, mask_of(BODY), edit("remove", "point", (150, 200)))[200, 150] == 0
    assert mend(grey, mask_of(BODY), edit("keep", "point", (350, 50)))[50, 350] == 255


@pytest.mark.parametrize("kind", ["keep", "remove"])
def test_a_brush_changes_what_it_touches_exactly(kind):
    before = mask_of(BODY)
    after = mend(PHOTO, before, edit(kind, "brush", (100, 50), (300, 350), radius=0.05))
    along = abs((X - 100) * 300 - (Y - 50) * 200) / np.hypot(300, 200)
    middle = (Y > 75) & (Y < 325)
    assert (after[(along < 18) & middle] == (255 if kind == "keep" else 0)).all()
    outside = (along > 24) | (Y < 20) | (Y > 380)
    assert np.array_equal(after[outside], before[outside])


def test_a_box_holds_the_whole_object_or_clears_its_place():
    found = mend(PHOTO, mask_of(np.zeros_like(BODY)), edit("keep", "box", (60, 90), (340, 310)))
    assert overlap(found, BODY | HANDLE) > 0.9 and not found[:, 345:].any()
    cleared = mend(PHOTO, mask_of(BODY | HANDLE), edit("remove", "box", (225, 150), (330, 250)))
    assert overlap(cleared, BODY) > 0.97


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        edit("drop", "point", (1, 1)),
        edit("keep", "lasso", (1, 1)),
        edit("keep", "box", (1, 1)),
        edit("keep", "point"),
        edit("keep", "brush", (1, 1), radius=3.0),
        edit("keep", "point", (float("nan"), 1)),
        {"kind": "keep", "tool": "point", "points": "no"},
        None,
    ],
)
def test_what_is_no_edit_is_refused(wrong):
    with pytest.raises(UserError, match="no edit"):
        check_edit(wrong)


def test_places_outside_the_photo_are_brought_to_its_border():
    assert check_edit(edit("keep", "point", (-40, 4000)))["points"] == [[0.0, 1.0]]
