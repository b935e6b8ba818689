"""What a finished run is shown as: mesh, cameras, novel views, files, versions, and whether its poses are doubtful."""

import html
import json
from pathlib import Path

import jobs as jb
from jobs import Job
from settings import Settings

from sap3d.cameras.poses import DOUBTFUL, read_pose_hypotheses
from sap3d.scores.evaluate import MESH_METRICS, PICTURE_METRICS, format_number
from sap3d.scores.metrics import rotation_error
from sap3d.scores.viewer import viewer

FILES = {
    "mesh.glb": "the mesh with its texture, in one file that most programs open",
    "mesh.zip": "the mesh as OBJ, with its material and texture",
    "mesh.stl": "the mesh for a 3-D printer: each body closed and on a flat base, such as both of two shoes",
    "splat.ply": "Gaussian splats, for programs that show them",
    "points.ply": "a cloud of coloured points",
    "cameras.zip": "the cameras and photos for nerfstudio and COLMAP",
    "turntable.mp4": "a film from all around: colours, directions of the surface, depth, opacity",
    "novel_views.mp4": "a film of the views from other sides",
    "report.html": "all about the run on one page, which opens without a network",
}
ANOTHER = 20.0  # degrees between placements that are really different


def url(path: Path) -> str:
    """Where a browser finds a file of `Settings.served`; it asks anew when the file is another."""
    return f"gradio_api/file={path}?{path.stat().st_mtime_ns}"


def tabs(folder: Path | None) -> list[str]:
    """HTML of the tabs: mesh, turntable, cameras, novel views, files; nothing where there are no results."""
    if folder is None:
        return [""] * 5
    mesh = viewer(url(folder / "viewer.glb"), "The mesh, to be turned") + downloads(folder)
    film = turntable(folder)
    cameras = viewer(url(folder / "cameras.glb"), "The mesh and the cameras of the photos, to be turned")
    cameras += "<p>Each pyramid is the camera of a photo. The first photo's is red.</p>"
    return [mesh, film, cameras, novel_views(folder), files(folder)]


def downloads(folder: Path) -> str:
    """The buttons beneath the mesh."""
    titles = {"mesh.glb": "Download the mesh (GLB)", "mesh.zip": "Download the mesh (OBJ in a zip)"}
    found = [(name, title) for name, title in titles.items() if (folder / name).exists()]
    links = "".join(f'<a download="{name}" href="{url(folder / name)}">{title}</a>' for name, title in found)
    return f'<p class="downloads">{links}</p>'


def turntable(folder: Path) -> str:
    """The film from all around, whose background page.js makes clear."""
    what = "The object from all around: its colours, the directions of its surface, and its depth"
    return (
        f'<div class="film"><video src="{url(folder / "turntable.mp4")}" loop muted playsinline hidden></video>'
        f'<canvas role="img" aria-label="{what}"></canvas></div><div class="buttons"><button type="button" data-play>'
        f"Pause</button></div><p>{what}.</p>"
    )


def novel_views(folder: Path) -> str:
    """The sheet of novel views behind two sliders (page.js)."""
    return (
        f'<div class="novel" data-sheet="{url(folder / "novel_views.png")}"><canvas width="480" height="480" role="img"'
        ' aria-label="The novel view at these angles"></canvas>'
        "<label>Degrees around, from the first photo <output>0</output>"
        '<input type="range" name="azimuth" min="0" max="330" step="30" value="0"></label>'
        "<label>Degrees up <output>0</output>"
        '<input type="range" name="elevation" min="-45" max="45" step="15" value="0"></label></div>'
    )


def files(folder: Path) -> str:
    """All files with their sizes, and metrics where there is a ground truth."""
    rows = ""
    for name, what in FILES.items():
        if (path := folder / name).exists():
            link, size = f'<a download="{name}" href="{url(path)}">{name}</a>', f"{path.stat().st_size / 1e6:.1f} MB"
            rows += f"<tr><td>{link}</td><td>{what}</td><td>{size}</td></tr>"
    head = "<tr><th>File</th><th>What is in it</th><th>Size</th></tr>"
    return f'<table class="files">{head}{rows}</table>{metrics(folder)}'


def metrics(folder: Path) -> str:
    """Metrics against the ground truth, where there is one."""
    found = json.loads((folder / "results.json").read_text())
    error = format_number(found["rotation_error_stage3_symmetric"], 1)
    rows = [("rotation error after stage 3, up to symmetry", error)]
    rows += [(f"{title} of the field", format_number(found[f"3d_{key}_mean"], 3)) for key, title in
             PICTURE_METRICS.items()]  # fmt: skip
    rows += [(f"{title} of the mesh", format_number(found[key], 3)) for key, title in MESH_METRICS.items()]
    cells = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows if value != "n/a")
    return f'<table class="stages"><caption>Against the ground truth</caption>{cells}</table>' if cells else ""


