"""The page in a real browser, with a stand-in for the pipeline (docs/figures/demo.py drives the real one)."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jobs as jb
import pytest
import trimesh
from PIL import Image

from tests.demo.photos import write_photos

gr = pytest.importorskip("gradio", reason="Gradio is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt install chromium")
PATIENCE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def examples(tmp_path, stand_in, monkeypatch) -> Path:
    """The repository's examples, and one of the stand-in's making, which the page then shows."""
    import app

    copy, files = tmp_path / "examples", tmp_path / "files"
    for path in app.example_folders():
        shutil.copytree(path, copy / path.name)
    write_photos(copy / "ellipse/photos")
    (copy / "ellipse/results").mkdir()
    for source, name in (("mesh.glb",) * 2, ("turntable.mp4",) * 2, ("sheet.png", "novel_views.png"),
                         ("poses_4.json", "poses.json")):  # fmt: skip
        shutil.copy(files / source, copy / "ellipse/results" / name)
    results = json.loads((files / "results.json").read_text()) | {"views": 4}
    (copy / "ellipse/results/results.json").write_text(json.dumps(results))
    monkeypatch.setattr(app, "EXAMPLES", copy)
    return copy


@pytest.fixture
def address(tmp_path, stand_in, examples, monkeypatch):
    """A running server with one worker; its jobs are in tmp_path/jobs."""
    import app

    monkeypatch.setattr(app, "JOBS", tmp_path / "jobs")
    (tmp_path / "jobs").mkdir()
    page, worker = app.build(), jb.Worker(tmp_path / "jobs", "cpu")
    worker.start()
    address = page.launch(prevent_thread_lock=True, quiet=True, allowed_paths=[str(tmp_path / "jobs"), str(examples)])[
        1
    ]
    yield address
    worker.ends.set()
    page.close()
    worker.join()


@pytest.fixture
def visitor(browser, address):
    """Opens the page as a new visitor; what the browser's console calls an error fails the test."""
    errors, contexts = [], []

    def visit():
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#run")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not errors


def send(page, paths) -> None:
    """Drop files and wait for what becomes of them."""
    page.set_input_files("#photos input[type=file]", paths)
    page.wait_for_selector("#previews img")
    page.wait_for_url(re.compile(r"\?job="))


def run(page) -> None:
    page.click("text=fast, about")
    page.click("#run:not([disabled])")


def mesh_shown(page) -> None:
    """Wait for the mesh's viewer to draw."""
    page.frame_locator("#mesh iframe").locator("canvas").wait_for()


def job_of(page, tmp_path) -> jb.Job:
    return jb.find_job(tmp_path / "jobs", page.url.rpartition("=")[2])


def download(page, name: str) -> bytes:
    page.get_by_role("tab", name="Metrics and downloads").click()
    with page.expect_download() as expected:
        page.click(f"#files a[download='{name}']")
    return expected.value.path().read_bytes()


def test_photos_become_a_mesh(visitor, tmp_path):
    page = visitor()
    send(page, write_photos(tmp_path / "sent"))
    assert page.locator("#previews img").count() == 4
    run(page)
    mesh_shown(page)
    assert page.locator("#results").is_visible()
    mesh = trimesh.load(io.BytesIO(download(page, "mesh.glb")), file_type="glb", force="mesh")
    assert len(mesh.faces) == 12
    assert "21.5" in page.locator("#results").inner_text()
    assert zipfile.ZipFile(io.BytesIO(download(page, "mesh.zip"))).namelist() == ["mesh.obj"]


def test_a_reloaded_page_finds_its_job(visitor, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_SECONDS", "1")
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 2))
    run(page)
    page.wait_for_selector("text=poses …")
    page.reload()
    page.wait_for_selector(".stages .now")
    assert page.locator("#previews img").count() == 2
    mesh_shown(page)
    page.reload()
    mesh_shown(page)


def test_cancel_ends_the_run_and_another_can_follow(visitor, tmp_path, monkeypatch):
    monkeypatch.setenv("STAND_IN_SECONDS", "60")
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 2))
    run(page)
    page.wait_for_selector(".stages .now")
    page.click("#cancel")
    page.wait_for_selector("text=cancelled")
    assert job_of(page, tmp_path).known["state"] == "cancelled"
    monkeypatch.setenv("STAND_IN_SECONDS", "0.01")
    page.click("#run:not([disabled])")
    mesh_shown(page)


def test_two_visitors_do_not_mix(visitor, tmp_path):
    first, second = visitor(), visitor()
    send(first, write_photos(tmp_path / "first", 3))
    send(second, write_photos(tmp_path / "second", 2, back=(60, 150, 80)))
    run(first)
    run(second)
    for page, count in ((first, 3), (second, 2)):
        mesh_shown(page)
        assert page.locator("#previews img").count() == count
        with job_of(page, tmp_path).cut(0).open("rb") as photo:
            own = subprocess.run(["cksum"], stdin=photo, capture_output=True).stdout
        assert download(page, "points.ply") == own
    assert first.url != second.url


