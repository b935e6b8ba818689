"""The editor of an outline in a real browser: points, boxes and strokes, by pointer and keyboard, and undone again."""

import imageio.v3 as imageio
import pytest

from tests.demo.pages import edits, job_of, open_editor, send
from tests.demo.photos import write_photos

pytest.importorskip("gradio", reason="Gradio is not installed")


def alpha(job, index: int = 0):
    return imageio.imread(job.cut(index))[..., 3] > 127


def canvas_pixel(page, x: float, y: float) -> list[int]:
    """A pixel of the editor's canvas at shares of its width and height."""
    return page.evaluate(
        """([x, y]) => { const canvas = document.querySelector('#editor canvas');
        return [...canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 1, 1).data]; }""",
        [x, y],
    )


def test_points_boxes_and_strokes_change_the_outline_and_can_be_undone(visitor, settings, tmp_path):
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 1))
    open_editor(page)
    job, canvas = job_of(page, settings), page.locator("#editor canvas")
    first = alpha(job)
    box = canvas.bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
        page.mouse.move(*at(*start))
        page.mouse.down()
        page.mouse.move(*at(*end), steps=4)
        page.mouse.up()

    assert canvas_pixel(page, 0.05, 0.05)[0] > 150  # what is outside is faded
    page.check("#editor input[value=brush]")
    drag((0.1, 0.1), (0.2, 0.1))
    edits(page, 1)
    assert alpha(job)[20, 20:40].all() and not first[20, 20:40].any()
    page.check("#editor input[value=remove]")
    page.check("#editor input[value=box]")
    drag((0.02, 0.02), (0.3, 0.2))
    edits(page, 2)
    assert not alpha(job)[:35].any()
    page.check("#editor input[value=point]")
    page.mouse.click(*at(0.5, 0.5))
    edits(page, 3)
    assert not alpha(job)[100, 100]
    red = canvas_pixel(page, 0.5, 0.51)
    assert red[0] > red[1] + 60  # its marker
    page.click("#editor button[name=undo]")
    edits(page, 2)
    assert alpha(job)[100, 100]
    width = canvas.evaluate("canvas => canvas.width")
    page.click("#editor button[name=in]")
    page.wait_for_function("width => document.querySelector('#editor canvas').width > width", arg=width)
    page.click("#editor button[name=reset]")
    edits(page, 0)
    assert (alpha(job) == first).all() and job.known["photos"][0]["method"] == "grabcut"
    page.click("#editor button[name=close]")
    page.locator("#editor dialog[open]").wait_for(state="detached")
    open_editor(page)  # and again


def test_points_are_set_by_keyboard(visitor, settings, tmp_path):
    page = visitor(viewport={"width": 390, "height": 844})  # and on a phone
    send(page, write_photos(tmp_path / "sent", 1))
    page.locator("#cards [data-act=mend]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#editor dialog[open][data-edits]")
    page.locator("#editor input[value=remove]").focus()
    page.keyboard.press("Space")
    page.locator("#editor canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    edits(page, 1)
    (edit,) = job_of(page, settings).known["photos"][0]["edits"]
    assert edit["kind"] == "remove" and edit["points"] == [[0.51, 0.5]]
    inside = page.locator("#editor canvas").bounding_box()
    assert inside["x"] >= 0 and inside["x"] + inside["width"] <= 390
