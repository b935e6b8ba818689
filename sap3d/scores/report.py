"""One page that shows a run: python -m sap3d.scores.report --type TYPE --object OBJECT --views N

Writes results/TYPE/OBJECT/N/report.html: photos, poses, novel views, turntable, a viewer of the mesh, metrics, seconds
and settings in one file that needs no server and no network. What a stage has not written is left out.
"""

import argparse
import base64
import html
import json
from pathlib import Path

from sap3d.cameras.maths import full_cameras, wrap_angle
from sap3d.cameras.poses import read_best_poses
from sap3d.errors import UserError, one_line_errors
from sap3d.files import atomic_file
from sap3d.meshes import SIZE, Size
from sap3d.scene import Scene, check_views
from sap3d.scores import viewer
from sap3d.scores.evaluate import MESH_METRICS, PICTURE_METRICS, POSE_STAGES, format_number

TYPES = {".png": "image/png", ".mp4": "video/mp4"}
STYLE = """
:root { color-scheme: light dark; --ink: #1b1e23; --paper: #fff; --faint: #6a7078; --line: #dfe2e6; --panel: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --paper: #16181c; --faint: #9aa1ab; --line: #31353c; --panel: #1f2227; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
p, figcaption { color: var(--faint); }
figure { margin: 0 0 1rem; }
img, video { display: block; width: 100%; border: 1px solid var(--line); border-radius: 6px; background: #fff; }
@media (prefers-color-scheme: dark) { img, video { filter: brightness(.85); } }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr)); gap: 1rem;
  align-items: start; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; background: var(--panel); border-radius: 6px; }
th, td { padding: .35rem .75rem; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
tr + tr > * { border-top: 1px solid var(--line); }
details { margin-top: 2.5rem; }
pre { padding: 1rem; overflow-x: auto; background: var(--panel); border-radius: 6px; font-size: .8rem; }
"""


def embed(path: Path) -> str:
    """A file as a data URL."""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def figure(path: Path, caption: str) -> str:
    """A picture or a video with its caption; nothing if there is no such file."""
    if not path.exists():
        return ""
    source = embed(path)
    medium = (
        f'<video src="{source}" controls autoplay loop muted playsinline></video>'
        if path.suffix == ".mp4"
        else f'<img src="{source}" alt="{html.escape(caption)}">'
    )
    return f"<figure>{medium}<figcaption>{html.escape(caption)}</figcaption></figure>"


def mesh_viewer(path: Path) -> str:
    """The mesh to turn; nothing if there is no mesh."""
    if not path.exists():
        return ""
    size = Size.read(path.parent).sentence() if (path.parent / SIZE).exists() else ""
    return (
        f"<h2>Mesh</h2>{viewer.viewer(viewer.data_url(viewer.unlit(path.read_bytes())), 'The mesh, to be turned')}"
        f"<p>The file is mesh.glb in the results of stage 3. {html.escape(size)}</p>"
    )


def table(rows: list[list[str]], title: str) -> str:
    """Rows of cells, the first of headings."""
    head, *body = ("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in
                   zip(["th"] + ["td"] * len(rows), rows))  # fmt: skip
    lines = "".join(f"<tr>{cells}</tr>" for cells in (head, *body))
    return f'<section><h2>{html.escape(title)}</h2><div class="scroll"><table>{lines}</table></div></section>'


def tables(scene: Scene, results: dict) -> str:
    """Metrics and pose errors where there is a ground truth, poses, seconds."""
    pictures = [["", "novel views", "field"]]
    for key, title in PICTURE_METRICS.items():
        pictures.append([title, *(format_number(results[f"{prefix}_{key}_mean"], 3) for prefix in ("2d", "3d"))])
    mesh = [["", ""], *([title, format_number(results[key], 4)] for key, title in MESH_METRICS.items())]
    errors = [["after stage", "plain", "up to symmetry"]]
    for stage in POSE_STAGES:
        key = f"rotation_error_stage{stage}"
        errors.append([str(stage), *(format_number(results[name], 1) for name in (key, f"{key}_symmetric"))])
    poses = [["view", "elevation°", "azimuth°", "radius", "roll°", "fov°"]]
    for view, camera in enumerate(full_cameras(read_best_poses(scene.reconstruction / "poses.json", scene.views))):
        angles = (f"{angle.rad2deg().item():.1f}" for angle in (camera[0], wrap_angle(camera[1]), *camera[5:]))
        elevation, azimuth, roll, view_angle = angles
        poses.append([str(view), elevation, azimuth, f"{camera[2].item():.3f}", roll, view_angle])
    seconds = [["", "s"], *([stage.replace("_", " "), f"{value:g}"] for stage, value in results["seconds"].items())]
    seconds.append(["all", f"{sum(results['seconds'].values()):g}"])
    parts = {
        "Pictures": pictures,
        "Mesh against truth": mesh,
        "Rotation error°": errors,
        "Poses": poses,
        "Time": seconds,
    }
    unknown = format_number(None, 0)
    known = {title: rows for title, rows in parts.items() if any({*row[1:]} != {unknown} for row in rows[1:])}
    return f'<div class="tables">{"".join(table(rows, title) for title, rows in known.items())}</div>'


def write_report(scene: Scene) -> Path:
    """Write report.html beside results.json; returns its path.

    Raises:
        UserError: the object is not evaluated.
    """
    path = scene.results / "results.json"
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: run python -m sap3d.scores.evaluate first ({error})") from error
    field = scene.reconstruction
    settings = field / "config.yaml"
    cpu = f"{results['machine']['cores']} × {results['machine']['cpu']}"
    machine = results["machine"]["gpu"] or cpu
    body = [
        f"<h1>{html.escape(scene.type)} / {html.escape(scene.object)}</h1>",
        f"<p>{scene.views} view{'s' * (scene.views > 1)}, seed {results['seed']}, "
        f"{html.escape(machine)}, commit {html.escape(str(results['commit'])[:12])}</p>",
        figure(field / "turntable.mp4", "Turntable of the field: colour, normals, depth, opacity"),
        mesh_viewer(field / "mesh.glb"),
        "<h2>Photos and poses</h2>",
        figure(field / "inputs.png", "The photos, the field seen from where they were taken, and where the two differ"),
        figure(scene.initial_poses.with_suffix(".png"), "Stage 1: cameras, pairwise azimuths, silhouettes of the fit"),
        "<h2>Novel views</h2>",
        figure(scene.diffusion / "page.png", "Stage 2: before and after tuning, novel views, where the cameras went"),
        figure(scene.diffusion / "sheet.png", "All 84 novel views of the diffusion model"),
        tables(scene, results),
        f"<details><summary>Settings of stage 3</summary><pre>{html.escape(settings.read_text())}</pre></details>"
        if settings.exists()
        else "",
    ]
    title = f"{html.escape(scene.object)}, {scene.views} views"
    style, scripts = STYLE + viewer.STYLE, viewer.scripts() if (field / "mesh.glb").exists() else ""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style>{scripts}</head><body>{''.join(body)}</body></html>"
    )
    with atomic_file(scene.results / "report.html") as partial:
        partial.write_text(page)
    return scene.results / "report.html"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", required=True)
    parser.add_argument("--object", required=True)
    parser.add_argument("--views", required=True, help="number of input images")
    arguments = parser.parse_args()
    print(f"report: {write_report(Scene(arguments.type, arguments.object, check_views(arguments.views)))}")


if __name__ == "__main__":
    with one_line_errors():
        main()
