"""For the demo's tests: a pipeline that takes a second, a server with the page, and visitors in a real browser."""

import json
import shutil
from pathlib import Path

import drafts
import examples
import imageio.v3 as imageio
import jobs as jb
import numpy as np
import pytest
import torch
import trimesh
import worker as workers
from PIL import Image
from settings import Settings

from sap3d.cameras.poses import write_poses
from sap3d.files import write_json, write_video
from sap3d.images import sheet
from sap3d.photos import grabcut, mending
from tests.demo import runs
from tests.demo.photos import write_photos

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 300_000  # milliseconds
COLOUR = (200, 80, 30)  # of the stand-in's mesh


@pytest.fixture(autouse=True)
def small_cuts(monkeypatch):
    """GrabCut on a quarter of its pixels."""
    size = grabcut.GRABCUT_SIZE // 2
    for module in (grabcut, mending):
        monkeypatch.setattr(module, "GRABCUT_SIZE", size)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """What stand_in.sh takes for results."""
    files = tmp_path_factory.mktemp("files")
    textured_box().export(files / "mesh.glb")
    cameras = torch.tensor([[0.3, azimuth, 1.8] for azimuth in (0.0, 1.5, 3.0, -1.5)])
    turned = cameras * torch.tensor([1.0, -1.0, 1.0])
    for views in range(1, 5):
        both = torch.stack([cameras[:views], turned[:views]])
        write_poses(files / f"poses_{views}.json", both, [0.0, 0.3], confidence=[0.95] * views)
    write_video(files / "turntable.mp4", [film_frame()] * 10)
    Image.fromarray(sheet(np.zeros((84, 16, 16, 3), np.uint8), 12)).save(files / "sheet.png")
    metrics = [f"{kind}_{key}_mean" for kind in ("2d", "3d") for key in ("psnr", "ssim", "lpips", "flip")]
    metrics += ["CD", "IOU", "F1_01", "F1_02", "F1_03"]
    metrics += [f"rotation_error_stage{stage}{suffix}" for stage in (1, 2, 3) for suffix in ("", "_symmetric")]
    results = dict.fromkeys(metrics) | {"views": 0, "3d_psnr_mean": 21.5, "seconds": {"poses": 2, "tuning": 3}}
    results |= {"seed": 0, "commit": "", "machine": {"cpu": "", "cores": 2, "gpu": None}}
    (files / "results.json").write_text(json.dumps(results))
    return files


@pytest.fixture
def stand_in(tmp_path, files, monkeypatch):
    """A repository whose run_pipeline.sh is stand_in.sh; returns it."""
    repository = tmp_path / "repository"
    repository.mkdir()
    shutil.copy(Path(__file__).parent / "stand_in.sh", repository / "run_pipeline.sh")
    monkeypatch.setenv("STAND_IN_FILES", str(files))
    monkeypatch.setattr(workers, "REPOSITORY", repository)
    return repository


def film_frame() -> np.ndarray:
    """Of a turntable: a square on white as colour, normals and depth, and where it is in black."""
    frame = np.full((32, 128, 3), 255, np.uint8)
    for left in range(0, 128, 32):
        frame[8:24, left + 8 : left + 24] = COLOUR if left < 96 else 0
    return frame


def textured_box() -> trimesh.Trimesh:
    """A box in one colour, by a texture as the pipeline's meshes have it."""
    box = trimesh.creation.box()
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.new("RGB", (32, 32), COLOUR))
    box.visual = trimesh.visual.TextureVisuals(uv=box.vertices[:, :2] + 0.5, material=material)
    return box


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where jobs are to be."""
    (tmp_path / "demo").mkdir()
    return tmp_path / "demo/jobs"


@pytest.fixture
def start(folder, stand_in):
    """Starts workers, and ends them after the test."""
    started = []

    def start_worker() -> workers.Worker:
        started.append(workers.Worker(folder, "cpu"))
        started[-1].start()
        return started[-1]

    yield start_worker
    for worker in started:
        worker.ends.set()
    for worker in started:
        worker.join(runs.PATIENCE)
        assert not worker.is_alive()


@pytest.fixture(scope="session")
def example(tmp_path_factory, files) -> Path:
    """The root of a demo with one example of the stand-in's making, ready to be shown."""
    work = tmp_path_factory.mktemp("example")
    folder, settings = work / "sources/ellipse", Settings(work / "demo")
    draft, _ = drafts.create_job(work / "scratch/jobs", write_photos(work / "ellipse"), settings.limits)
    for name in ("photos", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(4):
        shutil.copy(draft.folder / f"photos/{index:03d}.jpg", folder / "photos")
        shutil.copy(draft.folder / f"masks/{index:03d}/00.png", folder / f"masks/{index:03d}.png")
    about = {"title": "Ellipse", "author": "A. Nybody", "licence": "CC0 1.0"}
    known = draft.known | {"state": "done", "preset": "fast", "family": "ellipse", "example": about, "created": 0.0}
    write_json(folder / "about.json", about)
    write_json(folder / "job.json", known | {"started": 0.0, "ended": 60.0})
    scene = jb.Job(folder).scene
    places = {"mesh.glb": scene.reconstruction / "mesh.glb", "sheet.png": scene.diffusion / "sheet.png",
              "poses_4.json": scene.initial_poses, "results.json": scene.results / "results.json"}  # fmt: skip
    for name, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files / name, place)
    results = json.loads((files / "results.json").read_text()) | {"views": 4}
    (scene.results / "results.json").write_text(json.dumps(results))
    shutil.copy(files / "poses_4.json", scene.reconstruction / "poses.json")
    shutil.copy(files / "turntable.mp4", scene.reconstruction)
    shutil.copy(files / "turntable.mp4", scene.diffusion / "video.mp4")
    (scene.reconstruction / "interchange").mkdir()
    (scene.reconstruction / "interchange/points.ply").write_text("ply")
    imageio.imwrite(scene.reconstruction / "inputs.webp", np.zeros((8, 8, 3), np.uint8))
    examples.prepare(settings, folder.parent)
    return settings.root


@pytest.fixture
def settings(tmp_path, example, stand_in) -> Settings:
    """Of a demo in tmp_path, with the example and a pipeline of the stand-in's making."""
    settings = Settings(tmp_path / "demo")
    shutil.copytree(example, settings.root)
    settings.jobs.mkdir()
    return settings


@pytest.fixture
def address(settings, tmp_path, monkeypatch):
    """A running server with one worker."""
    pytest.importorskip("gradio", reason="Gradio is not installed")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    import app
    from page import Page

    page, worker = Page(settings).build(), workers.Worker(settings.jobs, "cpu")
    worker.start()
    yield app.launch(page, settings, prevent_thread_lock=True, quiet=True)[1]
    worker.ends.set()
    page.close()
    worker.join()


@pytest.fixture
def hold(tmp_path, monkeypatch) -> Path:
    """Runs stay in their second stage until this file is there."""
    monkeypatch.setenv("STAND_IN_HOLD", str(tmp_path / "go"))
    return tmp_path / "go"


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH: apt install chromium")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        arguments += ["--disable-gpu-rasterization", "--disable-gpu-compositing"]  # which are slow in software
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser, address):
    """Opens the page as a new visitor; what the browser's console calls an error fails the test."""
    errors, contexts = [], []

    def visit(query: str = "", **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address + query)
        page.wait_for_selector("#told [data-state]")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not errors