def test_bad_files_are_named_and_the_others_stay(visitor, tmp_path):
    page = visitor()
    (tmp_path / "page.png").write_text("<html><script>document.title = 'taken'</script>")
    page.set_input_files("#photos input[type=file]", [tmp_path / "page.png"])
    page.wait_for_selector("text=page.png: not a JPEG, PNG")
    assert page.locator("#run").is_disabled() and not any((tmp_path / "jobs").iterdir())
    send(page, [*write_photos(tmp_path / "sent", 1), tmp_path / "page.png"])
    page.wait_for_selector("text=page.png: not a JPEG")
    assert page.locator("#previews img").count() == 1 and page.locator("#run").is_enabled()
    assert page.title() == "SAP3D"


def test_the_page_says_before_a_run_which_photos_will_not_do_and_takes_others(visitor, tmp_path):
    page = visitor()
    first, second, third = write_photos(tmp_path / "sent", 3)
    Image.new("RGB", (200, 200), (70, 90, 160)).save(third)
    send(page, [first, third])
    page.wait_for_selector("#status >> text=2.jpg will not do and is left out: no clear object in it")
    assert page.locator("#previews .caption-label").all_inner_texts() == ["no clear object in it"]
    page.set_input_files("#photos input[type=file]", [second])  # added to the draft
    page.wait_for_selector("#previews img >> nth=2")
    run(page)
    mesh_shown(page)
    assert job_of(page, tmp_path).chosen == [0, 1]
    page.click("#anew")
    page.locator("#previews img").first.wait_for(state="detached")
    assert page.locator("#run").is_disabled() and "job=" not in page.url


def test_a_click_on_a_photo_mends_its_outline(visitor, tmp_path):
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 2))
    page.click("#previews img >> nth=1")
    page.click("text=remove what I click")
    image = page.locator("#editor img")
    image.wait_for()
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    job = job_of(page, tmp_path)
    for _ in range(PATIENCE // 100):
        if job.known["photos"][1]["remove"]:
            break
        page.wait_for_timeout(100)
    first, second = job.known["photos"]
    assert second["method"] == "marked" and first["method"] == "grabcut"
    ((x, y),) = second["remove"]
    assert abs(x - 0.5) < 0.1 and abs(y - 0.5) < 0.1


def test_an_example_opens_with_its_results_and_can_be_run(visitor, examples):
    for folder in sorted(examples.iterdir()):
        page = visitor()
        page.click(f"#examples button:has-text('{folder.name}')")
        page.wait_for_url(re.compile(r"\?job="))
        mesh_shown(page)
        assert page.locator("#previews img").count() == 4
        assert page.locator("#status").inner_text().startswith(f"{folder.name}: its results are from an earlier run")
        assert download(page, "mesh.glb") == (folder / "results/mesh.glb").read_bytes()
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 1.5e6
    page.reload()  # the address keeps it
    mesh_shown(page)
    (folder / "results").rename(folder / "hidden")
    run(page)
    page.get_by_role("tab", name="Mesh").click()
    mesh_shown(page)  # its own
    assert download(page, "points.ply")


def test_a_mended_outline_hides_the_results_of_the_one_before(visitor, tmp_path):
    page = visitor()
    send(page, write_photos(tmp_path / "sent", 2))
    run(page)
    mesh_shown(page)
    page.click("#previews img >> nth=0")
    page.click("text=remove what I click")
    page.locator("#editor img").click()
    page.locator("#results").wait_for(state="hidden")
    assert job_of(page, tmp_path).known["state"] == "draft"


def test_published_weights_are_offered_where_they_are(tmp_path, monkeypatch):
    import app

    monkeypatch.setattr(app, "JOBS", tmp_path)
    for found, offered in (([], False), (["--backbone", "published"], True)):
        monkeypatch.setattr(app, "OFFERED_WEIGHTS", found)
        assert (jb.PUBLISHED in [preset for _, preset in app.preset_choices(4)]) == offered


def test_an_address_of_no_job_says_so(visitor, address):
    page = visitor()
    page.goto(f"{address}?job=../../etc/passwd")
    page.wait_for_selector("text=no such job")


def test_a_server_that_is_told_to_end_ends_cleanly(tmp_path):
    program = Path(jb.__file__).with_name("app.py")
    # A proxy that nobody serves: the page must not ask it for itself.
    environment = os.environ | {"ROOT_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1", "http_proxy": "http://127.0.0.1:9"}
    with subprocess.Popen(
        [sys.executable, program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert any("Running on local URL" in line for line in server.stdout)
            server.terminate()
            assert "Traceback" not in server.stdout.read()
            assert server.wait(PATIENCE / 1000) == 0
        finally:
            server.kill()
