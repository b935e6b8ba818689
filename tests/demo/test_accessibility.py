"""axe-core's findings on the page, in light and dark; it comes from npm, for this test alone."""

import json

import pytest
from examples import find_example

from dataset.packages import Package, fetch
from sap3d.errors import UserError
from tests.demo.pages import mesh_shown, open_editor, run, send, state
from tests.demo.photos import write_photos

AXE = Package(
    "axe-core-4.14.1.tgz",
    ("npm", "pack", "--silent", "axe-core@4.14.1"),
    "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745",
    "package/axe.min.js",
    "0.7 MB",
)


# What Gradio is about to replace is pale for a moment.
SETTLED = """() => !document.querySelector('.pending') &&
    document.getAnimations().every(each => !(each instanceof CSSTransition) || each.playState !== 'running')"""


@pytest.fixture(scope="module")
def axe() -> str:
    try:
        return (fetch(AXE) / "package/axe.min.js").read_text()
    except UserError as error:
        pytest.skip(f"no axe-core: {error}")


def findings(page, axe: str, where: str) -> list[str]:
    """What is critical or serious, a line each."""
    page.evaluate(axe)
    page.wait_for_function(SETTLED)
    found = page.evaluate("async () => (await axe.run(document, { resultTypes: ['violations'] })).violations")
    return [
        f"{where}: {rule['id']}: {node['html'][:160]} {(node['any'] or [{}])[0].get('message', '')}"
        for rule in found
        if rule["impact"] in ("critical", "serious")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_critical_or_serious(visitor, settings, axe, tmp_path, scheme, monkeypatch):
    monkeypatch.setenv("STAND_IN_HOLD", str(tmp_path / "never"))
    page = visitor(color_scheme=scheme, reduced_motion="reduce")
    page.wait_for_selector("#run")
    found = findings(page, axe, "empty")
    page.click("#more button")
    send(page, write_photos(tmp_path / "sent", 2))
    found += findings(page, axe, "draft")
    open_editor(page)
    found += findings(page, axe, "editor")
    page.click("#editor button[name=close]")
    run(page)
    page.wait_for_selector(".stages .now")
    found += findings(page, axe, "running")
    page.click("#cancel")
    state(page, "cancelled")
    found += findings(page, axe, "cancelled")
    poses = find_example(settings, "ellipse").results / "initial_poses.json"
    poses.write_text(json.dumps(json.loads(poses.read_text()) | {"confidence": [0.9, 0.4, 0.9, 0.9]}))
    page.goto(page.url.partition("?")[0] + "?job=ellipse")
    mesh_shown(page)
    page.wait_for_selector("#doubt .doubt")
    for tab in ("Mesh", "Turntable", "Cameras", "Novel views", "Files"):
        page.get_by_role("tab", name=tab).click()
        page.get_by_role("tab", name=tab, selected=True).wait_for()
        found += findings(page, axe, tab)
    assert not found, "\n".join(found)