def pose_evidence(path: Path) -> tuple[list[float], list[int], int | None]:
    """What stage 1's poses.json says of how far it can be trusted (docs/CONVENTIONS.md).

    Returns:
        The probability that each photo is within 15° of its place; the photos that do not fit the rest; and which of
        the other placements (from 2) is the likeliest that is really another, if there is one.
    """
    said = json.loads(path.read_text())
    confidence = [float(value) for value in said.get("confidence", [])]
    cameras, _ = read_pose_hypotheses(path, len(said["hypotheses"][0]["cameras"]))
    others = enumerate(cameras[1:], 2) if cameras.shape[1] > 1 else ()
    another = next((rank for rank, placed in others if rotation_error(placed, cameras[0]) > ANOTHER), None)
    return confidence, said.get("outliers", {}).get("named", []), another


def trust(job: Job) -> str:
    """A sentence on the poses where they are doubtful, with what can be done, as HTML."""
    path = job.results / "initial_poses.json"
    if not path.exists() or len(job.chosen) < 2:
        return ""
    confidence, misfits, another = pose_evidence(path)
    photos = job.known["photos"]
    names = [photos[index]["name"] for index in job.chosen]
    if len(confidence) != len(names):  # of those that stage 1 has left out it says nothing
        confidence = []
    doubtful = [view for view, sure in enumerate(confidence) if sure < DOUBTFUL]
    sentences = []
    if misfits:
        wrong = html.escape(", ".join(names[view] for view in misfits if view < len(names)))
        sentences.append(f"{wrong} does not fit the other photos.")
    if len(doubtful) == len(names):
        least = f"the least sure of them is placed right with a probability of {min(confidence):.0%}"
        sentences.append(f"It is doubtful where the photos were taken from: {least}.")
    elif doubtful:
        which = html.escape(", ".join(names[view] for view in doubtful))
        taken = "was" if len(doubtful) == 1 else "were"
        least = f"{min(confidence):.0%} sure" + " of the least sure one" * (len(doubtful) > 1)
        sentences.append(f"It is doubtful where {which} {taken} taken from ({least}).")
    if not sentences:
        return ""
    actions = "".join(
        f'<button type="button" data-act="drop" data-index="{job.chosen[view]}">Leave {html.escape(names[view])} out'
        "</button>"
        for view in sorted({*doubtful, *misfits})
        if len(names) > 2 and view < len(names)
    )
    if another and job.choices.hypothesis == 1:
        actions += f'<button type="button" data-act="hypothesis" data-index="{another}">Try the second answer</button>'
    taken = " This version has not taken the likeliest answer." if job.choices.hypothesis > 1 else ""
    advice = "See that the object stands the same way in all photos. " * (len(doubtful) == len(names))
    advice += "If the mesh looks wrong, send another photo from between the others"
    advice += ", or leave a doubtful one out." if len(names) > 2 else "."
    advice += " Each button starts a new version and keeps this one." if actions else ""
    return (
        f'<div class="doubt" role="status"><p><strong>{" ".join(sentences)}</strong>{taken} {advice}</p>'
        f'<div class="buttons">{actions}</div></div>'
    )


def versions(settings: Settings, job: Job | None) -> str:
    """Links to a job's versions, and by which its results can be shown to others, as HTML."""
    if job is None:
        return ""
    if job.known.get("example"):
        return ""
    others, body = jb.versions(settings.jobs, job), ""
    if len(others) > 1:
        rows = "".join(
            f'<li><a href="?job={other.id}"{" aria-current=page" * (other == job)}>Version {number}</a>: '
            f"{html.escape(summary(other))}</li>"
            for number, other in enumerate(others, 1)
        )
        body += f'<h2>Versions of this object</h2><ul class="versions">{rows}</ul>'
    if job.known["state"] == "done":
        body += (
            '<p class="share"><label>This link shows the results to others. The report and the cameras '
            "hold your photos, cut out. "
            f'<input readonly data-token="{job.token}"></label>'
            '<button type="button" data-copy>Copy the link</button></p>'
        )
    return body


def summary(job: Job) -> str:
    """A version in a few words."""
    known, count = job.known, len(job.chosen)
    words = {"draft": "not run yet", "queued": "waits", "running": "runs", "done": "done"}
    photos = "1 photo" if count == 1 else f"{count} photos"
    effort = [known["preset"]] if known["state"] != "draft" else []
    return ", ".join([photos, *effort, words.get(known["state"], known["state"])])
