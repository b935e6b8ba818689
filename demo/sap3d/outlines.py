"""The photos of a job as the page shows them: each cut out on white, and the editor of its outline."""

import base64
import html
import io
import time
from pathlib import Path

import imageio.v3 as imageio
from drafts import doubts
from jobs import Job
from PIL import Image
from progress import image

CARD, MARGIN = 480, 0.08  # pixels of a card's side, and what of it is left free around the object
EDITED = 1024  # pixels of the editor's


def cards(job: Job | None) -> str:
    """The photos cut out on white, with what is to be said of each and its buttons, as HTML."""
    if job is None:
        return ""
    photos = job.known["photos"]
    body = "".join(card(job, index, photo, len(photos)) for index, photo in enumerate(photos))
    return (
        "<h2>What the photos show of the object</h2><p>Only what is on white here is used. "
        f'If a part is missing, or something else is there, mend the outline.</p><ul class="cards">{body}</ul>'
    )


def card(job: Job, index: int, photo: dict, count: int) -> str:
    """One photo."""
    shown = image(close_up(job.cut(index)), f"Photo {index + 1}, {photo['name']}: the object cut out on white")
    name = html.escape(photo["name"])
    if photo["left_out"]:
        said, style = "<p>You have left this photo out.</p>", " left-out"
    elif photo["problem"]:
        said, style = f'<p class="problem">It cannot be used: {html.escape(photo["problem"])}.</p>', " bad"
    else:
        found = doubts(photo)
        said = "".join(f'<p class="notice">{html.escape(sentence(doubt))}</p>' for doubt in found)
        style = " doubtful" if found else ""
    act, text = ("use", "Use again") if photo["left_out"] else ("leave", "Leave out")
    use = button(act, index, text, f"{text}: {name}")
    order = button("earlier", index, "←", f"Move {name} forward") * (index > 0)
    order += button("later", index, "→", f"Move {name} back") * (index < count - 1)
    return (
        f'<li class="card{style}">{shown}<h3>{index + 1}. {name}</h3>{said}<div class="buttons">'
        f"{button('mend', index, 'Mend outline', f'Mend outline: {name}')}{use}{order}</div></li>"
    )


def close_up(path: Path) -> Image.Image:
    """What is cut out of a photo, as large as a card has room for; the whole photo where nothing is."""
    with Image.open(path) as cut:
        solid = cut.getchannel("A").point(lambda alpha: 255 * (alpha > 127))
        left, top, right, bottom = solid.getbbox() or (0, 0, *cut.size)
        half = max(right - left, bottom - top) / 2 / (1 - 2 * MARGIN)
        x, y = (left + right) / 2, (top + bottom) / 2
        around = cut.crop([round(side) for side in (x - half, y - half, x + half, y + half)])  # beyond it is clear
    return around.resize((CARD, CARD), Image.Resampling.BILINEAR, reducing_gap=2.0)


def sentence(said: str) -> str:
    """What import says, with a capital letter and a full stop."""
    return f"{said[0].upper()}{said[1:]}."


def button(act: str, index: int, text: str, label: str) -> str:
    return f'<button type="button" data-act="{act}" data-index="{index}" aria-label="{label}">{text}</button>'


def editor(job: Job, index: int, message: str = "") -> dict:
    """What editor.js is told of a photo: picture and mask as data URLs, the edits, and a message."""
    photo = job.known["photos"][index]
    rgba = imageio.imread(job.cut(index))
    return {
        "index": index,
        "name": photo["name"],
        "photo": encoded(Image.fromarray(rgba[..., :3]), "JPEG"),
        "mask": encoded(Image.fromarray(rgba[..., 3]), "PNG"),
        "edits": photo["edits"],
        "said": " ".join(sentence(said) for said in [photo["problem"] or "", *photo["notices"]] if said),
        "message": message,
        "at": time.time(),  # another value each time: the editor opens on a photo that it has shown before
    }


def encoded(picture: Image.Image, kind: str) -> str:
    """A picture as a data URL."""
    file = io.BytesIO()
    picture.thumbnail((EDITED, EDITED))
    picture.save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
