"""The viewer of meshes, on the page and in the report: true colours, looks, and no network."""

import hashlib
import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from sap3d.scores import viewer
from tests.demo.conftest import COLOUR, PATIENCE, textured_box
from tests.demo.pages import mesh_shown

SHA256 = "d785423b1d046ea84a9f59ef6cf15f3077603e1bf938b01ced9b0240691884a2"  # model_viewer/README.md
DARK = (20, 24, 28)


def seen(element) -> np.ndarray:
    """What a viewer shows, once it has drawn it: the pixels of a screenshot."""
    element.evaluate("element => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int)


def middle(picture: np.ndarray) -> np.ndarray:
    """Mean colour of the middle, where the object is."""
    height, width = picture.shape[:2]
    return picture[height * 2 // 5 : height * 3 // 5, width * 2 // 5 : width * 3 // 5].reshape(-1, 3).mean(0)


@pytest.fixture
def file(tmp_path, browser):
    """Opens a page that is one file, without a network; returns its viewer when the mesh is there."""
    contexts = []

    def show(glb: bytes):
        body = viewer.viewer(viewer.data_url(viewer.unlit(glb)), "A mesh")
        text = (
            f"<!doctype html><html><head><meta charset='utf-8'><style>{viewer.STYLE}</style>{viewer.scripts()}</head>"
        )
        (tmp_path / "page.html").write_text(f"{text}<body style='background:rgb{DARK}'>{body}</body></html>")
        contexts.append(browser.new_context(offline=True))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_function("document.querySelector('model-viewer').loaded")
        return page.locator("model-viewer")

    yield show
    for context in contexts:
        context.close()


def test_the_script_is_the_one_that_is_named():
    assert hashlib.sha256(viewer.SCRIPTS[0].read_bytes()).hexdigest() == SHA256
    assert (viewer.FOLDER / "LICENSE").read_text().strip().startswith("Apache License")


def test_colours_are_the_textures_and_the_background_the_pages(file):
    """Within 5 of 255; a viewer that forgets sRGB is off by 60 here."""
    element = file(textured_box().export(file_type="glb"))
    picture = seen(element)
    assert abs(middle(picture) - COLOUR).max() < 5
    assert (
        abs(picture[len(picture) // 2, 5] - DARK).max() < 5
    )  # beside the object; the bar of progress fades at the top


def test_wireframe_and_normals(file):
    element = file(textured_box().export(file_type="glb"))
    page, colour = element.page, seen(element)
    page.click("[data-look=normals]")
    page.wait_for_selector("[data-look=normals][aria-pressed=true]")
    # The viewer stands on +x and above: the side that is in the middle looks along x, whose colour is (255, 128, 128).
    normals = middle(seen(element))
    assert normals[0] > 200 and abs(normals[1:] - 150).max() < 60
    page.click("[data-look=wireframe]")
    wire = middle(seen(element))
    assert abs(wire - DARK).max() < 60  # mostly what is behind
    page.click("[data-look=colour]")
    assert abs(middle(seen(element)) - middle(colour)).max() < 3


def test_the_page_shows_the_same_colours_with_its_cameras(visitor):
    page = visitor("?job=ellipse")
    mesh_shown(page)
    assert abs(middle(seen(page.locator("#mesh model-viewer"))) - COLOUR).max() < 5
    page.get_by_role("tab", name="Cameras").click()
    mesh_shown(page, "#cameras")
    assert "The first photo's is red" in page.locator("#cameras").inner_text()


def test_unlit_changes_nothing_but_the_materials():
    box = textured_box()
    plain = trimesh.load(io.BytesIO(box.export(file_type="glb")), file_type="glb", force="mesh")
    shown = trimesh.load(io.BytesIO(viewer.unlit(box.export(file_type="glb"))), file_type="glb", force="mesh")
    assert np.allclose(plain.vertices, shown.vertices) and np.array_equal(plain.faces, shown.faces)
    coloured = trimesh.creation.box()
    coloured.visual.vertex_colors = [10, 20, 30, 255]
    assert viewer.UNLIT.encode() in viewer.unlit(coloured.export(file_type="glb"))
