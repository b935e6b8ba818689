"""The demo with the real pipeline in a real browser: photos in, mesh out, screenshots of the page and of the report.

    .venv/bin/python docs/figures/demo.py --photos demo/sap3d/examples/rover/photos --preset fast --output docs/figures

Needs Chromium on PATH. Prints the seconds from Run to the mesh; writes demo_{light,dark,phone}.png and
report_{light,dark,phone}.png.
"""

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trimesh
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[2]
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
DESKTOP, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}
PATIENCE = 30 * 60_000  # milliseconds that a run may take


def screenshot(page: Page, path: Path) -> None:
    """Write the page as a PNG with a palette, which is small enough for the repository."""
    page.wait_for_timeout(3000)  # fonts, videos and viewers settle
    image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    image.quantize(192).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def views(browser: Browser, address: str, output: Path, name: str, ready: str) -> None:
    """Screenshots in light, in dark and on a phone, once there is an element `ready`."""
    for look, scheme, size in (("light", "light", DESKTOP), ("dark", "dark", DESKTOP), ("phone", "light", PHONE)):
        page = browser.new_context(color_scheme=scheme, viewport=size).new_page()
        page.goto(address)
        page.wait_for_selector(ready)
        screenshot(page, output / f"{name}_{look}.png")
        page.context.close()


def run(page: Page, photos: list[Path], preset: str) -> float:
    """Send photos, run, wait for the mesh; returns the seconds that it took."""
    page.set_input_files("#photos input[type=file]", photos)
    page.wait_for_url(re.compile(r"\?job="), timeout=PATIENCE)
    page.wait_for_selector("#previews img")
    page.click(f"text={preset}, about")
    start = time.monotonic()
    page.click("#run:not([disabled])")
    page.wait_for_selector("#results, text=failed", timeout=PATIENCE)
    seconds = time.monotonic() - start
    page.frame_locator("#mesh iframe").locator("canvas").wait_for()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--port", default="7869")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or sys.exit("error: no chromium on PATH")
    with tempfile.TemporaryDirectory() as root, sync_playwright() as driver:
        command = [sys.executable, REPOSITORY / "demo/sap3d/app.py", "--port", arguments.port]
        server = subprocess.Popen(command, env=os.environ | {"ROOT_DIR": root})
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        try:
            page = browser.new_page()
            address = f"http://127.0.0.1:{arguments.port}"
            while server.poll() is None:
                try:
                    page.goto(address)
                    break
                except Exception:  # the server is not up yet
                    time.sleep(1)
            seconds = run(page, sorted(arguments.photos.iterdir()), arguments.preset)
            print(f"{arguments.preset}: {seconds:.0f} s from Run to the mesh")
            job = Path(root) / "demo/jobs" / page.url.rpartition("=")[2]
            print(json.loads((job / "results/results.json").read_text())["seconds"])
            mesh = trimesh.load(job / "results/mesh.glb", force="mesh")
            print(f"mesh.glb: {len(mesh.faces)} triangles, {(job / 'results/mesh.glb').stat().st_size / 1e6:.1f} MB")
            views(browser, page.url, arguments.output, "demo", "#mesh iframe")
            views(browser, (job / "results/report.html").as_uri(), arguments.output, "report", "iframe")
        finally:
            browser.close()
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
