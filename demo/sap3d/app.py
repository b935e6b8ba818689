"""The demo: drop photos, look at their outlines, run, turn the mesh.

    .venv/bin/python demo/sap3d/app.py            # or: .venv/bin/gradio demo/sap3d/app.py
    .venv/bin/python demo/sap3d/app.py --port 8000 --workers 2 --max-photos 8 --max-mb 30

Jobs are kept in ROOT_DIR/demo/jobs and wait for each other; the address of a job's page (?job=…) finds it again.
"""

import argparse
import html
import json
import os
import signal
import sys
import threading
from pathlib import Path

import bundle
import drafts
import gradio as gr
import imageio.v3 as imageio
import jobs as jb
import numpy as np
import trimesh
from jobs import Job
from PIL import Image

from sap3d.errors import UserError
from sap3d.files import root_dir
from sap3d.photos import network
from sap3d.photos.import_photos import outlined
from sap3d.photos.intake import Limits
from sap3d.runs.jobs import GRACE
from sap3d.scores.evaluate import MESH_METRICS, PICTURE_METRICS, format_number
from sap3d.scores.report import viewer_frame

EXAMPLES = Path(__file__).resolve().parent / "examples"
JOBS = root_dir() / "demo/jobs"
REFRESH = 1.5  # seconds
COLUMNS, ROW = 4, 150  # of previews; a row's height in pixels
THUMBNAIL = 320  # pixels of an example's longer side
TRUSTED = 30.0  # seconds of work after which what is expected follows this run's own pace as much as what was known
TITLES = {"data": "photos", "novel_views": "novel views"}  # of stages that are called otherwise
DOWNLOADS = ("mesh.glb", "mesh.zip", "mesh.stl", "splat.ply", "points.ply", "cameras.zip", "turntable.mp4",
             "novel_views.mp4", "report.html")  # fmt: skip
PRESET = "standard"
LIMITS = Limits(photos=8, megabytes=30.0)
OFFERED_WEIGHTS = jb.published_options()  # what run_pipeline.sh is told of the published weights
# Gradio's own place for what is sent is all users' of a machine, and the first one's property.
os.environ.setdefault("GRADIO_TEMP_DIR", str(root_dir() / "demo/uploads"))
STYLE = """
.stages { width: 100%; border-collapse: collapse; }
.stages, .stages tr, .stages td { border: 0 !important; }
.stages td { padding: .2rem .5rem !important; }
.stages tr + tr { border-top: 1px solid var(--border-color-primary) !important; }
.stages td + td { text-align: right; font-variant-numeric: tabular-nums; }
.stages .now { font-weight: 600; }
.stages .later { opacity: .5; }
.bar { height: .4rem; border-radius: .2rem; background: var(--border-color-primary); overflow: hidden; }
.bar > div { height: 100%; background: var(--color-accent); transition: width 1s linear; }
.viewer iframe { width: 100%; height: min(460px, 75vw); border: 1px solid var(--border-color-primary);
  border-radius: 6px; background: #fff; }
#previews .grid-container, #examples .grid-container { grid-template-rows: none; grid-auto-rows: auto; }
#previews .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)); }
#examples .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)); }
#previews .caption-label { white-space: normal; max-width: 100%; font-size: .7rem; line-height: 1.2; }
.problem { color: var(--error-text-color, #b91c1c); }
.notice { opacity: .8; }
"""
ADVICE = """<p>Three to five photos do well: all around the object, a little from above, on a plain background of
another colour, the object whole in the picture and standing the same way in all of them. docs/CAPTURE.md shows good and
bad ones.</p>"""
ADDRESS = "(id) => { history.replaceState(null, '', id ? '?job=' + id : location.pathname); }"


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def status(job: Job | None, message: str = "") -> str:
    """The state of a job as HTML: what waits, what runs since when, what went wrong."""
    parts = [f'<p class="problem">{html.escape(message)}</p>'] if message else []
    if job is None:
        return "".join(parts) + ADVICE
    known = job.known
    state = known["state"]
    if state == "draft":
        parts += [verdict(photo) for photo in known["photos"] if photo["problem"] or photo["notices"]]
        if known.get("example"):
            parts.append(f"<p>{known['example']}: its results are from an earlier run. Run computes them anew.</p>")
    if state == "queued":
        waiting = jb.queue(JOBS)
        before = waiting.index(job) if job in waiting else 0  # it may start at this moment
        parts.append(f"<p>waiting{f', {before} before it' if before else ', next'}</p>")
    if state in ("failed", "cancelled"):
        parts.append(f'<p class="problem">{state}{": " + html.escape(known["error"]) if known["error"] else ""}</p>')
    if state in ("running", "done", "failed", "cancelled"):
        parts.append(stage_table(job, known))
    return "".join(parts)


