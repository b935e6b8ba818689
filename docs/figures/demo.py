"""The demo with the real pipeline in a real browser: photos in, mesh out, screenshots of the page and of the report.

    .venv/bin/python docs/figures/demo.py --photos demo/sap3d/examples/packet/photos --preset fast
    .venv/bin/python docs/figures/demo.py --job ID          # the screenshots alone, of a job that is done

Needs Chromium on PATH; the job stays in ROOT_DIR. Prints the seconds from Run to the mesh; writes demo_running.png,
demo_{light,dark,phone}.png and report_{light,dark,phone}.png, and says where a page is wider than its window.
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
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
DESKTOP, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}
COLOURS, LONGEST = 192, 2000  # of a screenshot: its palette, and the pixels of a page's height that are kept
SETTLE = 5000  # milliseconds until fonts, videos and viewers are there
PATIENCE = 60 * 60_000  # milliseconds that a run may take


def screenshot(page: Page, path: Path) -> None:
    """Write the page as a PNG with a palette, which is small enough for the repository."""
    page.wait_for_timeout(SETTLE)
    image = Image.open(io.BytesIO(page.screenshot(full_page=True, timeout=PATIENCE))).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, LONGEST)))
    image.quantize(COLOURS).save(path, optimize=True)
    excess = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB" + (f", {excess} pixels too wide" if excess > 0 else ""))


def views(browser: Browser, address: str, name: str, ready: str) -> None:
    """Screenshots in light, in dark and on a phone, once there is an element `ready`."""
    for look, scheme, size in (("light", "light", DESKTOP), ("dark", "dark", DESKTOP), ("phone", "light", PHONE)):
        page = browser.new_context(color_scheme=scheme, viewport=size).new_page()
        page.goto(address)
        page.frame_locator(ready).first.locator("canvas").wait_for(timeout=PATIENCE)
        screenshot(page, FOLDER / f"{name}_{look}.png")
        page.context.close()


def run(page: Page, photos: list[Path], preset: str) -> float:
    """Send photos, run, wait for the mesh; returns the seconds that it took."""
    page.set_input_files("#photos input[type=file]", photos)
    page.wait_for_url(re.compile(r"\?job="), timeout=PATIENCE)
    page.wait_for_selector("#previews img")
    page.click(f"text={preset}, about")
    start = time.monotonic()
    page.click("#run:not([disabled])")
    page.wait_for_selector("text=reconstruction …", timeout=PATIENCE)
    screenshot(page, FOLDER / "demo_running.png")
    page.locator("#mesh iframe").or_(page.locator("#status .problem")).wait_for(timeout=PATIENCE)
    return time.monotonic() - start


def open_page(browser: Browser, address: str, server: subprocess.Popen) -> Page:
    """The demo's page, once its server is up."""
    page = browser.new_page(viewport=DESKTOP)
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
    address = f"http://127.0.0.1:{arguments.port}"
    with sync_playwright() as driver:
        server = subprocess.Popen([sys.executable, REPOSITORY / "demo/sap3d/app.py", "--port", arguments.port])
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        try:
            page = open_page(browser, address, server)
            identifier = arguments.job
            if identifier is None:
                seconds = run(page, sorted(arguments.photos.iterdir()), arguments.preset)
                identifier = page.url.rpartition("=")[2]
                print(f"job {identifier}, {arguments.preset}: {seconds:.0f} s from Run to the mesh", flush=True)
            page.context.close()
            results = root_dir() / "demo/jobs" / identifier / "results"
            print(json.loads((results / "results.json").read_text())["seconds"])
            mesh = trimesh.load(results / "mesh.glb", force="mesh")
            print(f"mesh.glb: {len(mesh.faces)} triangles, {(results / 'mesh.glb').stat().st_size / 1e6:.1f} MB")
            views(browser, f"{address}/?job={identifier}", "demo", "#mesh iframe")
            views(browser, (results / "report.html").as_uri(), "report", "iframe")
        finally:
            browser.close()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
