"""What can be measured of the page's looks: nothing is cut off, empty, out of sight, or white in the dark."""

import pytest

from tests.demo.pages import mesh_shown, open_editor, run, send
from tests.demo.photos import write_photos

pytest.importorskip("gradio", reason="Gradio is not installed")

PHONE = {"width": 390, "height": 844}
TOO_WIDE = "document.documentElement.scrollWidth - window.innerWidth"
CUT_OFF = """() => [...document.querySelectorAll('#examples button, #cards h3, #cards button, .downloads a')]
.filter((part) => part.offsetParent && (part.scrollWidth > part.clientWidth + 1
|| part.scrollHeight > part.clientHeight + 1)).map((part) => part.innerText)"""


def test_captions_are_whole_and_both_halves_are_used(visitor, tmp_path):
    page = visitor(viewport={"width": 1280, "height": 900})
    page.wait_for_selector("#examples img")
    assert page.evaluate(CUT_OFF) == []
    send(page, write_photos(tmp_path / "sent", 2))
    assert page.evaluate(CUT_OFF) == [] and page.evaluate(TOO_WIDE) <= 0
    form, cards = (page.locator(part).bounding_box() for part in ("#form", "#cards"))
    assert cards["x"] >= form["x"] + form["width"] and cards["y"] < 450
    assert "docs/CAPTURE.md" not in page.locator("#told").inner_text()  # which stands there without photos
    open_editor(page)
    editor = page.locator("#editor dialog").bounding_box()
    assert editor["y"] >= 0 and editor["y"] + editor["height"] <= 900


def test_a_phone_shows_how_far_a_run_is_before_all_else(visitor, tmp_path, hold):
    page = visitor(viewport=PHONE)
    send(page, write_photos(tmp_path / "sent", 2))
    run(page)
    page.wait_for_selector(".stages .now")
    top = page.locator("#told .bar").evaluate("bar => bar.getBoundingClientRect().bottom + window.scrollY")
    assert top < PHONE["height"] / 2
    assert page.evaluate(TOO_WIDE) <= 0
    hold.touch()
    mesh_shown(page)
    assert page.locator("#history .share input").is_visible()
    assert page.evaluate(TOO_WIDE) <= 0 and page.evaluate(CUT_OFF) == []


def test_the_film_and_the_viewer_are_not_white_in_the_dark(visitor):
    page = visitor("?job=ellipse", color_scheme="dark")
    mesh_shown(page)
    assert page.locator("#mesh model-viewer").evaluate("viewer => getComputedStyle(viewer).backgroundColor") in (
        "rgba(0, 0, 0, 0)",
        "transparent",
    )
    page.get_by_role("tab", name="Turntable").click()
    page.wait_for_selector("#turntable .film[data-shown]")
    alphas = page.locator("#turntable canvas").evaluate(
        """canvas => [[2, 2], [16, 16], [48, 16], [40, 2], [80, 16]].map(([x, y]) =>
        canvas.getContext('2d').getImageData(x, y, 1, 1).data[3])"""
    )
    assert [alpha > 200 for alpha in alphas] == [False, True, True, False, True]
    assert alphas[0] == alphas[3] == 0
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Play").wait_for()