def verdict(photo: dict) -> str:
    """What is to be said of a photo before it is used, as HTML."""
    if photo["problem"]:
        text = f"{photo['name']} will not do and is left out: {photo['problem']}. Click it to mend its outline."
        return f'<p class="problem">{html.escape(text)}</p>'
    sentences = (html.escape(f"{photo['name']}: {notice}.") for notice in photo["notices"])
    return "".join(f'<p class="notice">{sentence}</p>' for sentence in sentences)


def stage_table(job: Job, known: dict) -> str:
    """Seconds of the stages, and a bar of how far all are by what they are expected to take."""
    found, rows, spent, left = jb.stages(job), [], 0.0, 0.0
    done = [(seconds, usual) for (_, seconds, over), usual in zip(found, known["expected"]) if over]
    pace = (sum(seconds for seconds, _ in done) + TRUSTED) / (sum(usual for _, usual in done) + TRUSTED)
    expected = [pace * usual for usual in known["expected"]]
    for index, name in enumerate(jb.STAGES):
        title = TITLES.get(name, name)
        if index >= len(found):
            rows.append(f'<tr class="later"><td>{title}</td><td>about {clock(expected[index])}</td></tr>')
            left += expected[index]
            continue
        _, seconds, over = found[index]
        spent += seconds
        if over or known["state"] != "running":
            rows.append(f"<tr><td>{title}</td><td>{clock(seconds)}</td></tr>")
        else:
            rows.append(f'<tr class="now"><td>{title} …</td><td>{clock(seconds)}</td></tr>')
            left += max(expected[index] - seconds, 1.0)
    bar = ""
    if known["state"] == "running":
        share = 100 * spent / (spent + left)
        bar = f'<div class="bar"><div style="width:{share:.0f}%"></div></div><p>about {clock(left)} left</p>'
    return f'{bar}<table class="stages">{"".join(rows)}</table>'


def metrics(folder: Path) -> str:
    """Metrics against the ground truth, where there is one, as HTML."""
    found = json.loads((folder / "results.json").read_text())
    rows = [
        ("rotation error after stage 3, up to symmetry", format_number(found["rotation_error_stage3_symmetric"], 1))
    ]
    rows += [(f"{title} of the field", format_number(found[f"3d_{key}_mean"], 3)) for key, title in
             PICTURE_METRICS.items()]  # fmt: skip
    rows += [(f"{title} of the mesh", format_number(found[key], 3)) for key, title in MESH_METRICS.items()]
    known = [row for row in rows if row[1] != "n/a"]
    cells = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in known)
    return f'<table class="stages">{cells}</table>' if known else ""


def preset_choices(views: int) -> list[tuple[str, str]]:
    """Presets, and the published weights where they are there, with the minutes that they are expected to take here."""
    offered = [name for name in jb.SECONDS if name != jb.PUBLISHED or OFFERED_WEIGHTS]
    total = {preset: sum(jb.expected_seconds(JOBS, preset, views)) for preset in offered}
    titles = {jb.PUBLISHED: "published weights"}
    return [
        (f"{titles.get(preset, preset)}, about {max(round(seconds / 60), 1)} min", preset)
        for preset, seconds in total.items()
    ]


def previews(job: Job | None) -> list[tuple]:
    """Outlined photos, captioned with what is wrong."""
    photos = job.known["photos"] if job else []
    return [
        (outlined(imageio.imread(job.cut(index))), photo["problem"] or "; ".join(photo["notices"]) or None)
        for index, photo in enumerate(photos)
    ]


def results_folder(job: Job | None) -> Path | None:
    """Where there are results of a job as it is now: its own, or those of the example that it was made of."""
    known = job.known if job else {"state": ""}
    if known["state"] == "done":
        return job.results
    if known["state"] == "draft" and known.get("example"):
        return EXAMPLES / known["example"] / "results"
    return None


