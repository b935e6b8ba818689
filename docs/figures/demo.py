"""The demo with the real pipeline in a real browser: photos in, mesh out, screenshots of the page and of the report.

    .venv/bin/python docs/figures/demo.py --photos FOLDER --preset fast      # one real run
    .venv/bin/python docs/figures/demo.py --job pan        # the screenshots, of an example or a job that is done

Needs Chromium on PATH; the job stays in ROOT_DIR. A run prints the job's identifier, the seconds from Run to the mesh,
and what the page says before and after; it writes demo_running.png. The screenshots are
demo_{light,dark,phone,phone_dark}.png, demo_{draft,editor}{,_phone}.png and report_{light,dark,phone}.png; it says
where a page is wider than its window.
"""

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import trimesh
from PIL import Image
from playwright.sync_api import Browser, Error, Page, sync_playwright

from sap3d.files import root_dir

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]
sys.path.insert(0, str(REPOSITORY / "demo/sap3d"))

from examples import find_example  # noqa: E402
from jobs import find_job  # noqa: E402
from settings import Settings  # noqa: E402

ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
ARGUMENTS += ["--disable-gpu-rasterization", "--disable-gpu-compositing"]  # WebGL alone, which is slow in software
DESKTOP, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}
COLOURS, LONGEST = 192, 2000  # of a screenshot: its palette, and the pixels of a page's height that are kept
SETTLE = 8000  # milliseconds until fonts, videos and viewers are there
PATIENCE = 150 * 60_000  # milliseconds that a run may take


def screenshot(page: Page, path: Path, whole: bool = True) -> None:
    """Write the page, or what of it is in the window, as a PNG with a palette, which is small enough to be kept."""
    page.wait_for_timeout(SETTLE)
    image = Image.open(io.BytesIO(page.screenshot(full_page=whole, timeout=PATIENCE))).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, LONGEST)))
    image.quantize(COLOURS).save(path, optimize=True)
    excess = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB" + (f", {excess} pixels too wide" if excess > 0 else ""))


LOOKS = (
    ("light", "light", DESKTOP),
    ("dark", "dark", DESKTOP),
    ("phone", "light", PHONE),
    ("phone_dark", "dark", PHONE),
)


def visit(browser: Browser, address: str, **options: object) -> Page:
    """A page in a context of its own."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    return page


def views(browser: Browser, address: str, name: str, looks: tuple = LOOKS) -> None:
    """Screenshots in light and in dark, on a desktop and on a phone, once the mesh is there."""
    for look, scheme, size in looks:
        page = visit(browser, address, color_scheme=scheme, viewport=size)
        page.wait_for_function("document.querySelector('model-viewer')?.loaded")
        screenshot(page, FOLDER / f"{name}_{look}.png")
        page.context.close()


def draft(browser: Browser, address: str, photos: list[Path]) -> None:
    """Screenshots of photos before a run, and of the editor."""
    for look, size in (("", DESKTOP), ("_phone", PHONE)):
        page = visit(browser, address, viewport=size)
        send(page, photos)
        screenshot(page, FOLDER / f"demo_draft{look}.png")
        page.click("#cards [data-act=mend][data-index='0']")
        page.wait_for_selector("#editor dialog[open][data-edits]")
        screenshot(page, FOLDER / f"demo_editor{look}.png", whole=False)
        page.context.close()


def send(page: Page, photos: list[Path]) -> None:
    """Drop photos and wait until they are cut out."""
    page.wait_for_selector("#told [data-state]")
    page.set_input_files("#photos input[type=file]", photos)
    page.wait_for_url(re.compile(r"\?job="))
    page.wait_for_selector("#cards .card img")


def run(page: Page, photos: list[Path], preset: str) -> str:
    """Send photos, run, wait for the mesh; returns the job's identifier."""
    send(page, photos)
    said(page, "#told", "#cards .notice", "#cards .problem")
    if page.locator("#run").is_disabled():
        sys.exit("error: the page offers no run of these photos")
    page.click(f"text={preset}, about")
    start = time.monotonic()
    page.click("#run:not([disabled])")
    identifier = page.url.rpartition("=")[2]
    print(f"job {identifier}", flush=True)
    page.wait_for_selector(".stages .now:has-text('Building the mesh')")
    screenshot(page, FOLDER / "demo_running.png")
    page.wait_for_selector("#mesh model-viewer, #told .problem")
    print(f"{preset}: {time.monotonic() - start:.0f} s from Run to the mesh", flush=True)
    said(page, "#told .problem", "#doubt")
    return identifier


def said(page: Page, *places: str) -> None:
    """Print what stands in places of the page."""
    for place in places:
        for text in page.locator(place).all_inner_texts():
            print(f"{place}: {' '.join(text.split())}", flush=True)


def open_page(browser: Browser, address: str, server: subprocess.Popen) -> Page:
    """The demo's page, once its server is up."""
    page = browser.new_page(viewport=DESKTOP)
    page.set_default_timeout(PATIENCE)
    while server.poll() is None:
        try:
            page.goto(address)
            return page
        except Error:
            time.sleep(1)
    sys.exit("error: the server ended")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--photos", type=Path)
    what.add_argument("--job", metavar="ID")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--port", default="7869")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or sys.exit("error: no chromium on PATH")
    settings = Settings(root_dir() / "demo")
    address = f"http://127.0.0.1:{arguments.port}"
    with sync_playwright() as driver:
        server = subprocess.Popen([sys.executable, REPOSITORY / "demo/sap3d/app.py", "--port", arguments.port])
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        try:
            page = open_page(browser, address, server)
            identifier = arguments.job or run(page, sorted(arguments.photos.iterdir()), arguments.preset)
            page.context.close()
            job = find_job(settings.jobs, identifier) or find_example(settings, identifier)
            print(json.loads((job.results / "results.json").read_text())["seconds"])
            mesh = trimesh.load(job.results / "mesh.glb", force="mesh")
            print(f"mesh.glb: {len(mesh.faces)} triangles, {(job.results / 'mesh.glb').stat().st_size / 1e6:.1f} MB")
            if arguments.job:
                views(browser, f"{address}/?job={identifier}", "demo")
                views(browser, (job.results / "report.html").as_uri(), "report", LOOKS[:3])
                draft(browser, address, sorted((job.folder / "photos").iterdir()))
        finally:
            browser.close()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
