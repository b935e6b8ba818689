"""How far a job is: a sentence on its state, the stages with their seconds, and what the stages have drawn."""

import base64
import html
import io
from pathlib import Path

import jobs as jb
import pace
from drafts import doubts
from jobs import OBJECT, STAGES, Job
from PIL import Image
from settings import Settings

TITLES = {  # of the stages, for a person who waits
    "data": "Reading the photos",
    "poses": "Finding where each photo was taken from",
    "tuning": "Learning what the object looks like",
    "novel_views": "Drawing the object from other sides",
    "reconstruction": "Building the mesh",
    "evaluation": "Writing the files",
}
DRAWN = {  # what stages draw, the last first
    "inputs": "the photos, and the result seen from the same places",
    "preview": "the shape as it grows",
    "page": "what the object is expected to look like from other sides",
    "before_after": "what was expected of the object before and after learning from the photos",
    "poses": "where the photos were taken from, and the outlines of a first try at the shape",
    "contact_sheet": "the photos, and below them what is used of each",
}
LARGEST_PICTURE = (1600, 1200)
ADVICE = """<div class="advice"><h2>Which photos do well</h2><p>Three to five photos from all around the object, taken
from a little above. Put it on a plain background of another colour. It should be whole in each picture, and stand the
same way in all of them.</p><p>The page docs/CAPTURE.md of the project shows good and bad ones.</p></div>"""


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


def promise(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return "Less than a minute is left."
    return "About one minute is left." if minutes == 1 else f"About {minutes} minutes are left."


def told(settings: Settings, job: Job | None, message: str = "") -> str:
    """The state of a job as HTML: what is wrong, what waits, what runs since when."""
    parts = [f'<p class="problem" role="alert">{html.escape(message)}</p>'] if message else []
    if job is None:
        return f'<div data-state="none">{"".join(parts)}{ADVICE}</div>'
    known = job.known
    state = known["state"]
    if about := known.get("example"):
        parts.append(
            f"<p>This is an example: {html.escape(about['title'])} by {html.escape(about['author'])} "
            f"({html.escape(about['licence'])}). Its results were computed before. If you run it again, you get a "
            "version of your own.</p>"
        )
    elif state == "draft":
        parts.append(readiness(job))
    elif state == "queued":
        waiting = jb.queue(settings.jobs)
        before = waiting.index(job) if job in waiting else 0  # it may start at this moment
        runs = "One run comes" if before == 1 else f"{before} runs come"
        parts.append(f"<p>Your run waits. {runs} first.</p>" if before else "<p>Your run is the next to start.</p>")
    elif state == "failed":
        why = html.escape(known["error"].removeprefix("error: "))
        parts.append(f'<p class="problem" role="alert">The run has failed: {why}</p>')
    elif state == "cancelled":
        parts.append("<p>The run was cancelled. Press Run to go on from the last stage that was done.</p>")
    if state in ("running", "done", "failed", "cancelled"):
        parts.append(stage_table(job, known))
    return f'<div data-state="{state}">{"".join(parts)}</div>'


def readiness(job: Job) -> str:
    """What is to be done about a draft before it is run, as HTML."""
    photos = job.known["photos"]
    used, bad = len(job.chosen), [photo for photo in photos if photo["problem"] and not photo["left_out"]]
    doubtful = [photo for photo in photos if doubts(photo)]
    ready = "One photo is" if used == 1 else f"{used} photos are"
    said = [f"<p>{ready} ready. Look at what was cut out, then press Run.</p>"]
    if not used:
        said = ['<p class="problem" role="alert">None of the photos can be used yet.</p>']
    if bad:
        names = html.escape(", ".join(photo["name"] for photo in bad))
        which = "This photo is left out unless you mend its outline" if len(bad) == 1 else (
            "These photos are left out unless you mend their outlines"
        )  # fmt: skip
        said.append(f'<p class="problem">{which}: {names}.</p>')
    if doubtful:
        names = html.escape(", ".join(photo["name"] for photo in doubtful))
        said.append(f'<p class="notice">Look closely at {names}. What may be wrong is said there.</p>')
    return "".join(said)


def stage_table(job: Job, known: dict) -> str:
    """Seconds of the stages, and a bar of how far all are by what they are expected to take."""
    found = pace.stages(job)
    left = pace.outlook(found, known.get("expected") or pace.SECONDS[known["preset"]])
    running, rows = known["state"] == "running", []
    for index, name in enumerate(STAGES):
        title = TITLES[name]
        if index >= len(found):
            if running:
                rows.append(f'<tr class="later"><td>{title}</td><td>about {clock(left[index])}</td></tr>')
        elif found[index].over or not running:
            rows.append(f"<tr><td>{title}</td><td>{clock(found[index].seconds)}</td></tr>")
        else:
            rows.append(
                f'<tr class="now" aria-current="step"><td>{title}</td><td>{clock(found[index].seconds)}</td></tr>'
            )
    table = f'<table class="stages"><caption>Minutes that the stages take</caption>{"".join(rows)}</table>'
    if not running:
        return f"<details><summary>How long it took</summary>{table}</details>"
    spent = sum(stage.seconds for stage in found)
    share = 100 * spent / max(spent + sum(left), 1.0)
    return (
        f'<div class="bar" role="progressbar" aria-label="How far the run is" aria-valuenow="{share:.0f}">'
        f'<div style="width:{share:.0f}%"></div></div><p>{promise(sum(left))}</p>{table}'
    )


def newest_picture(job: Job) -> Path | None:
    """Of what the stages have drawn, the last."""
    scene = job.scene
    drawn = [
        scene.reconstruction / "inputs.png",
        scene.reconstruction.with_name(f".{OBJECT}.training") / "preview.png",
        scene.diffusion / "page.png",
        scene.diffusion / "before_after.png",
        scene.initial_poses.with_suffix(".png"),
        scene.train / "contact_sheet.png",
    ]
    return next((path for path in drawn if path.exists()), None)


def picture(path: Path) -> str:
    """A stage's picture as HTML; on a small screen it can be moved in its frame."""
    with Image.open(path) as drawn:
        drawn.thumbnail(LARGEST_PICTURE)
        what = f"So far: {DRAWN[path.stem]}"
        frame = f'<div class="drawn" tabindex="0" role="group" aria-label="{what}">{image(drawn, what)}</div>'
        return f"{frame}<p>{what}.</p>"


def image(picture: Image.Image, alternative: str) -> str:
    """A picture within the page, as a JPEG on white."""
    encoded, shown = io.BytesIO(), picture.convert("RGBA")
    on_white = Image.new("RGB", shown.size, "white")
    on_white.paste(shown, mask=shown.getchannel("A"))
    on_white.save(encoded, "JPEG", quality=85)
    data = base64.b64encode(encoded.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(alternative)}">'