def show_results(folder: Path | None) -> list:
    """Values for the results' components of a folder (bundle.py), or for none."""
    if folder is None or not folder.exists():
        return [gr.Column(visible=False), None, None, "", "", None, "", None]
    return [
        gr.Column(visible=True),
        str(folder),
        str(folder / "turntable.mp4"),
        viewer_frame(trimesh.load_scene(folder / "mesh.glb")),
        viewer_frame(bundle.camera_scene(folder)),
        bundle.novel_view(folder / "novel_views.png", 0, 0),
        metrics(folder),
        [str(folder / name) for name in DOWNLOADS if (folder / name).exists()],
    ]


def show_progress(job: Job | None, message: str = "") -> list:
    """Values for status, picture, the three buttons and the timer."""
    state = job.known["state"] if job else ""
    busy = state in ("queued", "running")
    picture = jb.newest_picture(job) if state in ("running", "failed", "cancelled") else None
    return [
        status(job, message),
        gr.Image(str(picture) if picture else None, visible=picture is not None),
        gr.Button(interactive=job is not None and not busy and bool(job.chosen)),
        gr.Button(visible=busy),
        gr.Button(visible=job is not None and not busy),
        gr.Timer(active=busy),
    ]


def show_photos(job: Job | None) -> list:
    """Values for hint, previews, editor and presets."""
    photos = previews(job)
    height = ROW * -(-len(photos) // COLUMNS)
    preset = job.known.get("preset", PRESET) if job else PRESET
    return [
        gr.Markdown(visible=bool(photos)),
        gr.Gallery(photos, visible=bool(photos), height=height),
        gr.Column(visible=False),
        None,
        0,
        gr.Radio(preset_choices(len(job.chosen) if job and job.chosen else 4), value=preset),
    ]


def show_job(job: Job | None, message: str = "") -> list:
    """Values for everything: identifier, photos, progress, results."""
    return [
        job.id if job else "",
        *show_photos(job),
        *show_progress(job, message),
        *show_results(results_folder(job)),
    ]


def open_page(request: gr.Request) -> list:
    """A page that is opened or reloaded finds its job by its address."""
    identifier = request.query_params.get("job")
    job = jb.find_job(JOBS, identifier)
    return show_job(job, "no such job; it may have been removed" if identifier and job is None else "")


def upload(sent: list[str], identifier: str) -> list:
    """Photos that were dropped become a new draft, together with those of a draft that is open."""
    paths, before = [Path(path) for path in sent or ()], jb.find_job(JOBS, identifier)
    draft = before if before and before.known["state"] == "draft" and not before.known.get("example") else None
    try:
        job, refused = drafts.create_job(JOBS, paths, LIMITS, draft)
    except UserError as error:
        return [None, *show_job(before, f"{error}")]
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
    return [None, *show_job(job, "; ".join(refused))]


def open_example(event: gr.SelectData) -> list:
    """An example's photos as a new draft, and the results that were computed before."""
    example = example_folders()[event.index]
    job, _ = drafts.create_job(JOBS, sorted((example / "photos").iterdir()), LIMITS)
    job.note(example=example.name)
    return show_job(job)


def example_thumbnail(folder: Path) -> np.ndarray:
    """An example's first photo, small, uint8 [H, W, 3]."""
    with Image.open(min((folder / "photos").iterdir())) as photo:
        photo.thumbnail((THUMBNAIL, THUMBNAIL))
        return np.asarray(photo.convert("RGB"))


def example_folders() -> list[Path]:
    return sorted(path.parent for path in EXAMPLES.glob("*/results"))


def edit(identifier: str, event: gr.SelectData) -> list:
    """Open the editor on the photo that was clicked."""
    job = jb.find_job(JOBS, identifier)
    return [gr.Column(visible=True), outlined(imageio.imread(job.cut(event.index))), event.index]


def mark_point(identifier: str, index: int, kind: str, event: gr.SelectData) -> list:
    """Cut the photo anew with the point that was clicked."""
    job = jb.find_job(JOBS, identifier)
    height, width = imageio.improps(job.cut(index)).shape[:2]
    x, y = event.index
    return change(job, index, kind, (x / width, y / height))


def clear_points(identifier: str, index: int) -> list:
    """Cut the photo as it was at first."""
    return change(jb.find_job(JOBS, identifier), index, "keep", None)


def change(job: Job, index: int, kind: str, point: tuple[float, float] | None) -> list:
    """Values for previews, editor's picture, progress and results after a change of a mask."""
    message = ""
    try:
        drafts.mark(job, index, kind, point)
    except UserError as error:
        message = str(error)
    picture = outlined(imageio.imread(job.cut(index)))
    return [previews(job), picture, *show_progress(job, message), *show_results(results_folder(job))]


def run(identifier: str, preset: str, fov: float | None = None, drop_outliers: bool = False) -> list:
    """Queue the job; see `jobs.submit`."""
    job, message = jb.find_job(JOBS, identifier), ""
    try:
        jb.submit(job, preset, fov or None, drop_outliers)
    except UserError as error:
        message = str(error)
    return [*show_progress(job, message), *show_results(None)]


def stop(identifier: str) -> list:
    job = jb.find_job(JOBS, identifier)
    jb.cancel(job)
    return show_progress(job)


def tick(identifier: str) -> list:
    """What has changed since the last look; the results once the job is over."""
    job = jb.find_job(JOBS, identifier)
    done = job is not None and job.known["state"] == "done"
    results = show_results(job.results) if done else [gr.skip()] * len(show_results(None))
    return [*show_progress(job), *results]


def turn(folder: str, azimuth: float, elevation: float):
    return bundle.novel_view(Path(folder) / "novel_views.png", azimuth, elevation) if folder else None


def build() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="SAP3D", delete_cache=(3600, 24 * 3600)) as page:
        # In the page, not in the server's session: the address is set from it.
        identifier = gr.Textbox("", visible="hidden")
        folder, chosen, timer = gr.State(None), gr.State(0), gr.Timer(REFRESH, active=False)
        gr.Markdown(
            f"# SAP3D\nOne to {LIMITS.photos} photos of an object, taken from anywhere around it, become a mesh."
        )
        with gr.Row():
            with gr.Column(scale=2):
                drop = gr.File(label="Photos, or zips of photos", file_count="multiple", height=140,
                               elem_id="photos")  # fmt: skip
                # As arrays: Gradio would keep a file by its content, where an upload of the same photo ends its life.
                thumbnails = [(example_thumbnail(path), path.name) for path in example_folders()]
                there = bool(thumbnails)
                gr.Markdown("Or an example, whose results are there already:", visible=there)
                examples = gr.Gallery(thumbnails, show_label=False, columns=3, height=ROW, allow_preview=False,
                                      interactive=False, visible=there, elem_id="examples", buttons=[])  # fmt: skip
                hint = gr.Markdown("What is cut out. Click a photo to mend its outline:", visible=False)
                gallery = gr.Gallery(show_label=False, columns=COLUMNS, allow_preview=False, interactive=False,
                                     visible=False, elem_id="previews", buttons=[])  # fmt: skip
                with gr.Column(visible=False) as editor:
                    kind = gr.Radio([("keep what I click", "keep"), ("remove what I click", "remove")], value="keep",
                                    show_label=False, container=False)  # fmt: skip
                    photo = gr.Image(show_label=False, interactive=False, elem_id="editor", buttons=[])
                    clear = gr.Button("as it was at first", size="sm")
                preset = gr.Radio(preset_choices(4), value=PRESET, label="Effort", elem_id="preset")
                with gr.Accordion("Camera", open=False):
                    fov = gr.Number(None, label="Angle of view of the lens along a photo's longer side, degrees",
                                    info="empty: what the photos say of it, or else it is estimated")  # fmt: skip
                    drop_outliers = gr.Checkbox(False, label="leave out photos that do not fit the rest")
                with gr.Row():
                    start = gr.Button("Run", variant="primary", interactive=False, elem_id="run")
                    cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
                    anew = gr.Button("Other photos", visible=False, elem_id="anew")
            with gr.Column(scale=3):
                told = gr.HTML(elem_id="status")
                picture = gr.Image(show_label=False, interactive=False, visible=False, elem_id="live", buttons=[])
                with gr.Column(visible=False, elem_id="results") as shown:
                    with gr.Tab("Mesh"):
                        mesh = gr.HTML(elem_id="mesh", elem_classes="viewer")
                    with gr.Tab("Turntable"):
                        video = gr.Video(show_label=False, autoplay=True, loop=True, elem_id="turntable")
                    with gr.Tab("Cameras"):
                        cameras = gr.HTML(elem_id="cameras", elem_classes="viewer")
                    with gr.Tab("Novel views"):
                        view = gr.Image(show_label=False, interactive=False, height=384, elem_id="view", buttons=[])
                        azimuth = gr.Slider(0, 330, 0, step=30, label="degrees around, from the first photo",
                                            elem_id="azimuth")  # fmt: skip
                        elevation = gr.Slider(-45, 45, 0, step=15, label="degrees up")
                    with gr.Tab("Metrics and downloads"):
                        numbers = gr.HTML()
                        files = gr.File(show_label=False, file_count="multiple", interactive=False, elem_id="files")
        photos = [hint, gallery, editor, photo, chosen, preset]
        progress = [told, picture, start, cancel, anew, timer]
        outcome = [shown, folder, video, mesh, cameras, view, numbers, files]
        everything = [identifier, *photos, *progress, *outcome]
        page.load(open_page, None, everything)
        drop.upload(upload, [drop, identifier], [drop, *everything]).then(None, identifier, None, js=ADDRESS)
        examples.select(open_example, None, everything).then(None, identifier, None, js=ADDRESS)
        gallery.select(edit, identifier, [editor, photo, chosen])
        photo.select(mark_point, [identifier, chosen, kind], [gallery, photo, *progress, *outcome])
        clear.click(clear_points, [identifier, chosen], [gallery, photo, *progress, *outcome])
        start.click(run, [identifier, preset, fov, drop_outliers], [*progress, *outcome])
        cancel.click(stop, identifier, progress)
        anew.click(lambda: show_job(None), None, everything).then(None, identifier, None, js=ADDRESS)
        timer.tick(tick, identifier, [*progress, *outcome], show_progress="hidden")
        for slider in (azimuth, elevation):
            slider.change(turn, [folder, azimuth, elevation], view, show_progress="hidden")
    return page


def bypass_proxies(host: str) -> None:
    """Reach this server without a proxy that the environment names: Gradio asks it whether it is up."""
    hosts = ["localhost", "127.0.0.1", "::1", host]
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join([*filter(None, [os.environ.get(name)]), *hosts])


def main() -> None:
    global LIMITS, OFFERED_WEIGHTS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reached from other machines")
    parser.add_argument("--port", type=int, help="by default the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="a public address by way of Gradio's servers")
    parser.add_argument("--device", default="0", help="CUDA index, or cpu")
    parser.add_argument("--workers", type=int, default=1, help="jobs that run at a time")
    parser.add_argument("--max-photos", type=int, default=LIMITS.photos)
    parser.add_argument("--max-mb", type=float, default=LIMITS.megabytes, help="of a photo")
    parser.add_argument("--checkpoint", metavar="PATH", help="Zero-1-to-3's, absolute or below ROOT_DIR")
    parser.add_argument(
        "--pose-checkpoint", metavar="PATH", help="RelPose++'s; with both, published weights are offered"
    )
    parser.add_argument("options", nargs="*", metavar="stage.key=value", help="for all jobs")
    arguments = parser.parse_args()
    OFFERED_WEIGHTS = jb.published_options(arguments.checkpoint, arguments.pose_checkpoint)
    LIMITS = Limits(arguments.max_photos, arguments.max_mb)
    bypass_proxies(arguments.host)
    network.session()  # here its weights are fetched, not while a visitor waits
    JOBS.mkdir(parents=True, exist_ok=True)
    jb.remove_old(JOBS)
    workers = [jb.Worker(JOBS, arguments.device, OFFERED_WEIGHTS, arguments.options) for _ in range(arguments.workers)]
    for worker in workers:
        worker.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        demo.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            share=arguments.share,
            max_file_size=int(LIMITS.photos * LIMITS.bytes),
            allowed_paths=[str(JOBS), str(EXAMPLES)],
            css=STYLE,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            footer_links=[],
        )
    finally:
        for worker in workers:
            worker.ends.set()
        for worker in workers:
            worker.join(2 * GRACE)


demo = build()

# The command `gradio` runs this file once more in a thread that watches it for changes.
if __name__ == "__main__" and threading.current_thread() is threading.main_thread():
    main()
